"""The entries that were read last, in memory: a popular answer is not read from its file each time.

Coherent without being told: the file's version is asked before each use, and changes with every commit of anybody, this
process's other connections included; an entry that was read at another version is read again. Expiry is absolute and
looked at each time.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import Final, NamedTuple, Protocol, runtime_checkable

from semantic_cache.seam import Entry, Hit, Miss, MissReason, Store, Tier
from semantic_cache.tiers import FAILURES

_KEPT_ENTRIES: Final = 4096
_KEPT_BYTES: Final = 32 * 2**20
_LARGEST_BYTES: Final = 2**20
"""Of a body: one of these more is not worth hundreds of others."""


@runtime_checkable
class Versioned(Store, Protocol):
    """A store that can tell whether anything has changed."""

    def version(self) -> int:
        """Return a number that every change of what is stored changes, whoever made it; asked by the event loop."""
        ...


class _Kept(NamedTuple):
    version: int
    hit: Hit


class Recent:
    """Looks exact keys up in a store, and remembers what was found."""

    def __init__(self, store: Versioned, *, max_entries: int = _KEPT_ENTRIES, max_bytes: int = _KEPT_BYTES) -> None:
        self._store = store
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bytes = 0

    def find(self, key: bytes, *, now: datetime) -> Hit | Miss:
        """Return the answer to the very same request; as `tiers.lookup_exact`."""
        try:
            version = self._store.version()  # before the entry: what changes in between is seen the next time
            kept = self._kept.get(key)
            if kept is not None and kept.version == version and kept.hit.entry.expires_at > now:
                self._kept.move_to_end(key)
                return kept.hit
            entry = self._store.get(key, now)
        except FAILURES:
            return Miss(reason=MissReason.STORE_FAILED)
        self._forget(key)
        if entry is None:
            return Miss(reason=MissReason.ABSENT)
        hit = Hit(tier=Tier.EXACT, entry=entry)
        self._keep(key, _Kept(version, hit))
        return hit

    def _keep(self, key: bytes, kept: _Kept) -> None:
        size = _size(kept.hit.entry)
        if size > _LARGEST_BYTES:
            return
        self._kept[key] = kept
        self._bytes += size
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= _size(kept.hit.entry)


def _size(entry: Entry) -> int:
    return len(entry.payload) + 4 * len(entry.asked)
