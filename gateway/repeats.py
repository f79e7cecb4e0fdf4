"""Requests that a stored answer was served to: the same bytes again are not parsed again, nor are their keys made.

Only requests that were exact hits are kept, so that others pay no more than a look at their ends for it; a body is
compared as a whole before anything is taken for its.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from backends.words import Ask, Surface
from semantic_cache.partition import Keys, Scope

_KEPT_BYTES: Final = 8 * 2**20
"""Of bodies; what was parsed from them is about twice that."""

_LARGEST_BYTES: Final = 2**18
_ENDS_BYTES: Final = 128


class Repeat:
    """A request as it was parsed, and its keys by what they were made for: whose, and by which rules."""

    __slots__ = ("ask", "body", "keys")

    def __init__(self, body: bytes, ask: Ask) -> None:
        self.body = body
        self.ask = ask
        self.keys: dict[tuple[Scope, float, bool], Keys] = {}


class Repeats:
    """Remembers them, the latest used, up to so many bytes."""

    def __init__(self, max_bytes: int = _KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[Surface, int, bytes, bytes], Repeat] = OrderedDict()

    def find(self, surface: Surface, body: bytes) -> Repeat | None:
        """Return the request that said exactly this."""
        if not self._kept:
            return None
        name = _name(surface, body)
        repeat = self._kept.get(name)
        if repeat is None or repeat.body != body:
            return None
        self._kept.move_to_end(name)
        return repeat

    def learn(self, surface: Surface, body: bytes, ask: Ask) -> None:
        """Remember a request to which a stored answer is served."""
        if len(body) > _LARGEST_BYTES:
            return
        name = _name(surface, body)
        before = self._kept.pop(name, None)
        self._bytes += len(body) - (len(before.body) if before is not None else 0)
        self._kept[name] = Repeat(body, ask)
        while self._bytes > self._max_bytes:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= len(gone.body)


def _name(surface: Surface, body: bytes) -> tuple[Surface, int, bytes, bytes]:
    # Not the whole body: hashing a long one takes a good part of what parsing it does.
    return surface, len(body), body[:_ENDS_BYTES], body[-_ENDS_BYTES:]
