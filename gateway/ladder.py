"""Climbing a plan's rungs: open, judge, keep or climb. Nothing has been sent to the client while this runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from backends.asks import outbound_body
from backends.errors import BackendError, EndpointTimeout, ReplyMalformed
from backends.seam import Outbound, Reply
from backends.words import Ask, Event, ModelId, Whole
from gateway.journey import Attempt, CatalogModel, Journey
from gateway.ledger.rows import ChargeKind
from gateway.settlement import Cashier
from policies.schema import Stream
from router.evidence import Answering
from router.strategy import Rung

_USAGE_WAIT_S = 0.1
"""vLLM and llama.cpp send usage in the same millisecond as the end of the answer."""

_TOP_LOGPROBS = 5
"""Alternatives the judge's features are made of; every server allows at least five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A rung's answer that will be sent: the events read so far, and the reply that has the rest."""

    attempt: Attempt
    reply: Reply
    events: tuple[Event, ...] = ()


class Ladder:
    """Climbs rungs until an answer may be sent.

    Args:
        catalog: the model behind an id.
        cashier: reserves the money before each attempt.
    """

    def __init__(self, *, catalog: Callable[[ModelId], CatalogModel], cashier: Cashier) -> None:
        self._catalog = catalog
        self._cashier = cashier

    async def climb(self, journey: Journey, ask: Ask, rungs: tuple[Rung, ...]) -> Committed:
        """Return the first answer that is kept. Its reply is the caller's to close.

        Raises:
            BackendError: no rung gave an answer; the last rung's error.
            LedgerUnavailable: an attempt could not be paid for.
        """
        last: BackendError = ReplyMalformed("the plan has no rung")
        for rung in rungs:
            attempt = self._begin(journey, rung)
            try:
                with journey.step(f"open {rung.model}"), journey.waiting():
                    reply = await attempt.model.backend.open(self._outbound(journey, ask, attempt))
            except BackendError as error:
                # What timed out or made no sense may have been generated, and is paid for; the rest never ran.
                is_paid = (
                    isinstance(error, EndpointTimeout | ReplyMalformed) and getattr(error, "phase", "") != "connect"
                )
                attempt.endpoint = error.endpoint
                attempt.end(ChargeKind.FAILED if is_paid else None, journey.clock.monotonic())
                last = error
                continue
            except asyncio.CancelledError:
                attempt.end(ChargeKind.CANCELLED, journey.clock.monotonic())
                raise
            attempt.endpoint = reply.endpoint
            committed = await self._hear(journey, ask, rung, attempt, reply)
            if isinstance(committed, Committed):
                return committed
            last = committed or last
        raise last

    def _begin(self, journey: Journey, rung: Rung) -> Attempt:
        attempt = Attempt(
            number=len(journey.attempts),
            model=self._catalog(rung.model),
            started_at=journey.clock.now(),
            started=journey.clock.monotonic(),
            asks_logprobs=rung.is_judged,
        )
        self._cashier.hold(journey, attempt)
        journey.attempts.append(attempt)
        return attempt

    def _outbound(self, journey: Journey, ask: Ask, attempt: Attempt) -> Outbound:
        top_logprobs = _TOP_LOGPROBS if attempt.asks_logprobs else None
        return Outbound(
            surface=ask.surface,
            body=outbound_body(ask, model=attempt.model.name, top_logprobs=top_logprobs),
            is_stream=ask.is_stream,
            request_id=journey.request_id,
        )

    async def _hear(
        self, journey: Journey, ask: Ask, rung: Rung, attempt: Attempt, reply: Reply
    ) -> Committed | BackendError | None:
        """Return the answer if it may be sent; else close it and return why not (None: the judge rejects it)."""
        lane = journey.lane
        if not rung.is_judged or lane is None or lane.judge is None:
            journey.path_models.append(rung.model)
            return Committed(attempt=attempt, reply=reply)
        is_kept = False
        try:
            with journey.step(f"judge {rung.model}"), journey.waiting():
                events, answering = await _listen(reply, ask, attempt, lane.route.stream)
            journey.path_models.append(rung.model)
            journey.verdict = lane.judge.weigh(answering.evidence(), task=journey.plan.task if journey.plan else None)
            is_kept = journey.verdict.is_kept
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


async def _listen(reply: Reply, ask: Ask, attempt: Attempt, limits: Stream) -> tuple[tuple[Event, ...], Answering]:
    """Hold events back until the judge can decide: the window is full, its time is over, or the answer is complete."""
    answering = Answering(ask)
    events: list[Event] = []
    is_windowed = not ask.wants_json  # JSON is judged whole: half an object proves nothing
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
