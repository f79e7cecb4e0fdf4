"""Every implementation of `Transport`: what holds for one is tested for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends.aiohttp_transport import AiohttpTransport
from backends.transport import Transport
from backends.wire import WireTransport

TRANSPORTS: Mapping[str, Callable[[float], Transport]] = {
    "aiohttp": lambda connect_s: AiohttpTransport(connect_s=connect_s),
    "wire": lambda connect_s: WireTransport(connect_s=connect_s),
}
"""By name, from `connect_s` in seconds."""

SERVED = {"transport": "wire"}
"""What `tests.served.world.serving` writes into a policy that names no transport: `pytest --transport` says it."""
