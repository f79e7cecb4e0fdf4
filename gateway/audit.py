"""The one audit runner: asks the baseline afterwards how good served answers were, and acts on what it learns.

- A unit is a request its route answered itself: not one whose client pinned a model, whose budget degraded it, or in
  which an equivalent stood in, nor one that shared another's answer in flight (counted there), nor one whose client
  asked for less loss than the route promises. Units whose answer may have lost something (a rung
  below the baseline, alone or out of the exact cache; a semantic hit) are sampled with the policy's `share`; the others
  count as lossless.
- While nothing can be audited (the queue is full, the day's money is spent), units are not counted either, so that
  those that are stay a fair sample. An audit that fails takes the units counted with it along.
- Nothing here delays a request: `offer` counts and at most queues; one task asks, one audit at a time.
- An audit's attempts are charges of kind `audit` of the audited request, held and journalled like any other, and drawn
  from the budgets its request drew from: a budget without room has no audits.
- The cache's promise is kept for each space of answers: a tenant's, or a namespace's that tenants share. A verdict on a
  semantic hit counts for the hit's share of wrong answers there, and for the route's loss.
- When a promise is breached or looks it, its threshold is chosen anew by its verdicts (`gateway.recalibrate`), on a
  thread; every worker takes it over from the verdicts' file within seconds. While a route is breached, a share of its
  requests is answered by its first rung as well (a trial): nobody is served that answer, and it tells which threshold
  would have kept the promise. Ladders with several judged rungs have no trials: calibrate those by hand.
- Conversations, and questions that offer tools, are kept below the baseline while their own verdicts do not break the
  promise, or, where the calibration has seen none of them, once their own verdicts keep it at the threshold in force: a
  share of those that the baseline answers is answered by the first rung as well (`Origin.UNSEEN`), unseen by anybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.asks import parse_ask
from backends.clock import Clock
from backends.embedder import Embedder, EmbedderError
from backends.errors import BackendError
from backends.prices import NANO_PER_USD
from backends.words import Ask, Capability, ModelId, Surface, TenantId, Whole
from gateway.agreement import Agreement, How, by_text, by_vectors, judge_body, judged
from gateway.asides import Aside, NoRoom, buy, shadow
from gateway.errors import places
from gateway.journey import Attempt, CatalogModel, Journey, Lane
from gateway.ledger.budgets import BudgetsUnready
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.rows import ChargeKind
from gateway.prober import TOP_LOGPROBS
from gateway.recalibrate import from_verdicts, is_due
from gateway.settlement import Cashier
from gateway.verdicts import (
    NOT_SERVED,
    RECALIBRATED,
    Event,
    Kind,
    Origin,
    PromiseId,
    Subject,
    VerdictRow,
    Verdicts,
    microseconds,
)
from gateway.worker import Worker, WorkerFull
from policies.schema import Audit, Policy, Route
from policies.sequence import Standing, State, Stated, assess
from router.by_prompt import ByPrompt
from router.calls import told_of
from router.evidence import Answering
from router.foresight import Foreseen, Foresight
from router.judge import Evidence, Judge, Signal
from router.probe import probe_ask, read_probe, wants_logprobs
from router.strategy import (
    NOTHING,
    Cached,
    Candidate,
    Cascade,
    NoEligibleModel,
    Pinned,
    Plan,
    PlanReason,
    Strategy,
    turns_of,
)
from router.weighing import weigh
from semantic_cache.acceptance import Acceptance, AcceptanceError
from semantic_cache.seam import Hit, Miss, MissReason, Tier

_log = logging.getLogger("faregate")

_QUEUED = 32
"""Audits waiting; each keeps its request in memory."""
_NO_ERROR = 1e-12
_REFRESH_S = 5.0
"""How often states are read again: another worker, or `faregate calibrate`, may have changed them."""


class _NotAudited(Exception):
    """No verdict came of an audit; the message is one word for metrics."""


@dataclass(slots=True, kw_only=True)
class Watched:
    """One promise as this process sees it."""

    id: PromiseId
    stated: Stated
    audit: Audit | None
    state: State = State.PRIOR
    standing: Standing | None = None
    threshold: float | None = None
    dry_day: str = ""
    hits_before: int = 0
    tried_at: int = 0
    turns: int = 0
    """The longest request that a kind's verdicts speak of."""

    @property
    def can_gain(self) -> bool:
        """Whether a verdict may find the served answer better: only a judge model can."""
        return self.audit is not None and self.audit.judge is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Act:
    """What was made of a space's promises: whether they are breached, and the thresholds that verdicts set."""

    is_route_breached: bool = False
    is_cache_breached: bool = False
    route_threshold: float | None = None
    cache_threshold: float | None = None
    turns: int | None = None
    takes_tools: bool | None = None


@dataclass(slots=True, kw_only=True)
class _Desk:
    """A route: its lane as prepared and as it is served now, its promises, and the units since its last samples.

    `caches` and `lanes` go by the space of answers; without a semantic cache there is one, "".
    """

    prepared: Lane
    lanes: dict[str, Lane]
    route: Watched | None
    caches: dict[str, Watched]
    kinds: dict[Kind, Watched] = field(default_factory=dict)
    route_before: int = 0
    kind_before: Counter[Kind] = field(default_factory=Counter)
    acted_on: dict[str, _Act] = field(default_factory=dict)

    @property
    def promises(self) -> Iterator[Watched]:
        """The route's own, its caches', and those of kinds of request."""
        yield from (self.route,) if self.route is not None else ()
        yield from self.caches.values()
        yield from self.kinds.values()

    def space(self, tenant: str) -> str:
        """Return which of the route's caches is a tenant's."""
        return tenant if tenant in self.lanes else ""

    def lane(self, tenant: str) -> Lane:
        """Return the route as it serves a tenant now."""
        return self.lanes[self.space(tenant)]

    @property
    def threshold(self) -> float:
        """Return the judge's threshold in force, 0 without a judge."""
        own = max((judge.promise.threshold for judge in self.prepared.judges.values()), default=0.0)
        return max(own, self.route.threshold or 0.0) if self.route is not None else own


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One sampled answer; `…_before`: the units that it speaks for, of its route, its cache and its kind of request."""

    journey: Journey
    ask: Ask
    desk: _Desk
    space: str
    watched: Watched
    audit: Audit
    origin: Origin
    served: ModelId
    text: str
    kind: Kind
    route_before: int = 0
    hits_before: int = 0
    kind_before: int = 0
    attempts: list[int] = field(default_factory=list)


class BaselineOnly:
    """The strategy of a route whose promise is breached: its baseline answers, if it can; else what the route had."""

    def __init__(self, baseline: Candidate, former: Strategy) -> None:
        self._pinned = Pinned(baseline)
        self._former = former

    def needs_vector(self, ask: Ask) -> bool:  # noqa: ARG002 - the seam's signature
        """Tell that no embedding is looked at."""
        return False

    def foresight(self, ask: Ask) -> Foresight | None:  # noqa: ARG002 - the seam's signature
        """Return nothing."""
        return None

    def plan(
        self,
        ask: Ask,
        vector: NDArray[np.float32] | None,
        cached_tokens: Cached = NOTHING,
        foreseen: Foreseen | None = None,  # noqa: ARG002 - the seam's signature
    ) -> Plan:
        """Return the baseline; see `Strategy.plan`."""
        try:
            return replace(self._pinned.plan(ask, vector, cached_tokens), reason=PlanReason.BREACHED)
        except NoEligibleModel:
            plan = self._former.plan(ask, None, cached_tokens)
            return replace(plan, rungs=plan.rungs[-1:], reason=PlanReason.BREACHED)


class Auditor:
    """Samples served answers, audits them, and keeps the promises' states.

    Args:
        policy: the routes' promises.
        lanes: every route made ready.
        catalog: the models.
        candidates: the models as strategies see them.
        cashier: holds and books an audit's money.
        verdicts: where verdicts are kept; used from one thread at a time.
        embedder: for answers that no judge compares; used on `worker`.
        worker: runs what would hold up the event loop.
        acceptance: the semantic cache's; loaded where a recalibration tightened it.
        likeliest: finds the stored answer that a laxer cache would have served.
        clock: the time.
        draw: a uniform number in [0, 1), for samples and the order a judge sees.
        observe: told of every audit's attempts.
        count: told of every audit: route, origin, and what came of it.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        lanes: Mapping[str, Lane],
        catalog: Mapping[ModelId, CatalogModel],
        candidates: Mapping[ModelId, Candidate],
        cashier: Cashier,
        verdicts: Verdicts,
        embedder: Embedder,
        worker: Worker,
        acceptance: Callable[[], Acceptance],
        likeliest: Callable[[Journey, Ask], Awaitable[Hit | None]],
        clock: Clock,
        draw: Callable[[], float],
        observe: Callable[[Journey], None],
        count: Callable[[str, str, str], None],
    ) -> None:
        self._catalog = catalog
        self._candidates = candidates
        self._cashier = cashier
        self._verdicts = verdicts
        self._embedder = embedder
        self._worker = worker
        self._acceptance = acceptance
        self._likeliest = likeliest
        self._clock = clock
        self._draw = draw
        self._observe = observe
        self._count = count
        self._policy_digest = policy.digest
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(_QUEUED)
        self._desks = {
            name: _desk(lane, promises) for name, lane in lanes.items() if (promises := promises_of(lane, policy))
        }

    # --- on the request's way ---------------------------------------------------------------------------------------

    def lane_of(self, lane: Lane, tenant: TenantId) -> Lane:
        """Return a route's lane as its promises' states want it for a tenant."""
        desk = self._desks.get(lane.route.name)
        return lane if desk is None else desk.lane(tenant)

    def offer(self, journey: Journey, ask: Ask, body: bytes | None) -> None:
        """Count an answer that was sent, and sample it; returns at once.

        Args:
            journey: answered.
            ask: the parsed request.
            body: the whole answer as JSON; None where it is not known.
        """
        desk = self._desks.get(journey.lane.route.name) if journey.lane is not None else None
        if desk is None or journey.caller is None or not _is_unit(journey, desk.lane(journey.caller.tenant)):
            return
        space = desk.space(journey.caller.tenant)
        self._offer_grey(journey, ask, body, desk, space)
        origin, served = _origin(journey, desk.prepared)
        kind = kind_of(ask)
        watched = _watcher(desk, space, origin)
        is_breached = desk.route is not None and desk.route.state is State.BREACHED
        if is_breached and not (origin is Origin.TRIAL and _has_trials(desk)):
            return  # nobody knows what a laxer route would have said here
        if watched is not None and watched.audit is None:
            return  # answers of this kind are not looked at, so that others cannot speak for the whole
        is_unread = (body is None and journey.told is None) or ask.surface is Surface.EMBEDDINGS
        if watched is not None and (is_unread or self._is_idle(watched)):
            return
        audit = watched.audit if watched is not None else None
        if watched is None or audit is None or origin is None or self._draw() >= audit.share:
            desk.route_before += 1
            self._offer_unseen(journey, ask, body, desk, space)
            if watched is not None:
                watched.hits_before += origin is Origin.SEMANTIC
            return
        text = journey.told if journey.told is not None and origin is Origin.SMALL else _text(body or b"")
        if text is None:
            return
        job = _Job(
            journey=journey,
            ask=ask,
            desk=desk,
            space=space,
            watched=watched,
            audit=audit,
            origin=origin,
            served=served,
            text=text,
            route_before=desk.route_before,
            hits_before=watched.hits_before,
            kind=kind,
            kind_before=desk.kind_before[kind],
        )
        desk.route_before = desk.kind_before[kind] = 0
        if origin is Origin.SEMANTIC:
            watched.hits_before = 0
        self._queue.put_nowait(job)

    def _offer_grey(self, journey: Journey, ask: Ask, body: bytes | None, desk: _Desk, space: str) -> None:
        """Sample a fresh answer that a laxer cache might have spared; it is no unit, since none was served."""
        cache, missed = desk.caches.get(space), journey.lookups.get("semantic")
        if cache is None or cache.audit is None or not isinstance(missed, Miss) or journey.hit is not None:
            return
        text = _text(body or b"") if missed.reason is MissReason.DECLINED and not self._is_idle(cache) else None
        if text is None or self._draw() >= cache.audit.share:
            return
        self._queue.put_nowait(
            _Job(
                journey=journey,
                ask=ask,
                desk=desk,
                space=space,
                watched=cache,
                audit=cache.audit,
                origin=Origin.GREY,
                served=journey.path_models[-1],
                text=text,
                kind=kind_of(ask),
            )
        )

    def _offer_unseen(self, journey: Journey, ask: Ask, body: bytes | None, desk: _Desk, space: str) -> None:
        """Count a unit of its kind; sample it where its kind is not kept below the baseline, which then answered it.

        For the route's promise it is a unit like any that cannot have lost anything.
        """
        kind, plan = kind_of(ask), journey.plan
        watched = desk.kinds.get(kind)
        audit = watched.audit if watched is not None else None
        is_unseen = plan is not None and plan.reason is PlanReason.FORM and journey.hit is None
        if watched is None or audit is None or not is_unseen or not audit.recalibrate:
            desk.kind_before[kind] += 1
            return
        text = None if self._is_idle(watched) else _text(body or b"")
        if text is None:
            return  # as of answers that were served: not counted either
        if self._draw() >= audit.share:
            desk.kind_before[kind] += 1
            return
        self._queue.put_nowait(
            _Job(
                journey=journey,
                ask=ask,
                desk=desk,
                space=space,
                watched=watched,
                audit=audit,
                origin=Origin.UNSEEN,
                served=journey.path_models[-1],
                text=text,
                kind=kind,
                kind_before=desk.kind_before[kind],
            )
        )
        desk.kind_before[kind] = 0

    def _is_idle(self, watched: Watched) -> bool:
        return self._queue.full() or watched.dry_day == self._today()

    # --- what promises say ------------------------------------------------------------------------------------------

    def watched(self) -> Sequence[tuple[PromiseId, Stated, State, Standing | None]]:
        """Return every promise that is watched, with how it stands as far as this process knows."""
        return [(w.id, w.stated, w.state, w.standing) for desk in self._desks.values() for w in desk.promises]

    def thresholds(self) -> Sequence[tuple[PromiseId, float]]:
        """Return what verdicts set, of every promise that was calibrated by them."""
        return [(w.id, w.threshold) for d in self._desks.values() for w in d.promises if w.threshold is not None]

    # --- the task ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Audit until the block ends; what is queued then is dropped, and what runs is booked."""
        await self.refresh()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._run()) if self._desks else None
            try:
                yield
            finally:
                if task is not None:
                    task.cancel()

    async def refresh(self) -> None:
        """Read what became of promises elsewhere, and serve every route accordingly.

        Raises:
            sqlite3.Error: the verdicts cannot be read; nothing changes.
        """
        await asyncio.to_thread(self._read_states)
        for desk in self._desks.values():
            self._act(desk)

    async def settled(self) -> None:
        """Wait until everything sampled so far has been audited."""
        await self._queue.join()

    async def _run(self) -> None:
        due = self._clock.monotonic() + _REFRESH_S
        while True:
            job = None
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - self._clock.monotonic())):
                    job = await self._queue.get()
            if job is not None:
                try:
                    await self._audit(job)
                finally:
                    self._queue.task_done()
            if self._clock.monotonic() >= due:
                with suppress(sqlite3.Error):
                    await self.refresh()
                due = self._clock.monotonic() + _REFRESH_S

    async def _audit(self, job: _Job) -> None:
        route = job.desk.prepared.route.name
        try:
            row = await _JUDGED_BY.get(job.origin, Auditor._judge)(self, job)
            await asyncio.to_thread(self._conclude, job, row)
            self._act(job.desk)
            result = row.how
        except _NotAudited as error:
            result = str(error)
        except (BackendError, TimeoutError):
            result = "upstream_failed"
        except (LedgerUnavailable, BudgetsUnready):
            result = "unpayable"
        except (WorkerFull, EmbedderError, AcceptanceError):
            result = "not_embedded"
        except sqlite3.Error as error:
            result = "not_stored"
            _log.error("verdicts_failed", extra={"route": route, "error": str(error)})
        except Exception as error:  # noqa: BLE001 - the last resort: answers must go on when looking at them fails
            result = "failed"
            _log.error("audit_failed", extra={"error": type(error).__name__, "where": places(error)})
        self._count(route, job.origin, result)

    async def _judge(self, job: _Job) -> VerdictRow:
        baseline = self._catalog[job.desk.prepared.baseline]
        whole = await self._ask(job, _unstreamed(job.ask), baseline)
        if whole.finish_reason not in {"stop", "tool_calls", "function_call"}:
            raise _NotAudited("baseline_unfinished")
        said = told_of(whole.payload) or whole.content
        found = await self._compare(job, served=job.text, baseline=said)
        hit, verdict = job.journey.hit, job.journey.verdict
        score = hit.score if hit is not None else verdict.confidence if verdict is not None else None
        return self._row(job, found, served=job.served, score=score)

    async def _try(self, job: _Job) -> VerdictRow:
        """Answer a request whose baseline was served by its first rung, too, and judge that as if it were served."""
        lane, ask = _for_trial(job), job.ask
        vector = (await self._worker.run(self._embedder.embed, [ask.last_user_text]))[0]
        foresight = lane.strategy.foresight(ask)
        foreseen = None if foresight is None else await self._worker.run(foresight, ask.last_user_text, vector)
        rung = lane.strategy.plan(ask, vector, NOTHING, foreseen).rungs[0]
        judge = lane.judges.get(rung.model)
        if not rung.is_judged or judge is None:
            # Nothing small would have been tried: nothing is lost at any threshold.
            return self._row(job, Agreement(loss=0.0, how=How.NOT_TRIED), served=lane.baseline, score=None)
        model = self._catalog[rung.model]
        top_logprobs = TOP_LOGPROBS if judge.signal is Signal.LOGPROBS else None
        whole = await self._ask(job, _unstreamed(ask), model, top_logprobs=top_logprobs)
        evidence = as_served(ask, whole, lane.route.stream.holdback_tokens, is_whole=judge.reads_whole)
        if judge.wants_probe(evidence):
            has_logprobs = Capability.LOGPROBS in model.capabilities
            wants = wants_logprobs(judge.signal, has_logprobs=has_logprobs)
            again = probe_ask(judge.signal, ask, evidence.text, has_logprobs=has_logprobs)
            reply = await self._ask(job, again, model, top_logprobs=TOP_LOGPROBS if wants else None)
            probe = await read_probe(judge.signal, evidence.text, reply, has_logprobs=has_logprobs, embed=self._embed)
            evidence = replace(evidence, probe=probe)
        verdict = weigh(judge, evidence, task=rung.task, told=None if foreseen is None else foreseen.told)
        if verdict.window == "none" or verdict.is_barred:
            found = Agreement(loss=0.0, how=How.NOT_TRIED)  # it would not be kept at any threshold
        else:
            found = await self._compare(job, served=told_of(whole.payload) or whole.content, baseline=job.text)
        return self._row(job, found, served=rung.model, score=verdict.confidence)

    async def _judge_grey(self, job: _Job) -> VerdictRow:
        """Compare the fresh answer with the stored one that a laxer cache would have served in its place."""
        near = await self._likeliest(job.journey, job.ask)
        stored = _text(near.entry.payload) if near is not None else None
        if near is None or stored is None:
            raise _NotAudited("no_candidate")
        found = await self._compare(job, served=stored, baseline=job.text)
        row = self._row(job, found, served=near.entry.model, score=near.score)
        return replace(row, similarity=near.similarity)

    def _row(self, job: _Job, found: Agreement, *, served: ModelId, score: float | None) -> VerdictRow:
        lane, journey, hit = job.desk.prepared, job.journey, job.journey.hit
        if journey.caller is None:
            raise AssertionError("an answered request has a caller")
        route, cache = job.desk.route, job.desk.caches.get(job.space)
        return VerdictRow(
            route=lane.route.name,
            setup=route.id.setup if route is not None and route.audit is not None else "",
            cache_setup=cache.id.setup if cache is not None and cache.audit is not None else "",
            origin=job.origin,
            request_id=journey.request_id,
            tenant=journey.caller.tenant,
            served=served,
            baseline=lane.baseline,
            probability=job.audit.share,
            route_before=job.route_before,
            hits_before=job.hits_before,
            loss=found.loss,
            how=found.how,
            confidence=score,
            similarity=hit.similarity if hit is not None else None,
            policy_digest=self._policy_digest,
            judged_at_us=microseconds(self._clock.now()),
            kind=job.kind,
            kind_before=job.kind_before,
            turns=turns_of(job.ask),
        )

    async def _compare(self, job: _Job, *, served: str, baseline: str) -> Agreement:
        """Return what one answer lost against another, by the surest proxy there is."""
        if (found := by_text(served, baseline)) is not None:
            return found
        if job.audit.judge is None:
            vectors = await self._embed([served, baseline])
            return by_vectors(served, baseline, vectors, least=job.audit.agreement)
        is_swapped = self._draw() < 0.5
        body = judge_body(job.ask, served, baseline, is_swapped=is_swapped)
        reply = await self._ask(job, parse_ask(Surface.CHAT, body), self._catalog[job.audit.judge])
        if (found := judged(reply.content, is_swapped=is_swapped)) is None:
            raise _NotAudited("judge_unclear")
        return found

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._worker.run(self._embedder.embed, list(texts))

    # --- money ------------------------------------------------------------------------------------------------------

    async def _ask(self, job: _Job, ask: Ask, model: CatalogModel, *, top_logprobs: int | None = None) -> Whole:
        """Return a model's answer, paid for as an attempt of the audited request.

        Raises:
            BackendError: there is none.
            LedgerUnavailable, BudgetsUnready: it cannot be paid for.
            _NotAudited: the day's money or a budget has no room for it.
        """
        journey = shadow(job.journey, ask)
        quote = self._cashier.quote(journey, model)
        which, day = job.watched.id, self._today()
        # A day's money is the route's for all its kinds of request together.
        subject = which.subject if which.subject.kind is None else Subject.ROUTE
        most = max(quote.upper_bound_nusd, quote.worst_nusd)
        cap = int(job.audit.usd_per_day * NANO_PER_USD)
        if not await asyncio.to_thread(self._verdicts.reserve, day, which.route, subject, most, cap_nusd=cap):
            job.watched.dry_day = day
            raise _NotAudited("day_is_spent")
        attempt = Attempt(
            number=len(job.journey.attempts) + len(job.attempts),
            model=model,
            started_at=self._clock.now(),
            started=self._clock.monotonic(),
            asks_logprobs=False,
            quote=quote,
            aside=ChargeKind.AUDIT,
        )
        job.attempts.append(attempt.number)
        try:
            aside = Aside(journey=journey, ask=ask, attempt=attempt, top_logprobs=top_logprobs)
            return await buy(aside, self._cashier, kind=ChargeKind.AUDIT)
        except NoRoom as error:
            raise _NotAudited("budget_is_spent") from error
        finally:
            # Cancelled with the gateway's end as well: what was generated is booked.
            attempt.end(ChargeKind.AUDIT if journey.attempts else None, self._clock.monotonic())
            self._cashier.settle(journey)
            self._observe(journey)
            rest = most - attempt.cost_nusd
            await asyncio.to_thread(self._verdicts.give_back, day, which.route, subject, rest)

    # --- states -----------------------------------------------------------------------------------------------------

    def _conclude(self, job: _Job, row: VerdictRow) -> None:
        """Store a verdict and what follows from it; on a thread."""
        self._verdicts.add(row)
        cache = job.desk.caches.get(job.space)
        for watched in (job.desk.route, cache if row.origin in {Origin.SEMANTIC, Origin.GREY} else None):
            if watched is None or watched.audit is None or row.origin is Origin.UNSEEN:
                continue
            if row.origin not in NOT_SERVED:
                self._assess(watched)
            self._recalibrate(watched)
        kind = job.desk.kinds.get(job.kind)
        if kind is not None and kind.audit is not None and row.origin in {Origin.SMALL, Origin.UNSEEN}:
            kind.turns = self._verdicts.longest(kind.id, job.kind)
            self._assess(kind, threshold=job.desk.threshold)

    def _assess(self, watched: Watched, *, threshold: float = 0.0) -> None:
        standing = standing_of(
            self._verdicts, watched.id, watched.stated, can_gain=watched.can_gain, threshold=threshold
        )
        former = self._verdicts.state(watched.id)
        watched.state, watched.standing = standing.state, standing
        if standing.state is former:
            return
        detail = (
            f"{standing.n} verdicts over {standing.units} answers put the loss between {standing.low:.4f} and "
            f"{standing.bound:.4f}; promised: {watched.stated.max_loss:g} at {watched.stated.confidence:.0%}"
        )
        self._verdicts.note(Event(promise=watched.id, event=standing.state, detail=detail, at=self._clock.now()))
        told = _log.error if standing.state is State.BREACHED else _log.info
        told(
            f"promise_{standing.state}",
            extra={"route": watched.id.route, "subject": watched.id.subject, "detail": detail},
        )

    def _base(self, watched: Watched) -> float:
        """Return the threshold a cache began with, 1 where it served nothing; a route's is its judge's to keep."""
        if watched.id.subject is Subject.ROUTE:
            return 0.0
        found = self._acceptance().threshold(watched.stated.max_loss)
        return 1.0 if found is None else found

    def _recalibrate(self, watched: Watched) -> None:
        """Take the loosest threshold that keeps a promise by its verdicts, if it needs one; on a thread."""
        if watched.audit is None or not watched.audit.recalibrate or watched.standing is None:
            return
        verdicts = self._verdicts.scored(watched.id)
        grey = sum(one.origin is Origin.GREY for one in verdicts)
        if not is_due(watched.standing, watched.stated, verdicts=len(verdicts), tried_at=watched.tried_at, grey=grey):
            return
        base = self._base(watched)
        found = from_verdicts(watched.id, verdicts, watched.stated, can_gain=watched.can_gain, base=base)
        if found.threshold is None or not found.kept or not self._is_worth(watched, found.threshold, base):
            watched.tried_at = len(verdicts)
            return
        former = "the calibration's own" if watched.threshold is None else f"{watched.threshold:g}"
        detail = (
            f"from {former} to {found.threshold:g} by {found.n} verdicts, {found.kept} of them kept; the loss is below "
            f"{found.bound:.4f}; promised: {watched.stated.max_loss:g} at {watched.stated.confidence:.0%}"
        )
        event = Event(
            promise=watched.id, event=RECALIBRATED, detail=detail, at=self._clock.now(), threshold=found.threshold
        )
        self._verdicts.note(event)
        watched.state, watched.threshold, watched.tried_at = State.PRIOR, found.threshold, 0
        watched.standing = standing_of(self._verdicts, watched.id, watched.stated, can_gain=watched.can_gain)
        _log.warning(
            "promise_recalibrated",
            extra={"route": watched.id.route, "subject": watched.id.subject, "detail": detail},
        )

    def _is_worth(self, watched: Watched, threshold: float, base: float) -> bool:
        """Tell whether a threshold is one to move to: a breach ends with any, else a route's only rises."""
        if watched.state is State.BREACHED:
            return True
        present = base if watched.threshold is None else watched.threshold
        if watched.id.subject is Subject.ROUTE:
            return threshold > present
        # Between two steps of the acceptance thresholds are one, and a new series would begin for nothing.
        now, then = (self._error_for(watched.stated.max_loss, each) or 0.0 for each in (present, threshold))
        is_broken = watched.standing is not None and (watched.standing.mean or 0.0) > watched.stated.max_loss
        return then < now if is_broken else then > now

    def _read_states(self) -> None:
        """Read every promise's state; on a thread."""
        for desk in self._desks.values():
            for watched in desk.promises:
                state = self._verdicts.state(watched.id)
                if watched.standing is None or state is not watched.state:
                    watched.standing = standing_of(
                        self._verdicts,
                        watched.id,
                        watched.stated,
                        can_gain=watched.can_gain,
                        threshold=desk.threshold,
                    )
                watched.state = state
                watched.threshold = self._verdicts.threshold(watched.id)
                if (kind := watched.id.subject.kind) is not None:
                    watched.turns = self._verdicts.longest(watched.id, kind)

    def _act(self, desk: _Desk) -> None:
        """Serve a route as its promises' states want it."""
        route = desk.route
        for space in desk.lanes:
            cache = desk.caches.get(space)
            act = _Act(
                is_route_breached=route is not None and route.state is State.BREACHED,
                is_cache_breached=cache is not None and cache.state is State.BREACHED,
                route_threshold=route.threshold if route is not None else None,
                cache_threshold=cache.threshold if cache is not None else None,
                turns=_turns_taken(desk),
                takes_tools=_takes_tools(desk),
            )
            if act == desk.acted_on.get(space, _Act()):
                continue
            desk.lanes[space], desk.acted_on[space] = self._as_acted(desk.prepared, act), act
            desk.route_before = 0
            desk.kind_before.clear()
            if cache is not None:
                cache.hits_before = 0

    def _as_acted(self, lane: Lane, act: _Act) -> Lane:
        if act.turns is not None or act.takes_tools is not None:
            lane = _taking(lane, turns=act.turns, tools=act.takes_tools)
        if act.route_threshold is not None:
            lane = _at_least(lane, act.route_threshold)
        semantic = lane.route.cache.semantic
        if semantic is not None and act.cache_threshold is not None:
            max_error = self._error_for(semantic.max_error, act.cache_threshold)
            lane = replace(lane, route=_with_semantic(lane.route, max_error))
        if act.is_cache_breached:
            # No threshold keeps so small an error: nothing is served, and answers go on being stored and compared.
            lane = replace(lane, route=_with_semantic(lane.route, _NO_ERROR))
        if act.is_route_breached:
            lane = replace(
                lane,
                route=_with_semantic(lane.route, None),
                strategy=BaselineOnly(self._candidates[lane.baseline], lane.strategy),
                judges={},
                # What the exact cache holds of smaller models is not the baseline's answer.
                answers=(*lane.answers, "baseline only"),
            )
        return lane

    def _error_for(self, max_error: float, threshold: float) -> float | None:
        """Return the loosest error whose acceptance threshold is no lower than a threshold; None: there is none."""
        acceptance = self._acceptance()
        bounds = {max_error, *(step.upper_bound for step in acceptance.calibration.steps)}
        for error in sorted(bounds, reverse=True):
            found = acceptance.threshold(error)
            if found is not None and found >= threshold:
                return error
        return None

    def _today(self) -> str:
        return self._clock.now().astimezone(UTC).date().isoformat()


_JUDGED_BY: Final = {Origin.TRIAL: Auditor._try, Origin.UNSEEN: Auditor._try, Origin.GREY: Auditor._judge_grey}


def promises_of(lane: Lane, policy: Policy) -> list[Watched]:
    """Return what a route promises and can keep or break: nothing without a rung below its baseline or a cache.

    A cache's promise is each tenant's own, where each has its own answers.
    """
    route = lane.route
    quality, semantic = route.quality, route.cache.semantic
    promises: list[Watched] = []
    if quality is not None:
        # A new calibration is a new promise, also where it happens to choose the same threshold.
        judged = [(model, judge.promise) for model, judge in lane.judges.items()]
        rests_on = [repr((model, p.threshold, p.bound, p.mean_loss, p.n)) for model, p in judged]
        promises.append(
            Watched(
                id=PromiseId(route.name, Subject.ROUTE, _digest(Subject.ROUTE, *lane.answers, *rests_on)),
                stated=Stated(max_loss=quality.max_loss, confidence=quality.confidence),
                audit=quality.audit,
            )
        )
        promises += _by_kind(lane, promises[-1])
    if semantic is None:
        return promises
    fallback = quality.audit if quality is not None else None
    # Another acceptance or verifier serves other pairs: what verdicts said of the former's speaks for neither.
    judged_by = (lane.acceptance, *(() if lane.verifier is None else (lane.verifier.dump(),)))
    for space in _spaces(route, policy):
        served = (*lane.answers, repr(semantic.max_error), *judged_by)
        setup = _digest(Subject.SEMANTIC, route.cache.namespace or space, *served)
        promises.append(
            Watched(
                id=PromiseId(route.name, Subject.SEMANTIC, setup, space),
                stated=Stated(max_loss=semantic.max_error, confidence=semantic.confidence),
                audit=semantic.audit or fallback,
            )
        )
    return promises


def _by_kind(lane: Lane, own: Watched) -> list[Watched]:
    """Return the promises of kinds of request: of routes with one judge, whose trials tell what it makes of them."""
    if own.audit is None or _calibrated(lane) is None:
        return []
    return [
        Watched(id=replace(own.id, subject=subject), stated=own.stated, audit=own.audit)
        for subject in Subject
        if subject.kind is not None
    ]


def _calibrated(lane: Lane) -> Judge | None:
    """Return the one calibrated judge of a lane; None where it has several, or an artefact's."""
    judges = tuple(lane.judges.values())
    judge = judges[0] if len(judges) == 1 and isinstance(lane.strategy, Cascade) else None
    return judge if isinstance(judge, Judge) else None


def kind_of(ask: Ask) -> Kind:
    """Return what form a request has, as far as calibrations tell forms apart."""
    is_plain = ask.surface is Surface.CHAT and ask.choices == 1 and all(message.is_plain for message in ask.messages)
    turns, has_tools = turns_of(ask), Capability.TOOLS in ask.needs
    if not is_plain or turns < 1 or (turns > 1 and has_tools):
        return Kind.OTHER
    if has_tools:
        return Kind.TOOLS
    return Kind.SINGLE if turns == 1 else Kind.CONVERSATION


def is_kept_small(lane: Lane, kind: Kind, state: State) -> bool:
    """Tell whether requests of a kind may be answered below the baseline: certified, or calibrated and not broken."""
    judged = lane.strategy.judged if isinstance(lane.strategy, Cascade) else ()
    is_calibrated = {
        Kind.SINGLE: bool(judged),
        Kind.CONVERSATION: any(each.turns > 1 for each in judged),
        Kind.TOOLS: any(each.judge.speaks_for_tools for each in judged),
    }
    return state is State.CERTIFIED or (is_calibrated.get(kind, False) and state is not State.BREACHED)


def _turns_taken(desk: _Desk) -> int | None:
    """Return the longest conversation that is judged as verdicts have it; None: as the calibration has it."""
    kind = desk.kinds.get(Kind.CONVERSATION)
    judge = _calibrated(desk.prepared)
    if kind is None or judge is None or kind.state is State.PRIOR:
        return None
    if kind.state is State.BREACHED:
        return 1
    return kind.turns if kind.turns > judge.turns else None


def _takes_tools(desk: _Desk) -> bool | None:
    """Tell whether answers to requests with tools are judged by the verdicts; None: as the calibration has it."""
    kind = desk.kinds.get(Kind.TOOLS)
    judge = _calibrated(desk.prepared)
    if kind is None or judge is None or kind.state is State.PRIOR:
        return None
    is_open = kind.state is State.CERTIFIED
    return None if is_open is judge.speaks_for_tools else is_open


def _taking(lane: Lane, *, turns: int | None, tools: bool | None) -> Lane:
    """Return a lane that judges other forms of request than its calibration has seen."""
    judge = _calibrated(lane)
    if judge is None or not isinstance(lane.strategy, Cascade):
        return lane
    judges = lane.judges if tools is None else dict.fromkeys(lane.judges, judge.taking_tools(tools))
    # What is kept of a form that is closed again is not served from a cache.
    answers = (*lane.answers, f"turns={turns} tools={tools}")
    return replace(lane, judges=judges, strategy=lane.strategy.taking(turns=turns, tools=tools), answers=answers)


def _for_trial(job: _Job) -> Lane:
    """Return the lane by which a first rung is tried: of a kind that is not kept below the baseline, as if it were."""
    if job.origin is not Origin.UNSEEN:
        return job.desk.prepared
    if job.kind is Kind.TOOLS:
        return _taking(job.desk.prepared, turns=None, tools=True)
    return _taking(job.desk.prepared, turns=turns_of(job.ask), tools=None)


def _spaces(route: Route, policy: Policy) -> list[str]:
    """Return whose answers are kept apart: every tenant's that may come here, or one space for all, ""."""
    if route.cache.namespace is not None:
        return [""]
    return [tenant for tenant in policy.tenant_ids if route.match.tenant in {None, tenant}]


def _desk(lane: Lane, promises: Sequence[Watched]) -> _Desk:
    caches = {each.id.space: each for each in promises if each.id.subject is Subject.SEMANTIC}
    own = next((each for each in promises if each.id.subject is Subject.ROUTE), None)
    kinds = {kind: each for each in promises if (kind := each.id.subject.kind) is not None}
    return _Desk(prepared=lane, lanes=dict.fromkeys((*caches, ""), lane), route=own, caches=caches, kinds=kinds)


def standing_of(
    verdicts: Verdicts, which: PromiseId, stated: Stated, *, can_gain: bool, threshold: float = 0.0
) -> Standing:
    """Return how a promise stands by what is stored; a kind of request's at the judge's threshold in force."""
    kind = which.subject.kind
    if kind is None:
        series = verdicts.series(which, can_gain=can_gain)
    else:
        series = verdicts.series_of(which, kind, threshold=threshold, can_gain=can_gain)
    return assess(verdicts.state(which), series, stated, verdicts.proxy(which, stated.confidence))


def _is_unit(journey: Journey, lane: Lane) -> bool:
    """Tell whether an answer is one that its route gave by itself, as its promises' states want it (`lane`)."""
    if journey.lane is not lane or journey.stood_in_for is not None:
        return False
    if journey.hit is not None and journey.hit.tier is Tier.FLIGHT:
        return False  # another request's answer, which was counted there
    return journey.plan is None or journey.plan.reason is not PlanReason.BUDGET_DEGRADED


def _at_least(lane: Lane, threshold: float) -> Lane:
    """Return a lane that keeps no answer of a confidence below `threshold`."""
    judges = {model: judge.at_least(threshold) for model, judge in lane.judges.items()}
    strategy = lane.strategy
    if isinstance(strategy, Cascade | ByPrompt):
        strategy = strategy.at_least(threshold)
    # What a lower threshold kept is not served any more, from a cache either.
    return replace(lane, judges=judges, strategy=strategy, answers=(*lane.answers, f"from {threshold:g}"))


def _origin(journey: Journey, lane: Lane) -> tuple[Origin | None, ModelId]:
    """Return what may have lost something, None for an answer that cannot have; and whose answer was served."""
    if journey.hit is not None:
        served = journey.hit.entry.model
        if journey.hit.tier is Tier.SEMANTIC:
            return Origin.SEMANTIC, served
        return (None if served == lane.baseline else Origin.EXACT), served
    served = journey.path_models[-1]
    if journey.plan is not None and journey.plan.reason is PlanReason.BREACHED:
        return Origin.TRIAL, served
    return (None if served == lane.baseline else Origin.SMALL), served


def _watcher(desk: _Desk, space: str, origin: Origin | None) -> Watched | None:
    """Return the promise whose audits look at such answers; None for answers that cannot have lost anything."""
    if origin is None:
        return None
    cache = desk.caches.get(space)
    return cache if origin is Origin.SEMANTIC and cache is not None else desk.route


def _has_trials(desk: _Desk) -> bool:
    """Tell whether a breached route's first rung is tried in the background; of several rungs it is not known how."""
    audit = desk.route.audit if desk.route is not None else None
    return audit is not None and audit.recalibrate and len(desk.prepared.judges) == 1


def _unstreamed(ask: Ask) -> Ask:
    fields = {name: value for name, value in ask.fields.items() if name not in {"stream", "stream_options"}}
    return msgspec.structs.replace(ask, fields=fields, is_stream=False)


def as_served(ask: Ask, whole: Whole, window_tokens: int, *, is_whole: bool) -> Evidence:
    """Return what a judge would have seen of an answer: of a stream that it need not read whole, its window.

    Args:
        ask: the client's request.
        whole: the answer, asked for without a stream.
        window_tokens: how much of a stream is held back.
        is_whole: the judge reads nothing else.
    """
    answering = Answering(ask)
    answering.feed(whole)
    evidence = answering.evidence()
    is_windowed = ask.is_stream and not (is_whole or ask.wants_json or evidence.has_tools)
    if not is_windowed or len(evidence.tokens) <= window_tokens:
        return evidence
    return replace(evidence, tokens=evidence.tokens[:window_tokens], is_finished=False, finish_reason=None)


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []


def _text(body: bytes) -> str | None:
    """Return the text of an answer's first choice, or its calls; None where it has none that can be compared."""
    if called := told_of(body):
        return called
    try:
        choices = msgspec.json.decode(body, type=_Answer).choices
    except msgspec.MsgspecError:
        return None
    if not choices:
        return None
    message = choices[0].message
    content = choices[0].text if message is None else message.content
    if isinstance(content, list):
        return "\n".join(part.text for part in content if part.text)
    return content


def _with_semantic(route: Route, max_error: float | None) -> Route:
    """Return a route whose semantic tier promises another error, or is closed (None)."""
    tier = route.cache.semantic
    if tier is not None:
        tier = None if max_error is None else tier.model_copy(update={"max_error": max_error})
    return route.model_copy(update={"cache": route.cache.model_copy(update={"semantic": tier})})


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
