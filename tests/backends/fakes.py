"""A backend and a clock that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from backends.errors import BackendError
from backends.seam import Outbound, Reply
from backends.words import Chunk, Event, RequestId, Run, Surface

OUT = Outbound(surface=Surface.CHAT, body=b"{}", is_stream=True, request_id=RequestId("req-1"))
NOON = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


async def drain(reply: Reply, into: list[Event]) -> None:
    """Read a reply to its end; what came before an error is in the list."""
    async for event in reply:
        into.append(event)  # noqa: PERF401 - a comprehension would lose what came before an error


class OwnClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class FakeBackend:
    """Answers with one event or fails with `outcome`, or with what `reads` makes of the request.

    `holds` makes it wait for ever, `gate` until it is set; `breaks` ends its answers after their event.
    """

    def __init__(self, endpoint: str, outcome: BackendError | None = None) -> None:
        self.endpoint = endpoint
        self.outcome = outcome
        self.reads: Callable[[Outbound], BackendError | None] | None = None
        self.breaks: BackendError | None = None
        self.holds = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.opened = 0
        self.closed = 0
        self._counted = asyncio.Condition()

    async def open(self, outbound: Outbound) -> FakeReply:
        self.opened += 1
        self.asked.set()
        async with self._counted:
            self._counted.notify_all()
        if self.holds:
            await asyncio.Event().wait()
        await self.gate.wait()
        outcome = self.outcome if self.reads is None else self.reads(outbound)
        if outcome is not None:
            raise outcome
        return FakeReply(self.endpoint, [Chunk(payload=b"{}", content="x", finish_reason="stop")], self.breaks)

    async def asked_again(self, times: int) -> None:
        """Wait until it was asked so often."""
        async with self._counted:
            await self._counted.wait_for(lambda: self.opened >= times)

    async def aclose(self) -> None:
        self.closed += 1


class FakeReply:
    """Says its events."""

    def __init__(self, endpoint: str, events: list[Event], breaks: BackendError | None = None) -> None:
        self.endpoint = endpoint
        self._events = events
        self._breaks = breaks

    def __aiter__(self) -> FakeReply:
        return self

    async def __anext__(self) -> Event:
        if not self._events:
            if self._breaks is not None:
                raise self._breaks
            raise StopAsyncIteration
        return self._events.pop(0)

    async def batch(self) -> list[Event]:
        if not self._events and self._breaks is not None:
            raise self._breaks
        events, self._events = self._events, []
        return events

    def tap(self, take: Callable[[Run], bool]) -> None:
        pass

    async def aclose(self) -> None:
        self._events = []
