"""The socket a gateway listens on, free of what serves on it."""

from __future__ import annotations

import errno
import socket


class PortUnavailable(Exception):
    """The address cannot be listened on; the message says why and how to fix it."""


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


def url_of(listening: socket.socket) -> str:
    """Return the address of a listening socket as the base of URLs."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
