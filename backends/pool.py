"""Several endpoints that serve one model, behind the seam of one: failing over before the first event.

An endpoint that failed is asked last for a while, twice as long each time it fails again. It is never shut out: when
all have failed, the least recently failed one is still tried, so a pool recovers without a probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.errors import BackendError, EndpointUnreachable

if TYPE_CHECKING:
    from backends.clock import Clock
    from backends.seam import Backend, Outbound, Reply
    from backends.words import Event

_REST_S = 2.0
"""How long an endpoint rests after its first failure: longer than a restart of a connection, shorter than a restart
of a model server, which the doubling covers."""

_LONGEST_REST_S = 60.0


@dataclass(slots=True)
class _Member:
    backend: Backend
    in_flight: int = 0
    failures: int = 0
    rests_until: float = 0.0


class Pool:
    """Endpoints of one model. Implements `Backend`; owns its members and closes them."""

    def __init__(self, members: Sequence[Backend], *, clock: Clock) -> None:
        if not members:
            raise ValueError("a pool needs at least one endpoint")
        self._members = [_Member(backend) for backend in members]
        self._clock = clock

    @property
    def in_flight(self) -> int:
        """Attempts that are open now."""
        return sum(member.in_flight for member in self._members)

    async def open(self, outbound: Outbound) -> Reply:
        """Open the attempt on the first endpoint that answers; see `Backend.open`. Each is asked at most once."""
        last: BackendError = EndpointUnreachable("the pool has no endpoint")
        for member in self._by_readiness():
            member.in_flight += 1
            try:
                reply = await member.backend.open(outbound)
            except BackendError as error:
                member.in_flight -= 1
                if not error.is_retryable:
                    raise
                self._rest(member)
                last = error
            except BaseException:
                member.in_flight -= 1
                raise
            else:
                member.failures = 0
                return _PooledReply(reply, member)
        raise last

    async def aclose(self) -> None:
        """Close every member."""
        for member in self._members:
            await member.backend.aclose()

    def _by_readiness(self) -> list[_Member]:
        now = self._clock.monotonic()
        return sorted(self._members, key=lambda m: (max(0.0, m.rests_until - now), m.in_flight))

    def _rest(self, member: _Member) -> None:
        member.failures += 1
        rest_s = min(_LONGEST_REST_S, _REST_S * 2 ** (member.failures - 1))
        member.rests_until = self._clock.monotonic() + rest_s


class _PooledReply:
    """A member's reply that counts as in flight until it is closed."""

    def __init__(self, reply: Reply, member: _Member) -> None:
        self.endpoint = reply.endpoint
        self._reply = reply
        self._member: _Member | None = member

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> Event:
        return await self._reply.__anext__()

    def ready(self) -> Sequence[Event]:
        return self._reply.ready()

    async def aclose(self) -> None:
        if self._member is not None:
            self._member.in_flight -= 1
            self._member = None
        await self._reply.aclose()
