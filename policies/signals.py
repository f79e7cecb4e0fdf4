"""The signals by which a rung's answer is weighed, under the names that policies and calibrations give them."""

from __future__ import annotations

from enum import StrEnum


class Signal(StrEnum):
    """What a judge looks at."""

    LOGPROBS = "logprobs"
    """The answer's token log-probabilities; also of an answer that is still being written."""
    TEXT = "text"
    """The whole answer's form: for models that give no log-probabilities. It costs nothing and tells little."""
    SELF_CHECK = "self_check"
    """The model is asked whether its own answer is right: the prompt read again, and a word."""
    AGREEMENT = "agreement"
    """The model answers once more, at a temperature; two answers that agree are seldom both wrong."""

    @property
    def asks_again(self) -> bool:
        """Whether the model is called a second time for it, once its answer is whole."""
        return self in {Signal.SELF_CHECK, Signal.AGREEMENT}
