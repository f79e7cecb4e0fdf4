"""What a prompt says, as hashed n-grams of its words and characters, without a vocabulary: numpy only, some 50 µs.

Rules: training and serving call this one function, so a bucket means the same in both; only the first `MAX_BYTES` are
read; case is folded by ASCII rules. Two n-grams may share a bucket: with 2^16 buckets a linear model hardly notices.

Source: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009 (here unsigned, since each
bucket has its own idf); the hash of a slice is the difference of two prefix sums of a polynomial modulo 2^64.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 15
CHARACTER_BITS = 16
WORDS = 1 << WORD_BITS
BUCKETS = WORDS + (1 << CHARACTER_BITS)
"""Word n-grams lie in [0, WORDS), character n-grams in [WORDS, BUCKETS)."""
MAX_BYTES = 4_096
"""A long document says what it is about in its first pages; the rest must not cost."""

SHAPE = (
    "bytes",
    "words",
    "lines",
    "digits",
    "capitals",
    "symbols",
    "questions",
    "mean_word",
    "longest_line",
    "operators",
)
"""What `shape` counts, each as log(1 + count)."""

Buckets: TypeAlias = NDArray[np.int64]

_PRIME = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64: the golden ratio's bits
_WRAP = 1 << 64


def _powers(base: int) -> NDArray[np.uint64]:
    values = [1]
    for _ in range(MAX_BYTES):
        values.append(values[-1] * base % _WRAP)
    return np.array(values, dtype=np.uint64)


_POWERS = _powers(_PRIME)
_INVERSES = _powers(pow(_PRIME, -1, _WRAP))
_MIX = np.uint64(0xD6E8FEB86659FD93)
_DIGITS = bytes(range(48, 58))
_CAPITALS = bytes(range(65, 91))
_GOLDEN = np.uint64(_PRIME)
_ONE, _SHIFT = np.uint64(1), np.uint64(29)
_FIRST = np.zeros(1, dtype=np.int64)
_SIZES = (3, 4, 5)
"""Characters of an n-gram."""
_FOLD = np.arange(256, dtype=np.uint8)
_FOLD[65:91] += 32
_IS_WORD = np.zeros(256, dtype=bool)
_IS_WORD[[*range(48, 58), *range(97, 123), *range(128, 256)]] = True


def grams(text: str) -> tuple[Buckets, NDArray[np.float64]]:
    """Return a text's buckets, ascending, and 1 + log of their counts: n-grams of 1-2 words and 3-5 bytes."""
    raw = _FOLD[np.frombuffer(text.encode("utf-8", "replace")[:MAX_BYTES], dtype=np.uint8)]
    sums = np.zeros(raw.size + 1, dtype=np.uint64)
    np.cumsum((raw.astype(np.uint64) + _ONE) * _POWERS[: raw.size], out=sums[1:])
    words = _words(raw, sums)
    found = np.concatenate((words, _characters(sums)))
    if not found.size:
        return found.astype(np.int64), np.zeros(0)
    found.sort()
    edges = np.flatnonzero(found[1:] != found[:-1])
    edges += 1
    firsts = np.concatenate((_FIRST, edges))
    counts = np.diff(np.concatenate((firsts, (found.size,))))
    return found[firsts].astype(np.int64), 1 + np.log(counts)


def shape(text: str) -> NDArray[np.float64]:
    """Return float64[len(SHAPE)]: lengths and counts of kinds of characters, each as log(1 + count)."""
    raw = text.encode("utf-8", "replace")[:MAX_BYTES]
    words = raw.count(b" ") + raw.count(b"\n") + 1
    counts = (
        len(raw),
        words,
        raw.count(b"\n"),
        _count(raw, _DIGITS),
        _count(raw, _CAPITALS),
        _count(raw, b"$\\"),
        raw.count(b"?"),
        len(raw) / words,
        max(map(len, raw.split(b"\n"))),
        _count(raw, b"*+-/<=>^"),
    )
    return np.log1p(np.array(counts, dtype=np.float64))


def _count(raw: bytes, kinds: bytes) -> int:
    return len(raw) - len(raw.translate(None, kinds))


def _words(raw: NDArray[np.uint8], sums: NDArray[np.uint64]) -> NDArray[np.int32]:
    inside = np.zeros(raw.size + 2, dtype=np.int8)
    inside[1:-1] = _IS_WORD[raw]
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    single = (sums[ends] - sums[starts]) * _INVERSES[starts]
    double = single[:-1] * _GOLDEN + (single[1:] ^ _MIX)
    return _bucket(np.concatenate((single, double)), WORD_BITS)


def _characters(sums: NDArray[np.uint64]) -> NDArray[np.int32]:
    sizes = [size for size in _SIZES if sums.size > size]
    if not sizes:
        return np.zeros(0, dtype=np.int32)
    parts = [(sums[size:] - sums[:-size]) * _INVERSES[: sums.size - size] + np.uint64(size) for size in sizes]
    return _bucket(np.concatenate(parts), CHARACTER_BITS) + np.int32(WORDS)


def _bucket(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int32]:
    # The high bits of a product depend on all bits of its factors, the low ones do not.
    mixed = (hashes ^ (hashes >> _SHIFT)) * _MIX
    return (mixed >> np.uint64(64 - bits)).astype(np.int32)
