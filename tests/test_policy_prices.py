"""An operator's prices: dated, discounted, tiered, checked where they stand, and acted on."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from backends.price_list import provider_schedule
from backends.prices import Rates, Schedule
from backends.words import ModelId, Usage
from gateway.prepare import PolicyUnusable, price_book, stated_use
from policies.errors import PolicyError
from policies.loader import parse_policy
from policies.schema import Policy, Stated

NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
BIG = ModelId("big")
DATED = """
      - {input_usd_per_mtok: 4, output_usd_per_mtok: 8, valid_to: 2026-11-01}
      - {input_usd_per_mtok: 2, output_usd_per_mtok: 6, valid_from: 2026-11-01, valid_to: 2026-12-01T00:00:00+01:00}
"""


def policy(price: str, where: str = "provider: openai, name: gpt-5") -> Policy:
    lines = where.split(", ")
    text = "version: 1\nmodels:\n  big:\n    backend: openai\n    base_url: http://x/v1\n"
    text += "".join(f"    {line}\n" for line in lines) + f"    price: {price}\nroutes: [{{name: all, ladder: [big]}}]\n"
    return parse_policy(text, Path("p.yaml"), {}, calibrations_folder=Path("none"))


def prices(price: str, where: str = "provider: openai, name: gpt-5", at: datetime = NOW) -> Schedule:
    return price_book(policy(price, where), at).of(BIG)


def usd(rates: Rates, name: str) -> Decimal:
    return Decimal(getattr(rates, name)) / 10**9


def mistake(price: str, where: str = "provider: openai, name: gpt-5") -> str:
    with pytest.raises(PolicyError) as caught:
        policy(price, where)
    (found,) = caught.value.mistakes
    return f"{found.line} {found.path}: {found.message}"


def test_dated_prices_follow_one_another_and_the_list_follows_them():
    found = prices(DATED)
    moments = ((10, 31, 23), (11, 1, 0), (11, 30, 22), (11, 30, 23))

    inputs = [usd(found.at(datetime(2026, month, day, hour, tzinfo=UTC)), "input") for month, day, hour in moments]

    assert inputs == [4, 2, 2, Decimal("1.25")]


def test_a_contracts_discount_is_off_every_class_fee_and_service_tier_of_the_list():
    found, listed = prices("{discount: 0.25}"), provider_schedule("openai", "gpt-5")

    for tier in (None, "flex", "priority"):
        ours, theirs = found.at(NOW, 0, tier), listed.at(NOW, 0, tier)
        for name in ("input", "cached_input", "output", "reasoning", "web_search"):
            assert getattr(ours, name) * 4 == getattr(theirs, name) * 3
    assert found.at(NOW).source.endswith("amended by the policy")


def test_a_class_that_is_stated_replaces_the_lists():
    rates = prices("{cached_input_usd_per_mtok: 0.5, usd_per_web_search: 0.02, usd_per_request: 0.001}").at(NOW)

    assert (usd(rates, "cached_input"), usd(rates, "input")) == (Decimal("0.5"), Decimal("1.25"))
    assert rates.cost_nusd(Usage(input_tokens=0, cached_input_tokens=2, web_searches=1)) == 21_001_000


def test_fees_are_in_the_bound_at_their_dearest():
    lower, higher = "usd_per_web_search: 0.02, usd_per_request: 0.001", "usd_per_web_search: 0.03"
    found = prices(f"[{{{lower}, valid_to: 2026-11-03}}, {{{higher}, valid_from: 2026-11-03}}]")

    without, having = (found.upper_bound_nusd(NOW, 0, 0, web_searches=searches) for searches in (0, 3))

    assert (without, having) == (1_000_000, 90_000_000), "prices of tomorrow are looked at, too"


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("gpt-5", "", (10, False)),
        ("gpt-5-search-api", "", (10, True)),
        ("sonar-deep-research", "", (100, True)),
        ("sonar", ", web_searches: {max: 1}", (1, True)),
        ("gpt-5", ", web_searches: {unasked: true}", (10, True)),
    ],
)
def test_how_often_a_model_searches_is_told_by_the_policy_or_by_its_name(
    name: str, more: str, expected: tuple[int, bool]
):
    fee = "{input_usd_per_mtok: 3, output_usd_per_mtok: 9, usd_per_web_search: 0.01}"
    model = policy(fee, f"name: {name}{more}").models[BIG]

    assert (model.most_web_searches, model.searches_unasked) == expected


def test_service_tiers_are_multiples_of_ones_own_price():
    found = prices("{input_usd_per_mtok: 3, output_usd_per_mtok: 9, service_tiers: {batch: 0.5, priority: 2}}")

    rates = [found.at(NOW, 0, tier) for tier in (None, "batch", "priority", "flex")]

    assert [usd(each, "input") for each in rates] == [3, Decimal("1.5"), 6, 3]
    assert [each.service_tier for each in rates] == ["", "batch", "priority", ""]


def test_tiers_price_long_contexts_from_one_token_above():
    found = prices(
        "{input_usd_per_mtok: 3, output_usd_per_mtok: 9, "
        "tiers: [{above_input_tokens: 1000, input_usd_per_mtok: 5}, "
        "{above_input_tokens: 2000, output_usd_per_mtok: 7}]}"
    )

    rates = [found.at(NOW, tokens) for tokens in (1000, 1001, 2000, 2001)]

    assert [(usd(each, "input"), usd(each, "output")) for each in rates] == [(3, 9), (5, 9), (5, 9), (3, 7)]


def test_every_class_can_be_priced():
    names = ["input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input"]
    names += ["output", "reasoning", "audio_output", "image_output"]
    stated = ", ".join(f"{name}_usd_per_mtok: {number}" for number, name in enumerate(names, start=1))

    rates = prices(f"{{{stated}}}").at(NOW)

    assert [usd(rates, name) for name in names] == list(range(1, 11))


def test_a_model_that_the_list_does_not_know_needs_a_price_of_its_own():
    where = "provider: openai, name: gpt-99"

    with pytest.raises(PolicyUnusable, match=r"models\.big: no price for model \"gpt-99\""):
        prices("{discount: 0.1}", where)
    assert usd(prices("{input_usd_per_mtok: 3, output_usd_per_mtok: 9}", where).at(NOW), "input") == 3


def test_a_price_that_is_over_is_no_price():
    own = "{input_usd_per_mtok: 3, output_usd_per_mtok: 9, valid_to: 2026-11-02}"

    with pytest.raises(PolicyUnusable, match="none of its prices is valid now"):
        prices(own, "name: gpt-5")
    assert (
        prices(own, "name: gpt-5", datetime(2026, 11, 1, tzinfo=UTC)).at(NOW).cost_nusd(Usage(input_tokens=1)) is None
    )


@pytest.mark.parametrize(
    ("price", "where", "expected"),
    [
        ("{stated: trust}", "provider: openai, name: gpt-5", Stated.TRUST),
        ("{stated: reconcile}", "provider: openrouter, name: openai/gpt-4o", Stated.RECONCILE),
        ("{discount: 0.1}", "provider: openrouter, name: openai/gpt-4o", Stated.TRUST),
        ("{discount: 0.1}", "provider: openai, name: gpt-5", None),
    ],
)
def test_a_stated_cost_is_used_as_the_policy_says(price: str, where: str, expected: Stated | None):
    assert stated_use(policy(price, where).models[BIG]) is expected


OWN = "input_usd_per_mtok: 1, output_usd_per_mtok: 1"


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ("{input_usd_per_mtok: 1}", "8 models.big.price: `output_usd_per_mtok` is missing"),
        (f"{{{OWN}, discount: 0.1}}", "8 models.big.price.discount: a discount is a share off the provider's list"),
        ("{discount: 1.5}", "8 models.big.price.discount: expected less than 1"),
        ("{tiers: [{above_input_tokens: 5, input_usd_per_mtok: 1}]}", "8 models.big.price.tiers: `tiers` stand above"),
        (
            f"{{{OWN}, tiers: [{{above_input_tokens: 5}}]}}",
            "8 models.big.price.tiers[0]: this tier prices nothing",
        ),
        (
            f"{{{OWN}, service_tiers: {{default: 2}}}}",
            '8 models.big.price.service_tiers.default: "default" is the standard',
        ),
        (f"{{{OWN}, service_tiers: {{batch: 0}}}}", "8 models.big.price.service_tiers.batch: expected greater than 0"),
        (
            f"{{{OWN}, valid_from: 2026-11-02, valid_to: 2026-11-02}}",
            "8 models.big.price.valid_to: it ends at 2026-11-02 00:00 UTC, not after it begins",
        ),
        (f"{{{OWN}, valid_from: soon}}", "8 models.big.price.valid_from: expected a date such as 2026-11-01"),
        (f"{{{OWN}, valid_from: 2026-11-01T08:00:00}}", "8 models.big.price.valid_from: expected a date"),
        (f"{{{OWN}, stated: believe}}", "8 models.big.price.stated: expected trust or reconcile"),
        (f"{{{OWN}, inptu: 1}}", '8 models.big.price.inptu: unknown key "inptu"'),
        ("[]", "8 models.big.price: expected at least one entry"),
        ("7", "8 models.big.price: expected a mapping of keys to values"),
    ],
)
def test_a_price_that_cannot_be_is_refused_where_it_stands(price: str, expected: str):
    assert expected in mistake(price)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("valid_to: 2026-11-05", "valid_from: 2026-11-01", "10 models.big.price[1].valid_from: two prices overlap"),
        ("valid_from: 2026-10-01", "valid_from: 2026-11-01", "10 models.big.price[1].valid_from: two prices overlap"),
        ("valid_to: 2026-11-01", "valid_from: 2026-11-02", "10 models.big.price[1].valid_from: there is a gap"),
        ("valid_to: 2026-11-01", "usd_per_request: 0", "10 models.big.price[1]: `valid_from` is missing"),
        ("valid_to: 2026-11-01", "valid_from: x", "10 models.big.price[1].valid_from: expected a date"),
        ("valid_to: 2026-11-01", "valid_frm: 2026-11-01", '10 models.big.price[1].valid_frm: unknown key "valid_frm"'),
        ("valid_to: 2026-11-01", "valid_from: 2026-11-01, stated: trust", "10 models.big.price[1].stated: one model's"),
    ],
)
def test_dated_prices_neither_overlap_nor_leave_gaps(first: str, second: str, expected: str):
    assert expected in mistake(f"\n    - {{{OWN}, {first}}}\n    - {{{OWN}, {second}}}")


def test_a_discount_without_a_list_is_refused():
    with pytest.raises(PolicyError) as caught:
        policy("{discount: 0.1}", "name: gpt-5")

    said = [mistake.message for mistake in caught.value.mistakes]
    assert any("nothing else prices this model" in message for message in said)
    assert any("the model has no `provider`" in message for message in said)
