"""The hash chain: every booked row is an entry of its writer's chain, numbered without gaps.

Rules:
- entry n's hash = blake2b-256(hash of entry n - 1, 32 raw bytes ‖ canonical row), where the hash of entry 0 is zeros;
- a canonical row is the JSON array of its table's name and its columns' values in the order of the schema, the row's
  own `id` left out (it is the store's business), and so is a request's `decision` while it is NULL: rows from before
  that column have the hashes they had, and no two rows the same array;
- a writer is a slot: 0 is the gateway (or its first worker), 1, 2, … further workers, -1 the books;
- a root is a line over all writers' heads, chained to the root before it; it is kept in the store and in a file.

Hashing is the fold's work, off the request's way: what is hashed is what the store holds, so that it can be verified
from the store alone.

Source: hash-linked logs (Haber, Stornetta: "How to Time-Stamp a Digital Document", 1991, section 5.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

BOOKS: Final = -1
"""The slot of the books writer: corrections, closings, and what the store books when it finds a writer dead."""
GENESIS: Final = bytes(32)

_DECISION: Final = -2
"""Where a request's `decision` stands among its columns; it came with version 6 of the schema."""

_encode: Final = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Head:
    """A writer's last entry: its number and hash."""

    seq: int = 0
    hash: bytes = GENESIS


def link(former: bytes, table: str, values: Sequence[object]) -> bytes:
    """Return the hash of the entry that follows `former`.

    Args:
        former: the hash before, 32 bytes.
        table: where the row stands.
        values: its columns as SQLite returns them, in the schema's order, without `id`.
    """
    if table == "requests" and values[_DECISION] is None:
        values = (*values[:_DECISION], *values[_DECISION + 1 :])
    return hashlib.blake2b(former + _encode([table, *values]), digest_size=32).digest()


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """All writers' heads at one moment; one line of the roots file.

    Attributes:
        n: counts from 1.
        day: the UTC day, such as "2026-11-21".
        at_us: when it was made, microseconds since 1970 UTC.
        heads: by slot: number and hash (hex) of its last entry.
        former: the hash (hex) of root n - 1; 64 zeros for the first.
        hash: of all of the above.
    """

    n: int
    day: str
    at_us: int
    heads: Mapping[str, tuple[int, str]]
    former: str
    hash: str

    @classmethod
    def over(cls, heads: Mapping[int, Head], *, n: int, day: str, at_us: int, former: str) -> Root:
        """Make the root of heads."""
        named = {str(slot): (head.seq, head.hash.hex()) for slot, head in heads.items()}
        return cls(n=n, day=day, at_us=at_us, heads=named, former=former, hash=_hash(n, day, at_us, named, former))

    @property
    def is_whole(self) -> bool:
        """Tell whether the hash is that of the rest."""
        return self.hash == _hash(self.n, self.day, self.at_us, self.heads, self.former)

    def line(self) -> bytes:
        """Return its line in the roots file, with the line break."""
        return _encode(self) + b"\n"


def _hash(n: int, day: str, at_us: int, heads: Mapping[str, tuple[int, str]], former: str) -> str:
    return hashlib.blake2b(_encode([n, day, at_us, dict(heads), former]), digest_size=32).hexdigest()
