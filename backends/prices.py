"""What an attempt costs: rates compiled once to integers, costs computed without floats or Decimals.

Rules of money:
- a cost is an integer of nano-dollars (1e-9 USD); a rate is an integer of femto-dollars (1e-15 USD) per token;
- a cost is rounded once, half to even, from the exact sum of tokens x rates;
- `Decimal` appears only where a price is read, at load; float never;
- an unknown price is an error, never 0.

Errors:
    PriceError
    ├── PriceUnknown (also LookupError)   no such provider, model or usable price
    ├── PriceInvalid (also ValueError)    a price or throughput that cannot be
    └── UsageImpossible (also ValueError) negative tokens
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from backends.words import ModelId, Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

FEMTO_PER_NANO: Final = 10**6
FEMTO_PER_USD: Final = 10**15
NANO_PER_USD: Final = 10**9
_TOKENS_PER_MTOK: Final = 10**6
_SECONDS_PER_HOUR: Final = 3600
_CLASSES: Final = ("input", "cached_input", "cache_write", "output", "reasoning")


class PriceError(Exception):
    """Something about a price is wrong; the message says what and how to fix it."""


class PriceUnknown(PriceError, LookupError):
    """No price is known for this model. `close` holds names that look alike, best first."""

    def __init__(self, message: str, *, close: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.close = close


class PriceInvalid(PriceError, ValueError):
    """A price or a throughput is not a number that a price can be made of."""


class UsageImpossible(PriceError, ValueError):
    """A usage no server can have had, such as a negative number of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """The rates (femto-dollars per token) of every token once the total input exceeds `start_tokens`."""

    start_tokens: int
    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one model charges, in femto-dollars per token of each class of `Usage`.

    Attributes:
        per_request: a fee per attempt, femto-dollars.
        source: where the rates come from, for the reader of a charge.
        tiers: ascending by `start_tokens`. A tier is a cliff: the highest whose start is below the total input prices
            all tokens of the attempt, input and output.
    """

    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    per_request: int = 0
    source: str = ""
    tiers: tuple[Tier, ...] = ()

    def __post_init__(self) -> None:
        for rates in (self, *self.tiers):
            for name in _CLASSES:
                _check_rate(getattr(rates, name), name)
        _check_rate(self.per_request, "per_request")
        starts = [tier.start_tokens for tier in self.tiers]
        if starts != sorted(set(starts)) or (starts and starts[0] < 0):
            raise PriceInvalid(f"price tiers start at {starts}; starts must be ascending, different and not negative")

    def cost_nusd(self, usage: Usage) -> int:
        """Return what the usage costs in nano-dollars, rounded once, half to even.

        Raises:
            UsageImpossible: a class of tokens is negative.
        """
        if (
            usage.input_tokens < 0
            or usage.cached_input_tokens < 0
            or usage.cache_write_tokens < 0
            or usage.output_tokens < 0
            or usage.reasoning_tokens < 0
        ):
            raise UsageImpossible(f"tokens cannot be negative: {usage}; check how the upstream's usage was read")
        rates: Rates | Tier = self
        if self.tiers:
            rates = self._tier(usage.total_input_tokens)
        return round_half_even(
            usage.input_tokens * rates.input
            + usage.cached_input_tokens * rates.cached_input
            + usage.cache_write_tokens * rates.cache_write
            + usage.output_tokens * rates.output
            + usage.reasoning_tokens * rates.reasoning
            + self.per_request,
            FEMTO_PER_NANO,
        )

    def upper_bound_nusd(self, input_tokens: int, output_tokens: int) -> int:
        """Return the most that an attempt within these counts can cost, in nano-dollars.

        The dearest class of every tier that can apply: any tier whose start is below `input_tokens`, since the real
        input may be smaller than the estimate and a lower tier may be the dearer one.

        Raises:
            UsageImpossible: a count is negative.
        """
        if input_tokens < 0 or output_tokens < 0:
            raise UsageImpossible(f"cannot bound {input_tokens} input and {output_tokens} output tokens: negative")
        candidates: tuple[Rates | Tier, ...] = (self, *self.tiers)
        dearest = max(
            input_tokens * max(rates.input, rates.cached_input, rates.cache_write)
            + output_tokens * max(rates.output, rates.reasoning)
            for rates in candidates
            if isinstance(rates, Rates) or rates.start_tokens < input_tokens
        )
        return round_half_even(dearest + self.per_request, FEMTO_PER_NANO)

    def as_json(self) -> str:
        """Return the canonical JSON of these rates: what a charge stores and a price book's digest covers."""
        return _canonical(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Rates:
        """Read what `as_json` wrote.

        Raises:
            PriceInvalid: the text is not the JSON of rates.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PriceInvalid(f"stored rates cannot be read: {error}") from error

    def _tier(self, total_input_tokens: int) -> Rates | Tier:
        found: Rates | Tier = self
        for tier in self.tiers:
            if total_input_tokens <= tier.start_tokens:
                break
            found = tier
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook:
    """Every catalog model's rates, and their digest: sha256 of their canonical JSON, in hex."""

    rates: Mapping[ModelId, Rates]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        frozen = MappingProxyType(dict(self.rates))
        object.__setattr__(self, "rates", frozen)
        object.__setattr__(self, "digest", hashlib.sha256(_canonical(dict(frozen))).hexdigest())

    def of(self, model: ModelId) -> Rates:
        """Return a model's rates.

        Raises:
            PriceUnknown: the book has no such model.
        """
        found = self.rates.get(model)
        if found is None:
            raise _unknown(f'no price for model "{model}" in the price book', str(model), self.rates)
        return found


def pool_rates(
    *,
    usd_per_hour: Decimal,
    input_tokens_per_s: Decimal,
    cached_input_tokens_per_s: Decimal | None,
    output_tokens_per_s: Decimal,
    replicas: int = 1,
) -> Rates:
    """Return a pool's standard rates: the price of an hour, spread over the tokens of one class an hour can do.

    Args:
        usd_per_hour: what one replica costs an hour.
        input_tokens_per_s: uncached input the whole pool reads in a second when it does nothing else.
        cached_input_tokens_per_s: the same for input found in the prefix cache; None: priced as uncached input.
        output_tokens_per_s: output the whole pool writes in a second when it does nothing else.
        replicas: how many replicas the hour is paid for.

    Raises:
        PriceInvalid: a price is negative or not finite, a throughput or `replicas` is not above 0.

    Source: standard costing (predetermined rate = budgeted cost / budgeted quantity), per token class.
    """
    if replicas < 1:
        raise PriceInvalid(f"a pool of {replicas} replicas has no price; replicas must be at least 1")
    hour = _fraction(usd_per_hour, "usd_per_hour") * replicas

    def rate(tokens_per_s: Decimal, name: str) -> int:
        throughput = _fraction(tokens_per_s, name)
        if throughput == 0:
            raise PriceInvalid(f"{name} is 0; give the pool's measured throughput, above 0")
        return round(hour * FEMTO_PER_USD / (throughput * _SECONDS_PER_HOUR))

    read = rate(input_tokens_per_s, "input_tokens_per_s")
    written = rate(output_tokens_per_s, "output_tokens_per_s")
    cached = read
    if cached_input_tokens_per_s is not None:
        cached = rate(cached_input_tokens_per_s, "cached_input_tokens_per_s")
    return Rates(input=read, cached_input=cached, cache_write=read, output=written, reasoning=written, source="pool")


def provider_rates(provider: str, model: str, at: datetime) -> Rates:
    """Return a provider's list rates for text tokens, as they stand at `at` (dated and hourly prices included).

    A class the provider does not list is priced as it bills it: cached and written input as input, reasoning as output.
    A model without a price for output (embeddings) has the output rate 0.

    Args:
        provider: the provider as `genai-prices` names it, such as "openai", "anthropic", "google".
        model: the model as the provider names it.
        at: timezone-aware moment whose prices are wanted.

    Raises:
        PriceUnknown: no such provider or model, or it is not priced by input tokens.
    """
    import genai_prices  # here: it costs 180 ms, which a gateway that has only its own pools need not pay

    try:
        found = genai_prices.calc_price(genai_prices.Usage(), model, provider_id=provider, genai_request_timestamp=at)
    except LookupError as error:
        raise _unknown_at_provider(provider, model) from error
    source = f"genai-prices {genai_prices.__version__} {found.provider.id}/{found.model.id}"
    return _compile(found.model_price, provider=provider, model=model, source=source)


def override_rates(usd_per_mtok: Mapping[str, Decimal], *, usd_per_request: Decimal = Decimal(0)) -> Rates:
    """Return the rates an operator states in dollars per million tokens.

    Args:
        usd_per_mtok: `input` and `output`, and where they differ `cached_input`, `cache_write` (default: input) and
            `reasoning` (default: output).
        usd_per_request: a fee per attempt.

    Raises:
        PriceInvalid: an unknown or missing class, or a price that is negative or not finite.
    """
    allowed = ", ".join(_CLASSES)
    unknown = sorted(set(usd_per_mtok) - set(_CLASSES))
    if unknown:
        raise PriceInvalid(f"unknown token class {', '.join(unknown)} in a price; the classes are: {allowed}")
    missing = [name for name in ("input", "output") if name not in usd_per_mtok]
    if missing:
        raise PriceInvalid(
            f"a price lacks {' and '.join(missing)}; give it in USD per million tokens (0 if it is free)"
        )
    stated = {name: _mtok_rate(price, name) for name, price in usd_per_mtok.items()}
    return Rates(
        input=stated["input"],
        cached_input=stated.get("cached_input", stated["input"]),
        cache_write=stated.get("cache_write", stated["input"]),
        output=stated["output"],
        reasoning=stated.get("reasoning", stated["output"]),
        per_request=round(_fraction(usd_per_request, "usd_per_request") * FEMTO_PER_USD),
        source="policy",
    )


def round_half_even(numerator: int, denominator: int) -> int:
    """Divide integers exactly, rounding half to even; `denominator` must be above 0."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient & 1 == 1))


def usd(nusd: int) -> Decimal:
    """Return nano-dollars as exact dollars with nine decimals; nothing is rounded, whatever the size."""
    digits = tuple(int(digit) for digit in str(abs(nusd)))
    return Decimal((1 if nusd < 0 else 0, digits, -9))


def _compile(price: ModelPrice, *, provider: str, model: str, source: str) -> Rates:
    if price.input_mtok is None:
        raise PriceUnknown(
            f'{provider} does not price "{model}" by input tokens ({price or "no price"}); '
            "state its price in the policy, in USD per million tokens"
        )
    starts: set[int] = set()
    for name in ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok", "output_reasoning_mtok"):
        tiered = getattr(price, name)
        if tiered is not None and not isinstance(tiered, Decimal):
            starts.update(tier.start for tier in tiered.tiers)
    base = _classes_at(price, None)
    fee = price.requests_kcount
    return Rates(
        **base,
        per_request=0 if not isinstance(fee, Decimal) else round(Fraction(fee) / 1000 * FEMTO_PER_USD),
        source=source,
        tiers=tuple(Tier(start_tokens=start, **_classes_at(price, start)) for start in sorted(starts)),
    )


def _classes_at(price: ModelPrice, start: int | None) -> dict[str, int]:
    """Return the rate of each class once the total input exceeds `start` (None: the base price)."""

    def rate(name: str, default: int) -> int:
        listed = getattr(price, name)
        if listed is None:
            return default
        if isinstance(listed, Decimal):
            return _mtok_rate(listed, name)
        applicable = listed.base
        for tier in listed.tiers:
            if start is not None and tier.start <= start:
                applicable = tier.price
        return _mtok_rate(applicable, name)

    read = rate("input_mtok", 0)
    written = rate("output_mtok", 0)
    return {
        "input": read,
        "cached_input": rate("cache_read_mtok", read),
        "cache_write": rate("cache_write_mtok", read),
        "output": written,
        "reasoning": rate("output_reasoning_mtok", written),
    }


def _unknown_at_provider(provider: str, model: str) -> PriceUnknown:
    from genai_prices.data import providers  # here: see provider_rates

    names = {listed.id: listed for listed in providers}
    if provider not in names:
        return _unknown(f'no prices for provider "{provider}" (model "{model}")', provider, names)
    models = [listed.id for listed in names[provider].models]
    return _unknown(f'no price for model "{model}" of provider "{provider}"', model, models)


def _unknown(what: str, name: str, known: Iterable[str]) -> PriceUnknown:
    names = sorted(known)
    close = tuple(difflib.get_close_matches(name, names, n=3, cutoff=0.5))
    hint = f"close names: {', '.join(close)}" if close else f"{len(names)} names are known, none alike"
    return PriceUnknown(f"{what}; {hint}; correct the name or state the price in the policy", close=close)


def _mtok_rate(usd_per_mtok: Decimal, name: str) -> int:
    return round(_fraction(usd_per_mtok, name) * FEMTO_PER_USD / _TOKENS_PER_MTOK)


def _fraction(number: Decimal, name: str) -> Fraction:
    if not number.is_finite() or number < 0:
        raise PriceInvalid(f"{name} is {number}; it must be a finite number, 0 or more")
    return Fraction(number)


def _check_rate(rate: int, name: str) -> None:
    if rate < 0:
        raise PriceInvalid(f"the rate of {name} is {rate} femto-dollars per token; it must be 0 or more")


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")
