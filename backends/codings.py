"""Bodies that an upstream compressed although `identity` was asked for: read as what they were before.

A proxy in between may do it. What it became is bounded where it is read: a piece at a time leaves here, however much a
small piece becomes (RFC 1952's format can grow a thousandfold).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from backends.errors import ReplyMalformed, StreamCut

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.transport import Response

_PIECE_BYTES = 2**18

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""zlib's own numbers for the containers that HTTP's names stand for (RFC 9110, section 8.4.1)."""


def plain(response: Response) -> Response:
    """Return a response whose body is not compressed: itself, or a reader of what it was.

    Raises:
        ReplyMalformed: a coding that nobody asked for and that is not known here.
    """
    coding = (response.header("content-encoding") or "identity").strip().lower()
    if coding in {"identity", ""}:
        return response
    if coding not in _WINDOW_BITS:
        raise ReplyMalformed(f"the upstream's answer is coded as {coding[:32]!r}, which was not asked for")
    return _Unpacked(response, _WINDOW_BITS[coding])


class _Unpacked:
    """A `Response` that unpacks another's body."""

    def __init__(self, packed: Response, window_bits: int) -> None:
        self._packed = packed
        self._unpacker = zlib.decompressobj(window_bits)
        self._waiting = b""

    @property
    def status(self) -> int:
        return self._packed.status

    @property
    def is_delimited(self) -> bool:
        return self._packed.is_delimited

    def header(self, name: str) -> str | None:
        return self._packed.header(name)

    async def read(self) -> bytes:
        """Return some of the body; see `Response.read`.

        Raises:
            ReplyMalformed: it is not what its coding says.
        """
        while True:
            if piece := self._unpack():
                return piece
            self._waiting = await self._packed.read()
            if not self._waiting:
                return self._end()

    def read_now(self) -> bytes:
        if not self._waiting:
            self._waiting = self._packed.read_now()
        return self._unpack()

    def tap(self, take: Callable[[bytes], bool]) -> None:
        """Leave everything to `read`, which unpacks it."""

    def close(self) -> None:
        self._packed.close()

    def _unpack(self) -> bytes:
        if self._unpacker.eof:
            self._waiting = b""  # what follows the end is nobody's
            return b""
        try:
            piece = self._unpacker.decompress(self._waiting, _PIECE_BYTES)
        except zlib.error as error:
            raise ReplyMalformed("the upstream's answer is not in the coding that it states") from error
        self._waiting = self._unpacker.unconsumed_tail
        return piece

    def _end(self) -> bytes:
        if not self._unpacker.eof:
            raise StreamCut("the upstream's compressed answer ended before its end")
        return b""
