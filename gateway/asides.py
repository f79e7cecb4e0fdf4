"""Calls made beside an answer: audits after it, and asking a rung's model again before it is kept.

Each is an attempt of its own kind, held before it is made and booked when it ends, from the budgets that its request
draws from. What depends on it can do without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.asks import OutputCap, outbound_body
from backends.blame import is_paid
from backends.errors import BackendError, ReplyMalformed
from backends.seam import Outbound
from backends.words import Whole
from gateway.journey import Attempt, Journey
from gateway.ledger.budgets import Refused
from gateway.ledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from backends.words import Ask
    from gateway.ledger.rows import ChargeKind
    from gateway.settlement import Cashier


class NoRoom(Exception):
    """A budget has no room for a call beside an answer; nothing was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """One such call.

    Attributes:
        journey: `shadow` of the request's, which holds this attempt alone.
        ask: what is asked.
        attempt: with its quote, not begun.
        top_logprobs: how many alternatives to ask for; None: no log-probabilities.
    """

    journey: Journey
    ask: Ask
    attempt: Attempt
    top_logprobs: int | None = None


def shadow(journey: Journey, ask: Ask) -> Journey:
    """Return the record of an attempt that is made beside a request's own."""
    return Journey(
        request_id=journey.request_id,
        call=journey.call,
        clock=journey.clock,
        started_at=journey.clock.now(),
        started=journey.clock.monotonic(),
        caller=journey.caller,
        ask=ask,
        lane=journey.lane,
        pots=journey.pots,
        user_pseudonym=journey.user_pseudonym,
    )


async def buy(aside: Aside, cashier: Cashier, *, kind: ChargeKind) -> Whole:
    """Return the answer to a call beside another; its attempt is ended, and its journey is the caller's to settle.

    Raises:
        BackendError: there is none.
        LedgerUnavailable, BudgetsUnready: it cannot be paid for.
        NoRoom: a budget is spent.
    """
    attempt, clock = aside.attempt, aside.journey.clock
    await _reserve(aside, cashier)
    try:
        await cashier.secured()
    except BaseException:
        attempt.end(None, clock.monotonic())  # the upstream was never asked
        raise
    try:
        reply = await attempt.model.backend.open(_outbound(aside))
        try:
            attempt.endpoint = reply.endpoint
            whole = await anext(reply)
        finally:
            await reply.aclose()
    except BackendError as error:
        attempt.end(kind if is_paid(error) else None, clock.monotonic())
        raise
    if not isinstance(whole, Whole):
        raise ReplyMalformed("a stream came where a whole answer was asked for")
    attempt.note(whole)
    attempt.end(kind, clock.monotonic())
    return whole


async def _reserve(aside: Aside, cashier: Cashier) -> None:
    journey, attempt = aside.journey, aside.attempt
    if journey.pots:
        held = await cashier.spending.reserve(journey, [attempt.quote.worst_nusd])
        if isinstance(held, Refused):
            raise NoRoom
        attempt.hold = held[0]
    try:
        cashier.hold(journey, attempt)
    except LedgerUnavailable:
        if attempt.hold is not None:
            cashier.spending.release(attempt.hold)
        raise
    journey.attempts.append(attempt)


def _outbound(aside: Aside) -> Outbound:
    ask, model, quote = aside.ask, aside.attempt.model, aside.attempt.quote
    cap = OutputCap(model.cap_field, quote.output_cap_tokens)  # always sent: what is held counts on it
    body = outbound_body(
        ask, model=model.name, top_logprobs=aside.top_logprobs, output_cap=cap, parameters=model.parameters
    )
    return Outbound(
        surface=ask.surface, body=body, is_stream=False, request_id=aside.journey.request_id, model=model.name
    )
