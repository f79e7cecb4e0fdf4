"""Asks the verifier: may the answer to a doubtful neighbour serve? At once where that pays, else for the next time.

- What a model said of a pair is kept in the cache's store, under a digest of both texts, their partition and tenant,
  the model and the wording; a pair is asked about once in KEPT, and by each tenant for itself.
- A request waits for the verifier only where its expected time and cost are well below those of the answer it may
  save (`WELL_BELOW`), both as measured in this process. Until there is a measurement, and where it is not worth the
  wait, the question is put in the background, and what is said serves the next request for the pair.
- Every question is an attempt of kind `verifier` of the request it was put for: held, journalled, drawn from the
  request's budgets and from the policy's `usd_per_day`. One put while the request waited is part of its cost.
- Whatever fails is a miss: no answer, no clear word, no money, no room in the queue.
- What it lets pass is a semantic hit like any other: its errors count in the route's `max_error`, and audits look on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from backends.asks import parse_ask
from backends.errors import BackendError
from backends.prices import NANO_PER_USD
from backends.words import ModelId, Provenance, RequestId, Surface, Usage
from gateway.asides import Aside, NoRoom, buy, shadow
from gateway.errors import places
from gateway.journey import Attempt, CatalogModel, Journey
from gateway.ledger.budgets import BudgetsUnready
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.rows import ChargeKind
from gateway.settlement import usage_of
from policies.schema import Patience, Verifier
from semantic_cache.seam import Entry, Hit, HitReason, Miss, Tier
from semantic_cache.verifier import Point, VerifierCalibration, pair_key, request_for, score_of

if TYPE_CHECKING:
    from backends.clock import Clock
    from backends.words import Ask
    from gateway.caching import Caches
    from gateway.journey import Caller, Lane
    from gateway.settlement import Cashier
    from gateway.verdicts import Verdicts
    from semantic_cache.seam import Grey

_log = logging.getLogger("faregate")

KEPT: Final = timedelta(days=30)
"""How long what was said of a pair is kept: texts do not change, but operators may want a model asked anew some day."""

WELL_BELOW: Final = 1 / 3
"""The share of the answer's expected time and cost that a verifier may take for a request to wait for it: two of three
doubtful pairs are told no, and for those the wait is lost."""

_QUEUED: Final = 32
_LATE_NUMBER: Final = 1_000
"""The attempt's number of a question put after the answer: audits of the same request count on from its last one."""

_RECENT: Final = 0.2
"""The weight of the latest measurement in a moving average: some ten of them are remembered."""

_UNSAID: Final = Usage(input_tokens=0, input_provenance=Provenance.UNKNOWN, output_provenance=Provenance.UNKNOWN)
_SPENDER: Final = "verifier"
"""Whose money a day's is, in the file that keeps it beside the audits'."""


class _NotAsked(Exception):
    """Nothing was said of a pair; the message is one word for metrics."""


class _Said(msgspec.Struct):
    """What is stored of a pair: the model's log-odds, None when it did not say."""

    log_odds: float | None


@dataclass(slots=True)
class Pace:
    """What something takes: moving averages of seconds and nano-dollars, None until they were measured."""

    seconds: float | None = None
    nusd: float | None = None

    def learn(self, seconds: float, nusd: float) -> None:
        """Take a measurement in."""
        self.seconds = seconds if self.seconds is None else self.seconds + _RECENT * (seconds - self.seconds)
        self.nusd = nusd if self.nusd is None else self.nusd + _RECENT * (nusd - self.nusd)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A doubtful neighbour of a request, and what decides about it."""

    journey: Journey
    lane: Lane
    caller: Caller
    settings: Verifier
    calibration: VerifierCalibration
    point: Point
    model: CatalogModel
    asked: str
    grey: Grey
    key: bytes

    @property
    def stored(self) -> str:
        """The question that the stored answer answered."""
        return self.grey.entry.asked


@dataclass(slots=True, kw_only=True)
class _Questions:
    """Questions for the background: of requests that still run, those that wait, and the keys of what is queued."""

    put_off: dict[RequestId, _Pair] = field(default_factory=dict)
    queue: asyncio.Queue[_Pair] = field(default_factory=lambda: asyncio.Queue(_QUEUED))
    keys: set[bytes] = field(default_factory=set)


class Verifying:
    """Asks models of the catalog about doubtful neighbours.

    Args:
        catalog: the models.
        caches: where answers are, and what was said of pairs.
        cashier: holds and books a question's money.
        money: keeps the day's money for all workers; used by this object alone.
        clock: the time.
        observe: told of every question's attempt that its request's row does not have.
        count: told of every doubtful neighbour: route, and what came of it.
    """

    def __init__(
        self,
        *,
        catalog: Mapping[ModelId, CatalogModel],
        caches: Caches,
        cashier: Cashier,
        money: Verdicts,
        clock: Clock,
        observe: Callable[[Journey], None],
        count: Callable[[str, str], None],
    ) -> None:
        self._catalog = catalog
        self._caches = caches
        self._cashier = cashier
        self._money = money
        self._money_turn = asyncio.Lock()
        self._unneeded: dict[tuple[str, str], int] = {}
        self._clock = clock
        self._observe = observe
        self._count = count
        self._questions = _Questions()
        self._asking: dict[ModelId, Pace] = {}
        self._answering: dict[str, Pace] = {}

    # --- on the request's way ---------------------------------------------------------------------------------------

    async def confirm(self, journey: Journey, ask: Ask) -> Hit | None:
        """Return the hit that a doubtful neighbour becomes by the verifier's word; None leaves the miss as it is.

        Args:
            journey: after the semantic lookup.
            ask: the parsed request.
        """
        pair = self._pair(journey, ask)
        if pair is None:
            return None
        with journey.step("verify"):
            try:
                said, how = await self._word_on(pair)
            except _NotAsked as error:
                self._count(pair.lane.route.name, str(error))
                return None
        score = 0.0 if said is None else pair.calibration.score(said, pair.grey.score)
        is_served = said is not None and pair.point.threshold is not None and score >= pair.point.threshold
        self._count(pair.lane.route.name, f"{how}_{'yes' if is_served else 'unclear' if said is None else 'no'}")
        if not is_served:
            return None
        hit = msgspec.structs.replace(_hit(pair.grey), score=score, reason=HitReason.VERIFIED)
        journey.lookups["semantic"] = hit
        return hit

    def conclude(self, journey: Journey) -> None:
        """Take a finished request's question up, and note what its answer took, so that a verifier can be weighed."""
        pair = self._questions.put_off.pop(journey.request_id, None)
        if pair is not None and journey.is_answered:
            self._queue(pair)
        lane = journey.lane
        if lane is None or lane.verifier is None or journey.hit is not None or not journey.is_answered:
            return
        served = journey.served
        if served is None or served.kind is not ChargeKind.ANSWER:
            return
        tokens = max(1, usage_of(journey, served).total_output_tokens)
        paid = sum(attempt.cost_nusd for attempt in journey.attempts if attempt.kind is not ChargeKind.VERIFIER)
        pace = self._answering.setdefault(lane.route.name, Pace())
        pace.learn(journey.waited_s / tokens, paid / tokens)

    def _pair(self, journey: Journey, ask: Ask) -> _Pair | None:
        """Return the neighbour to ask about; None where there is none, or asking could not lift it over the bar."""
        lane, found, caller, keys = journey.lane, journey.lookups.get("semantic"), journey.caller, journey.keys
        semantic = lane.route.cache.semantic if lane is not None else None
        if lane is None or caller is None or keys is None or semantic is None or semantic.verifier is None:
            return None
        grey = found.grey if isinstance(found, Miss) else None
        if lane.verifier is None or grey is None or not self._caches.is_fresh(journey, _hit(grey)):
            return None
        point = lane.verifier.point(semantic.max_error)
        if point is None or not lane.verifier.may_serve(grey.score, point):
            self._count(lane.route.name, "hopeless")
            return None
        model = self._catalog[semantic.verifier.model]
        whose = keys.partition + hashlib.sha256(caller.tenant.encode()).digest()
        known_as = f"{model.variant}\0{semantic.verifier.weights}"
        return _Pair(
            journey=journey,
            lane=lane,
            caller=caller,
            settings=semantic.verifier,
            calibration=lane.verifier,
            point=point,
            model=model,
            asked=ask.last_user_text,
            grey=grey,
            key=pair_key(ask.last_user_text, grey.entry.asked, whose=whose, model=known_as),
        )

    async def _word_on(self, pair: _Pair) -> tuple[float | None, str]:
        """Return what the model says, or said, of a pair, and where that is from.

        Raises:
            _NotAsked: nothing is known now.
        """
        stored = await self._caches.recall(pair.journey, pair.key)
        if stored is not None:
            return msgspec.json.decode(stored.payload, type=_Said).log_odds, "remembered"
        if not self._pays_to_wait(pair):
            # Put when the answer is there: on a model's only slot the question would keep the answer waiting.
            self._questions.put_off[pair.journey.request_id] = pair
            raise _NotAsked("put_off")
        try:
            async with asyncio.timeout(pair.settings.timeout_ms / 1e3):
                with pair.journey.waiting():
                    return await self._ask(pair, is_late=False), "asked"
        except TimeoutError as error:
            raise _NotAsked("too_slow") from error
        except BackendError as error:
            raise _NotAsked("upstream_failed") from error
        except (LedgerUnavailable, BudgetsUnready, sqlite3.Error) as error:
            raise _NotAsked("unpayable") from error

    def _pays_to_wait(self, pair: _Pair) -> bool:
        if pair.settings.wait is not Patience.AUTO:
            return pair.settings.wait is Patience.ALWAYS
        asking = self._asking.get(pair.model.id, Pace())
        answering = self._answering.get(pair.lane.route.name, Pace())
        if asking.seconds is None or asking.nusd is None or answering.seconds is None or answering.nusd is None:
            return False
        tokens = max(1, pair.grey.entry.usage.total_output_tokens)
        is_fast = asking.seconds <= WELL_BELOW * tokens * answering.seconds
        is_cheap = asking.nusd <= WELL_BELOW * tokens * answering.nusd
        return is_fast and is_cheap

    def _queue(self, pair: _Pair) -> None:
        """Queue a question; one that is queued already, or finds no room, is not put."""
        if pair.key in self._questions.keys or self._questions.queue.full():
            return
        self._questions.keys.add(pair.key)
        self._questions.queue.put_nowait(pair)

    # --- in the background ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Put the questions that nobody waits for until the block ends; those still queued then are dropped."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._run())
            try:
                yield
            finally:
                task.cancel()

    async def settled(self) -> None:
        """Wait until everything put off so far has been asked."""
        await self._questions.queue.join()

    async def _run(self) -> None:
        while True:
            pair = await self._questions.queue.get()
            try:
                result = await self._ask_late(pair)
            finally:
                self._questions.keys.discard(pair.key)
                self._questions.queue.task_done()
            self._count(pair.lane.route.name, result)

    async def _ask_late(self, pair: _Pair) -> str:
        try:
            said = await self._ask(pair, is_late=True)
        except _NotAsked as error:
            return str(error)
        except (BackendError, TimeoutError):
            return "upstream_failed"
        except (LedgerUnavailable, BudgetsUnready, sqlite3.Error):
            return "unpayable"
        except Exception as error:  # noqa: BLE001 - the last resort: answers must go on when asking about them fails
            _log.error("verifier_failed", extra={"error": type(error).__name__, "where": places(error)})
            return "failed"
        return "late_unclear" if said is None else "late_word"

    # --- money ------------------------------------------------------------------------------------------------------

    async def _ask(self, pair: _Pair, *, is_late: bool) -> float | None:
        """Return the model's log-odds that one answer serves both, None when it did not say; and remember them.

        Raises:
            BackendError: there is no answer.
            LedgerUnavailable, BudgetsUnready: it cannot be paid for.
            sqlite3.Error: the day's money cannot be told.
            _NotAsked: the day's money or a budget has no room for it.
        """
        model = pair.model
        ask = parse_ask(Surface.CHAT, request_for(pair.asked, pair.stored, model=model.name))
        journey = shadow(pair.journey, ask)
        quote = self._cashier.quote(journey, model)
        most = max(quote.upper_bound_nusd, quote.worst_nusd)
        await self._reserve(pair, most)
        attempt = Attempt(
            number=_LATE_NUMBER if is_late else len(pair.journey.attempts),
            model=model,
            started_at=self._clock.now(),
            started=self._clock.monotonic(),
            asks_logprobs=False,
            quote=quote,
            aside=ChargeKind.VERIFIER,
            is_late=is_late,
        )
        try:
            whole = await buy(Aside(journey=journey, ask=ask, attempt=attempt), self._cashier, kind=ChargeKind.VERIFIER)
        except NoRoom as error:
            raise _NotAsked("budget_is_spent") from error
        finally:
            # Cancelled with its client or its deadline as well: what was generated is booked.
            attempt.end(ChargeKind.VERIFIER if journey.attempts else None, self._clock.monotonic())
            self._cashier.settle(journey)
            if is_late:
                self._observe(journey)
            elif journey.attempts:
                pair.journey.attempts.append(attempt)
            self._learn(attempt)
            self._money_back(pair, most - attempt.cost_nusd)
        said = score_of(msgspec.json.decode(whole.payload))
        self._remember(pair, said)
        return said

    async def _reserve(self, pair: _Pair, nusd: int) -> None:
        """Take a question's worst case out of the day's money; on a thread, as another worker may be writing.

        Raises:
            sqlite3.Error: the day's money cannot be told.
            _NotAsked: it is spent.
        """
        cap = int(pair.settings.usd_per_day * NANO_PER_USD)
        day, route = self._today(), pair.lane.route.name
        async with self._money_turn:
            back = self._unneeded.pop((day, route), 0)
            if not await asyncio.to_thread(self._take, day, route, nusd, back_nusd=back, cap_nusd=cap):
                raise _NotAsked("day_is_spent")

    def _take(self, day: str, route: str, nusd: int, *, back_nusd: int, cap_nusd: int) -> bool:
        if back_nusd:
            self._money.give_back(day, route, _SPENDER, back_nusd)
        return self._money.reserve(day, route, _SPENDER, nusd, cap_nusd=cap_nusd)

    def _money_back(self, pair: _Pair, nusd: int) -> None:
        """Note what was not needed, for the next question to give back: nothing is awaited where a request may end."""
        place = self._today(), pair.lane.route.name
        self._unneeded[place] = self._unneeded.get(place, 0) + nusd

    def _learn(self, attempt: Attempt) -> None:
        if attempt.kind is not None and attempt.ended is not None:
            pace = self._asking.setdefault(attempt.model.id, Pace())
            pace.learn(attempt.ended - attempt.started, attempt.cost_nusd)

    def _remember(self, pair: _Pair, said: float | None) -> None:
        """Store what was said as an answer of the verifier's: the caches' limits and invalidations hold for it too."""
        now = self._clock.now()
        entry = Entry(
            key=pair.key,
            partition=b"",
            asked="",
            vector=None,
            payload=msgspec.json.encode(_Said(log_odds=said)),
            model=pair.model.id,
            usage=_UNSAID,
            baseline_nusd=0,
            baseline_low_nusd=0,
            baseline_high_nusd=0,
            created_at=now,
            expires_at=now + KEPT,
            tenant=pair.caller.tenant,
            namespace=pair.lane.route.cache.namespace or "",
        )
        self._caches.remember(entry)

    def _today(self) -> str:
        return self._clock.now().astimezone(UTC).date().isoformat()


def _hit(grey: Grey) -> Hit:
    return Hit(tier=Tier.SEMANTIC, entry=grey.entry, similarity=grey.similarity)
