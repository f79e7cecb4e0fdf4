"""Providers' list prices: what the pinned genai-prices says of a model, compiled for every date, hour and service tier.

genai-prices is asked once, at load: 50 µs a call are too many for every request. Its prices are the source, its reading
of usages is not (`backends.usage` is ours).
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from backends.prices import (
    EVER,
    TOKEN_CLASSES,
    Day,
    Plan,
    PriceUnknown,
    Rates,
    Schedule,
    Tier,
    femto_of,
    mtok_rate,
    unknown_price,
)
from backends.words import JsonValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, PriceVariant

_TIER_KEYS: Final = ("service_tier", "processing", "speed")
"""What of a price variant's conditions is a service tier: OpenAI's flex and priority, batches, Anthropic's fast."""

_MEDIA_AS_TEXT: Final = frozenset({"google"})
"""Providers whose audio costs what text costs unless their list says otherwise; others' has a price of its own."""


def provider_schedule(provider: str, model: str) -> Schedule:
    """Return a provider's list prices of a model at every moment.

    A class the provider does not list is priced as it bills it: cached and written input and pictures as input,
    reasoning as output. Sound, made pictures, searches and hour-long cache writes that are not listed have no known
    price. A model without a price for output (embeddings) has the output rate 0.

    Args:
        provider: the provider as `genai-prices` names it, such as "openai", "anthropic", "google".
        model: the model as the provider names it.

    Raises:
        PriceUnknown: no such provider or model, or it is not priced by input tokens.
    """
    import genai_prices  # here: it costs 180 ms, which a gateway that has only its own pools need not pay

    moment = datetime(2026, 1, 1, tzinfo=UTC)  # any: only the model is taken of it
    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(), model, provider_id=provider, genai_request_timestamp=moment
        )
    except LookupError as error:
        raise _unknown_at_provider(provider, model) from error
    listed = _Listed(
        info=found.model,
        provider=provider,
        name=model,
        source=f"genai-prices {genai_prices.__version__} {found.provider.id}/{found.model.id}",
    )
    return listed.schedule()


class _Listed:
    """One model of the list."""

    def __init__(self, *, info: ModelInfo, provider: str, name: str, source: str) -> None:
        self._info = info
        self._provider = provider
        self._name = name
        self._source = source

    def schedule(self) -> Schedule:
        """Compile the prices between all moments at which they can change."""
        conditions: list[ConditionalPrice | PriceVariant] = list(self._info.price_variants or ())
        if isinstance(self._info.prices, list):
            conditions += self._info.prices
        dates, seconds = {EVER}, {0}
        for condition in conditions:
            start = getattr(condition.constraint, "start_date", None)
            if start is not None:
                dates.add(int(datetime.combine(start, time(), UTC).timestamp()))
            for name in ("start_time", "end_time"):
                moment = getattr(condition.constraint, name, None)
                if moment is not None:
                    seconds.add(_second_of_day(moment))
        starts: list[int] = []
        days: list[Day] = []
        for date in sorted(dates):
            day = self._day(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=max(date, 0)), sorted(seconds))
            if not days or days[-1] != day:
                starts.append(date)
                days.append(day)
        return Schedule(tuple(starts), tuple(days))

    def _day(self, midnight: datetime, seconds: list[int]) -> Day:
        starts: list[int] = []
        plans: list[Plan] = []
        for second in seconds:
            plan = self._plan(midnight + timedelta(seconds=second))
            if not plans or plans[-1] != plan:
                starts.append(second)
                plans.append(plan)
        return Day(tuple(starts), tuple(plans))

    def _plan(self, moment: datetime) -> Plan:
        plan = {"": self._rates(self._info.get_prices(moment), "")}
        for key, tier in self._tiers(moment):
            plan.setdefault(tier, self._rates(self._info.get_prices(moment, {key: tier}), tier))
        return plan

    def _tiers(self, moment: datetime) -> Iterator[tuple[str, str]]:
        """Yield the service tiers that have prices of their own at a moment."""
        for variant in self._info.price_variants or ():
            is_valid = variant.constraint is None or variant.constraint.active(moment)
            is_priced = any(price is not None for price in variant.prices.__dict__.values())
            if is_valid and is_priced and len(variant.when) == 1:
                key, tier = next(iter(variant.when.items()))
                if key in _TIER_KEYS:
                    yield key, tier

    def _rates(self, price: ModelPrice, service_tier: str) -> Rates:
        if price.input_mtok is None:
            raise PriceUnknown(
                f'{self._provider} does not price "{self._name}" by input tokens ({price or "no price"}); '
                "state its price in the policy, in USD per million tokens"
            )
        starts: set[int] = set()
        for tiered in price.__dict__.values():
            if tiered is not None and not isinstance(tiered, Decimal):
                starts.update(tier.start for tier in tiered.tiers)
        fee, search = price.requests_kcount, price.web_searches_kcount
        return Rates(
            **self._classes_at(price, None),
            per_request=femto_of(fee, "requests_kcount", per=1000) if isinstance(fee, Decimal) else 0,
            web_search=femto_of(search, "web_searches_kcount", per=1000) if isinstance(search, Decimal) else None,
            source=self._source,
            service_tier=service_tier,
            tiers=tuple(Tier(start_tokens=start, **self._classes_at(price, start)) for start in sorted(starts)),
        )

    def _classes_at(self, price: ModelPrice, start: int | None) -> dict[str, JsonValue]:
        """Return the known rates of classes once the total input exceeds `start` (None: the base price)."""
        listed = {key: _listed_rate(price, names, start) for key, names in _NAMES.items()}
        read, written = listed["input"] or 0, listed["output"] or 0
        media = read if self._provider in _MEDIA_AS_TEXT else None
        nearest = {
            "input": read,
            "cached_input": read,
            "cache_write": read,
            "output": written,
            "reasoning": written,
            "image_input": read,
            "audio_input": media,
        }
        classes = {name: listed[name] if listed[name] is not None else nearest.get(name) for name in TOKEN_CLASSES}
        return {name: rate for name, rate in classes.items() if rate is not None}


_NAMES: Final = {
    "input": ("input_mtok",),
    "cached_input": ("cache_read_mtok",),
    "cache_write": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok",),
    "audio_input": ("input_audio_mtok",),
    "image_input": ("input_image_mtok",),
    "output": ("output_mtok",),
    "reasoning": ("output_reasoning_mtok",),
    "audio_output": ("output_audio_mtok",),
    "image_output": ("output_image_mtok",),
}
"""Our classes as genai-prices names their prices, the nearest first."""


def _listed_rate(price: ModelPrice, names: tuple[str, ...], start: int | None) -> int | None:
    listed = next((found for name in names if (found := getattr(price, name)) is not None), None)
    if listed is None or isinstance(listed, Decimal):
        return None if listed is None else mtok_rate(listed, names[0])
    applicable = listed.base
    for tier in listed.tiers:
        if start is not None and tier.start <= start:
            applicable = tier.price
    return mtok_rate(applicable, names[0])


def _second_of_day(moment: time) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    utc = datetime.combine(datetime(1970, 1, 2, tzinfo=UTC).date(), aware).astimezone(UTC)
    return utc.hour * 3600 + utc.minute * 60 + utc.second


def _unknown_at_provider(provider: str, model: str) -> PriceUnknown:
    from genai_prices.data import providers  # here: see provider_schedule

    names = {listed.id: listed for listed in providers}
    if provider not in names:
        return unknown_price(f'no prices for provider "{provider}" (model "{model}")', provider, names)
    models = [listed.id for listed in names[provider].models]
    return unknown_price(f'no price for model "{model}" of provider "{provider}"', model, models)
