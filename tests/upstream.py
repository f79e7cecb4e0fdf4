"""A scripted upstream: HTTP/1.1 on asyncio streams, without a framework, speaking like vLLM or like llama.cpp.

Answers are deterministic and given by the test, by the text of the last user message. Every request is recorded, and
when the gateway closes a connection the request knows it (`Received.closed`), so that a test can await a hang-up.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self, TypeAlias

from backends.words import JsonValue
from tests.listener import Listener

SURE, UNSURE = -0.01, -3.0
"""Log-probabilities of tokens that the tests' judge keeps and rejects."""


class Flavour(StrEnum):
    """Which server is imitated where the two differ."""

    VLLM = "vllm"
    LLAMACPP = "llamacpp"


@dataclass(frozen=True, kw_only=True)
class Says:
    """An answer, and what goes wrong while it is sent.

    Attributes:
        tokens: what is said, one chunk each when streamed.
        logprob: of every token.
        tool_calls: in place of text.
        tells_usage: whether usage is told when it is asked for.
        says_done: whether a stream ends with `[DONE]`.
        fields: further top-level fields of the body or of every chunk.
        stall_after: sends so many tokens, then waits until the client is gone, or until `gate` opens.
        cut_after: sends so many tokens, then drops the connection.
        break_after: sends so many tokens, then something that is no JSON.
        ends_line: the line end of events.
        comments: whether comments stand between the events.
    """

    tokens: tuple[str, ...] = ("An", " answer", ".")
    logprob: float = SURE
    finish: str = "stop"
    tool_calls: tuple[JsonValue, ...] = ()
    prompt_tokens: int = 7
    cached_tokens: int = 0
    tells_usage: bool = True
    says_done: bool = True
    fields: Mapping[str, JsonValue] = field(default_factory=dict)
    stall_after: int | None = None
    gate: asyncio.Event | None = None
    cut_after: int | None = None
    break_after: int | None = None
    ends_line: str = "\n"
    comments: bool = False

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.tokens)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A response written out by the test: a status, another content type, an error in a stream's place.

    `is_endless` promises one byte more than ever comes.
    """

    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    is_endless: bool = False


@dataclass(frozen=True)
class Stalls:
    """Never answers; waits until the client is gone."""


@dataclass(frozen=True)
class Drops:
    """Closes the connection without an answer."""


Act: TypeAlias = Says | Answers | Stalls | Drops


@dataclass(kw_only=True)
class Received:
    """One request as it came. `closed` is set, and `closed_at` is loop time, when its client hung up."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    closed_at: float = 0.0

    @property
    def json(self) -> JsonValue:
        """The decoded body."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The last user text, the prompt or the input."""
        body = self.json
        if "messages" not in body:
            return str(body.get("prompt", body.get("input", "")))
        content = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        return content if isinstance(content, str) else "\n".join(p["text"] for p in content if p["type"] == "text")


Script: TypeAlias = Mapping[str, Act] | Callable[[Received], Act]


def says(text: str, **changes: JsonValue) -> Says:
    """Return an answer of these words, one token a word."""
    words = text.split(" ")
    return Says(tokens=tuple(word if n == 0 else f" {word}" for n, word in enumerate(words)), **changes)


def refuses(status: int, message: str, *, headers: Mapping[str, str] | None = None, **fields: JsonValue) -> Answers:
    """Return an error in OpenAI's shape."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}
    return Answers(status=status, body=json.dumps({"error": error}).encode(), headers=headers or {})


def unused_url() -> str:
    """Return an address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


class Upstream:
    """A server to be entered with `async with`.

    Args:
        script: what to answer, by the last user text ("" for all others) or computed.
        flavour: whom to imitate.
        models: names it serves; empty for all. Only vLLM minds.
    """

    def __init__(
        self, script: Script | None = None, *, flavour: Flavour = Flavour.VLLM, models: tuple[str, ...] = ()
    ) -> None:
        self.script: Script = {} if script is None else script
        self.requests: list[Received] = []
        self.connections = 0
        self._flavour = flavour
        self._models = models
        self._arrived = asyncio.Condition()
        self._listener = Listener(self._talk)

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self._listener.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, close what is open and wait for it."""
        await self._listener.close()

    @property
    def origin(self) -> str:
        """The address without a path."""
        return self._listener.origin

    @property
    def url(self) -> str:
        """The base address for a policy."""
        return f"{self.origin}/v1"

    @property
    def last(self) -> Received:
        """The latest request."""
        return self.requests[-1]

    async def request(self, number: int = 1) -> Received:
        """Wait for the number-th request (from 1) and return it."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= number)
        return self.requests[number - 1]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        while await self._one(reader, writer, connection):
            pass

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        """Answer one request; tell whether the connection may carry another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        received = Received(method=method, path=path, headers=headers, body=body, connection=connection)
        async with self._arrived:
            self.requests.append(received)
            self._arrived.notify_all()
        talk = _Talk(reader=reader, writer=writer, received=received, flavour=self._flavour)
        if path == "/v1/traces":
            await talk.plain(Answers(content_type="application/x-protobuf", body=b""))
            return True
        act = self._objection(received) or self._act(received)
        match act:
            case Says():
                return await talk.say(act)
            case Answers():
                await talk.plain(act)
                return True
            case Stalls():
                await talk.until_closed()
                return False
            case Drops():
                return False

    def _act(self, received: Received) -> Act:
        if callable(self.script):
            return self.script(received)
        return self.script.get(received.text, self.script.get("", Says()))

    def _objection(self, received: Received) -> Answers | None:
        """Refuse what vLLM refuses and llama.cpp swallows."""
        if self._flavour is not Flavour.VLLM:
            return None
        body = received.json
        if self._models and body["model"] not in self._models:
            return refuses(
                404, f"The model `{body['model']}` does not exist.", type="NotFoundError", param="model", code=404
            )
        if (body.get("top_logprobs") or 0) > 20:
            message = "top_logprobs must be at most 20"
            return refuses(400, message, type="BadRequestError", param="top_logprobs", code=400)
        return None


@dataclass(kw_only=True)
class _Talk:
    """One answer on the wire."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: Received
    flavour: Flavour

    async def plain(self, answer: Answers) -> None:
        extra = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        self.writer.write(
            f"HTTP/1.1 {answer.status} X\r\ncontent-type: {answer.content_type}\r\n{extra}"
            f"content-length: {len(answer.body) + answer.is_endless}\r\n\r\n".encode()
            + answer.body
        )
        await self.writer.drain()
        if answer.is_endless:
            await self.until_closed()

    async def until_closed(self) -> None:
        """Wait until the client hangs up."""
        while await self.reader.read(1024):
            pass
        self.received.closed_at = asyncio.get_running_loop().time()
        self.received.closed.set()

    async def say(self, said: Says) -> bool:
        if "embeddings" in self.received.path:
            await self.plain(Answers(body=_dump(_embeddings(self.received.json, said))))
            return True
        if not self.received.json.get("stream"):
            if said.cut_after is not None:
                self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{")
                await self.writer.drain()
                return False
            if said.gate is not None:
                await said.gate.wait()
            elif said.stall_after is not None:
                await self.until_closed()
                return False
            await self.plain(Answers(body=_dump(_whole(self.received, said, self.flavour))))
            return True
        return await self._stream(said)

    async def _stream(self, said: Says) -> bool:
        closes = self.flavour is Flavour.LLAMACPP
        self.writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            + (b"connection: close\r\n" if closes else b"")
            + b"\r\n"
        )
        sent = 0
        for chunk in _chunks(self.received, said, self.flavour):
            if sent == said.stall_after and _has_text(chunk):
                await self.writer.drain()
                if said.gate is None:
                    await self.until_closed()
                    return False
                await said.gate.wait()
            if sent == said.cut_after and _has_text(chunk):
                await self.writer.drain()
                return False
            if sent == said.break_after and _has_text(chunk):
                self._event(b"{this is no JSON", said)
                break
            self._event(_dump(chunk), said)
            sent += _has_text(chunk)
        else:
            if said.cut_after is not None:
                await self.writer.drain()
                return False
            if said.stall_after is not None and said.gate is None:
                await self.until_closed()
                return False
            if said.says_done:
                self._event(b"[DONE]", said)
        # The end of a chunked body is a packet of its own, as with uvicorn.
        await self.writer.drain()
        await asyncio.sleep(0)
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return not closes

    def _event(self, data: bytes, said: Says) -> None:
        end = said.ends_line.encode()
        event = (b": still here" + end if said.comments else b"") + b"data: " + data + end + end
        self.writer.write(b"%x\r\n" % len(event) + event + b"\r\n")


def _whole(received: Received, said: Says, flavour: Flavour) -> JsonValue:
    body = received.json
    is_chat = "chat" in received.path
    choices = []
    for index in range(_choices(body)):
        choice: dict[str, JsonValue] = {"index": index, "logprobs": None, "finish_reason": _finish(said)}
        if is_chat:
            message: dict[str, JsonValue] = {"role": "assistant", "content": None if said.tool_calls else said.text}
            if said.tool_calls:
                message["tool_calls"] = list(said.tool_calls)
            choice["message"] = message
            if body.get("logprobs"):
                tokens = [_token(token, said, body) for token in said.tokens]
                choice["logprobs"] = {"content": tokens, "refusal": None}
        else:
            choice["text"] = said.text
            if body.get("logprobs") not in (None, False):
                choice["logprobs"] = _legacy_logprobs(said)
        choices.append(choice)
    kind = "chat.completion" if is_chat else "text_completion"
    usage = {"usage": _usage(said, body)} if said.tells_usage else {}
    return _head(received, said, flavour, kind) | {"choices": choices} | usage | _timings(flavour)


def _chunks(received: Received, said: Says, flavour: Flavour) -> list[JsonValue]:
    body = received.json
    is_chat = "chat" in received.path
    head = _head(received, said, flavour, "chat.completion.chunk" if is_chat else "text_completion")

    def chunk(index: int, part: JsonValue, finish: str | None = None, logprobs: JsonValue = None) -> JsonValue:
        text = {"delta": part} if is_chat else {"text": part.get("content", "")}
        return head | {"choices": [{"index": index, **text, "logprobs": logprobs, "finish_reason": finish}]}

    chunks: list[JsonValue] = []
    indices = range(_choices(body))
    if is_chat:
        # vLLM opens with empty text, llama.cpp with none.
        nothing = "" if flavour is Flavour.VLLM else None
        chunks += [chunk(index, {"role": "assistant", "content": nothing}) for index in indices]
    for number, call in enumerate(said.tool_calls):
        chunks.append(chunk(0, {"tool_calls": [{"index": number, **call}]}))
    for token in () if said.tool_calls else said.tokens:
        seen = {"content": [_token(token, said, body)]} if is_chat and body.get("logprobs") else None
        chunks += [chunk(index, {"content": token}, None, seen) for index in indices]
    chunks += [chunk(index, {}, _finish(said)) for index in indices]
    if said.tells_usage and (body.get("stream_options") or {}).get("include_usage"):
        chunks.append(head | {"choices": [], "usage": _usage(said, body)} | _timings(flavour))
    return chunks


def _head(received: Received, said: Says, flavour: Flavour, kind: str) -> dict[str, JsonValue]:
    given = received.headers.get("x-request-id", "none")
    name = given if flavour is Flavour.VLLM else "own"
    return {
        "id": f"chatcmpl-{name}",
        "object": kind,
        "created": 1_790_000_000,
        "model": received.json["model"],
        **said.fields,
    }


def _timings(flavour: Flavour) -> dict[str, JsonValue]:
    return {"timings": {"prompt_n": 7, "predicted_per_second": 20.5}} if flavour is Flavour.LLAMACPP else {}


def _finish(said: Says) -> str:
    return "tool_calls" if said.tool_calls else said.finish


def _has_text(chunk: JsonValue) -> bool:
    choices = chunk["choices"]
    return bool(choices and (choices[0].get("delta", {}).get("content") or choices[0].get("text")))


def _choices(body: JsonValue) -> int:
    prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
    return int(prompts * (body.get("n") or 1))


def _token(token: str, said: Says, body: JsonValue) -> JsonValue:
    raw = list(token.encode())
    top = [{"token": token, "logprob": said.logprob, "bytes": raw}]
    top += [{"token": f"?{n}", "logprob": said.logprob - 4.0 - n, "bytes": [63]} for n in range(1, 30)]
    return {
        "token": token,
        "logprob": said.logprob,
        "bytes": raw,
        "top_logprobs": top[: body.get("top_logprobs") or 0],
    }


def _legacy_logprobs(said: Says) -> JsonValue:
    return {
        "tokens": list(said.tokens),
        "token_logprobs": [said.logprob for _ in said.tokens],
        "top_logprobs": None,
        "text_offset": [0 for _ in said.tokens],
    }


def _usage(said: Says, body: JsonValue) -> JsonValue:
    written = max(1, len(said.tokens)) * _choices(body)
    return {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": said.prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": said.cached_tokens},
    }


def _embeddings(body: JsonValue, said: Says) -> JsonValue:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    rows = []
    for index, text in enumerate(texts):
        vector = [float(len(str(text))), 0.5, -0.25]
        packed = base64.b64encode(struct.pack("<3f", *vector)).decode()
        rows.append(
            {
                "object": "embedding",
                "index": index,
                "embedding": packed if body.get("encoding_format") == "base64" else vector,
            }
        )
    usage = {"prompt_tokens": said.prompt_tokens, "total_tokens": said.prompt_tokens}
    return {"object": "list", "data": rows, "model": body["model"], "usage": usage, **said.fields}


def _dump(value: JsonValue) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
