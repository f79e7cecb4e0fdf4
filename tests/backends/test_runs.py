"""Runs: whatever a stream holds and however it is cut, in runs it says the same as event by event."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.deadlines import Deadlines
from backends.errors import BackendError
from backends.http import Blot, HttpReply
from backends.replies import read_chunk
from backends.runs import Template
from backends.seam import Outbound
from backends.sse import encode_event
from backends.words import Event, RequestId, Run, Surface

KEY = "sk-operator-0123456789"
OUTBOUND = Outbound(surface=Surface.CHAT, body=b"", is_stream=True, request_id=RequestId("req-1"))


class Reads:
    """A response whose body comes in given pieces."""

    status = 200
    is_delimited = True

    def __init__(self, reads: Sequence[bytes]) -> None:
        self._reads = iter(reads)

    def header(self, name: str) -> str | None:
        return "text/event-stream" if name == "content-type" else None

    async def read(self) -> bytes:
        return next(self._reads, b"")

    def read_now(self) -> bytes:
        return b""

    def tap(self, take: Callable[[bytes], bool]) -> None:
        pass

    def close(self) -> None:
        pass


def event(text: str, *, ascii_only: bool = True, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    fields = {"id": "c-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=ascii_only).encode()


def told(events: Sequence[Event | Run]) -> tuple[bytes, str, int]:
    """Return what a client is sent, all the text, and how many events have some."""
    sent = b"".join(each.raw if isinstance(each, Run) else encode_event(each.payload) for each in events)
    count = sum(each.token_count if isinstance(each, Run) else bool(each.content) for each in events)
    return sent, "".join(each.content for each in events), count


async def read(reads: Sequence[bytes], *, in_runs: bool) -> tuple[list[Event | Run], str]:
    """Return a stream's events, and the error it ended with."""
    reply = HttpReply(Reads(reads), OUTBOUND, endpoint="e", idle=Deadlines(5), tail=Deadlines(1), blot=Blot(KEY))
    events: list[Event | Run] = []
    try:
        await reply.begin()
        if in_runs:
            while batch := await reply.batch():
                events += batch
        else:
            async for each in reply:
                events.append(each)  # a comprehension would lose what came before an error
    except BackendError as error:
        return events, type(error).__name__
    return events, ""


TEXTS = st.text(max_size=6) | st.sampled_from([" word", "\n", '"', "\\", '","', "\x7f", "[DONE]", "\U0001f600", KEY])
EVENTS = (
    st.builds(event, TEXTS, ascii_only=st.booleans())
    | st.builds(event, TEXTS, usage=st.none() | st.just({"prompt_tokens": 3, "completion_tokens": 4}))
    | st.builds(event, TEXTS, finish=st.just("stop"))
    | st.sampled_from([b"[DONE]", b'{"error":{"message":"broken"}}', b"{", event("x")[:-9]])
)


@given(payloads=st.lists(EVENTS, min_size=1, max_size=12), cuts=st.lists(st.integers(1, 400)), crlf=st.booleans())
async def test_a_stream_in_runs_says_what_its_events_say(payloads: list[bytes], cuts: list[int], crlf: bool):
    body = b"".join(map(encode_event, payloads))
    if crlf:
        body = body.replace(b"\n", b"\r\n")
    reads = []
    for cut in cuts:
        reads.append(body[:cut])
        body = body[cut:]
    reads = [piece for piece in (*reads, body) if piece]
    singly, their_end = await read(reads, in_runs=False)
    in_runs, end = await read(reads, in_runs=True)
    assert (told(in_runs), end) == (told(singly), their_end)


async def test_tokens_of_one_read_are_one_run():
    payloads = [event(text) for text in ("", "one", " two", "\n", " three")]
    last = event("", finish="stop")
    body = b"".join(map(encode_event, [*payloads, last, b"[DONE]"]))
    events, _ = await read([body], in_runs=True)
    assert [type(each).__name__ for each in events] == ["Chunk", "Chunk", "Run", "Chunk"]
    assert told(events) == (body.removesuffix(b"data: [DONE]\n\n"), "one two\n three", 4)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(event("word", finish="stop"), id="an end"),
        pytest.param(event("word", usage={"prompt_tokens": 1, "completion_tokens": 1}), id="a usage"),
        pytest.param(event(""), id="no text"),
        pytest.param(b'{"content":"word","choices":[{"index":0,"delta":{"content" : "word"}}]}', id="not the text"),
    ],
)
def test_nothing_is_learned_from(payload: bytes):
    template = Template()
    template.learn(read_chunk(payload))
    assert not template.is_known


async def test_the_operators_key_is_blotted_out_of_a_run():
    body = b"".join(map(encode_event, [event("one"), event(" two"), event(KEY), event("", finish="stop"), b"[DONE]"]))
    events, _ = await read([body[:200], body[200:]], in_runs=True)
    sent, text, _ = told(events)
    assert KEY.encode() not in sent
    assert text == "one two[redacted]"
