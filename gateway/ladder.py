"""Climbing a plan's rungs: open, judge, keep or climb. Nothing has been sent to the client while this runs.

A rung that fails is first tried again inside its pool (see `backends.pool`), then its equivalents are asked, each with
tries of its own, and then the next rung. The retry budget is each pool's, so no upstream sees more of them than its
share; that a failed model's requests go to the next one is no retry there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Set
from contextlib import suppress
from dataclasses import replace

import msgspec

from backends.asks import OutputCap, estimate_input_tokens, outbound_body
from backends.blame import Blame, blame_of, is_paid
from backends.errors import BackendError, ReplyMalformed
from backends.seam import Outbound, Reply
from backends.words import Ask, Capability, Event, ModelId, Surface, Whole
from gateway.journey import Attempt, CatalogModel, Journey, Judging, Quote
from gateway.ledger.budgets import Hold, Refused
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.rows import ChargeKind
from gateway.prober import Prober
from gateway.settlement import Cashier
from policies.schema import AtLimit, Stream
from router.evidence import Answering
from router.judge import Signal, Verdict
from router.strategy import PlanReason, Rung
from router.weighing import AnswerJudge, weigh

_USAGE_WAIT_S = 0.1
"""vLLM and llama.cpp send usage in the same millisecond as the end of the answer."""

_TOP_LOGPROBS = 5
"""Alternatives the judge's features are made of; every server allows at least five."""


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A rung's answer that will be sent: the events read so far, and the reply that has the rest."""

    attempt: Attempt
    reply: Reply
    events: tuple[Event, ...] = ()


class Ladder:
    """Climbs rungs until an answer may be sent.

    Args:
        catalog: the model behind an id.
        cashier: reserves the money before each attempt.
        prober: asks a model again, for judges that want it.
        total_s: how long a request may take, all its attempts and the waits between them together.
    """

    def __init__(
        self, *, catalog: Callable[[ModelId], CatalogModel], cashier: Cashier, prober: Prober, total_s: float
    ) -> None:
        self._catalog = catalog
        self._cashier = cashier
        self._prober = prober
        self._total_s = total_s

    def climb(self, journey: Journey, ask: Ask, rungs: tuple[Rung, ...]) -> Awaitable[Committed]:
        """Return the first answer that is kept. Its reply is the caller's to close.

        Raises:
            BackendError: no rung gave an answer; the last rung's error.
            LedgerUnavailable: an attempt could not be paid for.
            BudgetExceeded: a budget has no room for the plan, nor for a cheaper rung where it lets one answer.
            BudgetsUnready: what budgets have spent is not known.
        """
        if not journey.pots:
            return self._climb(journey, ask, rungs, {})
        return self._climb_within_budgets(journey, ask, rungs)

    async def _climb_within_budgets(self, journey: Journey, ask: Ask, rungs: tuple[Rung, ...]) -> Committed:
        rungs, spare = await self._afford(journey, ask, rungs)
        try:
            return await self._climb(journey, ask, rungs, spare)
        finally:
            for hold in spare.values():
                self._cashier.spending.release(hold)

    async def _afford(
        self, journey: Journey, ask: Ask, rungs: tuple[Rung, ...]
    ) -> tuple[tuple[Rung, ...], dict[ModelId, Hold]]:
        """Return the rungs that the budgets have room for, with a hold for each: the plan, or one cheaper rung.

        Raises:
            BudgetExceeded: there is room for none.
        """
        spending = self._cashier.spending
        cheaper = self._cheaper(journey, ask, rungs)
        plan, first = rungs, None
        while True:
            needed = [self._cashier.quote(journey, self._catalog(rung.model)).worst_nusd for rung in plan]
            held = await spending.reserve(journey, needed)
            if not isinstance(held, Refused):
                break
            first = first or held
            rung = next(cheaper, None) if held.at_limit is AtLimit.DEGRADE else None
            if rung is None:
                raise spending.refusal(held, sum(needed))
            plan = (rung,)
        if first is not None and journey.plan is not None:
            spending.degraded(journey, first)
            journey.plan = replace(journey.plan, rungs=plan, reason=PlanReason.BUDGET_DEGRADED)
        return plan, {rung.model: hold for rung, hold in zip(plan, held, strict=True)}

    def _cheaper(self, journey: Journey, ask: Ask, rungs: tuple[Rung, ...]) -> Iterator[Rung]:
        """Yield the rungs below a plan's last one that can answer, the dearest first; none for a pinned model."""
        lane, plan = journey.lane, journey.plan
        ladder = lane.route.ladder if lane is not None else ()
        if plan is None or plan.reason is PlanReason.PINNED or rungs[-1].model not in ladder:
            return
        for model_id in reversed(ladder[: ladder.index(rungs[-1].model)]):
            model = self._catalog(model_id)
            room = estimate_input_tokens(ask) + (ask.max_output_tokens or 1)
            if ask.needs <= model.capabilities and (model.context_tokens is None or room <= model.context_tokens):
                yield Rung(model=model_id, is_judged=False)

    async def _climb(
        self, journey: Journey, ask: Ask, rungs: tuple[Rung, ...], spare: dict[ModelId, Hold]
    ) -> Committed:
        """Return the first answer that is kept; `spare` are the plan's holds, each taken by its model's first try."""
        last: BackendError | None = None
        asked: set[ModelId] = set()
        done: Rung | None = None
        passed: tuple[Rung, ...] = ()
        queue = [(rung, model) for rung in rungs for model in self._models(rung, ask)]
        for index, (rung, model) in enumerate(queue):
            if model in asked or rung == done or rung in passed:
                continue
            if index + 1 < len(queue):
                later = {other for _, other in queue[index + 1 :]} - asked - {model}
                if later and self._is_passed_over(model, later):
                    continue
            asked.add(model)
            outcome = await self._ask(journey, ask, rung, model, spare=spare)
            if isinstance(outcome, Committed):
                return outcome
            last = outcome or last
            if outcome is None or blame_of(outcome) is Blame.CONTENT:
                done = rung  # an equivalent would not do better
            if outcome is None and journey.verdict is not None:
                passed = _passed(rungs, rung, journey.verdict)
        raise last or ReplyMalformed("the plan has no rung")

    def _is_passed_over(self, model: ModelId, later: Set[ModelId]) -> bool:
        """Tell whether a model would only be asked for want of a better one, and there is a better one."""
        return self._is_resting(model) and not all(map(self._is_resting, later))

    def _is_resting(self, model: ModelId) -> bool:
        """Tell whether a model's pool is known to be down, or asked for time."""
        known = self._catalog(model)
        return known.backend.is_resting(known.name)

    def _models(self, rung: Rung, ask: Ask) -> tuple[ModelId, ...]:
        """Return who may answer on a rung: its model, and its equivalents unless a judge knows that model only."""
        model = self._catalog(rung.model)
        if rung.is_judged or not model.equivalents:
            return (rung.model,)
        # Another model's vectors cannot be compared with those the client has.
        others = (
            other
            for other in model.equivalents
            if ask.surface is not Surface.EMBEDDINGS or self._catalog(other).name == model.name
        )
        return (rung.model, *others)

    async def _ask(
        self, journey: Journey, ask: Ask, rung: Rung, model: ModelId, *, spare: dict[ModelId, Hold]
    ) -> Committed | BackendError | None:
        """Return a model's answer if it may be sent, else why there is none (None: the judge rejects it).

        Each try is an attempt of its own, paid for before it is made.
        """
        catalog_model = self._catalog(model)
        quote = self._cashier.quote(journey, catalog_model)
        wants_logprobs = _wants_logprobs(journey, rung)
        outbound = _outbound(journey, ask, catalog_model, quote, wants_logprobs=wants_logprobs)
        tries = catalog_model.backend.begin(outbound, until=journey.started + self._total_s)
        while True:
            hold = (spare.pop(model, None) or await self._hold(journey, quote)) if journey.pots else None
            attempt = await self._begin(
                journey, rung, catalog_model, quote=quote, hold=hold, wants_logprobs=wants_logprobs
            )
            try:
                begun = journey.clock.monotonic()
                try:
                    reply = await tries.open()
                finally:
                    journey.waited(begun, "open ", model)
            except BackendError as error:
                attempt.endpoint = error.endpoint
                attempt.end(ChargeKind.FAILED if is_paid(error) else None, journey.clock.monotonic())
                self._cashier.release(journey, attempt)
                wait_s = tries.after(error)
            except asyncio.CancelledError:
                attempt.endpoint = tries.endpoint
                attempt.end(ChargeKind.CANCELLED, journey.clock.monotonic())
                raise
            else:
                attempt.endpoint = reply.endpoint
                return await self._hear(journey, ask, rung, attempt, reply)
            if wait_s is None:
                return tries.told
            with journey.step("back off"), journey.waiting():
                await asyncio.sleep(wait_s)

    async def _hold(self, journey: Journey, quote: Quote) -> Hold:
        """Return a hold for an attempt under a budget that no plan foresaw: another try, or an equivalent.

        Raises:
            BudgetExceeded: there is no room for it.
        """
        held = await self._cashier.spending.reserve(journey, [quote.worst_nusd])
        if isinstance(held, Refused):
            raise self._cashier.spending.refusal(held, quote.worst_nusd)
        return held[0]

    async def _begin(
        self,
        journey: Journey,
        rung: Rung,
        model: CatalogModel,
        *,
        quote: Quote,
        hold: Hold | None,
        wants_logprobs: bool,
    ) -> Attempt:
        """Reserve an attempt's money; it may be made when this returns."""
        attempt = Attempt(
            number=len(journey.attempts),
            model=model,
            started_at=journey.clock.now(),
            started=journey.clock.monotonic(),
            asks_logprobs=wants_logprobs,
            stands_in_for=None if model.id == rung.model else rung.model,
            quote=quote,
            hold=hold,
        )
        try:
            self._cashier.hold(journey, attempt)
        except LedgerUnavailable:
            if hold is not None:
                self._cashier.spending.release(hold)
            raise
        journey.attempts.append(attempt)
        try:
            await self._cashier.secured()
        except BaseException:
            attempt.end(None, journey.clock.monotonic())  # the upstream was never asked
            raise
        return attempt

    async def _hear(
        self, journey: Journey, ask: Ask, rung: Rung, attempt: Attempt, reply: Reply
    ) -> Committed | BackendError | None:
        """Return the answer if it may be sent; else close it and return why not (None: the judge rejects it)."""
        lane = journey.lane
        judge = lane.judges.get(rung.model) if lane is not None and rung.is_judged else None
        if lane is None or judge is None:
            journey.path_models.append(attempt.model.id)
            journey.stood_in_for = attempt.stands_in_for
            return Committed(attempt=attempt, reply=reply)
        is_kept = False
        opened = journey.clock.monotonic()
        try:
            with journey.step(f"judge {rung.model}"), journey.waiting():
                events, answering = await _listen(reply, ask, attempt, lane.route.stream, is_whole=judge.reads_whole)
            journey.path_models.append(rung.model)
            is_kept = await self._weigh(journey, ask, rung, attempt, answering, judge=judge, opened=opened)
        except BackendError as error:
            attempt.end(ChargeKind.FAILED, journey.clock.monotonic())
            return error
        except asyncio.CancelledError:
            attempt.end(ChargeKind.CANCELLED, journey.clock.monotonic())
            raise
        finally:
            if not is_kept:
                await reply.aclose()
        if is_kept:
            return Committed(attempt=attempt, reply=reply, events=events)
        attempt.end(ChargeKind.REJECTED, journey.clock.monotonic())
        return None

    async def _weigh(
        self,
        journey: Journey,
        ask: Ask,
        rung: Rung,
        attempt: Attempt,
        answering: Answering,
        *,
        judge: AnswerJudge,
        opened: float,
    ) -> bool:
        """Tell whether an answer is kept, and note on the journey why, and what it cost to know."""
        evidence = answering.evidence()
        asked_s = 0.0
        if judge.wants_probe(evidence):
            before = journey.clock.monotonic()
            with journey.step(f"ask {rung.model} again"), journey.waiting():
                probe = await self._prober.probe(journey, ask, attempt.model, evidence.text, judge.signal)
            evidence = replace(evidence, probe=probe)
            asked_s = journey.clock.monotonic() - before
        before = journey.clock.monotonic()
        foreseen = journey.plan.foreseen if journey.plan is not None else None
        seen = foreseen.told if foreseen is not None else None
        journey.verdict = verdict = weigh(judge, evidence, task=rung.task, told=seen)
        now = journey.clock.monotonic()
        journey.verdicts.append((rung.model, verdict))
        told = attempt.usage.total_output_tokens if attempt.usage is not None else 0
        journey.judgings.append(
            Judging(
                held_ms=(now - opened) * 1e3,
                asked_ms=asked_s * 1e3,
                weighed_ms=(now - before) * 1e3,
                dropped_tokens=0 if verdict.is_kept else max(told, attempt.seen_tokens),
            )
        )
        journey.told = evidence.text if verdict.is_kept and evidence.is_finished else None
        return verdict.is_kept


def _outbound(journey: Journey, ask: Ask, model: CatalogModel, quote: Quote, *, wants_logprobs: bool) -> Outbound:
    cap = OutputCap(model.cap_field, quote.output_cap_tokens) if quote.is_cap_sent else None
    return Outbound(
        surface=ask.surface,
        body=outbound_body(
            ask,
            model=model.name,
            top_logprobs=_TOP_LOGPROBS if wants_logprobs else None,
            output_cap=cap,
            parameters=model.parameters,
        ),
        is_stream=ask.is_stream,
        request_id=journey.request_id,
        model=model.name,
    )


def _passed(rungs: tuple[Rung, ...], rung: Rung, verdict: Verdict) -> tuple[Rung, ...]:
    """Return the rungs between a rejected answer's and the one that its judge wants to go to; the last is none."""
    above = rungs[rungs.index(rung) + 1 :]
    if verdict.goes_to is None:
        return ()
    names = [other.model for other in above]
    return above[: names.index(verdict.goes_to)] if verdict.goes_to in names else above[:-1]


def _wants_logprobs(journey: Journey, rung: Rung) -> bool:
    """Tell whether a rung's judge looks at log-probabilities."""
    if not rung.is_judged:
        return False
    judge = journey.lane.judges.get(rung.model) if journey.lane is not None else None
    return judge is not None and judge.signal is Signal.LOGPROBS


async def _listen(
    reply: Reply, ask: Ask, attempt: Attempt, limits: Stream, *, is_whole: bool
) -> tuple[tuple[Event, ...], Answering]:
    """Hold events back until the judge can decide: the window is full, its time is over, or the answer is complete."""
    answering = Answering(ask)
    events: list[Event] = []
    # JSON and calls are judged whole, since half an object proves nothing, and so is what has no log-probabilities.
    is_windowed = not ask.wants_json and Capability.TOOLS not in ask.needs and not is_whole
    window_s = limits.holdback_ms / 1e3 if is_windowed else None
    try:
        async with asyncio.timeout(window_s):
            async for event in reply:
                events.append(event)
                attempt.note(event)
                answering.feed(event)
                is_full = is_windowed and len(answering.tokens) >= limits.holdback_tokens
                if isinstance(event, Whole) or answering.is_finished or is_full:
                    break
    except TimeoutError:
        pass  # the window's time is over: decide with what is known
    if answering.is_finished and ask.is_stream:
        # What follows a finished answer is its usage: worth a moment, since a rejected answer's is never seen else.
        with suppress(TimeoutError):
            async with asyncio.timeout(_USAGE_WAIT_S):
                async for event in reply:
                    events.append(event)
                    attempt.note(event)
    return tuple(events), answering
