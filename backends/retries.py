"""When a failed request may be sent again: the rules, their budget, the wait, and what a Retry-After header says.

The budget is Finagle's (https://twitter.github.io/finagle/guide/Clients.html#retries): over the last seconds, retries
are at most a share of the requests, plus a few a second so that a gateway with little traffic can fail over at all.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

WINDOW_S = 10
"""The seconds a budget looks back; Finagle's."""

_BACKOFF_S = 0.2
"""The first wait's upper end: longer than a connection takes, shorter than a client notices."""

_LONGEST_RETRY_AFTER_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """How often and how long a request is tried again at one model.

    Attributes:
        max: tries beyond the first.
        budget_share: retries as a share of the requests of the last `WINDOW_S` seconds, in [0, 1].
        min_per_s: retries a second that are allowed beside the share.
        max_wait_s: the longest a request waits between two tries.
    """

    max: int = 2
    budget_share: float = 0.2
    min_per_s: float = 1.0
    max_wait_s: float = 2.0


class RetryBudget:
    """Counts requests and retries of the last `WINDOW_S` seconds. Times come in and never go back."""

    def __init__(self, rules: RetryRules) -> None:
        self._share = rules.budget_share
        self._minimum = rules.min_per_s * WINDOW_S
        self._seconds: deque[list[int]] = deque()  # [second, requests, retries], oldest first
        self._next_second = -math.inf
        self._requests = 0
        self._retries = 0

    def note_request(self, now: float) -> None:
        """Count a request's first try."""
        self._at(now)[1] += 1
        self._requests += 1

    def take(self, now: float) -> bool:
        """Count a retry and return True, or return False when the budget has none left."""
        this = self._at(now)
        # Rounded before it is compared: 0.1 + 0.2 of a retry must not be lost or won to binary fractions.
        if self._retries + 1 > round(self._share * self._requests + self._minimum, 6):
            return False
        this[2] += 1
        self._retries += 1
        return True

    def _at(self, now: float) -> list[int]:
        if now < self._next_second:
            return self._seconds[-1]
        second = math.floor(now)
        self._next_second = second + 1
        while self._seconds and self._seconds[0][0] <= second - WINDOW_S:
            _, requests, retries = self._seconds.popleft()
            self._requests -= requests
            self._retries -= retries
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append([second, 0, 0])
        return self._seconds[-1]


def backoff_s(retry: int, chance: float) -> float:
    """Return how long to wait before the `retry`-th retry (from 1) at the same endpoint, in seconds.

    Args:
        retry: which retry of the request it is.
        chance: a random number in [0, 1): full jitter, so that requests that failed together do not return together.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """
    return float(chance * _BACKOFF_S * 2.0 ** min(retry - 1, 16))


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Return the seconds a Retry-After header asks to wait (RFC 9110, 10.2.3); None when it says nothing readable.

    Args:
        value: the header: seconds (a fraction is accepted, as providers send them) or an HTTP date.
        now: the wall time a date is measured from.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(_LONGEST_RETRY_AFTER_S, float(text))
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    # "-0000" makes a naive date, which the RFC means as UTC.
    wait = (date if date.tzinfo is not None else date.replace(tzinfo=UTC)) - now
    return min(_LONGEST_RETRY_AFTER_S, max(wait, timedelta(0)).total_seconds())
