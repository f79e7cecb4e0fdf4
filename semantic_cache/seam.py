"""The cache's words and its seam to storage.

Contract of `Store` (tests/contracts/test_store.py runs it against every implementation):
- what `put` returned from is found by `get` until `expires_at`, and after a restart;
- an entry is found only under its own key, and among neighbours only under its own partition;
- neighbours are the nearest of those the store has read in: while a large partition `is_partial` its older ones are
  missed, and a near one among many thousands may always be;
- `expires_at` is absolute: reading an entry never prolongs it;
- what `drop` returned from is found no more, by no gateway on the same store, restarted or not;
- a store that cannot be asked raises `StoreUnavailable` (the embedded one: `sqlite3.Error`) within 20 ms, or at once;
- over its limits a store drops expired entries first, then the oldest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.words import ModelId, TenantId, Usage

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
        tenant: who paid for it; `namespace` is where it is shared, "" when nowhere.
        tags: `name=value`, as the request that made it was tagged.
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
    tenant: TenantId
    namespace: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which entries are meant: those that all of its fields name; without any field, all entries.

    Attributes:
        key: the exact key; `tag` is `name=value`.
        model: the catalog's name of the model that answered.
        tenant: who paid, also inside namespaces.
    """

    key: bytes | None = None
    tag: str | None = None
    model: str | None = None
    tenant: str | None = None
    namespace: str | None = None

    def takes(self, entry: Entry) -> bool:
        """Tell whether an entry is meant."""
        return (
            self.key in {None, entry.key}
            and (self.tag is None or self.tag in entry.tags)
            and self.model in {None, entry.model}
            and self.tenant in {None, entry.tenant}
            and self.namespace in {None, entry.namespace}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What a store holds, expired entries that are not dropped yet included.

    Attributes:
        bytes: of bodies, texts and vectors.
        with_vectors: entries that the semantic tier may serve.
        dropped: entries dropped to make room since the store was opened.
        index: how neighbours are found; "" where there is no semantic tier.
        index_bytes: of what is read for that, beside the vectors that are kept with the answers.
    """

    entries: int
    bytes: int
    with_vectors: int
    dropped: int
    index: str = ""
    index_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A stored entry and its cosine to the vector asked for, in [-1, 1]."""

    entry: Entry
    similarity: float


class StoreUnavailable(Exception):
    """A store could not be asked, or not in time. For a request that is a miss, never an error."""


class Store(Protocol):
    """Keeps entries across restarts. What it returns may lack the vector, which nobody reads again."""

    @property
    def is_local(self) -> bool:
        """Whether `get` takes microseconds, and may be called by the event loop."""
        ...

    @property
    def is_resting(self) -> bool:
        """Whether it failed a moment ago and would fail at once: nobody need wait to hear that."""
        ...

    def get(self, key: bytes, now: datetime) -> Entry | None:
        """Return the entry under `key` that has not expired."""
        ...

    def put(self, entry: Entry) -> None:
        """Keep an entry, in place of one under the same key."""
        ...

    def neighbours(self, partition: bytes, vector: Vector, *, limit: int, now: datetime) -> Sequence[Neighbour]:
        """Return the nearest entries of a partition that have not expired, nearest first."""
        ...

    def is_partial(self, partition: bytes) -> bool:
        """Whether a partition that was searched is not read in yet, and `read_on` should be called until it is."""
        ...

    def read_on(self, partition: bytes) -> None:
        """Read some more of it in; takes milliseconds."""
        ...

    def drop(self, selector: Selector) -> int:
        """Forget the entries that are meant, for every gateway that uses the store; return how many there were."""
        ...

    def stock(self) -> Stock:
        """Count what is there."""
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
    CODE = "code"
    MATHS = "maths"


class HitReason(StrEnum):
    """Why a stored answer is served."""

    EQUAL = "equal"
    """The request is the same."""
    ACCEPTED = "accepted"
    """Guard and score let it pass."""
    VERIFIED = "verified"
    """The guard let it pass, and a model said that one answer serves both."""


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to serve; `similarity` and `score` are None for exact hits."""

    tier: Tier
    entry: Entry
    similarity: float | None = None
    score: float | None = None
    reason: HitReason = HitReason.EQUAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Grey:
    """A neighbour that the guard let pass and the score did not: a model may be asked about it.

    `score` is the acceptance's, the exact one and no bound.
    """

    entry: Entry
    similarity: float
    score: float


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing to serve; `best` is the nearest neighbour's similarity, `detail` why it was declined.

    `grey` is the likeliest of the doubtful neighbours, where it was asked for and there is one.
    """

    reason: MissReason
    best: float | None = None
    detail: str | None = None
    grey: Grey | None = None


class Bypass(msgspec.Struct, frozen=True, kw_only=True):
    """The cache is out of this request's way."""

    reason: BypassReason


Lookup: TypeAlias = Hit | Miss | Bypass
