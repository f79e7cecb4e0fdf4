"""Running the gateway: sockets, signals, the event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
import uvloop
from typing_extensions import override

from backends.clock import SystemClock
from gateway.compose import Opened, open_gateway
from gateway.connection import protocol_of
from gateway.listening import PortUnavailable, listen, url_of
from gateway.pipeline import Gateway
from gateway.reload import HangUps, Reloading, note, outcome_of, reload_on
from gateway.side import bounded, side_door
from gateway.source import PolicySource
from gateway.worker import take_short_turns
from policies.schema import Policy

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope

    from gateway.ledger.store_process import StoreProcess

__all__ = ["PortUnavailable", "Server", "listen", "serve"]

_log = logging.getLogger("faregate")

_KEEP_ALIVE_S = 75
"""How long a connection may be idle: nginx's default. Clients keep theirs for 5 s (httpx) to 60 s; a server that closes
earlier than its client closes on requests that are under way."""

_LAST_WORDS_S = 1.0
"""How long an answer that is ended at the end of the grace may take to be read; then its connection is dropped."""


def serve(
    policy: Policy,
    source: PolicySource,
    *,
    environ: Mapping[str, str],
    on_ready: Callable[[str], None],
    store: StoreProcess | None = None,
) -> None:
    """Serve a policy until SIGINT or SIGTERM; requests in flight are then finished within `server.grace_s`.

    Args:
        policy: a loaded policy.
        source: where it came from, to be read again at SIGHUP.
        environ: the process's environment.
        on_ready: called with the base URL once requests are accepted.
        store: the process that folds the ledger, hatched, and closed at the end; a thread of this process when None.

    Raises:
        PortUnavailable: the policy's address is taken or not allowed.
        PolicyUnusable: a model without a price, a calibration for other models.
        LedgerError: the storage folder cannot be used.
    """
    listening = listen(policy.server.host, policy.server.port)
    take_short_turns()
    try:
        uvloop.run(_serve(policy, source, listening, environ=environ, on_ready=on_ready, store=store))
    finally:
        listening.close()


async def _serve(
    policy: Policy,
    source: PolicySource,
    listening: socket.socket,
    *,
    environ: Mapping[str, str],
    on_ready: Callable[[str], None],
    store: StoreProcess | None,
) -> None:
    hang_ups = HangUps()
    # The ledger is closed after the server: a signal that comes then must not kill us before that. One that comes
    # before the server listens to them is not lost: it stops as soon as it has begun.
    early: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: early.append(number))
    async with open_gateway(policy, environ=environ, clock=SystemClock(), store=store) as opened:
        for warning in opened.warnings:
            _log.warning("policy_warning", extra={"warning": warning})
        server = Server(opened, early=early)
        async with asyncio.TaskGroup() as group, Reloading(opened, server) as reloading:
            watching = group.create_task(reload_on(hang_ups, reloading, source, opened.gateway.parts.telemetry))
            note(outcome_of(policy), Path(policy.storage.folder))
            on_ready(url_of(listening))
            spare_what_stays()
            await server.serve(sockets=[listening])
            watching.cancel()


def spare_what_stays() -> None:
    """Let no later garbage collection look at what was made until now: programs, policy, calibrations.

    It stays for the process's life, and a full collection took some 55 ms with it, in which no stream moved. What
    requests in flight hold is looked at more seldom than Python's 700 objects would have it: with 64 of them these
    collections were 3 % of a request, each of 1 to 2 ms, and found nothing, since what a request leaves has no cycles.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


_YOUNG_OBJECTS = 10_000
"""More than some hundred requests in flight hold; to look at so many takes about as long as to relay one answer."""


class Server(uvicorn.Server):
    """uvicorn's server over a gateway, stopping in three steps.

    A first SIGTERM makes the gateway unready; after `server.notice_s` the port is closed (at once on SIGINT: a person
    waits), and requests in flight have `server.grace_s` to finish. What runs on then is told so and booked. A second
    signal ends all of it at once.

    Args:
        opened: what is served.
        early: signals that came before it listened to them.
    """

    def __init__(self, opened: Opened, *, early: Sequence[int] = ()) -> None:
        self._early = early
        self._gateway = opened.gateway
        self._former: list[Gateway] = []
        self._side = side_door(opened)
        self._protocol = protocol_of(opened.gateway, keep_alive_s=_KEEP_ALIVE_S)
        self._books = opened.books
        self._settings = opened.gateway.parts.policy.server
        self._stops_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                self._aside,
                interface="asgi3",
                http=self._protocol,
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=self._longest_end_s(),
            )
        )

    @property
    def gateway(self) -> Gateway:
        """What answers requests that begin."""
        return self._gateway

    def adopt(self, opened: Opened) -> None:
        """Answer what begins from now on by another gateway; the former ones end what they have begun."""
        self._former = [former for former in (*self._former, self._gateway) if not former.is_idle]
        opened.gateway.follow(self._gateway)
        self._gateway = self._protocol.gateway = opened.gateway
        self._side = side_door(opened)
        self._settings = opened.gateway.parts.policy.server
        self.config.timeout_graceful_shutdown = self._longest_end_s()

    def _longest_end_s(self) -> int:
        return math.ceil(self._settings.grace_s + 2 * _LAST_WORDS_S)

    async def _aside(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve what is no data path, by the present policy."""
        side, cors, request_id = self._side, self._gateway.cors, self._gateway.ids.next().encode()

        async def go_on(send: ASGISendCallable) -> None:
            # Starlette has types of its own for the same things.
            await side(scope, bounded(receive), _named(send, request_id))  # type: ignore[arg-type]

        if cors is not None and scope["type"] == "http" and scope["path"].startswith("/v1/"):
            await cors.serve(scope, _named(send, request_id), go_on)
        else:
            await go_on(send)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        for number in self._early:
            self.handle_exit(number, None)
        await super().startup(sockets)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None:
            self.should_exit = True
            return
        is_second = self._gateway.is_stopping
        self._gateway.is_stopping = True
        if is_second:
            self.should_exit = self.force_exit = True
            self._loop.call_soon_threadsafe(self._end_grace)
        else:
            self._stops_at = self._loop.time() + (self._settings.notice_s if sig == signal.SIGTERM else 0.0)

    @override
    async def on_tick(self, counter: int) -> bool:
        self._loop = asyncio.get_running_loop()
        if self._stops_at is not None and self._loop.time() >= self._stops_at:
            self.should_exit = True
        if self._books is not None:
            await self._books.look_if_due()
        return await super().on_tick(counter)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.is_stopping = True
        grace = asyncio.get_running_loop().call_later(self._settings.grace_s, self._end_grace)
        await super().shutdown(sockets)
        grace.cancel()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_LAST_WORDS_S)

    def _end_grace(self) -> None:
        for gateway in (*self._former, self._gateway):
            gateway.end_grace()
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._drop_connections)

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _named(send: ASGISendCallable, request_id: bytes) -> ASGISendCallable:
    """Return where an answer goes that gets this id unless it has one."""

    async def tell(event: ASGISendEvent) -> None:
        if event["type"] == "http.response.start":
            headers = list(event.get("headers", ()))
            if not any(name == b"x-request-id" for name, _ in headers):
                event["headers"] = [*headers, (b"x-request-id", request_id)]
        await send(event)

    return tell
