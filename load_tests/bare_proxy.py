"""The least a Python proxy on the gateway's own server and client (uvicorn, aiohttp) can do: pass bytes on.

No keys, no policy, no deadlines, no ledger: what the gateway costs above it is what the gateway does.
Usage: bare_proxy.py PORT UPSTREAM_PORT
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import aiohttp
import uvicorn

Message: TypeAlias = MutableMapping[str, Any]


class BareProxy:
    """An ASGI application in front of one upstream on loopback."""

    def __init__(self, upstream: int) -> None:
        self._base_url = f"http://127.0.0.1:{upstream}"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Pass one request on, and its answer back as it comes."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = b""
        is_whole = False
        while not is_whole:
            message = await receive()
            body += message.get("body", b"")
            is_whole = not message.get("more_body", False)
        headers = {"content-type": "application/json"}
        async with self._session.request(
            scope["method"], self._base_url + scope["path"], data=body, headers=headers
        ) as answer:
            kept = [(name.lower(), value) for name, value in answer.raw_headers if name.lower() in _KEPT]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            while part := await answer.content.readany():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


_KEPT = {b"content-type", b"content-length"}

if __name__ == "__main__":
    uvicorn.run(
        BareProxy(int(sys.argv[2])),
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
