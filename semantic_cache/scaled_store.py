"""The store for several gateways: answers in Redis or Valkey, vectors in a Qdrant server.

The two are not one transaction: a vector whose answer is gone is met as a neighbour once, and dropped then; an answer
whose vector is not there yet is an exact hit only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from semantic_cache.redis_store import RedisBodies
from semantic_cache.seam import Entry, Neighbour, Selector, Stock, Vector

if TYPE_CHECKING:
    from semantic_cache.qdrant_index import QdrantIndex  # half a second to import, and not every gateway has one

_SPARE = 8
"""Neighbours asked for beyond those wanted: some may be gone."""


class ScaledStore:
    """Implements `Store`. Every method may raise `StoreUnavailable`.

    Args:
        bodies: the answers.
        index: the vectors; None: there is no semantic tier.
    """

    is_local = False

    def __init__(self, bodies: RedisBodies, index: QdrantIndex | None) -> None:
        self._bodies = bodies
        self._index = index

    def get(self, key: bytes, now: datetime) -> Entry | None:
        """Return the entry under `key` that has not expired."""
        return self._bodies.get([key], now)[0]

    def put(self, entry: Entry) -> None:
        """Keep an entry, in place of one under the same key."""
        self._bodies.put(entry)
        if self._index is None:
            return
        if entry.vector is None:
            self._index.drop([entry.key])
        else:
            self._index.add(entry.key, entry.partition, entry.vector, expires_at=entry.expires_at)

    def neighbours(self, partition: bytes, vector: Vector, *, limit: int, now: datetime) -> Sequence[Neighbour]:
        """Return the nearest entries of a partition that have not expired, nearest first."""
        if self._index is None:
            return ()
        near = self._index.search(partition, vector, limit=limit + _SPARE, now=now)
        entries = self._bodies.get([key for key, _ in near], now) if near else []
        found: list[Neighbour] = []
        gone: list[bytes] = []
        for (key, similarity), entry in zip(near, entries, strict=True):
            # The partition again: what an index says is not what keeps tenants apart.
            if entry is None or entry.partition != partition:
                gone.append(key)
            else:
                found.append(Neighbour(entry=entry, similarity=similarity))
        self._index.drop(gone)
        return found[:limit]

    def is_partial(self, partition: bytes) -> bool:  # noqa: ARG002 - the seam's
        """Return False: the server has read all."""
        return False

    def read_on(self, partition: bytes) -> None:
        """Do nothing."""

    def drop(self, selector: Selector) -> int:
        """Forget the entries that are meant."""
        keys = self._bodies.drop(selector)
        if self._index is not None:
            self._index.drop(keys)
        return len(keys)

    def stock(self) -> Stock:
        """Count what is there."""
        stock = self._bodies.stock()
        if self._index is None:
            return stock
        vectors = self._index.count()
        return replace(
            stock, with_vectors=vectors, index=self._index.kind, index_bytes=vectors * self._index.bytes_per_vector
        )

    def claim(self, key: bytes, holder: bytes, *, life_s: float) -> bool:
        """Take the lead among equal requests of several gateways, if nobody has it."""
        return self._bodies.claim(key, holder, life_s=life_s)

    def renew(self, keys: Iterable[bytes], holder: bytes, *, life_s: float) -> None:
        """Keep leads of one's own for longer."""
        self._bodies.renew(keys, holder, life_s=life_s)

    def release(self, key: bytes, holder: bytes) -> None:
        """Let go of a lead of one's own."""
        self._bodies.release(key, holder)

    @property
    def is_resting(self) -> bool:
        """Whether the answers' store failed a moment ago, and fails at once now."""
        return self._bodies.is_resting

    def close(self) -> None:
        """Close both connections; idempotent."""
        self._bodies.close()
        if self._index is not None:
            self._index.close()
