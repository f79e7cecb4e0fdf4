"""Several endpoints that serve one model: which one is asked, and when a request that failed is tried again.

- A try is one call of one endpoint. `Pool.begin` returns a request's `Tries`, so that whoever books can reserve money
  before each of them; `Pool.open` makes them all where nothing is booked.
- Each endpoint has a breaker (`backends.breaker`), which orders and never forbids: first one whose rest is over (its
  probe), then the idlest in good standing, then one that asked for time (Retry-After), then the longest failed. A pool
  whose endpoints have all failed goes on asking, so it recovers without outside help; `is_resting` tells who has
  another model to ask.
- A retry goes to another endpoint at once. Only when all were asked, and the last one certainly did no work, is an
  endpoint asked again, after a jittered wait or as long as it said. After a 500 it is not: the same prompt would fail
  the same way.
- Retries come out of a budget. Moving off an endpoint that just broke to one in good standing is counted but never
  refused: those are the requests that were in flight when it broke, and the next ones go there anyway.
- Whether a 500 (or a 404) is the endpoint's fault or the prompt's, the next endpoint tells: where the same request
  is answered elsewhere it counts, where it fails elsewhere too nothing does, and alone it weighs little.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

from backends.blame import Blame, blame_of, is_paid
from backends.breaker import (
    Abandoned,
    Answered,
    Asked,
    Closed,
    Failed,
    Open,
    Standing,
    State,
    advance,
    is_confirmed,
    standing,
)
from backends.breaker import Event as BreakerEvent
from backends.errors import BackendError, EndpointFailed, EndpointTimeout, EndpointUnreachable
from backends.retries import RetryBudget, RetryRules, backoff_s, retry_after_s
from backends.seam import Backend

if TYPE_CHECKING:
    from backends.clock import Clock
    from backends.seam import Outbound, Reply
    from backends.words import Event, Run

_LIMITED_S = 1.0
"""How long an endpoint at its rate limit is asked last when it does not say how long it wants."""

_MISSING_S = 30.0
"""How long a replica that has not loaded a model is asked last for it: about what loading one takes."""

_MOVES_FREELY = frozenset({Blame.ENDPOINT, Blame.DRAINING, Blame.LIMITED})

_FOREVER = float("inf")

_NOTHING_TRIED = EndpointUnreachable("nothing was tried yet")


class Endpoint(Backend, Protocol):
    """A backend with an address."""

    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """How an endpoint is, for the operator.

    Attributes:
        standing: what its breaker says.
        openings: how often its breaker opened.
        failures: tries that failed, by whose fault they seemed.
    """

    endpoint: str
    standing: Standing
    in_flight: int
    openings: int
    failures: Mapping[Blame, int]


@dataclass(slots=True, eq=False)
class _Member:
    backend: Endpoint
    state: State = field(default_factory=Closed)
    in_flight: int = 0
    openings: int = 0
    failures: Counter[Blame] = field(default_factory=Counter)
    spared: dict[str, float] = field(default_factory=dict)
    """By model, until when it is not to be asked: rate limits and missing models concern one model only."""

    def step(self, event: BreakerEvent, now: float) -> None:
        before, self.state = self.state, advance(self.state, event, now=now)
        self.openings += isinstance(self.state, Open) and not isinstance(before, Open)

    @property
    def is_well(self) -> bool:
        """Whether nothing at all is held against it: so it is for nearly all requests, which take the short way."""
        return type(self.state) is Closed and not self.state.strikes and not self.spared

    def is_good(self, model: str, now: float) -> bool:
        return isinstance(self.state, Closed) and self.spared.get(model, now) <= now

    def is_resting(self, model: str, now: float) -> bool:
        is_down = is_confirmed(self.state) and standing(self.state, now=now) is not Standing.DUE
        return is_down or self.spared.get(model, now) > now


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """A failure that is the endpoint's fault or the request's."""

    member: _Member
    asked_at: float
    blame: Blame


class Pool:
    """Endpoints of one model. Implements `Backend`; owns its members and closes them.

    Args:
        members: the endpoints.
        clock: the time.
        rules: how often and how long a request is tried again.
        chance: random numbers in [0, 1), for waits and rests.
        on_open: told the endpoint when a breaker opens, for whoever else asks it (`hear`).
    """

    def __init__(
        self,
        members: Sequence[Endpoint],
        *,
        clock: Clock,
        rules: RetryRules | None = None,
        chance: Callable[[], float] | None = None,
        on_open: Callable[[str], None] | None = None,
    ) -> None:
        if not members:
            raise ValueError("a pool needs at least one endpoint")
        self.rules = rules or RetryRules()
        self.clock = clock
        self.retries = 0
        self.refused_retries = 0
        self._members = [_Member(backend) for backend in members]
        self._budget = RetryBudget(self.rules)
        self._chance = chance or Random().random  # noqa: S311 - jitter, no secret
        self._on_open = on_open

    @property
    def in_flight(self) -> int:
        """Attempts that are open now."""
        return sum(member.in_flight for member in self._members)

    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """Return how each endpoint is."""
        now = self.clock.monotonic()
        return tuple(
            EndpointStatus(
                endpoint=member.backend.endpoint,
                standing=standing(member.state, now=now),
                in_flight=member.in_flight,
                openings=member.openings,
                failures=dict(member.failures),
            )
            for member in self._members
        )

    def is_resting(self, model: str) -> bool:
        """Tell whether every endpoint failed again and again or asked for time: another model had better be asked."""
        if self._members[0].is_well:
            return False
        now = self.clock.monotonic()
        return all(member.is_resting(model, now) for member in self._members)

    def hear(self, endpoint: str) -> None:
        """Take another process's word that an endpoint fails: it rests here, too, before a request is lost on it."""
        now = self.clock.monotonic()
        for member in self._members:
            if member.backend.endpoint == endpoint and isinstance(member.state, Closed):
                member.step(Failed(asked_at=now, blame=Blame.ENDPOINT, digest=0, jitter=self._chance()), now)

    def begin(self, outbound: Outbound, *, until: float = _FOREVER) -> Tries:
        """Return a request's tries.

        Args:
            outbound: what is sent, the same each time.
            until: the request's deadline in the clock's monotonic seconds; no wait goes beyond it.
        """
        return Tries(self, outbound, until)

    async def open(self, outbound: Outbound) -> Reply:
        """Try until an endpoint answers or no further try is allowed; see `Backend.open`."""
        tries = self.begin(outbound)
        while True:
            try:
                return await tries.open()
            except BackendError as error:
                wait_s = tries.after(error)
                if wait_s is None:
                    raise tries.told from error
            await asyncio.sleep(wait_s)

    async def aclose(self) -> None:
        """Close every member."""
        for member in self._members:
            await member.backend.aclose()

    def _choose(self, model: str, tried: Sequence[_Member], now: float, *, is_retry: bool) -> _Member | None:
        """Return the endpoint to ask next, None when all were tried."""
        if len(self._members) == 1:
            return None if tried else self._members[0]
        untried = [member for member in self._members if member not in tried]
        return min(untried, key=lambda member: _order(member, model, now, is_retry), default=None)

    def _fail(self, member: _Member, blame: Blame, outbound: Outbound, *, asked_at: float) -> None:
        openings = member.openings
        failed = Failed(asked_at=asked_at, blame=blame, digest=hash(outbound.body), jitter=self._chance())
        member.step(failed, self.clock.monotonic())
        if self._on_open is not None and member.openings > openings:
            self._on_open(member.backend.endpoint)

    def _take_retry(self, now: float, *, is_free: bool) -> bool:
        is_allowed = self._budget.take(now) or is_free
        self.retries += is_allowed
        self.refused_retries += not is_allowed
        return is_allowed


def _order(member: _Member, model: str, now: float, is_retry: bool) -> tuple[int, float, int]:
    """Return the key by which endpoints are chosen, smallest first."""
    if member.is_well:
        return 1, 0.0, member.in_flight
    spared_until = member.spared.get(model, 0.0)
    state = member.state
    stands = standing(state, now=now)
    if stands in {Standing.RESTING, Standing.PROBING}:
        return 4, 0.0 if isinstance(state, Closed) else state.failed_at, member.in_flight
    if spared_until > now:
        return 3, spared_until, member.in_flight
    if stands is Standing.DUE:
        # A request that failed once is spared the risk of a probe.
        return 2 if is_retry else 0, 0.0, member.in_flight
    return 1, 0.0, member.in_flight


class Tries:
    """One request's tries: `open` makes one; when it failed, `after` tells whether and when there is another.

    Attributes:
        endpoint: who was asked last.
        told: the error that helps the client most, when no try is left.
    """

    def __init__(self, pool: Pool, outbound: Outbound, until: float) -> None:
        self.endpoint = ""
        self.told: BackendError = _NOTHING_TRIED
        self._pool = pool
        self._outbound = outbound
        self._until = until
        self._count = 0
        self._tried: list[_Member] = []
        self._suspicions: list[_Suspicion] = []

    async def open(self) -> Reply:
        """Ask one endpoint and return its reply once the first event is there.

        Raises:
            BackendError: it did not answer well; tell `after`.
        """
        pool, model = self._pool, self._outbound.model
        now = pool.clock.monotonic()
        member = pool._choose(model, self._tried, now, is_retry=self._count > 0)
        if member is None:
            self._tried.clear()
            member = pool._choose(model, (), now, is_retry=True) or pool._members[0]
        if not self._count:
            pool._budget.note_request(now)
        self._count += 1
        self._tried.append(member)
        self.endpoint = member.backend.endpoint
        if not member.is_well:
            member.step(Asked(), now)
        member.in_flight += 1
        try:
            reply = await member.backend.open(self._outbound)
        except BackendError as error:
            member.in_flight -= 1
            self._note_failure(member, error, asked_at=now)
            raise
        except BaseException:
            member.in_flight -= 1
            member.step(Abandoned(asked_at=now), pool.clock.monotonic())
            raise
        if self._suspicions or not member.is_well:
            self._note_answer(member, asked_at=now)
        return _PooledReply(reply, member, pool, self._outbound)

    def after(self, error: BackendError) -> float | None:
        """Return the seconds to wait before the next try, or None when there shall be none: `told` is to be told.

        Args:
            error: what the last `open` raised.
        """
        if self._count == 1 or _is_better_told(error, self.told):
            self.told = error
        wait_s = self._wait_s(error)
        if wait_s is None:
            self._close_case(is_answered=False)
        return wait_s

    def _wait_s(self, error: BackendError) -> float | None:
        pool, blame = self._pool, blame_of(error)
        now = pool.clock.monotonic()
        if blame is Blame.CONTENT or self._count > pool.rules.max or now >= self._until:
            return None
        model = self._outbound.model
        other = pool._choose(model, self._tried, now, is_retry=True)
        if other is not None:
            is_free = blame in _MOVES_FREELY and not is_paid(error) and other.is_good(model, now)
            return 0.0 if pool._take_retry(now, is_free=is_free) else None
        if not _did_no_work(error, blame):
            return None
        again = pool._choose(model, (), now, is_retry=True) or pool._members[0]
        # Added to what it asks for, so that those it sent away together do not return together.
        wait_s = max(0.0, again.spared.get(model, 0.0) - now) + backoff_s(self._count, pool._chance())
        if wait_s > pool.rules.max_wait_s or now + wait_s >= self._until:
            return None
        return wait_s if pool._take_retry(now, is_free=False) else None

    def _note_failure(self, member: _Member, error: BackendError, *, asked_at: float) -> None:
        clock, blame = self._pool.clock, blame_of(error)
        now = clock.monotonic()
        member.failures[blame] += 1
        if blame in {Blame.SUSPECT, Blame.MISSING}:
            self._suspicions.append(_Suspicion(member, asked_at, blame))
        elif blame in {Blame.LIMITED, Blame.CONTENT}:
            member.step(Answered(asked_at=asked_at), now)
        else:
            self._pool._fail(member, blame, self._outbound, asked_at=asked_at)
        wait_s = retry_after_s(error.retry_after, clock.now()) if isinstance(error, EndpointFailed) else None
        if wait_s is not None or blame is Blame.LIMITED:
            member.spared[self._outbound.model] = now + (_LIMITED_S if wait_s is None else wait_s)

    def _note_answer(self, member: _Member, *, asked_at: float) -> None:
        now = self._pool.clock.monotonic()
        member.step(Answered(asked_at=asked_at), now)
        member.spared = {model: until for model, until in member.spared.items() if until > now}
        if self._suspicions:
            self._close_case(is_answered=True)

    def _close_case(self, *, is_answered: bool) -> None:
        """Judge those whose failure may be the request's own fault, now that all that will be known is known."""
        suspicions, self._suspicions = self._suspicions, []
        now = self._pool.clock.monotonic()
        is_content = not is_answered and len({id(suspicion.member) for suspicion in suspicions}) > 1
        for suspicion in suspicions:
            member, asked_at = suspicion.member, suspicion.asked_at
            if is_content:
                member.step(Abandoned(asked_at=asked_at), now)
            elif suspicion.blame is Blame.SUSPECT:
                self._pool._fail(member, Blame.SUSPECT, self._outbound, asked_at=asked_at)
            else:
                member.step(Answered(asked_at=asked_at), now)
                if is_answered:
                    member.spared[self._outbound.model] = now + _MISSING_S


def _did_no_work(error: BackendError, blame: Blame) -> bool:
    """Tell whether the same endpoint may be asked again: it is sure to have done nothing, and may do it now."""
    return blame in {Blame.ENDPOINT, Blame.LIMITED} and not isinstance(error, EndpointTimeout)


def _is_better_told(error: BackendError, told: BackendError) -> bool:
    """Tell whether an error helps a client more than an earlier one: when to come back, rather than "not found"."""
    return _help(error) >= _help(told)


def _help(error: BackendError) -> int:
    match blame_of(error):
        case Blame.CONTENT:
            return 3
        case Blame.MISSING:
            return 0
        case _:
            return 2 if isinstance(error, EndpointFailed) and error.retry_after is not None else 1


class _PooledReply:
    """A member's reply that counts as in flight until it is closed; how it ends is told to the member's breaker."""

    def __init__(self, reply: Reply, member: _Member, pool: Pool, outbound: Outbound) -> None:
        self.endpoint = reply.endpoint
        self._reply = reply
        self._member: _Member | None = member
        self._pool = pool
        self._outbound = outbound
        self._opened_at = pool.clock.monotonic()

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._reply.__anext__()
        except BackendError as error:
            self._blame(error)
            raise

    async def batch(self) -> Sequence[Event | Run]:
        try:
            return await self._reply.batch()
        except BackendError as error:
            self._blame(error)
            raise

    def tap(self, take: Callable[[Run], bool]) -> None:
        self._reply.tap(take)

    async def aclose(self) -> None:
        if self._member is not None:
            self._member.in_flight -= 1
            self._member = None
        await self._reply.aclose()

    def _blame(self, error: BackendError) -> None:
        if self._member is None:
            return
        blame = blame_of(error)
        self._member.failures[blame] += 1
        self._pool._fail(self._member, blame, self._outbound, asked_at=self._opened_at)
