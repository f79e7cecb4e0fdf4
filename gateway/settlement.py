"""Money: holds before attempts, charges after them, one row for every request.

Everything here is synchronous (the journal is one `write(2)`), so a `finally` that calls it cannot be cancelled between
two of its steps: that is the shield. What an answer cost and its request are one write, before its last byte is sent: a
client that has a whole answer has one that is booked. Rejected attempts are priced at the request's end, since a stream
that was closed early tells no usage, but the next rung's usage tells how many tokens the prompt has.
"""

from __future__ import annotations

from msgspec.structs import replace

from backends.asks import estimate_input_tokens
from backends.prices import STANDARD_TIERS, PriceBook, Rates
from backends.searches import most_searches
from backends.words import Ask, Provenance, Surface, TenantId, Usage
from gateway.explain import decision
from gateway.journey import Attempt, Caller, CatalogModel, Journey, Lane, OutputRatio, Quote
from gateway.ledger.rows import ChargeKind, ChargeRow, CostProvenance, HoldRow, RequestRow
from gateway.ledger.seam import Ledger
from gateway.spending import Spending
from policies.schema import Stated

_BYTES_PER_TOKEN = 4
"""English prose in today's vocabularies; only for numbers that nobody told and that are booked as estimated."""

_PREAMBLE_TOKENS = 128
"""Room in what budgets hold for what a model's chat template puts before the messages (gpt-oss: some 70 tokens).

The rest of the bound is a token for every byte: no token of a byte-level vocabulary covers less, and some reach it
(Qwen: a digit a token), so that an estimate would let a budget be overrun.
"""

NOBODY = TenantId("")
"""The tenant of requests whose key opened nothing."""


class Cashier:
    """Writes a journey's rows."""

    def __init__(self, *, ledger: Ledger, prices: PriceBook, policy_digest: str, spending: Spending) -> None:
        self._ledger = ledger
        self.spending = spending
        self._prices = prices
        self._policy_digest = policy_digest

    def quote(self, journey: Journey, model: CatalogModel) -> Quote:
        """Return what an attempt at a model can cost at most.

        A request under a budget gets the policy's cap where its client set none, as far as the model's context has
        room; it is sent upstream, so that the bound is one. Without a budget it is only assumed.
        """
        ask, _, lane = _known(journey)
        input_tokens = estimate_input_tokens(ask)
        own = model.parameters.cap_for(ask)
        cap = own.tokens if own is not None else ask.max_output_tokens
        is_cap_sent = False
        if ask.surface is Surface.EMBEDDINGS:
            cap = 0
        elif cap is None:
            cap = min(lane.route.max_output_tokens or model.max_output_tokens, model.max_output_tokens)
            is_cap_sent = bool(journey.pots)
            if model.context_tokens is not None:
                cap = max(1, min(cap, model.context_tokens - input_tokens))
        searches = most_searches(
            ask, model.parameters.fields, most=model.most_web_searches, is_unasked=model.searches_unasked
        )
        bound, now, has_media = model.rates.upper_bound_nusd, journey.clock.now(), _has_media(ask)
        output_tokens, most = cap * ask.choices, 0
        if journey.pots:
            input_most = ask.input_bytes + _PREAMBLE_TOKENS
            most = bound(now, input_most, output_tokens, has_media=has_media, web_searches=searches)
        return Quote(
            input_tokens=input_tokens,
            output_cap_tokens=cap,
            is_cap_sent=is_cap_sent,
            upper_bound_nusd=bound(now, input_tokens, output_tokens, has_media=has_media, web_searches=searches),
            worst_nusd=most,
        )

    def hold(self, journey: Journey, attempt: Attempt) -> None:
        """Reserve what the attempt can cost at most.

        Raises:
            LedgerUnavailable: nothing may be bought.
        """
        ask, caller, lane = _known(journey)
        quote, prices = attempt.quote, attempt.model.rates
        self._ledger.hold(
            HoldRow(
                request_id=journey.request_id,
                attempt=attempt.number,
                tenant=caller.tenant,
                key_id=caller.key_id,
                route=lane.route.name,
                model=attempt.model.id,
                pool=attempt.model.pool,
                upper_bound_nusd=quote.upper_bound_nusd,
                input_tokens_estimate=quote.input_tokens,
                output_tokens_cap=quote.output_cap_tokens * ask.choices,
                held_at=attempt.started_at,
                rates=prices.at(attempt.started_at, quote.input_tokens),
                price_digest=self._prices.digest,
                tags=journey.call.tags,
                session=journey.call.session,
                user_pseudonym=journey.user_pseudonym,
                is_audit=attempt.is_audit,
            )
        )

    def release(self, journey: Journey, attempt: Attempt) -> None:
        """Give an ended attempt's money back at once if it cost nothing: retries must not pile up what is reserved."""
        if attempt.kind is None and not attempt.is_settled:
            attempt.is_settled = True
            self._ledger.release(journey.request_id, attempt.number)
            if attempt.hold is not None:
                self.spending.release(attempt.hold)

    async def secured(self) -> None:
        """Wait until the holds so far are as durable as the policy wants.

        Raises:
            LedgerUnavailable: nothing may be bought.
        """
        await self._ledger.secured()

    def price(self, journey: Journey) -> None:
        """Work out what every ended attempt cost that has no price yet; `settle` or `book` writes that."""
        for attempt in journey.attempts:
            if attempt.kind is None:
                self.release(journey, attempt)
            if attempt.is_settled or attempt.kind is None:
                continue
            attempt.is_settled = True
            charge = self._charge(journey, attempt, attempt.kind)
            attempt.cost_nusd, attempt.is_cost_unknown = charge.cost_nusd or 0, charge.cost_nusd is None
            journey.unwritten.append(charge)
            if attempt.hold is not None:
                self.spending.settle(attempt.hold, charge.cost_nusd)

    def settle(self, journey: Journey) -> None:
        """Book every attempt that is not booked yet; calling it again books nothing twice."""
        self.price(journey)
        for charge in journey.unwritten:
            self._ledger.settle(charge)
        journey.unwritten.clear()

    def book(self, journey: Journey) -> RequestRow:
        """Book the request and what is open of it, and return its row; calling it again books nothing twice."""
        if journey.row is not None:
            self.settle(journey)
            return journey.row
        self.price(journey)
        ask, lane, caller = journey.ask, journey.lane, journey.caller
        baseline, low, high = baseline_nusd(journey)
        plan = journey.plan
        row = RequestRow(
            request_id=journey.request_id,
            client_request_id=journey.call.client_request_id,
            tenant=caller.tenant if caller else NOBODY,
            key_id=caller.key_id if caller else "",
            surface=journey.call.surface.value,
            route=lane.route.name if lane else None,
            model_asked=ask.model[:256] if ask else "",
            path=journey.path,
            status=journey.status,
            error_code=journey.error_code,
            is_stream=bool(ask and ask.is_stream),
            confidence=journey.verdict.confidence if journey.verdict else None,
            similarity=journey.hit.similarity if journey.hit else None,
            task=plan.task if plan else None,
            plan_reason=plan.reason.value if plan else None,
            policy_digest=self._policy_digest,
            started_at=journey.started_at,
            ttft_ms=None if journey.first_byte is None else (journey.first_byte - journey.started) * 1e3,
            total_ms=journey.elapsed_s * 1e3,
            overhead_ms=journey.overhead_ms,
            cost_nusd=sum([attempt.cost_nusd for attempt in journey.attempts]),
            baseline_model=lane.baseline if lane else None,
            baseline_nusd=baseline,
            baseline_low_nusd=low,
            baseline_high_nusd=high,
            tags=journey.call.tags,
            session=journey.call.session,
            unknown_charges=sum([attempt.is_cost_unknown for attempt in journey.attempts]),
            user_pseudonym=journey.user_pseudonym,
            task_id=journey.call.tags.get("task"),
            decision=decision(journey),
        )
        self._ledger.book(row, journey.unwritten)
        journey.unwritten.clear()
        journey.row = row
        return row

    def _charge(self, journey: Journey, attempt: Attempt, kind: ChargeKind) -> ChargeRow:
        _, caller, lane = _known(journey)
        usage = attempt.booked_usage = usage_of(journey, attempt)
        tier = "" if attempt.tier is None or attempt.tier in STANDARD_TIERS else attempt.tier
        rates = attempt.model.rates.at(attempt.started_at, usage.total_input_tokens, tier)
        cost_nusd, provenance = charged(usage, rates, tier=tier, stated=attempt.model.stated)
        ended = attempt.ended if attempt.ended is not None else journey.clock.monotonic()
        return ChargeRow(
            request_id=journey.request_id,
            attempt=attempt.number,
            kind=kind,
            tenant=caller.tenant,
            key_id=caller.key_id,
            route=lane.route.name,
            model=attempt.model.id,
            pool=attempt.model.pool,
            endpoint_label=attempt.endpoint,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            input_provenance=usage.input_provenance,
            output_provenance=usage.output_provenance,
            rates=rates,
            price_digest=self._prices.digest,
            cost_nusd=cost_nusd,
            started_at=attempt.started_at,
            duration_ms=max(0.0, ended - attempt.started) * 1e3,
            finish_reason=attempt.finish_reason,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            audio_input_tokens=usage.audio_input_tokens,
            image_input_tokens=usage.image_input_tokens,
            audio_output_tokens=usage.audio_output_tokens,
            image_output_tokens=usage.image_output_tokens,
            web_searches=usage.web_searches,
            cost_provenance=provenance,
            stated_cost_nusd=usage.stated_cost_nusd,
            upstream_response_id=attempt.response_id,
            tier=tier,
        )


def charged(usage: Usage, rates: Rates, *, tier: str, stated: Stated | None) -> tuple[int | None, CostProvenance]:
    """Return what an attempt is charged, in nano-dollars, and where that comes from; None when nobody can tell.

    Args:
        usage: what it used.
        rates: those of its moment, its context and, where they are listed, its service tier.
        tier: the service tier the provider says it ran in, "" for the standard one.
        stated: what the policy does with the cost the provider itself states. Without a word of the policy it stands in
            where rates cannot tell, since it is better than nothing.
    """
    own = usage.stated_cost_nusd
    if own is not None and stated is Stated.TRUST:
        return own, CostProvenance.PROVIDER
    cost = rates.cost_nusd(usage)
    if cost is None or cost > _LARGEST_NUSD:
        if own is not None and stated is not Stated.RECONCILE:
            return own, CostProvenance.PROVIDER
        return None, CostProvenance.UNKNOWN
    is_sure = (
        usage.input_provenance is Provenance.PROVIDER
        and usage.output_provenance is Provenance.PROVIDER
        and rates.service_tier == tier
        and not (usage.is_byok and own is None)  # the broker's fee is not in the list
        and not (usage.is_summed and rates.start_tokens)  # each reading may have been below the context tier
        and not (usage.has_cached_media and not rates.input == rates.audio_input == rates.image_input)
    )
    return cost, CostProvenance.PRICED if is_sure else CostProvenance.ESTIMATED


_LARGEST_NUSD = 2**63 - 1
"""What the ledger's integers hold; a larger cost is a broken usage's."""


def usage_of(journey: Journey, attempt: Attempt) -> Usage:
    """Return the attempt's usage: the provider's where it told, else what was seen, else an estimate.

    Each side stands for itself: a provider that told the input and no output, or 0 of an answer that is not empty, has
    told the input.
    """
    if attempt.booked_usage is not None:
        return attempt.booked_usage
    told = attempt.usage or _TOLD_NOTHING
    if told.input_provenance is Provenance.UNKNOWN or not told.total_input_tokens:
        told = replace(told, input_tokens=_unseen_input(journey), input_provenance=Provenance.ESTIMATED)
    has_output = attempt.seen_tokens > 0 or attempt.seen_bytes > 0 or attempt.has_called_tools
    has_missed = told.output_provenance is Provenance.UNKNOWN or (has_output and not told.total_output_tokens)
    # A stream that was cut told its output when it began (Anthropic) or some events ago.
    is_outrun = attempt.finish_reason is None and attempt.seen_tokens > told.total_output_tokens
    if not has_missed and not is_outrun:
        return told
    ask, _, _ = _known(journey)
    is_counted = attempt.seen_tokens > 0 or (ask.is_stream and not has_output and attempt.finish_reason is not None)
    return replace(
        told,
        output_tokens=attempt.seen_tokens if is_counted else _unseen_output(ask, attempt, journey),
        reasoning_tokens=0,
        audio_output_tokens=0,
        image_output_tokens=0,
        output_provenance=Provenance.COUNTED if is_counted else Provenance.ESTIMATED,
    )


_TOLD_NOTHING = Usage(input_tokens=0, input_provenance=Provenance.UNKNOWN, output_provenance=Provenance.UNKNOWN)


def _unseen_input(journey: Journey) -> int:
    """Estimate a prompt nobody counted: as another attempt's provider counted it, else by its bytes."""
    for attempt in journey.attempts:
        if attempt.aside in {ChargeKind.SELF_CHECK, ChargeKind.VERIFIER}:
            continue  # another prompt
        if attempt.usage is not None and attempt.usage.input_provenance is not Provenance.UNKNOWN:
            return attempt.usage.total_input_tokens
    ask, _, _ = _known(journey)
    return -(-ask.input_bytes // _BYTES_PER_TOKEN)


def _has_media(ask: Ask) -> bool:
    """Tell whether sound or pictures can go in or come out."""
    for message in ask.messages:
        if not message.is_plain:
            return True
    return not ask.fields.keys().isdisjoint(_MEDIA)


_MEDIA = ("modalities", "audio")


def baseline_nusd(journey: Journey) -> tuple[int, int, int]:
    """Return what the baseline would have cost for what was served, and the interval of that, in nano-dollars.

    The prompt's token classes are taken as the answering model reported them; the unseen output's length is the served
    one's, scaled by the ratio that the route's calibration measured between the two models. A baseline whose cost
    nobody can tell counts as what was paid: no saving is claimed.
    """
    if journey.hit is not None:
        entry = journey.hit.entry
        return entry.baseline_nusd, entry.baseline_low_nusd, entry.baseline_high_nusd
    served = journey.served
    lane = journey.lane
    if served is None or served.kind is None or lane is None or served.model.id not in journey.path_models:
        return 0, 0, 0
    if served.model.id == lane.baseline:
        return served.cost_nusd, served.cost_nusd, served.cost_nusd
    # An equivalent says as much as the model it stands in for; a ratio was measured between a rung and the baseline.
    stands_in = served.stands_in_for == lane.baseline
    ratio = OutputRatio() if stands_in else lane.output_ratios.get(served.model.id, OutputRatio())
    usage = usage_of(journey, served)
    rates = lane.baseline_rates.at(served.started_at, usage.total_input_tokens)
    middle, low, high = (
        rates.cost_nusd(replace(usage, output_tokens=round(usage.output_tokens * scale)))
        for scale in (ratio.middle, ratio.low, ratio.high)
    )
    if middle is None or low is None or high is None:
        return served.cost_nusd, served.cost_nusd, served.cost_nusd
    return middle, min(low, middle), max(high, middle)


def _unseen_output(ask: Ask, attempt: Attempt, journey: Journey) -> int:
    """Estimate the output of an answer that came without usage: by its text, else by the time its pool took.

    A stream in which nothing came was silent before its first token: nothing had been written.
    """
    if ask.surface is Surface.EMBEDDINGS:
        return 0
    if attempt.seen_bytes:
        return -(-attempt.seen_bytes // _BYTES_PER_TOKEN)
    if ask.is_stream:
        return 0
    cap = attempt.quote.output_cap_tokens * ask.choices
    speed = attempt.model.output_tokens_per_s
    ended = attempt.ended if attempt.ended is not None else journey.clock.monotonic()
    return min(cap, round((ended - attempt.started) * float(speed))) if speed is not None else cap


def _known(journey: Journey) -> tuple[Ask, Caller, Lane]:
    """Return what is known of every journey that has attempts."""
    if journey.ask is None or journey.caller is None or journey.lane is None:
        raise AssertionError("an attempt was made before the request was identified and routed")
    return journey.ask, journey.caller, journey.lane
