"""Request ids: 128 random bits each, from the kernel's generator, which is asked for many at a time."""

from __future__ import annotations

import os

from backends.words import RequestId

_BYTES = 16
_IDS_A_READ = 256
"""A call of the kernel costs more than all else about an id; 4 kB of it waiting in memory are no secret."""


class RequestIds:
    """Makes ids. Each process has its own: a copy of what is waiting would make the same ones."""

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def next(self) -> RequestId:
        """Return an id that nobody had."""
        if not self._waiting:
            noise = os.urandom(_BYTES * _IDS_A_READ).hex()
            self._waiting = [noise[n : n + 2 * _BYTES] for n in range(0, len(noise), 2 * _BYTES)]
        return RequestId(f"req-{self._waiting.pop()}")
