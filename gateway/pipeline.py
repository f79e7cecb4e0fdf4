"""The way of a request up to its answer's first event: `Gateway.answer(call, sink)`, free of ASGI and FastAPI.

    identify → parse → route → admit → exact cache → embed → semantic cache → plan → hold → climb → relay → settle

Identity, routing, limits and the ledger fail closed; caches, the embedder and telemetry fail open. Whatever happens,
`_finish` books the request exactly once, synchronously, in a `finally`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from backends.asks import parse_ask
from backends.clock import Clock
from backends.deadlines import Deadlines
from backends.errors import BackendError
from backends.room import Room
from backends.sse import encode_event
from backends.words import Ask, ModelId, RequestId, Surface, TenantId
from gateway.audit import Auditor
from gateway.caching import Caches
from gateway.calls import Call, Sink
from gateway.content.keeper import Keeper
from gateway.content.tape import TapedSink
from gateway.cors import CrossOrigin
from gateway.errors import (
    FlightLost,
    KeyRefused,
    ModelNotFound,
    Overloaded,
    Problem,
    RateLimited,
    Stopping,
    places,
    problem_of,
)
from gateway.flights import (
    Begun,
    Bought,
    FellBehind,
    Flight,
    FlightFailed,
    Flights,
    Follower,
    Landing,
    LeaderSink,
    shared_hit,
)
from gateway.ids import RequestIds
from gateway.journey import Caller, CatalogModel, Journey, Lane
from gateway.ladder import Committed, Ladder
from gateway.leads import Leads
from gateway.ledger.rows import ChargeKind
from gateway.limits import Limits
from gateway.prober import Prober
from gateway.relay import JSON_TYPE, Told, answer_headers, relay_flight, relay_hit, relay_stream, relay_whole
from gateway.repeats import Repeats
from gateway.sessions import Sessions, session_of
from gateway.settlement import Cashier, baseline_nusd, usage_of
from gateway.telemetry import Telemetry
from gateway.verifying import Verifying
from gateway.wishes import tightened
from policies.keys import KeyRing, Refusal
from policies.schema import Policy, Selection
from router.strategy import Candidate, Pinned, PlanReason, Strategy
from semantic_cache.seam import Hit, Miss, MissReason, Tier

_log = logging.getLogger("faregate")

_LEADERS_FOLLOWED = 3
"""A request whose leaders fail one after the other goes its own way then: what fails them may not be theirs."""

_CLIENT_GONE = 499
"""nginx's status for a client that hung up: nobody receives it, the request row says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a gateway is made of; see `gateway.compose`, which opens and closes them.

    Attributes:
        leads: of the processes that share its cache; None where it is alone.
    """

    policy: Policy
    tenants: frozenset[TenantId]
    clock: Clock
    keys: KeyRing
    catalog: Mapping[ModelId, CatalogModel]
    lanes: Mapping[str, Lane]
    candidates: Mapping[ModelId, Candidate]
    caches: Caches
    cashier: Cashier
    prober: Prober
    limiter: Limits
    telemetry: Telemetry
    auditor: Auditor
    verifying: Verifying
    room: Room
    leads: Leads | None = None
    keeper: Keeper | None = None


class Gateway:
    """Answers calls. One per process; knows neither ASGI nor FastAPI."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        cors = parts.policy.server.cors
        self.cors = None if cors is None else CrossOrigin(cors)
        self.is_stopping = False
        self._has_no_grace = False
        self._most_in_flight = parts.policy.limits.max_in_flight
        self._selections: dict[tuple[TenantId, str], Selection] = {}
        self._in_flight = 0
        self.ids = RequestIds(parts.clock)
        self._deadlines = Deadlines(parts.policy.timeouts.total_s)
        self._flights = Flights()
        self._sessions = Sessions()
        self._repeats = Repeats()
        self._ladder = Ladder(
            catalog=parts.catalog.__getitem__,
            cashier=parts.cashier,
            prober=parts.prober,
            total_s=parts.policy.timeouts.total_s,
        )

    async def answer(self, call: Call, sink: Sink) -> None:
        """Answer one call: send an answer or an error through `sink`, and book what became of it.

        Cancelling this is how a client's hang-up is told: the upstream is freed and what it generated is booked.
        """
        journey = self._begin(call)
        if journey.tape is not None:
            sink = TapedSink(sink, journey.tape)
        self._in_flight += 1
        self.parts.telemetry.in_flight.value += 1
        try:
            with self._deadlines.begin():
                await self._travel(journey, sink)
        except asyncio.CancelledError:
            if not journey.is_answered:
                journey.status, journey.error_code = _CLIENT_GONE, "client_gone"
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: every class has its row in gateway.errors
            await self._tell(journey, Stopping() if self._is_out_of_grace(error) else error, sink)
        finally:
            self._in_flight -= 1
            self.parts.telemetry.in_flight.value -= 1
            self._finish(journey)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
        return not self._in_flight

    def follow(self, former: Gateway) -> None:
        """Take over from the gateway of a policy that was changed: it ends what it has begun."""
        self.is_stopping, self._has_no_grace = former.is_stopping, former._has_no_grace
        self._sessions = former._sessions

    def end_grace(self) -> None:
        """End every answer that still runs, as when its time is over: its client is told, and it is booked."""
        self.is_stopping = self._has_no_grace = True
        self._deadlines.expire()

    def turn_away(self, surface: Surface, error: Exception) -> tuple[RequestId, Problem]:
        """Book a request that was refused before it could be read; return its id and how its client is told."""
        journey = self._begin(Call(surface=surface, body=b"", digest=None))
        problem = problem_of(error)
        journey.status, journey.error_code = problem.status, problem.code
        self._finish(journey)
        return journey.request_id, problem

    def _is_out_of_grace(self, error: Exception) -> bool:
        return self._has_no_grace and isinstance(error, TimeoutError)

    def _begin(self, call: Call) -> Journey:
        clock = self.parts.clock
        return Journey(
            request_id=self.ids.next(),
            call=call,
            clock=clock,
            started_at=clock.now(),
            started=clock.monotonic(),
            is_traced=self.parts.telemetry.is_tracing,
            tape=self.parts.keeper.tape() if self.parts.keeper is not None else None,
        )

    async def _travel(self, journey: Journey, sink: Sink) -> None:
        call, is_traced, begun = journey.call, journey.is_traced, journey.started
        journey.caller = caller = self.identify(call.digest)
        if is_traced:
            begun = journey.passed("identify", begun)
        journey.repeat = repeat = self._repeats.find(call.surface, call.body)
        journey.ask = ask = repeat.ask if repeat is not None else parse_ask(call.surface, call.body)
        if is_traced:
            begun = journey.passed("parse", begun)
        strategy = self._route(journey, caller, ask)
        if is_traced:
            journey.passed("route", begun)
        if self._in_flight > self._most_in_flight:
            raise Overloaded(self._most_in_flight)
        journey.admission = await self.parts.limiter.admit(caller.tenant, caller.key_id, ask, journey.started)
        if journey.lane is not None:
            self.parts.cashier.spending.enlist(journey, caller, ask, journey.lane.route.name)
        hit = await self.parts.caches.look_exact(journey, ask)
        if hit is not None:
            await self._serve_hit(journey, ask, hit, sink)
            return
        key = _flight_key(journey)
        if key is None:
            await self._lead(journey, ask, strategy, None, sink)
            return
        if await self._share(journey, ask, key, sink):
            return
        with self._flights.lead(key) as flight:
            sink.on_gone = flight.keep_going
            try:
                if not await self._serve_others(journey, ask, key, flight, sink):
                    await self._lead(journey, ask, strategy, flight, sink)
            finally:
                if journey.lead is not None:
                    journey.lead.end(is_stored=False)
        if flight.is_orphan:
            journey.status, journey.error_code = _CLIENT_GONE, "client_gone"

    async def _share(self, journey: Journey, ask: Ask, key: bytes, sink: Sink) -> bool:
        """Serve what an equal request in flight gets; False when there is none, or it had nothing to share."""
        wish = journey.call.cache
        if not wish.may_read or wish.max_age_s == 0:
            return False
        until = asyncio.get_running_loop().time() + _flight_wait_s(journey)
        for _ in range(_LEADERS_FOLLOWED):
            flight = self._flights.find(key)
            if flight is None:
                return False
            with flight.follow() as follower:
                try:
                    async with asyncio.timeout_at(until):
                        with journey.step("share"), journey.waiting():
                            first = await follower.first(is_stream=ask.is_stream)
                except FlightFailed:
                    continue
                except (FellBehind, TimeoutError):
                    break
                return await self._serve_shared(journey, ask, first, follower, sink)
        journey.lookups["flight"] = Miss(reason=MissReason.DECLINED)
        return False

    async def _serve_shared(
        self, journey: Journey, ask: Ask, first: Landing | Begun, follower: Follower, sink: Sink
    ) -> bool:
        """Serve a leader's answer, or go along with its stream; False when there is nothing this request can use."""
        match first:
            case Hit():
                if not self.parts.caches.is_fresh(journey, first):
                    return False
                await self._serve_hit(journey, ask, first, sink)
            case Bought(told=told):
                if told.body is None:
                    return False
                journey.lookups["flight"] = hit = shared_hit(journey, first)
                await self._serve_hit(journey, ask, hit, sink)
            case Begun():
                journey.lookups["flight"] = journey.hit = shared_hit(journey, first)
                await relay_flight(journey, ask, sink, functools.partial(_read_on, journey, follower))
        return True

    async def _serve_others(self, journey: Journey, ask: Ask, key: bytes, flight: Flight, sink: Sink) -> bool:
        """Serve what another process has bought for an equal request meanwhile; False: this one buys."""
        leads, wish = self.parts.leads, journey.call.cache
        exact = journey.lookups.get("exact")
        if leads is None or not wish.may_read or wish.max_age_s == 0:
            return False
        if not isinstance(exact, Miss) or exact.reason is MissReason.STORE_FAILED:
            return False  # no tier to find it in, or no store
        hit = None
        try:
            async with asyncio.timeout(_flight_wait_s(journey)):
                with journey.step("share"), journey.waiting():
                    while hit is None and journey.lead is None:
                        journey.lead = await leads.claim(key)
                        hit = await self.parts.caches.look_again(journey)
        except TimeoutError:
            journey.lookups["flight"] = Miss(reason=MissReason.DECLINED)
        if hit is None:
            return False
        if journey.lead is not None:
            journey.lead.end(is_stored=True)
        flight.land(hit)
        await self._serve_hit(journey, ask, hit, sink)
        return True

    async def _lead(self, journey: Journey, ask: Ask, strategy: Strategy, flight: Flight | None, sink: Sink) -> None:
        """Look further, plan and buy; `flight` is None when nobody can follow."""
        hit = await self.parts.caches.look_semantic(
            journey, ask, wants_vector=strategy.needs_vector(ask), foresight=strategy.foresight(ask)
        )
        hit = hit or await self.parts.verifying.confirm(journey, ask)
        if hit is not None:
            if flight is not None:
                flight.land(hit)
            await self._serve_hit(journey, ask, hit, sink)
            return
        begun = journey.clock.monotonic()
        journey.cached_tokens = self._sessions.cached_tokens(session_of(journey), ask, now=begun)
        journey.plan = plan = strategy.plan(ask, journey.vector, journey.cached_tokens, journey.foreseen)
        if journey.is_traced:
            journey.passed("plan", begun)
        committed = await self._ladder.climb(journey, ask, plan.rungs)
        await self._relay(journey, ask, committed, flight, sink)

    def identify(self, digest: str | None) -> Caller:
        """Return who pays for calls made with the key that has this digest; None: no key was shown.

        Raises:
            KeyRefused: it opens no data path.
        """
        identity = self.parts.keys.recognise(digest)
        if isinstance(identity, Refusal):
            raise KeyRefused(_REFUSALS[identity])
        if identity.tenant is None:
            raise KeyRefused(
                "an admin key does not open /v1; create one with `faregate keys create --tenant NAME`", status=403
            )
        if identity.tenant not in self.parts.tenants:
            raise KeyRefused(
                f"the key's tenant {identity.tenant!r} is not in the policy any more; ask the operator", status=403
            )
        return Caller(tenant=identity.tenant, key_id=identity.key_id)

    def _route(self, journey: Journey, caller: Caller, ask: Ask) -> Strategy:
        selection = self._selections.get((caller.tenant, ask.model))
        if selection is None:
            selection = self.parts.policy.select(caller.tenant, ask.model)
            if selection is None:
                raise ModelNotFound(ask.model, self.parts.policy.names_for(caller.tenant))
            self._selections[caller.tenant, ask.model] = selection  # bounded: names come from the policy
        lane = self.parts.auditor.lane_of(self.parts.lanes[selection.route.name], caller.tenant)
        if selection.pinned is None:
            journey.lane = tightened(lane, journey.call.max_loss)
            journey.max_loss = journey.call.max_loss if journey.lane is not lane else None
            return journey.lane.strategy
        model = self.parts.catalog[selection.pinned]
        # A client that names a model wants that model: it is its own baseline.
        journey.lane = replace(
            lane,
            strategy=Pinned(self.parts.candidates[model.id]),
            baseline=model.id,
            baseline_rates=model.rates,
            answers=(model.id, model.variant),
            judges={},
        )
        return journey.lane.strategy

    async def _relay(self, journey: Journey, ask: Ask, committed: Committed, flight: Flight | None, sink: Sink) -> None:
        attempt = committed.attempt
        model = attempt.model.id
        # Neither what an equivalent said nor what a spent budget made cheaper is what the route answers next time.
        is_degraded = journey.plan is not None and journey.plan.reason is PlanReason.BUDGET_DEGRADED
        is_kept = attempt.stands_in_for is None and not is_degraded
        if is_degraded and flight is not None:
            flight.decline()  # who follows may have a budget of its own

        def tell(told: Told) -> None:
            journey.body = told.body
            if flight is not None and flight.is_orphan:
                journey.status, journey.error_code = _CLIENT_GONE, "client_gone"  # before it is booked
            if journey.keys is None:
                return  # no cache wants it, and nobody follows
            saved = baseline_nusd(journey)
            if flight is not None:
                flight.land(Bought(model=model, told=told, baseline_nusd=saved))
            if is_kept:
                self.parts.caches.offer(journey, ask, told, model, saved)

        try:
            if ask.is_stream:
                leading = sink if flight is None else LeaderSink(sink, flight, model)
                await relay_stream(journey, ask, committed, self.parts.cashier, leading, tell=tell)
            else:
                await relay_whole(journey, ask, committed, self.parts.cashier, sink, tell=tell)
        except BackendError:
            attempt.end(ChargeKind.FAILED, journey.clock.monotonic())
            raise
        finally:
            # Reached without an end: the client is gone, or the whole request ran out of time.
            attempt.end(ChargeKind.CANCELLED, journey.clock.monotonic())
            await committed.reply.aclose()

    async def _serve_hit(self, journey: Journey, ask: Ask, hit: Hit, sink: Sink) -> None:
        journey.hit, journey.body = hit, hit.entry.payload
        if hit.tier is Tier.EXACT and journey.repeat is None:
            self._repeats.learn(ask.surface, journey.call.body, ask)
        begun = journey.clock.monotonic()
        await relay_hit(journey, ask, hit.entry.payload, hit.entry.usage, sink)
        if journey.is_traced:
            journey.passed("replay", begun)

    async def _tell(self, journey: Journey, error: Exception, sink: Sink) -> None:
        """Tell the client of an error: a status before the first byte, an error event and a cut after it."""
        problem = problem_of(error, journey.clock.now())
        journey.status, journey.error_code = problem.status, problem.code
        if isinstance(error, RateLimited) and journey.caller is not None:
            self.parts.telemetry.rate_limited(journey.caller.tenant, error.limit)
        if problem.status >= 500:
            _log.warning(
                "request_failed",
                extra={
                    "request_id": journey.request_id,
                    "code": problem.code,
                    "error": type(error).__name__,
                    "endpoint": getattr(error, "endpoint", ""),
                    "where": places(error) if problem.code == "internal_error" else None,
                },
            )
        if sink.is_started:
            sink.cut(encode_event(problem.body()))
            return
        journey.path_models.clear()  # nothing was served, whatever had begun to answer
        body = problem.body()
        length = (b"content-length", b"%d" % len(body))
        await sink.start(problem.status, [JSON_TYPE, length, *answer_headers(journey), *problem.headers])
        await sink.finish(body)

    def _finish(self, journey: Journey) -> None:
        now = journey.clock.monotonic()
        for attempt in journey.attempts:
            attempt.end(ChargeKind.CANCELLED, now)
        row = self.parts.cashier.book(journey)
        self._sessions.take(journey)
        self.parts.verifying.conclude(journey)
        if journey.is_answered and journey.ask is not None:
            # After its row: what an audit costs comes on top of what the request is booked at.
            self.parts.auditor.offer(journey, journey.ask, journey.body)
        if self.parts.keeper is not None:
            self.parts.keeper.offer(journey)
        if journey.admission is not None:
            used = (usage_of(journey, attempt) for attempt in journey.attempts if attempt.kind is not None)
            tokens = sum(usage.total_input_tokens + usage.total_output_tokens for usage in used)
            self.parts.limiter.finish(journey.admission, tokens)
        self.parts.telemetry.observe(journey, row)


def _flight_key(journey: Journey) -> bytes | None:
    """Return the key a request's flight is found by; None when its answer is nobody else's."""
    may_share = journey.keys is not None and journey.call.cache.may_store and _flight_wait_s(journey) > 0
    return journey.keys.exact if may_share and journey.keys is not None else None


def _flight_wait_s(journey: Journey) -> float:
    return journey.lane.route.cache.flight_wait_s if journey.lane is not None else 0.0


async def _read_on(journey: Journey, follower: Follower) -> bytes | Told:
    """Return what is new of a shared stream, in the end the whole answer; then what it saved is known.

    Raises:
        FlightLost: there is no more.
    """
    try:
        got = await follower.read()
    except FlightFailed as error:
        raise FlightLost("which broke off") from error
    except FellBehind as error:
        raise FlightLost("and was read too slowly for that") from error
    if isinstance(got, bytes):
        return got
    journey.hit = shared_hit(journey, got)
    return got.told


_REFUSALS = {
    Refusal.MISSING: "no API key was given; send `Authorization: Bearer KEY` (keys come from `faregate keys create`)",
    Refusal.UNKNOWN: "the API key is not known here; check it, or ask the operator for one (`faregate keys create`)",
    Refusal.REVOKED: "the API key was revoked; ask the operator for a new one (`faregate keys create`)",
}
