"""Compressed bodies: unpacked whatever their pieces are, refused when they are not what they say."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.codings import plain
from backends.errors import ReplyMalformed, StreamCut

TEXT = b"An answer. " * 1000


class Pieces:
    """A response whose body comes in these pieces."""

    status = 200
    is_delimited = True

    def __init__(self, coding: str | None, *pieces: bytes) -> None:
        self._coding = coding
        self._pieces = list(pieces)
        self.is_closed = False

    def header(self, name: str) -> str | None:
        return self._coding if name == "content-encoding" else None

    async def read(self) -> bytes:
        return self.read_now()

    def read_now(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def tap(self, take: Callable[[bytes], bool]) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


async def unpacked(response: Pieces) -> bytes:
    body = bytearray()
    reader = plain(response)
    while part := await reader.read():
        assert len(part) <= 2**18
        body += part
    return bytes(body)


@given(cuts=st.lists(st.integers(1, 60), max_size=9), coding=st.sampled_from(["gzip", "x-gzip", "GZIP", "deflate"]))
async def test_any_pieces_give_the_same_body(cuts: list[int], coding: str):
    packed = zlib.compress(TEXT) if coding == "deflate" else gzip.compress(TEXT)
    places = sorted({*cuts, 0, len(packed)})
    pieces = [packed[a:b] for a, b in itertools.pairwise(places) if a < len(packed)]
    assert await unpacked(Pieces(coding, *pieces)) == TEXT


async def test_a_body_that_becomes_large_comes_in_small_pieces():
    assert len(await unpacked(Pieces("gzip", gzip.compress(bytes(2**23))))) == 2**23


@pytest.mark.parametrize("coding", [None, "", "identity"])
def test_a_body_without_a_coding_is_left_alone(coding: str | None):
    response = Pieces(coding)
    assert plain(response) is response


def test_an_unknown_coding_is_refused():
    with pytest.raises(ReplyMalformed, match="'br'"):
        plain(Pieces("br"))


async def test_a_body_that_ends_early_is_a_cut():
    with pytest.raises(StreamCut):
        await unpacked(Pieces("gzip", gzip.compress(TEXT)[:-9]))


async def test_a_body_that_is_not_in_its_coding_is_malformed():
    with pytest.raises(ReplyMalformed):
        await unpacked(Pieces("gzip", TEXT))


async def test_what_follows_the_end_is_nobodys():
    assert await unpacked(Pieces("gzip", gzip.compress(TEXT) + b"more", b"and more")) == TEXT


def test_what_has_come_can_be_read_without_waiting_and_closing_closes():
    response = Pieces("gzip", gzip.compress(b"abc"))
    reader = plain(response)
    assert (reader.status, reader.is_delimited, reader.header("content-encoding")) == (200, True, "gzip")
    assert (reader.read_now(), reader.read_now()) == (b"abc", b"")
    reader.close()
    assert response.is_closed
