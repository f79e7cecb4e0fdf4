"""Running the gateway: sockets, signals, the event loop."""

from __future__ import annotations

import errno
import logging
import signal
import socket
from collections.abc import Callable, Mapping

import uvicorn
import uvloop

from backends.clock import SystemClock
from gateway.asgi import FrontDoor
from gateway.compose import open_gateway
from gateway.side import side_door
from policies.schema import Policy

_log = logging.getLogger("faregate")

_DRAIN_S = 20
"""How long requests in flight may go on after SIGTERM: most answers are done by then; Kubernetes kills at 30."""


class PortUnavailable(Exception):
    """The address cannot be listened on; the message says why and how to fix it."""


def serve(policy: Policy, *, environ: Mapping[str, str], on_ready: Callable[[str], None]) -> None:
    """Serve a policy until SIGINT or SIGTERM; requests in flight are then finished.

    Args:
        policy: a loaded policy.
        environ: the process's environment.
        on_ready: called with the base URL once requests are accepted.

    Raises:
        PortUnavailable: the policy's address is taken or not allowed.
        PolicyUnusable: a model without a price, a calibration for other models.
        LedgerError: the storage folder cannot be used.
    """
    listening = listen(policy.server.host, policy.server.port)
    try:
        uvloop.run(_serve(policy, listening, environ=environ, on_ready=on_ready))
    finally:
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; port 0 takes a free one.

    Raises:
        PortUnavailable: the address is taken, not allowed or not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "another program listens there; stop it, or choose another with --port (0: any free one)",
            errno.EACCES: "ports below 1024 need privileges; choose another with --port",
        }.get(error.errno or 0, "give an address of this machine with --host")
        raise PortUnavailable(f"cannot listen on {host}:{port} ({error.strerror or error}): {remedy}") from error
    bound.listen(2048)
    bound.setblocking(False)
    return bound


async def _serve(
    policy: Policy, listening: socket.socket, *, environ: Mapping[str, str], on_ready: Callable[[str], None]
) -> None:
    # uvicorn raises a captured signal again when it has stopped, which by default would kill us before the ledger is
    # closed: our own handlers make that second signal harmless.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    async with open_gateway(policy, environ=environ, clock=SystemClock()) as opened:
        app = FrontDoor(opened.gateway, side_door(opened))
        config = uvicorn.Config(
            app,
            http="httptools",
            loop="uvloop",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_DRAIN_S,
            h11_max_incomplete_event_size=64 * 2**10,
        )
        host, port = listening.getsockname()[:2]
        for warning in opened.warnings:
            _log.warning("policy_warning", extra={"warning": warning})
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await uvicorn.Server(config).serve(sockets=[listening])
