"""The caches on a request's way: exact, embedding, semantic, and the offer of an answer afterwards.

Everything here fails open: a cache or an embedder that fails is a counted miss, and the request goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime, timedelta

from backends.embedder import Embedder, EmbedderError
from backends.words import Ask, ModelId, Surface, TenantId
from gateway.errors import StoreFailed
from gateway.journey import Journey, Lane
from gateway.leads import Lead
from gateway.relay import Told
from gateway.worker import Worker, WorkerFull
from policies.schema import Cache
from router.foresight import Foreseen, Foresight
from semantic_cache.acceptance import Acceptance, AcceptanceError
from semantic_cache.partition import Keys, Scope, keys_of, semantic_bypass
from semantic_cache.reach import DEADLINE_S
from semantic_cache.recent import Recent, Versioned
from semantic_cache.refusals import is_refusal
from semantic_cache.seam import (
    Bypass,
    BypassReason,
    Entry,
    Hit,
    Lookup,
    Miss,
    MissReason,
    Selector,
    Stock,
    Store,
    Vector,
)
from semantic_cache.tiers import FAILURES, likeliest, lookup_exact, lookup_semantic

_log = logging.getLogger("faregate")

_REMOTE_QUEUE_LIMIT = 256
"""At 50 µs a question to a server on the same host, a longer queue would miss its deadline."""

_STORED_FINISHES = frozenset({"stop", "tool_calls", "function_call"})
"""Answers that ended of themselves; one cut at its length or by a filter is not the answer to a question."""


class Caches:
    """Looks an answer up, embeds the question once, and stores answers.

    Args:
        store: bodies and vectors.
        acceptance: gives what decides whether a neighbour's answer may be served; loaded at its first use.
        embedder: turns the last user text into a vector; its first use loads it.
        worker: runs what would hold up the event loop.
        deadline_s: how long a store in a server may hold a request up, with all the questions it is asked for it.
    """

    def __init__(
        self,
        *,
        store: Store,
        acceptance: Callable[[], Acceptance],
        embedder: Embedder,
        worker: Worker,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._store = store
        self._acceptance = acceptance
        self._embedder = embedder
        self._worker = worker
        self._deadline_s = deadline_s
        self._recent = Recent(store) if isinstance(store, Versioned) else None
        # A store in a server has a thread of its own: what waits for a network must not hold up embeddings.
        self._storing = worker if store.is_local else Worker(queue_limit=_REMOTE_QUEUE_LIMIT)
        self._reading: set[bytes] = set()  # partitions that are being read in; only the store's thread looks at it
        # As many as can matter: older ones than the longest request could be forgotten, and nobody makes so many.
        self._invalidations: deque[tuple[float, Selector]] = deque(maxlen=256)

    async def look_exact(self, journey: Journey, ask: Ask) -> Hit | None:
        """Return the answer to the very same request if it may be served; leave keys and lookups on the journey."""
        settings = _lane(journey).route.cache
        bypass = self._bypass(journey, ask, _lane(journey))
        if bypass is not None:
            journey.lookups["exact"] = journey.lookups["semantic"] = bypass
            return None
        if settings.exact is None or journey.keys is None:
            return None
        with journey.step("cache.exact"):
            exact = self._fresh(journey, await self._find(journey, journey.keys.exact))
        journey.lookups["exact"] = exact
        return exact if isinstance(exact, Hit) else None

    async def look_again(self, journey: Journey) -> Hit | None:
        """Return the answer that another process has bought since `look_exact`, if it may be served."""
        if journey.keys is None:
            return None
        with journey.step("cache.exact"):
            exact = self._fresh(journey, await self._find(journey, journey.keys.exact))
        journey.lookups["exact"] = exact
        return exact if isinstance(exact, Hit) else None

    async def look_semantic(
        self, journey: Journey, ask: Ask, *, wants_vector: bool, foresight: Foresight | None = None
    ) -> Hit | None:
        """Return a stored answer that may be served, and leave the vector, the forecast and lookups on the journey.

        Args:
            journey: after `look_exact`, which makes the keys.
            ask: the parsed request.
            wants_vector: whether the plan will look at the embedding even if no cache does.
            foresight: what the plan will want to know of the text when no cache answers.
        """
        settings, wish = _lane(journey).route.cache, journey.call.cache
        if settings.semantic is None and not wants_vector:
            return None
        is_semantic = wish.may_store and self._may_be_semantic(journey, ask, settings)
        may_read = is_semantic and wish.may_read
        # A no-cache answer takes the old one's place in both tiers, so it needs its vector although none is looked up.
        if is_semantic or wants_vector:
            with journey.step("embed"):
                # A hop to the thread costs the loop time: one for both, where no lookup lies between.
                asked = None if may_read else foresight
                journey.vector, journey.foreseen = await self._embed(ask.last_user_text, asked)
        if not may_read or settings.semantic is None or journey.keys is None or journey.vector is None:
            return None
        with journey.step("cache.semantic"):
            found = await self._semantic(journey, ask, journey.vector, max_error=settings.semantic.max_error)
        journey.lookups["semantic"] = found
        if isinstance(found, Hit):
            return found
        if foresight is not None:
            with journey.step("foresee"), suppress(WorkerFull):
                journey.foreseen = await self._worker.run(foresight, ask.last_user_text, journey.vector)
        return None

    async def _find(self, journey: Journey, key: bytes) -> Hit | Miss:
        """Look an exact key up: at once where that takes microseconds, else on the store's thread."""
        now = journey.clock.now()
        if self._recent is not None:
            return self._recent.find(key, now=now)
        if self._store.is_local or self._store.is_resting:
            return lookup_exact(self._store, key, now=now)
        return await self._within(journey, self._storing.run(lookup_exact, self._store, key, now=now))

    async def _within(self, journey: Journey, asking: Coroutine[None, None, Hit | Miss]) -> Hit | Miss:
        """Await an answer of the store for as long as it may still hold this request up."""
        begun = journey.clock.monotonic()
        try:
            async with asyncio.timeout(None if self._store.is_local else self._deadline_s - journey.store_s):
                return await asking
        except (TimeoutError, WorkerFull):
            return Miss(reason=MissReason.STORE_FAILED)
        finally:
            journey.store_s += journey.clock.monotonic() - begun

    async def likeliest(self, journey: Journey, ask: Ask) -> Hit | None:
        """Return the stored answer that a laxer threshold would have served; None: there is none.

        Raises:
            WorkerFull: the store has too much to do.
            AcceptanceError: what scores pairs cannot be read.
        """
        if journey.keys is None or journey.vector is None:
            return None
        return await self._storing.run(
            lambda partition, but, vector: likeliest(
                self._store,
                self._acceptance(),
                partition=partition,
                asked=ask.last_user_text,
                vector=vector,
                but=but,
                now=journey.clock.now(),
            ),
            journey.keys.partition,
            journey.keys.exact,
            journey.vector,
        )

    async def recall(self, journey: Journey, key: bytes) -> Entry | None:
        """Return what `remember` kept under a key; None where nothing is, or the store cannot be asked in time."""
        found = await self._find(journey, key)
        return found.entry if isinstance(found, Hit) else None

    def remember(self, entry: Entry) -> None:
        """Keep an entry that no request is answered with: what was found out about stored answers; returns at once."""
        self._storing.put(_put, self._store, entry, None)

    def is_fresh(self, journey: Journey, hit: Hit) -> bool:
        """Tell whether a stored answer that was found for an equal request may be served to this one as well."""
        return self._fresh(journey, hit) is hit

    def offer(self, journey: Journey, ask: Ask, told: Told, model: ModelId, baseline: tuple[int, int, int]) -> None:
        """Store a complete answer if its route and its client allow it; returns at once."""
        lane, keys = journey.lane, journey.keys
        is_complete = ask.surface is Surface.EMBEDDINGS or told.finish_reason in _STORED_FINISHES
        if keys is None or lane is None or told.body is None or not is_complete or not journey.call.cache.may_store:
            return
        settings = lane.route.cache
        if not settings.store_refusals and is_refusal(told.body):
            return
        has_vector = journey.vector is not None and self._may_be_semantic(journey, ask, settings)
        # An entry serves two tiers; it lives as long as the longer one, which the shorter one's lookup cuts.
        ttls = [tier.ttl for tier in (settings.exact, settings.semantic if has_vector else None) if tier is not None]
        if not ttls:
            return
        now = journey.clock.now()
        entry = Entry(
            key=keys.exact,
            partition=keys.partition if has_vector else b"",
            tenant=journey.caller.tenant if journey.caller is not None else TenantId(""),
            namespace=settings.namespace or "",
            tags=tuple(f"{name}={value}" for name, value in journey.call.tags.items()),
            asked=ask.last_user_text if has_vector else "",
            vector=journey.vector if has_vector else None,
            payload=told.body,
            model=model,
            usage=told.usage,
            baseline_nusd=baseline[0],
            baseline_low_nusd=baseline[1],
            baseline_high_nusd=baseline[2],
            created_at=now,
            expires_at=now + max(ttls),
        )
        # Bought before somebody said that such answers are not good any more, and not yet in the store to be dropped.
        if not any(journey.started <= moment and selector.takes(entry) for moment, selector in self._invalidations):
            lead, journey.lead = journey.lead, None
            if not self._storing.put(_put, self._store, entry, lead) and lead is not None:
                lead.end(is_stored=False)

    async def invalidate(self, selector: Selector, *, now: float) -> int:
        """Forget stored answers, and store none that are being made now; return how many there were.

        Args:
            selector: which ones.
            now: the clock's monotonic seconds.

        Raises:
            StoreFailed: the store could not be asked; nothing can be said of what it holds.
        """
        self._invalidations.append((now, selector))
        try:
            return await self._storing.run(self._store.drop, selector)
        except (*FAILURES, WorkerFull) as error:
            raise StoreFailed from error

    async def stock(self) -> Stock:
        """Count what is stored.

        Raises:
            StoreFailed: the store could not be asked.
        """
        try:
            return await self._storing.run(self._store.stock)
        except (*FAILURES, WorkerFull) as error:
            raise StoreFailed from error

    def warm_up(self, *, is_needed: bool) -> None:
        """Load the embedder and reach the store behind the first requests' backs; a broken one is found in real use."""
        if is_needed:
            self._worker.put(self._embedder.embed, ["warm up"])
        if not self._store.is_local:
            self._storing.put(self._store.stock)  # connects, which the first request's deadline would not bear

    def close(self) -> None:
        """Finish what is queued and close the store."""
        self._worker.close()
        self._storing.close()
        self._store.close()

    def _bypass(self, journey: Journey, ask: Ask, lane: Lane) -> Bypass | None:
        """Make the request's keys, or tell why the caches are out of its way."""
        settings, caller = lane.route.cache, journey.caller
        if caller is None or (settings.exact is None and settings.semantic is None):
            return _OFF
        scope = Scope(tenant=caller.tenant, answers=lane.answers, namespace=settings.namespace or "")
        is_semantic, repeat = settings.semantic is not None, journey.repeat
        rules = scope, settings.max_temperature, is_semantic
        known = repeat.keys.get(rules) if repeat is not None else None
        if known is None:
            keys = keys_of(ask, scope, max_temperature=settings.max_temperature, wants_partition=is_semantic)
            if not isinstance(keys, Keys):
                return keys
            known = keys
            if repeat is not None:
                repeat.keys[rules] = known
        journey.keys = known
        return None if journey.call.cache.may_read else Bypass(reason=BypassReason.ASKED_NOT_TO)

    def _may_be_semantic(self, journey: Journey, ask: Ask, settings: Cache) -> bool:
        if settings.semantic is None or journey.keys is None:
            return False
        semantic = settings.semantic
        reason = semantic_bypass(ask, allowed=semantic.allow, max_characters=semantic.max_characters)
        if reason is not None:
            journey.lookups["semantic"] = Bypass(reason=reason)
        return reason is None

    async def _embed(self, text: str, foresight: Foresight | None) -> tuple[Vector | None, Foreseen | None]:
        if not text.strip():
            return None, None
        try:
            return await self._worker.run(_see, self._embedder, text, foresight)
        except WorkerFull:
            return None, None
        except EmbedderError as error:
            _log.error("embedder_failed", extra={"error": str(error)})
            return None, None

    async def _semantic(self, journey: Journey, ask: Ask, vector: Vector, *, max_error: float) -> Lookup:
        if journey.keys is None:
            raise AssertionError("a semantic lookup needs a partition")
        verifier = _lane(journey).verifier
        point = verifier.point(max_error) if verifier is not None else None
        search = self._storing.run(
            self._search,
            partition=journey.keys.partition,
            asked=ask.last_user_text,
            vector=vector,
            max_error=max_error,
            # With a verifier behind it the score alone serves what its calibration says: both together keep the error.
            accepted_from=None if verifier is None or point is None else verifier.alone_from,
            now=journey.clock.now(),
            wants_grey=point is not None,
        )
        try:
            found = await self._within(journey, search)
        except AcceptanceError as error:
            _log.error("acceptance_failed", extra={"error": str(error)})
            return Miss(reason=MissReason.STORE_FAILED)
        return self._fresh(journey, found)

    def _search(
        self,
        *,
        partition: bytes,
        asked: str,
        vector: Vector,
        max_error: float,
        accepted_from: float | None,
        now: datetime,
        wants_grey: bool,
    ) -> Hit | Miss:
        found = lookup_semantic(
            self._store,
            self._acceptance(),
            partition=partition,
            asked=asked,
            vector=vector,
            max_error=max_error,
            accepted_from=accepted_from,
            now=now,
            wants_grey=wants_grey,
        )
        if partition not in self._reading and self._store.is_partial(partition):
            self._reading.add(partition)
            self._read_on(partition)
        return found

    def _read_on(self, partition: bytes) -> None:
        """Have more of a partition read in behind what is queued, again and again until it is whole."""
        if not self._store.is_partial(partition) or not self._storing.put(self._read_some, partition):
            self._reading.discard(partition)

    def _read_some(self, partition: bytes) -> None:
        try:
            self._store.read_on(partition)
        except FAILURES as error:
            _log.warning("cache_store_failed", extra={"error": type(error).__name__})
            self._reading.discard(partition)
        else:
            self._read_on(partition)

    def _fresh(self, journey: Journey, found: Hit | Miss) -> Hit | Miss:
        """Turn a hit that is older than its tier's TTL or the client's max-age into a miss."""
        if not isinstance(found, Hit) or journey.lane is None:
            return found
        tier = getattr(journey.lane.route.cache, found.tier)
        limits = [tier.ttl if tier is not None else timedelta(0)]
        if journey.call.cache.max_age_s is not None:
            limits.append(timedelta(seconds=journey.call.cache.max_age_s))
        is_fresh = _age(found.entry, journey.clock.now()) < min(limits)
        return found if is_fresh else Miss(reason=MissReason.ABSENT)


_OFF = Bypass(reason=BypassReason.OFF)


def _lane(journey: Journey) -> Lane:
    if journey.lane is None:
        raise AssertionError("the caches are asked after routing")
    return journey.lane


def _age(entry: Entry, now: datetime) -> timedelta:
    return now - entry.created_at


def _see(embedder: Embedder, text: str, foresight: Foresight | None) -> tuple[Vector, Foreseen | None]:
    """Embed a text and tell what to expect of it; on the worker's thread."""
    vector: Vector = embedder.embed([text])[0]
    return vector, None if foresight is None else foresight(text, vector)


def _put(store: Store, entry: Entry, lead: Lead | None) -> None:
    is_stored = False
    try:
        store.put(entry)
        is_stored = True
    except FAILURES as error:
        _log.warning("cache_store_failed", extra={"error": type(error).__name__})
    finally:
        if lead is not None:
            lead.end(is_stored=is_stored)
