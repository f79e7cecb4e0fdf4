"""The upstream of the crash tests, a program: it notes every attempt it answers, in a file, before it answers.

It prints its port. A line of the note is `answered REQUEST_ID`; `MOST_DELAY_S` lets attempts be open at any moment. The
note is not synced: only the gateway is killed, never the machine, and waiting for the disk would make answers rare.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

TOKENS = 5
PROMPT_TOKENS = 7
MOST_DELAY_S = 0.03
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS, "total_tokens": PROMPT_TOKENS + TOKENS}


def whole() -> bytes:
    message = {"role": "assistant", "content": "word " * TOKENS}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "chat-1", "object": "chat.completion", "model": "huge-70b", "choices": [choice], "usage": USAGE}
    return json.dumps(body).encode()


def events() -> list[bytes]:
    chunks = []
    for number in range(TOKENS):
        delta = {"content": "word "} if number else {"role": "assistant", "content": "word "}
        finish = "stop" if number == TOKENS - 1 else None
        chunks.append({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": USAGE})
    head = {"id": "chat-1", "object": "chat.completion.chunk", "model": "huge-70b"}
    return [*(b"data: " + json.dumps({**head, **chunk}).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


class Answering:
    """Serves connections until killed."""

    def __init__(self, note: Path, seed: int) -> None:
        self._note = os.open(note, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._chance = random.Random(seed)  # noqa: S311 - a seed, not a secret

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                await asyncio.sleep(self._chance.uniform(0, MOST_DELAY_S))
                os.write(self._note, f"answered {headers['x-request-id']}\n".encode())
                await self._answer(writer, is_stream=bool(body.get("stream")))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, *, is_stream: bool) -> None:
        if not is_stream:
            body = whole()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events():
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(self._chance.uniform(0, 0.002))
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def main() -> None:
    server = await asyncio.start_server(Answering(Path(sys.argv[1]), int(sys.argv[2])).serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
