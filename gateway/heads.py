"""Heads that were read before: a client sends the same header section with each request, but for its length.

A head that the parser has read and the checks have passed is remembered with what it said; the same bytes again, with
other digits in the place of the length, say the same again, and are not parsed. Rules:
- only heads that end their body by one `content-length` and keep their connection are remembered: those whose end
  depends on nothing but these digits; those of web pages (`origin`) are not, since their answers name the page;
- a head is known by its SHA-256: the keys that clients show are not kept;
- as many are kept as clients take turns; whoever sends a new one each time is parsed each time, as if none were kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from gateway.calls import Call

_HEADS_KEPT: Final = 1024
_KEPT_LIMIT_BYTES: Final = 8 * 2**10
"""Of a head; larger ones are parsed each time."""

_END: Final = b"\r\n\r\n"
_LENGTHS: Final = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")
_DIGITS_LIMIT: Final = 12


class Known(NamedTuple):
    """A head that was recognised: what it says but for the body, where its body begins, and how long that is."""

    call: Call
    start: int
    length: int


class Heads:
    """Remembers heads."""

    __slots__ = ("_calls", "_limit")

    def __init__(self, limit: int = _HEADS_KEPT) -> None:
        self._limit = limit
        self._calls: dict[bytes, Call] = {}

    def find(self, data: bytes) -> Known | None:
        """Return what the head with which `data` begins says; None when it is not known, or not all there."""
        parts = _parts(data)
        if parts is None:
            return None
        digest, start, length = parts
        call = self._calls.get(digest)
        return None if call is None else Known(call, start, length)

    def learn(self, data: bytes, headers: Sequence[tuple[bytes, bytes]], call: Call) -> None:
        """Remember a head.

        Args:
            data: begins with it, as it came.
            headers: what the parser made of it, names in lower case.
            call: what it says; its body is forgotten.
        """
        parts = _parts(data)
        if parts is None:
            return
        digest, start, length = parts
        about = [header for header in headers if header[0] in _ABOUT_ITS_END and header not in _KEEPS]
        # As many lines as headers, all ended alike: the parser has seen what `_parts` has seen.
        is_plain = data.count(b"\r\n", 0, start - 2) == data.count(b"\n", 0, start - 2) == len(headers) + 1
        if any(name == _ANSWERED_TOO for name, _ in headers):
            return
        if not is_plain or about != [(b"content-length", b"%d" % length)]:
            return
        if len(self._calls) >= self._limit:
            del self._calls[next(iter(self._calls))]
        self._calls[digest] = msgspec.structs.replace(call, body=b"")


_ABOUT_ITS_END: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"})
_ANSWERED_TOO: Final = b"origin"
"""What an answer's own headers depend on, which a recognised head does not tell."""
_KEEPS: Final = frozenset({(b"connection", b"keep-alive"), (b"connection", b"Keep-Alive")})


def _parts(data: bytes) -> tuple[bytes, int, int] | None:
    """Return the digest of a head without its length, where the body begins, and the length."""
    end = data.find(_END, 0, _KEPT_LIMIT_BYTES)
    place = data.find(_LENGTHS[0], 0, end) if end > 0 else -1
    if place < 0:
        place = data.find(_LENGTHS[1], 0, end) if end > 0 else -1
        if place < 0:
            return None
    place += len(_LENGTHS[0])
    after = data.find(b"\r", place, end + 1)
    digits = data[place:after]
    if not digits.isdigit() or len(digits) > _DIGITS_LIMIT or digits.startswith(b"0"):
        return None
    return hashlib.sha256(data[:place] + data[after:end]).digest(), end + 4, int(digits)
