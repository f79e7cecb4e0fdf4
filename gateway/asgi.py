"""The front door: plain ASGI for the `/v1` data paths, everything else handed to the FastAPI side door.

Auth and dispatch look at the scope's path only: Starlette rebuilds its `request.url` from the client's Host header, and
gateways that decided on that were walked around (PYSEC-2026-388).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from backends.words import RequestId, Surface
from gateway.calls import HeaderInvalid, read_call
from gateway.errors import BodyTooLarge, NotServed, Problem
from gateway.pipeline import Gateway

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_LINGER_S = 2.0
"""How long the rest of a refused body is read and thrown away."""

_SURFACES = {f"/v1/{surface.value}": surface for surface in Surface}


class ClientGone(Exception):
    """The client hung up before its request was whole."""


class AsgiSink:
    """Sends through ASGI. A body that is never finished makes the server close the connection: an honest cut."""

    def __init__(self, send: Send) -> None:
        self.is_started = False
        self._send = send

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def write(self, data: bytes) -> None:
        """Send some of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes) -> None:
        """Send the last of the body and end it cleanly."""
        await self._send({"type": "http.response.body", "body": data})


class FrontDoor:
    """The ASGI application.

    Args:
        gateway: answers the data paths.
        side: the application for everything else (models, health, metrics, admin).
    """

    def __init__(self, gateway: Gateway, side: App) -> None:
        self._gateway = gateway
        self._side = side

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        surface = _SURFACES.get(scope.get("path", "")) if scope["type"] == "http" else None
        if surface is None:
            await self._side(scope, receive, send)
            return
        sink = AsgiSink(send)
        try:
            body = await _read_body(scope, receive, self._gateway.parts.policy.limits.max_body_bytes)
            call = read_call(surface, scope["headers"], body)
        except ClientGone:
            return
        except (HeaderInvalid, NotServed, BodyTooLarge) as error:
            is_waiting = any(name == b"expect" for name, _ in scope["headers"])
            is_read = isinstance(error, HeaderInvalid) or is_waiting
            request_id, problem = self._gateway.turn_away(surface, error)
            await _refuse(sink, request_id, problem, unread=None if is_read else receive)
            return
        await _until_answered_or_gone(self._gateway.answer(call, sink), receive)


async def _until_answered_or_gone(answering: Awaitable[None], receive: Receive) -> None:
    """Run the answer, and cancel it the moment the client hangs up."""

    async def answer() -> None:
        await answering

    async with asyncio.TaskGroup() as group:
        work = group.create_task(answer())
        watch = group.create_task(_gone(receive))
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        watch.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        NotServed: the method is not POST.
        BodyTooLarge: told before it is read where the client says its length, else as soon as it is over.
        ClientGone: it never became whole.
    """
    if scope["method"] != "POST":
        raise NotServed(f"{scope['method']} is not served at {scope['path']}; use POST", status=405)
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _refuse(sink: AsgiSink, request_id: RequestId, problem: Problem, *, unread: Receive | None) -> None:
    body = problem.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    await sink.start(problem.status, [*headers, *problem.headers])
    await sink.write(body)
    if unread is not None:
        await _discard(unread)
    await sink.finish(b"")


async def _discard(receive: Receive) -> None:
    """Read on for a moment: closing on a client that still sends resets its connection, and our answer with it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body", False):
                pass
