"""Heads that are recognised: the same bytes say the same, and nothing else is taken for them."""

import pytest

from backends.words import Surface
from gateway.calls import read_call
from gateway.heads import Heads

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
KEY = (b"authorization", b"Bearer secret")


def a_head(*headers: tuple[bytes, bytes], line: bytes = LINE) -> bytes:
    return line + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"


def learned(*headers: tuple[bytes, bytes], data: bytes | None = None) -> Heads:
    heads = Heads()
    lowered = [(name.lower(), value) for name, value in headers]
    heads.learn(data or a_head(*headers), lowered, read_call(Surface.CHAT, lowered, b"{}"))
    return heads


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length"])
def test_a_head_is_known_again_whatever_its_length(name: bytes):
    heads = learned((b"host", b"x"), KEY, (name, b"2"))
    again = a_head((b"host", b"x"), KEY, (name, b"345"))

    known = heads.find(again + b"body")

    assert known is not None
    assert (known.start, known.length) == (len(again), 345)
    assert known.call == read_call(Surface.CHAT, [KEY], b"")


@pytest.mark.parametrize(
    "other",
    [
        a_head((b"host", b"y"), KEY, (b"content-length", b"2")),
        a_head((b"host", b"x"), (b"authorization", b"Bearer other"), (b"content-length", b"2")),
        a_head((b"host", b"x"), KEY, (b"content-length", b"2"), (b"transfer-encoding", b"chunked")),
        a_head((b"host", b"x"), KEY, (b"content-length", b"2"), (b"content-length", b"2")),
        a_head((b"host", b"x"), KEY, (b"content-length", b"+2")),
        a_head((b"host", b"x"), KEY, (b"content-length", b"02")),
        a_head((b"host", b"x"), KEY, (b"content-length", b"2 ")),
        a_head((b"host", b"x"), KEY, (b"content-length", b"")),
        a_head((b"host", b"x"), KEY, (b"content-length", b"2"), line=LINE.replace(b"chat/", b"")),
        a_head((b"host", b"x"), KEY, (b"content-length", b"2"))[:-1],
        b"",
    ],
)
def test_another_head_is_not_known(other: bytes):
    assert learned((b"host", b"x"), KEY, (b"content-length", b"2")).find(other) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"x"), (b"transfer-encoding", b"chunked")],
        [(b"host", b"x"), (b"content-length", b"2"), (b"connection", b"close")],
        [(b"host", b"x"), (b"content-length", b"2"), (b"expect", b"100-continue")],
        [(b"host", b"x"), (b"content-length", b"2"), (b"upgrade", b"h2c")],
        [(b"host", b"x"), (b"content-length", b"2"), (b"Origin", b"https://app.example")],
        [(b"host", b"x"), (b"content-length", b"2"), (b"x", b"y" * 9_000)],
    ],
)
def test_a_head_whose_end_or_answer_depends_on_more_than_its_length_is_not_remembered(
    headers: list[tuple[bytes, bytes]],
):
    assert learned(*headers).find(a_head(*headers)) is None


@pytest.mark.parametrize(
    "data", [b"\r\n" + a_head((b"content-length", b"2")), LINE + b"x:y\ncontent-length: 2\r\n\r\n"]
)
def test_a_head_that_was_read_as_other_lines_than_it_has_is_not_remembered(data: bytes):
    assert learned((b"content-length", b"2"), data=data).find(data) is None


def test_the_oldest_of_too_many_heads_is_forgotten():
    heads = Heads(limit=2)
    sent = [((b"host", host), (b"content-length", b"2")) for host in (b"a", b"b", b"c")]
    for headers in sent:
        heads.learn(a_head(*headers), headers, read_call(Surface.CHAT, headers, b"{}"))
    assert [heads.find(a_head(*headers)) is not None for headers in sent] == [False, True, True]


def test_no_key_is_kept():
    heads = learned(KEY, (b"content-length", b"2"))
    assert b"secret" not in repr(heads._calls).encode()
