"""Prices: integers agree with genai-prices, bounds bound, and nothing unknown is free."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.prices import (
    PriceBook,
    PriceInvalid,
    PriceUnknown,
    Rates,
    Tier,
    UsageImpossible,
    override_rates,
    pool_rates,
    provider_rates,
    round_half_even,
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


def theirs(provider: str, model: str, usage: Usage) -> Decimal:
    reported = genai_prices.Usage(
        input_tokens=usage.total_input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.total_output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    priced = genai_prices.calc_price(reported, model, provider_id=provider, genai_request_timestamp=AT)
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
    ours = provider_rates(provider, model, AT).cost_nusd(usage)

    expected = theirs(provider, model, usage) * 10**9

    assert abs(ours - expected) <= Decimal("0.5")


def test_gemini_has_a_context_tier_and_reaching_it_exactly_does_not_cross_it():
    rates = provider_rates("google", "gemini-2.5-pro", AT)

    at_start = rates.cost_nusd(Usage(input_tokens=200_000))
    above = rates.cost_nusd(Usage(input_tokens=200_001))

    assert [tier.start_tokens for tier in rates.tiers] == [200_000]
    assert (at_start, above) == (250_000_000, 500_002_500)


def test_cached_input_without_a_listed_price_costs_as_much_as_input():
    rates = provider_rates("openai", "gpt-4", AT)

    assert rates.cached_input == rates.input > 0


def test_an_unknown_model_names_its_neighbours():
    with pytest.raises(PriceUnknown, match="gpt-5") as caught:
        provider_rates("openai", "gtp-5-mni", AT)

    assert "gpt-5-mini" in caught.value.close
    assert isinstance(caught.value, LookupError)


def test_an_unknown_provider_names_its_neighbours():
    with pytest.raises(PriceUnknown, match=r'provider "opnai".*close names: .*openai'):
        provider_rates("opnai", "gpt-5", AT)


def test_a_model_priced_by_something_else_than_tokens_is_unknown_not_free():
    with pytest.raises(PriceUnknown, match="does not price"):
        provider_rates("openai", "whisper-1", AT)


def test_a_dated_price_is_the_one_of_its_day():
    before = provider_rates("openai", "gpt-4o", datetime(2024, 6, 1, tzinfo=UTC))

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
    one, two = override_rates({"input": Decimal(1), "output": Decimal(1)}), TIERED
    a, b = ModelId("a"), ModelId("b")

    book = PriceBook(rates={a: one, b: two})

    assert book.digest == PriceBook(rates={b: two, a: one}).digest != PriceBook(rates={a: two, b: one}).digest
    assert book.of(a) is one


def test_a_book_names_what_it_does_not_know():
    book = PriceBook(rates={ModelId("small"): TIERED})

    with pytest.raises(PriceUnknown, match=r'"smal".*close names: small'):
        book.of(ModelId("smal"))


@given(nusd=st.integers(-(10**40), 10**40))
def test_dollars_are_exact(nusd: int):
    text = f"{usd(nusd):f}"

    assert int(text.replace(".", "")) == nusd
    assert len(text.rpartition(".")[2]) == 9
