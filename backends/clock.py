"""Time as an argument: what reads it takes a `Clock`, so that tests own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for rows, monotonic time for durations."""

    def now(self) -> datetime:
        """Return the present in UTC, timezone-aware."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)  # no call in between: a request reads it a dozen times

    def now(self) -> datetime:
        """Return the present in UTC, timezone-aware."""
        return datetime.now(UTC)
