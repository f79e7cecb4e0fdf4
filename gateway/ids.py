"""Request ids: the second, then 96 random bits from the kernel's generator, which is asked for many ids at a time.

The second makes ids that are made together lie together in the ledger's indexes. Of wholly random ones each row is
another page of each index, to be read, logged and written back: folding a request took an eighth to a quarter more CPU
in a ledger of 400,000 charges, and more in a larger one. It is that of the reading, so that an id costs no clock.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from backends.words import RequestId

if TYPE_CHECKING:
    from backends.clock import Clock

_BYTES = 12
_IDS_A_READ = 256
"""A call of the kernel costs more than all else about an id; 3 kB of it waiting in memory are no secret."""


class RequestIds:
    """Makes ids. Each process has its own: a copy of what is waiting would make the same ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[str] = []

    def next(self) -> RequestId:
        """Return an id that nobody had."""
        if not self._waiting:
            second = f"req-{int(self._clock.now().timestamp()):08x}"
            noise = os.urandom(_BYTES * _IDS_A_READ).hex()
            self._waiting = [f"{second}{noise[n : n + 2 * _BYTES]}" for n in range(0, len(noise), 2 * _BYTES)]
        return RequestId(self._waiting.pop())
