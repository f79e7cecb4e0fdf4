"""Server-sent events: any chunking of the same bytes gives the same events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ReplyMalformed
from backends.sse import EventDecoder, encode_comment, encode_event

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Draw a stream's bytes and the events in it."""
    end = draw(ENDS)
    text, events = draw(st.sampled_from(["", "\ufeff"])), []
    for lines in draw(st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=4)):
        text += "".join(f"data: {line}{end}" for line in lines)
        text += draw(st.sampled_from(["", f": comment{end}", f"event: x{end}", f"id: 7{end}"])) + end
        events.append("\n".join(lines).encode())
    return text.encode(), [event for event in events if event]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def decoded(parts: list[bytes]) -> list[bytes]:
    decoder = EventDecoder()
    # A last CR may be half of a CRLF: the empty line after it tells that it was not.
    return [event for part in [*parts, b"\n"] for event in decoder.feed(part)]


@given(streams(), st.lists(st.integers(min_value=0), max_size=8))
def test_any_chunking_gives_the_same_events(stream: tuple[bytes, list[bytes]], cuts: list[int]):
    data, events = stream
    assert decoded(pieces(data, cuts)) == events


def test_a_crlf_cut_between_two_reads_is_one_line_end():
    decoder = EventDecoder()
    assert [decoder.feed(part) for part in (b"data: a\r", b"\ndata: b\r\n\r", b"\n")] == [[], [], [b"a\nb"]]


def test_an_event_without_its_empty_line_is_not_dispatched():
    assert EventDecoder().feed(b"data: whole\n\ndata: cut\n") == [b"whole"]


def test_comments_names_and_ids_are_no_events():
    assert EventDecoder().feed(b": ping\n\nevent: x\nid: 3\nretry: 10\n\ndata: a\n\n") == [b"a"]


@pytest.mark.parametrize(("line", "value"), [(b"data:a", b"a"), (b"data: a", b"a"), (b"data:  a", b" a")])
def test_one_space_after_the_colon_is_dropped(line: bytes, value: bytes):
    assert EventDecoder().feed(line + b"\n\n") == [value]


@pytest.mark.parametrize("line", [b"data", b"data:", b"data: "])
def test_an_event_of_nothing_is_not_dispatched(line: bytes):
    assert EventDecoder().feed(line + b"\n\ndata: a\n\n") == [b"a"]


def test_an_event_of_endless_empty_lines_is_refused():
    with pytest.raises(ReplyMalformed, match="larger than 640 bytes"):
        EventDecoder(limit_bytes=640).feed(b"data:\n" * 20)


def test_an_event_over_the_limit_is_refused_whether_its_line_has_ended_or_not():
    for data in (b"data: " + b"x" * 99, b"data: " + b"x" * 99 + b"\n"):
        with pytest.raises(ReplyMalformed, match="larger than 96 bytes"):
            EventDecoder(limit_bytes=96).feed(data)


def test_the_limit_is_for_one_event_not_for_the_stream():
    assert len(EventDecoder(limit_bytes=96).feed((b"data: " + b"x" * 40 + b"\n\n") * 10)) == 10


@given(st.lists(LINES, min_size=1, max_size=3))
def test_an_encoded_event_is_read_back(lines: list[str]):
    data = "\n".join(lines).encode()
    assert EventDecoder().feed(encode_event(data)) == ([data] if data else [])


def test_a_comment_is_no_event():
    assert EventDecoder().feed(encode_comment("faregate cost_usd=1") + encode_event(b"x")) == [b"x"]
