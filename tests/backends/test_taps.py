"""What is tapped of a stream past its waiting reader, and what the reader gets, are the stream in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from backends.deadlines import Deadlines, Ending
from backends.errors import EndpointTimeout
from backends.http import Blot, HttpReply
from backends.seam import Outbound
from backends.sse import DONE, encode_event
from backends.wire_connection import Connection, WireResponse
from backends.words import Event, RequestId, Run, Surface

OUTBOUND = Outbound(surface=Surface.CHAT, body=b"", is_stream=True, request_id=RequestId("req-1"))


class Line:
    """Stands where a response has its connection."""

    is_held = False

    def abort(self, reason: str) -> None: ...


def token(text: str, *, finish: str = "null") -> bytes:
    return encode_event(
        b'{"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}]}'
        % (text.encode(), finish.encode())
    )


END = (token("", finish='"stop"'), encode_event(DONE))


class Upstream:
    """A stream that is pushed by hand."""

    def __init__(self, idle: Deadlines | None = None) -> None:
        self.response = WireResponse(cast("Connection", Line()), asyncio.get_running_loop())
        self.response.begin(200, [(b"content-type", b"text/event-stream")], is_delimited=True)
        self.reply = HttpReply(
            self.response, OUTBOUND, endpoint="e", idle=idle or Deadlines(5), tail=Deadlines(1), blot=Blot(None)
        )

    async def read(self, take: Callable[[Run], bool]) -> list[Event | Run]:
        """Return what is not tapped."""
        await self.reply.begin()
        self.reply.tap(take)
        got: list[Event | Run] = []
        while batch := await self.reply.batch():
            got += batch
        return got


def sent(event: Event | Run) -> bytes:
    return event.raw if isinstance(event, Run) else encode_event(event.payload)


async def relay(
    pieces: Sequence[bytes], turns: Sequence[int], answers: Sequence[bool], *, idle: Deadlines | None = None
) -> tuple[bytes, int]:
    """Return what a client is sent of a stream, and how many runs were tapped.

    Args:
        pieces: what comes.
        turns: of the loop before each piece.
        answers: of the tap, in turn.
        idle: watches over the reads.
    """
    upstream, told, tapped = Upstream(idle), list[bytes](), 0
    left = list(answers)

    def take(run: Run) -> bool:
        nonlocal tapped
        if left and not left.pop(0):
            return False
        told.append(sent(run))
        tapped += 1
        return True

    async def read() -> None:
        await upstream.reply.begin()
        upstream.reply.tap(take)
        while batch := await upstream.reply.batch():
            told.extend(map(sent, batch))

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        for piece, count in zip(pieces, turns, strict=True):
            for _ in range(count):
                await asyncio.sleep(0)
            upstream.response.push(piece)
        upstream.response.end(None)
    return b"".join(told), tapped


@settings(max_examples=60)
@given(st.data(), st.lists(st.text('ab\\"', max_size=3).map(lambda text: text.replace("\\", "").replace('"', '\\"'))))
def test_a_tapped_stream_is_the_stream_in_any_pieces_at_any_pace(data: st.DataObject, texts: list[str]):
    stream = b"".join([*map(token, ["Hi", "there", *texts]), *END])
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    turns = data.draw(st.lists(st.integers(0, 3), min_size=len(pieces), max_size=len(pieces)))
    answers = data.draw(st.lists(st.booleans(), max_size=8))

    told, _ = asyncio.run(relay(pieces, turns, answers))

    assert told == stream.removesuffix(END[1])


async def test_tokens_that_come_one_by_one_wake_nobody():
    tokens = [token(text) for text in "abcdefgh"]

    told, tapped = await relay([*tokens, *END], [3] * 10, [])

    assert (told, tapped) == (b"".join([*tokens, END[0]]), 6)


class Counted(Deadlines):
    """Counts how often a deadline begins."""

    begun = 0

    @override
    def add(self, deadline: Ending, *, more_s: float = 0.0) -> None:
        self.begun += 1
        super().add(deadline, more_s=more_s)


async def test_a_tapped_token_begins_the_idle_time_anew_when_that_has_moved():
    idle = Counted(5)
    _, tapped = await relay([token(text) for text in "abcdefgh"] + [*END], [3] * 10, [], idle=idle)

    assert tapped == 6
    assert idle.begun in {4, 5}  # the reads of the second token, the finish and the end, and once for all the tapped


async def test_a_tapped_stream_that_falls_silent_times_out():
    upstream, tapped = Upstream(Deadlines(0.01)), list[Run]()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(told(upstream, lambda run: tapped.append(run) is None))
        for piece in (token("a"), token("b"), token("c")):
            upstream.response.push(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    assert reading.result() == "idle"
    assert len(tapped) == 1


async def told(upstream: Upstream, take: Callable[[Run], bool]) -> str:
    """Return what kind of silence ends a stream."""
    try:
        await upstream.read(take)
    except EndpointTimeout as error:
        return error.phase
    return ""
