"""Following the books: what people correct or adjust while a gateway runs reaches its budgets within seconds."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from gateway.ledger.errors import FolderUnusable
from gateway.ledger.spent import read_adjusted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backends.clock import Clock
    from gateway.ledger.budgets import BudgetAuthority

LOOK_S: Final = 5.0
"""How often the books are looked at."""

_log = logging.getLogger("faregate")


class BooksFollower:
    """Tells an authority of corrections and adjustments as they are booked.

    Args:
        folder: the ledger's.
        authority: rebuilt from it; used from the loop's thread only.
        clock: the time.
        last_booking: the last row of `books` that the authority knows (`Spent.last_booking`).
        latest: tells the last row there is, as far as who folds knows: the store is only read for a new one.
    """

    def __init__(
        self, folder: Path, authority: BudgetAuthority, clock: Clock, *, last_booking: int, latest: Callable[[], int]
    ) -> None:
        self._folder = folder
        self._authority = authority
        self._clock = clock
        self._last = last_booking
        self._latest = latest
        self._due = clock.monotonic() + LOOK_S

    async def look_if_due(self) -> None:
        """Look whether something was booked, every `LOOK_S` seconds; never raises."""
        if not self._authority.caps or self._clock.monotonic() < self._due:
            return
        self._due = self._clock.monotonic() + LOOK_S
        if self._latest() <= self._last:
            return
        now = self._clock.now()
        try:
            found = await asyncio.to_thread(read_adjusted, self._folder, self._authority.caps, now, after=self._last)
        except FolderUnusable as error:  # at the next look, then
            _log.warning("books_unreadable", extra={"error": str(error)})
            return
        self._last = found.last_booking
        for pot, nusd in found.nusd.items():
            if nusd:
                self._authority.adjust(pot, nusd, now)
