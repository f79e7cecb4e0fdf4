"""What a gateway's upstream requests go through: transports and pools, kept while policies change."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from backends.http import HttpBackend
from backends.pool import Pool
from backends.retries import RetryRules
from backends.seam import Sizes, Timeouts
from policies.schema import TransportKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from backends.clock import Clock
    from backends.room import Room
    from backends.transport import Transport
    from backends.words import ModelId
    from policies.schema import Policy


class Upstreams:
    """The transports and pools of a process, by what they are: a reload opens no second one of the same.

    So the breakers, loads and retry budgets of endpoints go on, whatever else of the policy has changed.

    Args:
        room: for large answers; without one each endpoint has as much as its largest answer may take.

    Attributes:
        on_fault: told an endpoint whose breaker opens; set where other processes ask it too.
    """

    def __init__(self, room: Room | None = None) -> None:
        self._room = room
        self._stack = AsyncExitStack()
        self._transports: dict[tuple[TransportKind, float], Transport] = {}
        self._pools: dict[tuple[Hashable, ...], Pool] = {}
        self.on_fault: Callable[[str], None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def transport(self, policy: Policy) -> Transport:
        """Return what a policy's upstream requests go through; closed with the process."""
        kind = (policy.server.transport, policy.timeouts.connect_s)
        transport = self._transports.get(kind)
        if transport is None:
            transport = self._transports[kind] = _transport(*kind)
            self._stack.push_async_callback(transport.aclose)
        return transport

    def pool(self, policy: Policy, model: ModelId, clock: Clock) -> Pool:
        """Return a catalog model's endpoints; models of one pool share them, so that their load is counted once."""
        endpoints, secret = policy.endpoints_of(model), policy.api_key_of(model)
        api_key = None if secret is None else secret.get_secret_value()
        transport = self.transport(policy)
        timeouts = Timeouts(first_byte_s=policy.timeouts.first_byte_s, idle_s=policy.timeouts.idle_s)
        rules = RetryRules(
            max=policy.retries.max,
            budget_share=policy.retries.budget_share,
            # Of all workers together; the share is one of each worker's own requests, and so of all of them.
            min_per_s=policy.retries.min_per_s / policy.server.workers,
            max_wait_s=policy.retries.max_wait_s,
        )
        sizes = Sizes(answer_bytes=policy.limits.max_answer_bytes, event_bytes=policy.limits.max_event_bytes)
        key = (endpoints, api_key, id(transport), timeouts, rules, sizes)
        pool = self._pools.get(key)
        if pool is None:
            members = [
                HttpBackend(
                    transport=transport,
                    base_url=url,
                    api_key=api_key,
                    timeouts=timeouts,
                    sizes=sizes,
                    room=self._room,
                )
                for url in endpoints
            ]
            pool = self._pools[key] = Pool(members, clock=clock, rules=rules, on_open=self._tell)
        return pool

    def hear(self, endpoint: str) -> None:
        """Take another process's word that an endpoint fails."""
        for pool in self._pools.values():
            pool.hear(endpoint)

    def _tell(self, endpoint: str) -> None:
        if self.on_fault is not None:
            self.on_fault(endpoint)

    def keep(self, used: Collection[Pool]) -> None:
        """Forget the pools that are not used any more; requests that still run have theirs."""
        self._pools = {key: pool for key, pool in self._pools.items() if pool in used}


def _transport(kind: TransportKind, connect_s: float) -> Transport:
    """Import and make the one that is asked for: the other may cost a tenth of the start-up budget."""
    if kind is TransportKind.AIOHTTP:
        from backends.aiohttp_transport import AiohttpTransport

        return AiohttpTransport(connect_s=connect_s)
    from backends.wire import WireTransport

    return WireTransport(connect_s=connect_s)
