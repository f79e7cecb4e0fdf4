"""A store that is reached over a network: asked with a deadline, and left alone for a while after it failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from semantic_cache.seam import StoreUnavailable

DEADLINE_S: Final = 0.02
"""How long one question to a store may take: a cache that is slower than that is no help."""

_FIRST_REST_S: Final = 0.25
_LONGEST_REST_S: Final = 30.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Reach:
    """Asks, and rests after a failure, longer each time: requests do not pay for a store that is gone.

    Args:
        failures: what the store's client raises when it cannot be asked.
        monotonic: seconds that never go back.
    """

    def __init__(
        self, failures: tuple[type[Exception], ...], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = failures
        self._monotonic = monotonic
        self._rest_s = _FIRST_REST_S
        self._rests_until = float("-inf")

    @property
    def is_resting(self) -> bool:
        """Whether the store failed a moment ago, and is not asked now."""
        return self._monotonic() < self._rests_until

    def ask(self, question: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return the answer.

        Raises:
            StoreUnavailable: it failed, now or a moment ago.
        """
        if self.is_resting:
            raise StoreUnavailable("it failed a moment ago, and is not asked for a while")
        try:
            answer = question(*args, **kwargs)
        except self._failures as error:
            self._rests_until = self._monotonic() + self._rest_s
            self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)
            raise StoreUnavailable(type(error).__name__) from error
        self._rest_s = _FIRST_REST_S
        return answer
