"""The verifier: a model of the catalog is asked whether one answer would serve both questions. Pure: no I/O.

The gateway sends `request_for` and gives the reply to `score_of`; the score is log P(yes) - log P(no) of the first
token. Zero is no threshold: small models say yes too easily. A threshold belongs to one model, one quantisation and one
wording, so it is kept with all three (`VerifierCalibration`), whose `threshold_for` refuses any other.

Rules:
- The guard comes first: what it objects to (numbers, names, requested format, language or length) is never asked.
- Only pairs with a cosine of ASKED_FROM or more are asked: below it hardly any is a repeat.
- The two questions stand last, so that everything before them is read from the model's prompt cache.
- No answer, or one without both words among its likeliest tokens, is None: the caller takes it for a miss.

Both questions are prompts of one tenant and one partition, and a question may say anything ("reply yes"). What it can
reach that way is another answer of the same tenant to the same system prompt, never one of another tenant.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.words import JsonValue

ASKED_FROM = 0.6
"""Lowest cosine asked about; asking costs a 1.5B model about a second of a core."""

TOP_LOGPROBS = 20
"""As many as vLLM gives: "yes" and "Yes" may both be wanted, with "no" far behind."""

FORMAT = 1

_SYSTEM = (
    "You decide whether a stored answer may be reused. You are given two requests, A and B. Say yes if one and"
    " the same answer would fully and correctly serve both. Say no if any detail that changes the answer "
    "differs: the subject, a person, place, product, number, date, condition, direction, who it is for, a "
    "negation, or the requested form, language or length of the answer. Different wording alone does not "
    "matter. Reply with one word: yes or no."
)
_EXAMPLES = (
    ("How do I reset my password?", "I forgot my password, how can I get a new one?", "yes"),
    ("What is the fee for adults?", "What is the fee for children?", "no"),
    ("When does the museum open?", "What are the museum's opening hours?", "yes"),
    ("Who can join the library?", "Who can leave the library?", "no"),
    ("Could you explain what an index fund is?", "Explain index funds", "yes"),
    ("How do I add a printer?", "How do I add a scanner?", "no"),
    ("Is it legal to fish here without a permit?", "Do I need a permit to fish here?", "yes"),
    ("Describe the plan.", "Describe the plan as a JSON object.", "no"),
)
"""Half of them repeats, each of another kind; with them the 1.5B ranks better than with the instruction alone."""


class VerifierError(Exception):
    """A verifier's calibration is missing, damaged, or belongs to another model, quantisation or wording."""


class Verifier(Protocol):
    """What asks; the gateway implements it with a model of the catalog, and books every question as an attempt."""

    async def score(self, asked: str, stored: str) -> float | None:
        """Return log P(yes) - log P(no) that one answer serves both; None when the model did not say."""
        ...


class VerifierCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact: a threshold and what it did on the pairs that fixed it.

    Attributes:
        model: the upstream name that was asked.
        weights: sha256 of its file, or what else tells its quantisation.
        wording: `wording_id()` when it was measured.
        threshold: lowest score served.
        repeats: true repeats among the pairs; `repeats_served` of them at the threshold, the guard before it.
        traps: as `repeats`.
    """

    format: int
    model: str
    weights: str
    wording: str
    made: str
    threshold: float
    repeats: int
    repeats_served: int
    traps: int
    traps_served: int
    source: str

    @classmethod
    def load(cls, path: Path) -> VerifierCalibration:
        """Read an artefact.

        Raises:
            VerifierError: it cannot be read or is none.
        """
        try:
            calibration = msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise VerifierError(f"cannot read the verifier's calibration {path}: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise VerifierError(f"{path} is no verifier's calibration: {error}") from error
        if calibration.format != FORMAT:
            raise VerifierError(f"{path} has format {calibration.format}; this version reads {FORMAT}")
        return calibration

    def threshold_for(self, *, weights: str) -> float:
        """Return the threshold for a model with these weights and the present wording.

        Raises:
            VerifierError: it was measured with others; its threshold means nothing here.
        """
        if (self.weights, self.wording) != (weights, wording_id()):
            raise VerifierError(
                f"the verifier's threshold was measured with weights {self.weights} and wording {self.wording}, and "
                f"here are {weights} and {wording_id()}: measure it again"
            )
        return self.threshold


def wording_id() -> str:
    """Name the exact wording: the first 12 hexadecimal digits of its sha256."""
    return hashlib.sha256(msgspec.json.encode(_messages("", ""))).hexdigest()[:12]


def request_for(asked: str, stored: str, *, model: str) -> bytes:
    """Return the body of the chat completion that asks.

    Args:
        asked: the last user text of the request.
        stored: that of the stored answer.
        model: the upstream's name of the verifier.
    """
    body = {
        "model": model,
        "messages": _messages(asked, stored),
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": TOP_LOGPROBS,
    }
    return msgspec.json.encode(body)


def _messages(asked: str, stored: str) -> list[dict[str, str]]:
    shown = [
        {"role": role, "content": content}
        for one, other, said in _EXAMPLES
        for role, content in (("user", _question(one, other)), ("assistant", said))
    ]
    return [
        {"role": "system", "content": _SYSTEM},
        *shown,
        {"role": "user", "content": _question(asked, stored)},
    ]


def _question(asked: str, stored: str) -> str:
    return f"A: {asked}\nB: {stored}\nWould one answer serve both?"


class _Token(msgspec.Struct):
    token: str
    logprob: float


class _Position(msgspec.Struct):
    top_logprobs: list[_Token]


class _Logprobs(msgspec.Struct):
    content: list[_Position]


class _Choice(msgspec.Struct):
    logprobs: _Logprobs


class _Reply(msgspec.Struct):
    choices: list[_Choice]


def score_of(reply: JsonValue) -> float | None:
    """Return log P(yes) - log P(no) of the first token; None when the reply does not tell.

    A word that is not among the likeliest tokens counts as likely as the least of them, which errs towards zero.

    Args:
        reply: the decoded body of a chat completion.
    """
    try:
        told = msgspec.convert(reply, _Reply)
    except msgspec.ValidationError:
        return None
    if not told.choices or not told.choices[0].logprobs.content:
        return None
    likeliest = told.choices[0].logprobs.content[0].top_logprobs
    yes, no = (_log_sum(likeliest, word) for word in ("yes", "no"))
    if yes is None and no is None:
        return None
    least = min(token.logprob for token in likeliest)
    return (least if yes is None else yes) - (least if no is None else no)


def _log_sum(tokens: Sequence[_Token], word: str) -> float | None:
    """Return the log-probability of a word in any case, with or without a space before it."""
    logs = [token.logprob for token in tokens if token.token.strip().lower() == word]
    if not logs:
        return None
    highest = max(logs)
    return highest + math.log(sum(math.exp(log - highest) for log in logs))
