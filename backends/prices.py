"""What an attempt costs: rates compiled once to integers, costs computed without floats or Decimals.

Rules of money:
- a cost is an integer of nano-dollars (1e-9 USD); a rate is an integer of femto-dollars (1e-15 USD) per token;
- a cost is rounded once, half to even, from the exact sum of tokens x rates;
- `Decimal` appears only where a price is read, at load; float never;
- an unknown price is an error at load and None at a charge, never 0;
- prices change by date, by hour of the day and by service tier: a `Schedule` holds all of them compiled, and finds the
  ones of a moment by bisection, so that a gateway that runs for months charges each day's price without a restart.

Errors:
    PriceError
    ├── PriceUnknown (also LookupError)   no such provider, model or usable price
    ├── PriceInvalid (also ValueError)    a price or throughput that cannot be
    └── UsageImpossible (also ValueError) negative tokens
"""

from __future__ import annotations

import difflib
import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from backends.words import JsonValue, ModelId, Usage

FEMTO_PER_NANO: Final = 10**6
FEMTO_PER_USD: Final = 10**15
NANO_PER_USD: Final = 10**9
_TOKENS_PER_MTOK: Final = 10**6
_SECONDS_PER_HOUR: Final = 3600
_CLASSES: Final = ("input", "cached_input", "cache_write", "output", "reasoning")
_RARE_CLASSES: Final = ("cache_write_1h", "audio_input", "image_input", "audio_output", "image_output")
TOKEN_CLASSES: Final = _CLASSES + _RARE_CLASSES
"""Every class of `Usage` that has a rate, by the rate's name."""


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


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """The rates (femto-dollars per token) of every token once the total input exceeds `start_tokens`."""

    start_tokens: int
    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    cache_write_1h: int | None = None
    audio_input: int | None = None
    image_input: int | None = None
    audio_output: int | None = None
    image_output: int | None = None


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What one model charges, in femto-dollars per token of each class of `Usage`.

    A rate of None is not known: a usage that has tokens of such a class has no known cost. A struct and no dataclass,
    since the journal has it in every hold and charge.

    Attributes:
        per_request: a fee per attempt, femto-dollars.
        web_search: a fee per search, femto-dollars.
        service_tier: the service tier these rates are for; "" is the standard one.
        start_tokens: where these are the rates of a context tier alone, the total input above which it holds.
        is_known: False where no price was valid, and nothing can be charged.
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
    cache_write_1h: int | None = None
    audio_input: int | None = None
    image_input: int | None = None
    audio_output: int | None = None
    image_output: int | None = None
    web_search: int | None = None
    service_tier: str = ""
    start_tokens: int = 0
    is_known: bool = True

    def __post_init__(self) -> None:
        if self._is_plainly_valid():
            return
        for rates in (self, *self.tiers):
            for name in TOKEN_CLASSES:
                _check_rate(getattr(rates, name), name)
        _check_rate(self.per_request, "per_request")
        _check_rate(self.web_search, "web_search")
        starts = [tier.start_tokens for tier in self.tiers]
        if starts != sorted(set(starts)) or (starts and starts[0] < 0):
            raise PriceInvalid(f"price tiers start at {starts}; starts must be ascending, different and not negative")

    def _is_plainly_valid(self) -> bool:
        """Tell whether nothing needs a closer look. Written out: the ledger reads rates with every hold and charge."""
        return (
            not self.tiers
            and self.input >= 0
            and self.cached_input >= 0
            and self.cache_write >= 0
            and self.output >= 0
            and self.reasoning >= 0
            and self.per_request >= 0
            and (self.cache_write_1h or 0) >= 0
            and (self.audio_input or 0) >= 0
            and (self.image_input or 0) >= 0
            and (self.audio_output or 0) >= 0
            and (self.image_output or 0) >= 0
            and (self.web_search or 0) >= 0
        )

    def cost_nusd(self, usage: Usage) -> int | None:
        """Return what the usage costs in nano-dollars, rounded once, half to even; None when a rate is not known.

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
        if usage.has_unpriced or not self.is_known:
            return None
        rates: Rates | Tier = self
        if self.tiers:
            rates = self._tier(usage.total_input_tokens)
        rare = 0
        if (
            usage.cache_write_1h_tokens
            or usage.audio_input_tokens
            or usage.image_input_tokens
            or usage.audio_output_tokens
            or usage.image_output_tokens
            or usage.web_searches
        ):
            known = self._rare(usage, rates)
            if known is None:
                return None
            rare = known
        return round_half_even(
            usage.input_tokens * rates.input
            + usage.cached_input_tokens * rates.cached_input
            + usage.cache_write_tokens * rates.cache_write
            + usage.output_tokens * rates.output
            + usage.reasoning_tokens * rates.reasoning
            + self.per_request
            + rare,
            FEMTO_PER_NANO,
        )

    def _rare(self, usage: Usage, rates: Rates | Tier) -> int | None:
        """Return the femto-dollars of the classes few answers have; None when one of them has no known rate."""
        femto = 0
        for tokens, rate in (
            (usage.cache_write_1h_tokens, rates.cache_write_1h),
            (usage.audio_input_tokens, rates.audio_input),
            (usage.image_input_tokens, rates.image_input),
            (usage.audio_output_tokens, rates.audio_output),
            (usage.image_output_tokens, rates.image_output),
            (usage.web_searches, self.web_search),
        ):
            if tokens < 0:
                raise UsageImpossible(f"tokens cannot be negative: {usage}; check how the upstream's usage was read")
            if tokens and rate is None:
                return None
            femto += tokens * (rate or 0)
        return femto

    def flat(self) -> tuple[Rates, ...]:
        """Return the rates of each context tier alone, the base first."""
        base = replace(self, tiers=())
        return (
            base,
            *(
                replace(base, **{name: getattr(tier, name) for name in ("start_tokens", *TOKEN_CLASSES)})
                for tier in self.tiers
            ),
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
            input_tokens * dearest_input(rates, has_media=True) + output_tokens * dearest_output(rates, has_media=True)
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


def dearest_input(rates: Rates | Tier, *, has_media: bool) -> int:
    """Return the highest rate an input token can have; sound and pictures only where the request has them."""
    media = (rates.audio_input or 0, rates.image_input or 0) if has_media else ()
    return max(rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h or 0, *media)


def dearest_output(rates: Rates | Tier, *, has_media: bool) -> int:
    """Return the highest rate an output token can have."""
    media = (rates.audio_output or 0, rates.image_output or 0) if has_media else ()
    return max(rates.output, rates.reasoning, *media)


STANDARD_TIERS: Final = frozenset({"", "default", "standard", "on_demand", "auto"})
"""What providers call the service tier everybody has."""

EVER: Final = -(2**53)
"""The start of a price that was always valid, in seconds since 1970."""

_DAY_S: Final = 86_400

Plan: TypeAlias = Mapping[str, Rates]
"""Rates by service tier; "" is the standard one and always there."""


@dataclass(frozen=True, slots=True)
class Day:
    """The prices of one day: `plans[i]` holds from `starts[i]`, in seconds of the UTC day, ascending from 0."""

    starts: tuple[int, ...]
    plans: tuple[Plan, ...]

    def each(self, change: Callable[[Rates], Rates]) -> Day:
        """Return the same hours with other rates."""
        return Day(self.starts, tuple({tier: change(rates) for tier, rates in plan.items()} for plan in self.plans))


_Line: TypeAlias = tuple[tuple[int, ...], tuple[Rates, ...]]
"""One service tier's rates by context: `rates[i]` holds above `starts[i - 1]` tokens of input."""


class Schedule:
    """A model's prices at every moment, compiled: by date, by hour of the day, by service tier, by context.

    Args:
        starts: since when each day's prices hold, in seconds since 1970, ascending; the first is `EVER`.
        days: as many as starts.
    """

    __slots__ = ("_ceilings", "_hours", "_only", "days", "starts")

    def __init__(self, starts: tuple[int, ...], days: tuple[Day, ...]) -> None:
        if len(starts) != len(days) or not starts or starts[0] != EVER or list(starts) != sorted(set(starts)):
            raise PriceInvalid(f"prices start at {starts}; the first must be EVER, the others ascending and different")
        self.starts = starts
        self.days = days
        self._hours = tuple((day.starts, tuple(_lines(plan) for plan in day.plans)) for day in days)
        self._only = self._hours[0][1][0] if len(days) == 1 and len(days[0].starts) == 1 else None
        ceilings = [_Ceiling.of(day) for day in days]
        # A bound that nothing is known of is that of all that ever was known: a hold of 0 would be no hold.
        every = _Ceiling.of(*days)
        self._ceilings = tuple(ceiling if ceiling.entries[0][0] or ceiling.is_known else every for ceiling in ceilings)

    @classmethod
    def constant(cls, rates: Rates) -> Schedule:
        """Return the schedule of rates that never change."""
        return cls((EVER,), (Day((0,), ({"": rates},)),))

    def at(self, moment: datetime, input_tokens: int = 0, tier: str | None = None) -> Rates:
        """Return the rates of one attempt, without context tiers: those of its input are chosen already.

        Args:
            moment: timezone-aware; when the attempt began.
            input_tokens: everything it read.
            tier: the service tier the provider says it ran in. One that is not listed has the standard rates, whose
                `service_tier` then differs from it.
        """
        plan = self._only
        if plan is None:
            second = int(moment.timestamp())
            starts, plans = self._hours[bisect_right(self.starts, second) - 1]
            plan = plans[0] if len(plans) == 1 else plans[bisect_right(starts, second % _DAY_S) - 1]
        thresholds, rates = (plan.get(tier) if tier else None) or plan[""]
        return rates[bisect_left(thresholds, input_tokens)] if thresholds else rates[0]

    def plan_at(self, moment: datetime) -> Plan:
        """Return the rates by service tier of a moment, with their context tiers."""
        second = int(moment.timestamp())
        day = self.day_at(second)
        return day.plans[bisect_right(day.starts, second % _DAY_S) - 1]

    def day_at(self, second: int) -> Day:
        """Return the prices of the day of a second since 1970."""
        return self.days[bisect_right(self.starts, second) - 1]

    def upper_bound_nusd(
        self, moment: datetime, input_tokens: int, output_tokens: int, *, has_media: bool = True, web_searches: int = 0
    ) -> int:
        """Return the most that an attempt within these counts can cost, in nano-dollars, its fees included.

        The dearest rate of every hour, service tier and context tier that can apply, of the prices of now and of those
        that begin within a day: an attempt may be priced by when it ends.

        Raises:
            UsageImpossible: a count is negative.
        """
        if input_tokens < 0 or output_tokens < 0 or web_searches < 0:
            raise UsageImpossible(
                f"cannot bound {input_tokens} input, {output_tokens} output tokens, {web_searches} searches: negative"
            )
        index, second = 0, 0
        if len(self.starts) > 1:
            second = int(moment.timestamp())
            index = bisect_right(self.starts, second) - 1
        bound = self._ceilings[index].femto(input_tokens, output_tokens, has_media, web_searches)
        if index + 1 < len(self.starts) and self.starts[index + 1] - second < _DAY_S:
            bound = max(bound, self._ceilings[index + 1].femto(input_tokens, output_tokens, has_media, web_searches))
        return round_half_even(bound, FEMTO_PER_NANO)

    def facts(self) -> JsonValue:
        """Return everything that decides a price, for a digest: starts, hours, tiers and rates."""
        return [
            [start, [[second, dict(plan)] for second, plan in zip(day.starts, day.plans, strict=True)]]
            for start, day in zip(self.starts, self.days, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Span:
    """Prices an operator states for a time: `start` and `end` (exclusive) in seconds since 1970, None for no end.

    `make` gets what the provider's list says of a day, None when there is no list.
    """

    start: int | None
    end: int | None
    make: Callable[[Day | None], Day]


def overlay(listed: Schedule | None, spans: Sequence[Span]) -> Schedule:
    """Return a provider's list with an operator's own prices over it, where and when there are any."""
    marks = {EVER, *(listed.starts if listed is not None else ())}
    for span in spans:
        marks.update(mark for mark in (span.start, span.end) if mark is not None)
    starts: list[int] = []
    days: list[Day] = []
    for mark in sorted(marks):
        base = listed.day_at(mark) if listed is not None else None
        over = next((s for s in spans if (s.start or EVER) <= mark and (s.end is None or mark < s.end)), None)
        day = over.make(base) if over is not None else base or UNPRICED
        if not days or days[-1] != day:
            starts.append(mark)
            days.append(day)
    return Schedule(tuple(starts), tuple(days))


def _lines(plan: Plan) -> dict[str, _Line]:
    return {
        tier: (tuple(context.start_tokens for context in rates.tiers), rates.flat()) for tier, rates in plan.items()
    }


@dataclass(frozen=True, slots=True)
class _Ceiling:
    """The dearest rates of a day: `entries[i]` for inputs above `starts[i - 1]` tokens.

    An entry is femto-dollars per input and output token without sound and pictures, the same with them, the fee, and
    the fee of a search.
    """

    starts: tuple[int, ...]
    entries: tuple[tuple[int, ...], ...]
    is_known: bool

    @classmethod
    def of(cls, *days: Day) -> _Ceiling:
        every = [rates for day in days for plan in day.plans for rates in plan.values() if rates.is_known]
        contexts = [(0, rates) for rates in every] + [
            (tier.start_tokens, tier) for rates in every for tier in rates.tiers
        ]
        fee = max((rates.per_request for rates in every), default=0)
        search = max((rates.web_search or 0 for rates in every), default=0)
        starts = tuple(sorted({start for start, _ in contexts if start > 0}))
        tokens = [
            [max((rate(rates) for start, rates in contexts if start <= above), default=0) for rate in _DEAREST]
            for above in (0, *starts)
        ]
        entries = tuple((*dearest, fee, search) for dearest in tokens)
        return cls(starts, entries, bool(every))

    def femto(self, input_tokens: int, output_tokens: int, has_media: bool, web_searches: int) -> int:
        entry = self.entries[bisect_left(self.starts, input_tokens)]
        side = 2 if has_media else 0
        return input_tokens * entry[side] + output_tokens * entry[side + 1] + entry[4] + web_searches * entry[5]


_DEAREST: Final[tuple[Callable[[Rates | Tier], int], ...]] = (
    lambda rates: dearest_input(rates, has_media=False),
    lambda rates: dearest_output(rates, has_media=False),
    lambda rates: dearest_input(rates, has_media=True),
    lambda rates: dearest_output(rates, has_media=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBook:
    """Every catalog model's prices, and their digest: sha256 of their canonical JSON, in hex."""

    schedules: Mapping[ModelId, Schedule]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        frozen = MappingProxyType(dict(self.schedules))
        object.__setattr__(self, "schedules", frozen)
        facts = {model: schedule.facts() for model, schedule in frozen.items()}
        object.__setattr__(self, "digest", hashlib.sha256(_canonical(facts)).hexdigest())

    def of(self, model: ModelId) -> Schedule:
        """Return a model's prices.

        Raises:
            PriceUnknown: the book has no such model.
        """
        found = self.schedules.get(model)
        if found is None:
            raise unknown_price(f'no price for model "{model}" in the price book', str(model), self.schedules)
        return found

    def rates_at(self, model: ModelId, moment: datetime, input_tokens: int = 0, tier: str | None = None) -> Rates:
        """Return what a model charges for an attempt; see `Schedule.at`.

        Raises:
            PriceUnknown: the book has no such model.
        """
        return self.of(model).at(moment, input_tokens, tier)


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
    return Rates(
        input=read,
        cached_input=cached,
        cache_write=read,
        output=written,
        reasoning=written,
        source="pool",
        # The replica's time is all there is to pay: sound and pictures are tokens like others.
        cache_write_1h=read,
        audio_input=read,
        image_input=read,
        audio_output=written,
        image_output=written,
    )


def override_rates(
    usd_per_mtok: Mapping[str, Decimal],
    *,
    usd_per_request: Decimal = Decimal(0),
    usd_per_web_search: Decimal | None = None,
    tiers: Mapping[int, Mapping[str, Decimal]] | None = None,
) -> Rates:
    """Return the rates an operator states in dollars per million tokens.

    Args:
        usd_per_mtok: `input` and `output`, and where they differ `cached_input`, `cache_write`, `image_input`
            (default: input), `cache_write_1h` (default: cache_write), `reasoning` (default: output), and
            `audio_input`, `audio_output`, `image_output` (default: not known).
        usd_per_request: a fee per attempt.
        usd_per_web_search: a fee per search; None: not known.
        tiers: the same classes for all tokens of an attempt whose input exceeds a number of tokens; a class left out
            keeps what it costs below.

    Raises:
        PriceInvalid: an unknown or missing class, or a price that is negative or not finite.
    """
    base = _classes(usd_per_mtok)
    return Rates(
        **base,
        per_request=round(_fraction(usd_per_request, "usd_per_request") * FEMTO_PER_USD),
        web_search=None if usd_per_web_search is None else femto_of(usd_per_web_search, "usd_per_web_search"),
        source="policy",
        tiers=tuple(
            Tier(start_tokens=start, **_classes({**usd_per_mtok, **stated}))
            for start, stated in sorted((tiers or {}).items())
        ),
    )


def _classes(usd_per_mtok: Mapping[str, Decimal]) -> dict[str, JsonValue]:
    allowed = ", ".join(TOKEN_CLASSES)
    unknown = sorted(set(usd_per_mtok) - set(TOKEN_CLASSES))
    if unknown:
        raise PriceInvalid(f"unknown token class {', '.join(unknown)} in a price; the classes are: {allowed}")
    missing = [name for name in ("input", "output") if name not in usd_per_mtok]
    if missing:
        raise PriceInvalid(
            f"a price lacks {' and '.join(missing)}; give it in USD per million tokens (0 if it is free)"
        )
    stated: dict[str, JsonValue] = {name: mtok_rate(price, name) for name, price in usd_per_mtok.items()}
    for name, nearest in _NEAREST:
        stated.setdefault(name, stated[nearest])
    return stated


_NEAREST: Final = (
    ("cached_input", "input"),
    ("cache_write", "input"),
    ("cache_write_1h", "cache_write"),
    ("image_input", "input"),
    ("reasoning", "output"),
)
"""What a class that is left out costs; what is not here is not known, since no other price comes near it."""


def scaled(rates: Rates, factor: Decimal, *, service_tier: str | None = None) -> Rates:
    """Return rates times a factor: a contract's discount, a batch's half price.

    Fees per request and per search are scaled by a discount and not by a service tier, as providers bill them.

    Args:
        rates: any rates.
        factor: 0 or more.
        service_tier: the tier the scaled rates are for; None keeps it.
    """
    times = _fraction(factor, "factor")

    def by(rate: int | None) -> int | None:
        return None if rate is None else round(rate * times)

    def classes(of: Rates | Tier) -> dict[str, JsonValue]:
        return {name: by(getattr(of, name)) for name in TOKEN_CLASSES}

    tiers = tuple(replace(tier, **classes(tier)) for tier in rates.tiers)
    changed = replace(rates, tiers=tiers, **classes(rates))
    if service_tier is not None:
        return replace(changed, service_tier=service_tier)
    return replace(changed, per_request=round(rates.per_request * times), web_search=by(rates.web_search))


def round_half_even(numerator: int, denominator: int) -> int:
    """Divide integers exactly, rounding half to even; `denominator` must be above 0."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient & 1 == 1))


def usd(nusd: int) -> Decimal:
    """Return nano-dollars as exact dollars with nine decimals; nothing is rounded, whatever the size."""
    return Decimal(f"{nusd}E-9")  # read from text: arithmetic would round to the context's 28 digits


@lru_cache(maxsize=256)  # an answer tells its cost three times
def dollars(nusd: int) -> str:
    """Return what `usd` holds as text, such as "0.000012500"; it is written on every answer."""
    whole, rest = divmod(abs(nusd), NANO_PER_USD)
    return f"{'-' if nusd < 0 else ''}{whole}.{rest:09d}"


def unknown_price(what: str, name: str, known: Iterable[str]) -> PriceUnknown:
    """Return the error about a name that no price is known for, with the names nearest to it."""
    names = sorted(known)
    close = tuple(difflib.get_close_matches(name, names, n=3, cutoff=0.5))
    hint = f"close names: {', '.join(close)}" if close else f"{len(names)} names are known, none alike"
    return PriceUnknown(f"{what}; {hint}; correct the name or state the price in the policy", close=close)


def mtok_rate(usd_per_mtok: Decimal, name: str) -> int:
    """Return dollars per million tokens as femto-dollars per token.

    Raises:
        PriceInvalid: the price is negative or not finite.
    """
    return round(_fraction(usd_per_mtok, name) * FEMTO_PER_USD / _TOKENS_PER_MTOK)


def femto_of(dollars: Decimal, name: str, *, per: int = 1) -> int:
    """Return dollars for `per` things as femto-dollars for one.

    Raises:
        PriceInvalid: the price is negative or not finite.
    """
    return round(_fraction(dollars, name) * FEMTO_PER_USD / per)


def _fraction(number: Decimal, name: str) -> Fraction:
    if not number.is_finite() or number < 0:
        raise PriceInvalid(f"{name} is {number}; it must be a finite number, 0 or more")
    return Fraction(number)


def _check_rate(rate: int | None, name: str) -> None:
    if rate is not None and rate < 0:
        raise PriceInvalid(f"the rate of {name} is {rate} femto-dollars per token; it must be 0 or more")


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


UNPRICED: Final = Day(
    (0,),
    ({"": Rates(input=0, cached_input=0, cache_write=0, output=0, reasoning=0, source="no price", is_known=False)},),
)
"""The prices of a time that no price covers."""
