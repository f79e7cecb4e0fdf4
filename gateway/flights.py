"""Single-flight: equal requests in flight are answered by one attempt.

The first of them leads: it goes its way as if it were alone, and leaves what it gets in its `Flight`. The others
follow.
Rules:
- a flight is found by the exact key, so only requests that would share a stored answer share a flight;
- a follower gets all of the leader's stream, from its start; each reads at its own pace, and none slows the leader;
- the flight keeps the last `KEPT_BYTES` of the stream; who is further behind than that falls off: it goes its own way
  if it has got nothing, and is cut if it has;
- a leader that fails hands over: its followers come back, and the first of them leads;
- a leader whose client hangs up goes on while it has followers, and pays: it began the attempt. When the last follower
  leaves, it is cancelled like any other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from types import TracebackType
from typing import Final, Self, TypeAlias

import msgspec

from backends.words import ModelId, TenantId, Usage
from gateway.calls import Sink
from gateway.journey import Journey
from gateway.relay import Told
from semantic_cache.seam import Entry, Hit, Tier

KEPT_BYTES: Final = 1_000_000
"""What a flight keeps of its stream: some 5,000 chunks, more than most answers have."""


class FlightFailed(Exception):
    """The leader got no answer, or not all of it."""


class FellBehind(Exception):
    """The follower reads too slowly, or came too late: the flight does not keep the start of its stream any more."""


class Bought(msgspec.Struct, frozen=True, kw_only=True):
    """What a leader has paid for: who answered, the whole answer, and what each follower saves (middle, low, high)."""

    model: ModelId
    told: Told
    baseline_nusd: tuple[int, int, int]


class Begun(msgspec.Struct, frozen=True):
    """A stream has begun."""

    model: ModelId


Landing: TypeAlias = Bought | Hit
"""How a flight ends well: with an answer, or with a stored one that the leader found in the semantic cache."""


class Flight:
    """What a leader leaves to its followers. Entered by the leader; leaving it without a landing is failing."""

    def __init__(self, *, kept_bytes: int, on_end: Callable[[Flight], None]) -> None:
        self.landing: Landing | None = None
        self.model: ModelId | None = None
        self._on_end = on_end
        self._kept_limit = kept_bytes
        self._pieces: deque[bytes] = deque()
        self._first = 0  # the number of the oldest piece that is kept
        self._kept_bytes = 0
        self._followers = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._boarded = asyncio.Event()
        self._leader = asyncio.current_task()
        self._has_ended = False
        self.is_orphan = False
        """Whether the leader's client is gone and its followers are not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended = True
        self._on_end(self)
        self._wake()

    # What the leader does

    def begin(self, model: ModelId) -> None:
        """Say who answers: what follows is a stream."""
        self.model = model

    def push(self, data: bytes) -> None:
        """Leave some of the stream."""
        self._pieces.append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes > self._kept_limit:
            self._kept_bytes -= len(self._pieces.popleft())
            self._first += 1
        self._wake()

    def land(self, landing: Landing) -> None:
        """End well, unless it was declined to share."""
        if self._has_ended:
            return
        self.landing = landing
        self._on_end(self)  # who asks from now on finds the answer in the cache, or none
        self._wake()

    def decline(self) -> None:
        """Share nothing: the answer is the leader's only, and its followers come back."""
        if self.is_orphan and self._leader is not None:
            self._leader.cancel()  # nobody is left to answer
        self._has_ended = True
        self._on_end(self)
        self._wake()

    def keep_going(self) -> bool:
        """Tell whether the leader, whose client is gone, shall go on for its followers."""
        self.is_orphan = self.has_followers and self._is_open
        return self.is_orphan

    @property
    def has_followers(self) -> bool:
        """Whether anybody follows now."""
        return self._followers > 0

    async def followed(self) -> None:
        """Wait until somebody follows."""
        await self._boarded.wait()

    # What a follower does

    def follow(self) -> Follower:
        """Return a new follower's place, to be entered."""
        return Follower(self)

    @property
    def _is_open(self) -> bool:
        return self.landing is None and not self._has_ended

    def _from(self, at: int) -> list[bytes]:
        if at < self._first:
            raise FellBehind
        return list(islice(self._pieces, at - self._first, None))

    async def _change(self) -> None:
        """Wait until something is pushed, or the flight ends.

        Raises:
            FlightFailed: it has ended, and not well.
        """
        if self._has_ended:
            raise FlightFailed
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _board(self) -> None:
        self._followers += 1
        self._boarded.set()

    def _leave(self) -> None:
        self._followers -= 1
        if self._followers == 0:
            self._boarded.clear()
        if self._followers == 0 and self.is_orphan and self._is_open and self._leader is not None:
            self._leader.cancel()


class Follower:
    """One follower's place in a stream; a context manager."""

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._at = 0

    def __enter__(self) -> Self:
        self._flight._board()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flight._leave()

    async def first(self, *, is_stream: bool) -> Landing | Begun:
        """Wait for something to serve: the model whose stream has begun, where a stream is wanted, or the landing.

        Raises:
            FlightFailed: there will be nothing.
            FellBehind: the stream's start is gone.
        """
        flight = self._flight
        while True:
            if flight.landing is not None:
                return flight.landing
            if is_stream and flight.model is not None and flight._from(0):
                return Begun(flight.model)
            await flight._change()

    async def read(self) -> bytes | Bought:
        """Return what has been pushed since the last call, waiting for it; the whole answer when that was all.

        Raises:
            FlightFailed: the leader's stream broke.
            FellBehind: more has been pushed since the last call than is kept.
        """
        flight = self._flight
        while True:
            pieces = flight._from(self._at)
            if pieces:
                self._at += len(pieces)
                return b"".join(pieces)
            if isinstance(flight.landing, Bought):
                return flight.landing
            await flight._change()


class Flights:
    """The flights of one gateway process, by exact key."""

    def __init__(self, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._flights: dict[bytes, Flight] = {}
        self._kept_bytes = kept_bytes

    def find(self, key: bytes) -> Flight | None:
        """Return the flight that a request may follow, None when it has to lead."""
        return self._flights.get(key)

    def lead(self, key: bytes) -> Flight:
        """Return a new flight. It is found under its key unless another one is."""

        def end(flight: Flight) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        flight = Flight(kept_bytes=self._kept_bytes, on_end=end)
        self._flights.setdefault(key, flight)
        return flight


class LeaderSink:
    """A leader's sink for a stream: what is written goes to its client and into its flight.

    What is special to one client (headers, the end of its stream) goes to that client only. A client that does not read
    holds the stream up while it is alone; with followers it is let fall behind, and dropped when it is too far behind.
    """

    def __init__(self, sink: Sink, flight: Flight, model: ModelId) -> None:
        self._sink = sink
        self._flight = flight
        self._model = model
        self._unread_bytes = 0
        self.on_gone: Callable[[], bool] | None = None
        self.is_started = False

    @property
    def is_slow(self) -> bool:
        """Whether too much waits for the client to read it: then `write` sees who waits for whom."""
        return self._sink.is_slow

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin; see `Sink.start`."""
        self.is_started = True
        await self._sink.start(status, headers)

    async def write(self, data: bytes) -> None:
        """Send some of the body to the client and to the followers."""
        if not self.offer(data) and not self._flight.has_followers:
            await self.drain()

    def offer(self, data: bytes) -> bool:
        """Leave some of the body to the followers, and send it to the client as far as it reads."""
        if self._flight.model is None:
            self._flight.begin(self._model)
        self._flight.push(data)
        if self._flight.is_orphan:
            return True
        if self._sink.offer(data):
            self._unread_bytes = 0
            return True
        self._unread_bytes += len(data)
        if self._unread_bytes > KEPT_BYTES and self._flight.keep_going():
            self._sink.cut(b"")
        return False

    async def drain(self) -> None:
        """Wait until the client has read, or a follower comes, who shall not wait for it."""
        async with asyncio.TaskGroup() as group:
            waits = {group.create_task(self._sink.drain()), group.create_task(self._flight.followed())}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()

    async def finish(self, data: bytes) -> None:
        """End the client's own; the followers' end is the landing."""
        if not self._flight.is_orphan:
            await self._sink.finish(data)

    def cut(self, data: bytes) -> None:
        """End the client's own, unfinished."""
        self._sink.cut(data)


def shared_hit(journey: Journey, got: Bought | Begun) -> Hit:
    """Return what a follower is served, as a hit: it costs nothing, and saves what the answer's baseline costs.

    What that is, is not known before the end of a stream: until then it is 0.
    """
    told = got.told if isinstance(got, Bought) else None
    middle, low, high = got.baseline_nusd if isinstance(got, Bought) else (0, 0, 0)
    now = journey.clock.now()
    entry = Entry(
        key=journey.keys.exact if journey.keys is not None else b"",
        partition=b"",
        tenant=journey.caller.tenant if journey.caller is not None else TenantId(""),
        asked="",
        vector=None,
        payload=b"" if told is None or told.body is None else told.body,
        model=got.model,
        usage=Usage(input_tokens=0) if told is None else told.usage,
        baseline_nusd=middle,
        baseline_low_nusd=low,
        baseline_high_nusd=high,
        created_at=now,
        expires_at=now,
    )
    return Hit(tier=Tier.FLIGHT, entry=entry)
