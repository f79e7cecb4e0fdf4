"""Prices: integers agree with genai-prices, bounds bound, and nothing unknown is free."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import cache

import genai_prices
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from backends.price_list import provider_schedule
from backends.prices import (
    EVER,
    UNPRICED,
    Day,
    PriceBook,
    PriceInvalid,
    PriceUnknown,
    Rates,
    Schedule,
    Span,
    Tier,
    UsageImpossible,
    dollars,
    overlay,
    override_rates,
    pool_rates,
    round_half_even,
    scaled,
    usd,
)
from backends.words import ModelId, Usage

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
LISTED = [
    ("openai", "gpt-4o"),
    ("openai", "gpt-5"),
    ("openai", "gpt-5-mini"),
    ("openai", "text-embedding-3-small"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-opus-4-1"),
    ("google", "gemini-2.5-pro"),
    ("google", "gemini-2.5-flash"),
    ("deepseek", "deepseek-chat"),
    ("x-ai", "grok-4"),
    ("perplexity", "sonar-deep-research"),
]
TIERED = Rates(
    input=1_250_000_000,
    cached_input=125_000_000,
    cache_write=1_250_000_000,
    output=10_000_000_000,
    reasoning=10_000_000_000,
    tiers=(
        Tier(
            start_tokens=200_000,
            input=2_500_000_000,
            cached_input=250_000_000,
            cache_write=2_500_000_000,
            output=15_000_000_000,
            reasoning=15_000_000_000,
        ),
    ),
)


def listed_rates(provider: str, model: str, at: datetime) -> Rates:
    """Return the standard tier's rates of a moment."""
    return provider_schedule(provider, model).plan_at(at)[""]


rate = st.integers(0, 10**12)
tokens = st.integers(0, 10**7)
usages = st.builds(
    Usage,
    input_tokens=tokens,
    cached_input_tokens=tokens,
    cache_write_tokens=tokens,
    output_tokens=tokens,
    reasoning_tokens=tokens,
)


@st.composite
def any_rates(draw: st.DrawFn) -> Rates:
    starts = sorted(draw(st.sets(st.integers(0, 10**7), max_size=3)))
    names = ("input", "cached_input", "cache_write", "output", "reasoning")
    tiers = tuple(Tier(start_tokens=start, **{name: draw(rate) for name in names}) for start in starts)
    return Rates(**{name: draw(rate) for name in names}, per_request=draw(rate), source="test", tiers=tiers)


schedule = cache(provider_schedule)


def theirs(provider: str, model: str, usage: Usage, at: datetime = AT) -> Decimal:
    reported = genai_prices.Usage(
        input_tokens=usage.total_input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.total_output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    priced = genai_prices.calc_price(reported, model, provider_id=provider, genai_request_timestamp=at)
    return priced.total_price


@pytest.mark.parametrize(("provider", "model"), LISTED)
@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=1),
        Usage(input_tokens=1_234_567, output_tokens=89),
        Usage(input_tokens=0, cached_input_tokens=77_777),
        Usage(input_tokens=0, cache_write_tokens=33_333),
        Usage(input_tokens=0, output_tokens=4_321),
        Usage(input_tokens=0, reasoning_tokens=4_321),
        Usage(input_tokens=199_999, cached_input_tokens=1, output_tokens=7),
        Usage(input_tokens=199_999, cached_input_tokens=2, output_tokens=7, reasoning_tokens=3),
        Usage(input_tokens=300_001, cached_input_tokens=5, cache_write_tokens=7, output_tokens=11, reasoning_tokens=13),
    ],
)
def test_every_class_costs_what_genai_prices_says(provider: str, model: str, usage: Usage):
    ours = listed_rates(provider, model, AT).cost_nusd(usage)

    expected = theirs(provider, model, usage) * 10**9

    assert abs(ours - expected) <= Decimal("0.5")


def test_gemini_has_a_context_tier_and_reaching_it_exactly_does_not_cross_it():
    rates = listed_rates("google", "gemini-2.5-pro", AT)

    at_start = rates.cost_nusd(Usage(input_tokens=200_000))
    above = rates.cost_nusd(Usage(input_tokens=200_001))

    assert [tier.start_tokens for tier in rates.tiers] == [200_000]
    assert (at_start, above) == (250_000_000, 500_002_500)


def test_cached_input_without_a_listed_price_costs_as_much_as_input():
    rates = listed_rates("openai", "gpt-4", AT)

    assert rates.cached_input == rates.input > 0


def test_an_unknown_model_names_its_neighbours():
    with pytest.raises(PriceUnknown, match="gpt-5") as caught:
        listed_rates("openai", "gtp-5-mni", AT)

    assert "gpt-5-mini" in caught.value.close
    assert isinstance(caught.value, LookupError)


def test_an_unknown_provider_names_its_neighbours():
    with pytest.raises(PriceUnknown, match=r'provider "opnai".*close names: .*openai'):
        listed_rates("opnai", "gpt-5", AT)


def test_a_model_priced_by_something_else_than_tokens_is_unknown_not_free():
    with pytest.raises(PriceUnknown, match="does not price"):
        listed_rates("openai", "whisper-1", AT)


def test_a_dated_price_is_the_one_of_its_day():
    before = listed_rates("openai", "gpt-4o", datetime(2024, 6, 1, tzinfo=UTC))

    assert before.source.startswith("genai-prices 0.2.3 openai/gpt-4o")
    assert before.cost_nusd(Usage(input_tokens=10**6)) > 0


def test_half_a_nano_dollar_rounds_to_even_once():
    half = Rates(input=500_000, cached_input=0, cache_write=0, output=500_000, reasoning=0)

    assert half.cost_nusd(Usage(input_tokens=1)) == 0
    assert half.cost_nusd(Usage(input_tokens=3)) == 2
    assert half.cost_nusd(Usage(input_tokens=1, output_tokens=1)) == 1


@given(numerator=st.integers(0, 10**30), denominator=st.integers(1, 10**9))
def test_rounding_is_that_of_exact_fractions(numerator: int, denominator: int):
    assert round_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(rates=any_rates(), usage=usages)
def test_a_cost_never_exceeds_its_upper_bound(rates: Rates, usage: Usage):
    bound = rates.upper_bound_nusd(usage.total_input_tokens, usage.total_output_tokens)

    assert 0 <= rates.cost_nusd(usage) <= bound


@given(rates=any_rates(), usage=usages, more=st.integers(0, 10**6), written=st.integers(0, 10**6))
def test_a_bound_made_for_more_tokens_still_bounds(rates: Rates, usage: Usage, more: int, written: int):
    bound = rates.upper_bound_nusd(usage.total_input_tokens + more, usage.total_output_tokens + written)

    assert rates.cost_nusd(usage) <= bound


@given(rates=any_rates())
def test_rates_survive_their_json(rates: Rates):
    assert Rates.from_json(rates.as_json()) == rates


def test_unreadable_stored_rates_are_refused():
    with pytest.raises(PriceInvalid, match="cannot be read"):
        Rates.from_json('{"input": "free"}')


@pytest.mark.parametrize(
    "usage",
    [Usage(input_tokens=-1), Usage(input_tokens=5, cached_input_tokens=-5), Usage(input_tokens=0, output_tokens=-1)],
)
def test_negative_usage_has_no_cost(usage: Usage):
    with pytest.raises(UsageImpossible, match="negative"):
        TIERED.cost_nusd(usage)


def test_negative_counts_have_no_bound():
    with pytest.raises(UsageImpossible, match="negative"):
        TIERED.upper_bound_nusd(-1, 0)


def test_a_pool_spreads_its_hour_over_the_tokens_of_each_class():
    rates = pool_rates(
        usd_per_hour=Decimal("0.60"),
        input_tokens_per_s=Decimal(2000),
        cached_input_tokens_per_s=Decimal(20000),
        output_tokens_per_s=Decimal(100),
        replicas=2,
    )

    an_hour_of_output = rates.cost_nusd(Usage(input_tokens=0, output_tokens=100 * 3600))

    assert abs(an_hour_of_output - 1_200_000_000) <= 1
    assert rates.input == rates.cache_write == pytest.approx(rates.cached_input * 10, abs=5)


def test_a_pool_without_a_cache_figure_prices_cached_input_as_input():
    rates = pool_rates(
        usd_per_hour=Decimal(1),
        input_tokens_per_s=Decimal(10),
        cached_input_tokens_per_s=None,
        output_tokens_per_s=Decimal(5),
    )

    assert (rates.cached_input, rates.reasoning) == (rates.input, rates.output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_tokens_per_s": Decimal(0)}, "input_tokens_per_s is 0"),
        ({"usd_per_hour": Decimal(-1)}, "usd_per_hour is -1"),
        ({"output_tokens_per_s": Decimal("nan")}, "output_tokens_per_s is NaN"),
        ({"replicas": 0}, "0 replicas"),
    ],
)
def test_an_impossible_pool_is_refused(change: dict[str, Decimal | int], message: str):
    pool = {
        "usd_per_hour": Decimal(1),
        "input_tokens_per_s": Decimal(1),
        "cached_input_tokens_per_s": None,
        "output_tokens_per_s": Decimal(1),
    }

    with pytest.raises(PriceInvalid, match=message):
        pool_rates(**(pool | change))


def test_stated_prices_default_to_their_parent_class():
    rates = override_rates({"input": Decimal("0.5"), "output": Decimal(2)}, usd_per_request=Decimal("0.001"))

    assert (rates.cached_input, rates.cache_write, rates.reasoning) == (rates.input, rates.input, rates.output)
    assert rates.cost_nusd(Usage(input_tokens=1_000_000)) == 501_000_000


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({"input": Decimal(1)}, "lacks output"),
        ({"input": Decimal(1), "output": Decimal(1), "ouput": Decimal(1)}, "unknown token class ouput"),
        ({"input": Decimal(1), "output": Decimal(-1)}, "output is -1"),
    ],
)
def test_a_wrong_stated_price_says_what_is_allowed(prices: dict[str, Decimal], message: str):
    with pytest.raises(PriceInvalid, match=message):
        override_rates(prices)


def test_rates_refuse_negative_numbers_and_unordered_tiers():
    with pytest.raises(PriceInvalid, match="rate of output is -1"):
        Rates(input=0, cached_input=0, cache_write=0, output=-1, reasoning=0)
    with pytest.raises(PriceInvalid, match="ascending"):
        Rates(input=0, cached_input=0, cache_write=0, output=0, reasoning=0, tiers=TIERED.tiers * 2)


def test_a_books_digest_depends_on_its_rates_and_not_on_their_order():
    one, two = constant("1"), Schedule.constant(TIERED)
    a, b = ModelId("a"), ModelId("b")

    book = PriceBook(schedules={a: one, b: two})

    assert book.digest == PriceBook(schedules={b: two, a: one}).digest
    assert book.digest != PriceBook(schedules={a: two, b: one}).digest
    assert book.of(a) is one


def test_a_book_names_what_it_does_not_know():
    book = PriceBook(schedules={ModelId("small"): Schedule.constant(TIERED)})

    with pytest.raises(PriceUnknown, match=r'"smal".*close names: small'):
        book.of(ModelId("smal"))


def constant(usd_per_mtok: str) -> Schedule:
    return Schedule.constant(override_rates({"input": Decimal(usd_per_mtok), "output": Decimal(usd_per_mtok)}))


@pytest.mark.parametrize(("provider", "model"), [*LISTED, ("deepseek", "deepseek-v4-flash"), ("openai", "o3")])
@given(moment=st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)), seed=st.integers(0, 9))  # noqa: DTZ001
@settings(max_examples=25)
def test_a_schedule_has_every_date_and_hour_of_the_list(provider: str, model: str, moment: datetime, seed: int):
    usage = Usage(input_tokens=1000 + seed, cached_input_tokens=77, output_tokens=13, reasoning_tokens=seed)

    rates = schedule(provider, model).at(moment, usage.total_input_tokens)

    ours = rates.cost_nusd(usage)
    assert ours is not None
    assert abs(ours - theirs(provider, model, usage, moment) * 10**9) <= Decimal("0.5")


def test_a_price_changes_in_the_second_its_hour_ends():
    prices = schedule("deepseek", "deepseek-chat")

    moments = [AT.replace(hour=16, minute=29, second=59), AT.replace(hour=16, minute=30)]

    assert [prices.at(moment).input for moment in moments] == [270_000_000, 135_000_000]


def test_hours_of_another_time_zone_are_utcs():
    prices = schedule("deepseek", "deepseek-chat")
    there = AT.replace(hour=16, minute=30).astimezone(timezone(timedelta(hours=8)))

    assert prices.at(there) == prices.at(AT.replace(hour=16, minute=30))


@pytest.mark.parametrize(
    ("tier", "input_rate"), [(None, 125), ("", 125), ("flex", 62.5), ("priority", 250), ("new", 125)]
)
def test_a_service_tier_has_its_own_price_where_one_is_listed(tier: str | None, input_rate: float):
    rates = schedule("openai", "gpt-5").at(AT, 10, tier)

    assert rates.input == input_rate * 10**7
    assert (rates.service_tier == (tier or "")) == (tier != "new")


def test_a_service_tier_is_not_cheaper_before_its_price_was_listed():
    rates = schedule("openai", "gpt-5").at(datetime(2026, 10, 1, tzinfo=UTC), 10, "flex")

    assert (rates.input, rates.service_tier) == (1_250_000_000, "")


def test_the_context_tier_is_on_the_rates_that_are_used():
    prices = Schedule.constant(TIERED)

    at, above = prices.at(AT, 200_000), prices.at(AT, 200_001)

    assert (at.input, at.start_tokens, at.tiers) == (TIERED.input, 0, ())
    assert (above.input, above.start_tokens, above.tiers) == (TIERED.tiers[0].input, 200_000, ())


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=1, audio_input_tokens=1),
        Usage(input_tokens=1, audio_output_tokens=1),
        Usage(input_tokens=1, image_output_tokens=1),
        Usage(input_tokens=1, web_searches=1),
        Usage(input_tokens=1, has_unpriced=True),
    ],
)
def test_what_no_rate_is_known_for_has_no_cost(usage: Usage):
    assert override_rates({"input": Decimal(1), "output": Decimal(1)}).cost_nusd(usage) is None


def test_every_rare_class_has_its_price():
    names = ("cache_write_1h", "audio_input", "image_input", "audio_output", "image_output")
    stated = {name: Decimal(10**number) for number, name in enumerate(("input", "output", *names))}
    rates = override_rates(stated, usd_per_web_search=Decimal("0.01"))
    more = {f"{name}_tokens": 1 for name in names}

    assert (
        rates.cost_nusd(Usage(input_tokens=1, output_tokens=1, web_searches=1, **more)) == 1_111_111 * 1000 + 10_000_000
    )


def test_an_operators_prices_hold_while_they_are_valid():
    first, second = 1_000, 2_000
    flat = constant("5").days[0]
    prices = overlay(constant("1"), [Span(first, second, lambda _: flat)])

    found = [prices.at(datetime.fromtimestamp(second, UTC)).input // 10**9 for second in (0, 999, 1_000, 1_999, 2_000)]

    assert found == [1, 1, 5, 5, 1]


def test_an_operators_discount_leaves_the_lists_dates_and_hours():
    listed = schedule("deepseek", "deepseek-chat")
    prices = overlay(
        listed, [Span(None, None, lambda day: day.each(lambda r: scaled(r, Decimal("0.8"))) if day else UNPRICED)]
    )

    found = [prices.at(AT.replace(hour=hour)).input for hour in (12, 20)]

    assert found == [216_000_000, 108_000_000]


def test_a_time_without_a_price_has_no_cost_and_a_bound_all_the_same():
    flat = constant("5").days[0]
    prices = overlay(None, [Span(None, 1_000, lambda _: flat)])
    later = datetime.fromtimestamp(1_000, UTC)

    assert prices.at(later).cost_nusd(Usage(input_tokens=1)) is None
    assert prices.upper_bound_nusd(later, 10, 0) == 50_000


@given(moment=st.datetimes(datetime(2025, 1, 1), datetime(2027, 6, 1), timezones=st.just(UTC)), usage=usages)  # noqa: DTZ001
@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "gpt-5"), ("deepseek", "deepseek-v4-flash"), ("x-ai", "grok-4.20")]
)
@settings(max_examples=25)
def test_a_schedules_bound_holds_for_every_tier_and_the_hours_to_come(
    provider: str, model: str, moment: datetime, usage: Usage
):
    prices = schedule(provider, model)
    bound = prices.upper_bound_nusd(moment, usage.total_input_tokens, usage.total_output_tokens, has_media=False)

    for hours in (0, 5, 23):
        for tier in (None, "flex", "priority", "batch"):
            later = moment + timedelta(hours=hours)
            cost = prices.at(later, usage.total_input_tokens, tier).cost_nusd(usage)
            assert cost is not None
            assert cost <= bound


@given(usage=usages, searches=st.integers(0, 100))
@pytest.mark.parametrize(("provider", "model"), [("openai", "gpt-5"), ("perplexity", "sonar-deep-research")])
@settings(max_examples=25)
def test_a_schedules_bound_holds_with_as_many_searches_as_it_is_for(
    provider: str, model: str, usage: Usage, searches: int
):
    prices = schedule(provider, model)
    bound = prices.upper_bound_nusd(
        AT, usage.total_input_tokens, usage.total_output_tokens, has_media=False, web_searches=searches
    )

    cost = prices.at(AT, usage.total_input_tokens).cost_nusd(replace(usage, web_searches=searches))

    assert cost is not None
    assert cost <= bound


def test_sound_is_in_the_bound_of_requests_that_have_some():
    prices = schedule("openai", "gpt-audio")

    without, having = (prices.upper_bound_nusd(AT, 100, 100, has_media=media) for media in (False, True))

    assert (without, having) == (100 * 2_500 + 100 * 10_000, 100 * 32_000 + 100 * 64_000)


@pytest.mark.parametrize("starts", [(), (5,), (EVER, 7, 7), (EVER, 9, 8)])
def test_a_schedule_that_does_not_cover_all_time_is_refused(starts: tuple[int, ...]):
    day = Day((0,), ({"": TIERED},))

    with pytest.raises(PriceInvalid, match="prices start at"):
        Schedule(starts, (day,) * len(starts))


@given(nusd=st.integers(-(10**40), 10**40))
def test_dollars_are_exact(nusd: int):
    text = f"{usd(nusd):f}"

    assert dollars(nusd) == text
    assert int(text.replace(".", "")) == nusd
    assert len(text.rpartition(".")[2]) == 9
