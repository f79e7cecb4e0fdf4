"""The cache's words and its seam to storage.

Contract of `Store` (tests/contracts/test_store.py runs it against every implementation):
- what `put` returned from is found by `get` until `expires_at`, and after a restart;
- an entry is found only under its own key, and among neighbours only under its own partition;
- `expires_at` is absolute: reading an entry never prolongs it;
- over its limits a store drops expired entries first, then the oldest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.words import ModelId, Usage

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One stored answer.

    Attributes:
        key: the exact key, sha256 (32 bytes).
        partition: digest of everything but the last user text; b"" when only the exact tier may serve it.
        asked: the last user text, for the guard; "" when only the exact tier may serve it.
        vector: float32[d] of unit length, None when only the exact tier may serve it.
        payload: the whole answer's JSON body, as a client that does not stream sees it.
        model: the catalog's name of the model that answered.
        usage: what the answer used when it was made.
        baseline_nusd: what the baseline would have cost, in nano-dollars: what a hit saves.
    """

    key: bytes
    partition: bytes
    asked: str
    vector: Vector | None
    payload: bytes
    model: ModelId
    usage: Usage
    baseline_nusd: int
    baseline_low_nusd: int
    baseline_high_nusd: int
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A stored entry and its cosine to the vector asked for, in [-1, 1]."""

    entry: Entry
    similarity: float


class Store(Protocol):
    """Keeps entries across restarts."""

    def get(self, key: bytes, now: datetime) -> Entry | None:
        """Return the entry under `key` that has not expired."""
        ...

    def put(self, entry: Entry) -> None:
        """Keep an entry, in place of one under the same key."""
        ...

    def neighbours(self, partition: bytes, vector: Vector, *, limit: int, now: datetime) -> Sequence[Neighbour]:
        """Return the nearest entries of a partition that have not expired, nearest first."""
        ...

    def close(self) -> None:
        """Close what is open; idempotent."""
        ...


class Tier(StrEnum):
    """Which cache answered."""

    EXACT = "exact"
    SEMANTIC = "semantic"
    FLIGHT = "flight"
    """An equal request in flight, whose answer is shared as it comes."""


class MissReason(StrEnum):
    """Why nothing was served although the cache was asked."""

    ABSENT = "absent"
    DECLINED = "declined"
    STORE_FAILED = "store_failed"


class BypassReason(StrEnum):
    """Why the cache was not asked."""

    OFF = "off"
    ASKED_NOT_TO = "no-store"
    TEMPERATURE = "temperature"
    UNREADABLE = "unreadable"
    SURFACE = "surface"
    TURNS = "turns"
    TOOLS = "tools"
    CHOICES = "choices"
    NOT_PLAIN_TEXT = "not_plain_text"
    LENGTH = "length"
    TIME_SENSITIVE = "time_sensitive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An answer to serve; `similarity` and `score` are None for exact hits."""

    tier: Tier
    entry: Entry
    similarity: float | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """Nothing to serve; `best` is the nearest neighbour's similarity, `detail` why it was declined."""

    reason: MissReason
    best: float | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """The cache is out of this request's way."""

    reason: BypassReason


Lookup: TypeAlias = Hit | Miss | Bypass
