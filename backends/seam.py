"""The seam to whatever runs a model: `Backend` opens an attempt, `Reply` is its answer as events.

Contract (tests/contracts/test_backend.py runs it against every implementation):
- `open` returns only after the first event is known to be an answer: everything before it raises a `BackendError`, so
  that failing over is always possible until `open` has returned and never after;
- a reply yields events until its end; an end before the `finish_reason` raises `StreamCut`, silence `EndpointTimeout`;
- `aclose` may be called at any time, more than once, and frees the upstream (which stops generating) at once;
- cancelling `open` frees the upstream as well; cancelling an iteration loses no event: it may be gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from backends.sse import EVENT_LIMIT_BYTES
from backends.words import Event, RequestId, Run, Surface


class Outbound(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is sent upstream for one attempt; `model` is the name in the body, by which rate limits are kept apart."""

    surface: Surface
    body: bytes
    is_stream: bool
    request_id: RequestId
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Deadlines in seconds; each is enforced on its own. `first_byte_s` and `idle_s` are for streams."""

    first_byte_s: float = 60.0
    idle_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The most bytes that are kept in memory of an upstream's answer: of a whole one, and of one event of a stream."""

    answer_bytes: int = 100 * 2**20
    event_bytes: int = EVENT_LIMIT_BYTES


class Reply(Protocol):
    """An answer that has begun."""

    endpoint: str
    """Which endpoint answers: for spans and logs, never for clients."""

    def __aiter__(self) -> Reply:
        """Return itself: a reply is read once."""
        ...

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            StreamCut: the stream ended before its end.
            EndpointTimeout: silence for longer than `idle_s`.
            ReplyMalformed: an event that is none.
        """
        ...

    async def batch(self) -> Sequence[Event | Run]:
        """Return all that one read of the upstream brought; nothing at the end.

        For whoever only relays: events that differ in their text alone may come as one `Run`. Raises as `__anext__`.
        """
        ...

    def tap(self, take: Callable[[Run], bool]) -> None:
        """Let `take` have, in the turn of the loop in which they come, runs that `batch` would wake its caller for.

        It need not have any of them; it has none but while `batch` waits, so that the order stays. What it does not
        take, which it tells by False, `batch` returns.
        """
        ...

    async def aclose(self) -> None:
        """Free the upstream; idempotent."""
        ...


class Backend(Protocol):
    """Something that can run a model."""

    async def open(self, outbound: Outbound) -> Reply:
        """Send an attempt and return its reply once the first event is there.

        Raises:
            BackendError: any of the family; `blame.blame_of` tells whether another endpoint may help.
        """
        ...

    async def aclose(self) -> None:
        """Close what it holds open; idempotent."""
        ...
