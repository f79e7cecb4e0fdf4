"""A backend and a clock that do what a test says."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from backends.errors import BackendError
from backends.seam import Outbound, Reply
from backends.words import Chunk, Event, RequestId, Surface

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
    """Answers with one event or fails with `outcome`; `holds` makes it wait for ever."""

    def __init__(self, endpoint: str, outcome: BackendError | None = None) -> None:
        self.endpoint = endpoint
        self.outcome = outcome
        self.holds = False
        self.asked = asyncio.Event()
        self.opened = 0
        self.closed = 0

    async def open(self, outbound: Outbound) -> FakeReply:  # noqa: ARG002 - the seam's signature
        self.opened += 1
        self.asked.set()
        if self.holds:
            await asyncio.Event().wait()
        if self.outcome is not None:
            raise self.outcome
        return FakeReply(self.endpoint, [Chunk(payload=b"{}", content="x", finish_reason="stop")])

    async def aclose(self) -> None:
        self.closed += 1


class FakeReply:
    """Says its events."""

    def __init__(self, endpoint: str, events: list[Event]) -> None:
        self.endpoint = endpoint
        self._events = events

    def __aiter__(self) -> FakeReply:
        return self

    async def __anext__(self) -> Event:
        if not self._events:
            raise StopAsyncIteration
        return self._events.pop(0)

    def ready(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    async def aclose(self) -> None:
        self._events = []
