"""The semantic cache's verifier: asked about what the score leaves open, paid, remembered; its failure is a miss."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from backends.words import JsonValue
from semantic_cache.acceptance import shipped_digest
from semantic_cache.verifier import Point, VerifierCalibration, wording_id
from tests.served.test_budgets import metric
from tests.served.world import SMALL_NAME, Rows, Served, a_policy, serving
from tests.upstream import Act, Stalls, Upstream, refuses, says

pytestmark = pytest.mark.asyncio

FIRST, OTHER = "How do I reset my password?", "What should I do when my password is forgotten?"
"""One answer serves both; the tests' acceptance, which wants a cosine of 0.8, declines."""


def a_calibration(**changes: JsonValue) -> VerifierCalibration:
    """Return a calibration by which the small model's word decides alone."""
    point = Point(max_error=0.05, threshold=0.5, served=60, wrong=0, upper_bound=0.04, repeats_served=0.6)
    calibration = VerifierCalibration(
        format=3,
        model=SMALL_NAME,
        weights="",
        wording=wording_id(),
        acceptance=shipped_digest(),
        made="2026-11-01",
        confidence=0.9,
        repeats=100,
        traps=100,
        assumption="made up for tests",
        sources=(),
        said_weight=1.0,
        accepted_weight=0.0,
        intercept=0.0,
        alone_from=0.5,
        most=20.0,
        points=(point,),
    )
    return msgspec.structs.replace(calibration, **changes)


def verified(
    place: Path, large: Upstream, small: Upstream, *, calibration: VerifierCalibration | None = None, **keys: JsonValue
) -> JsonValue:
    """Return the tests' policy whose cached route asks the small model."""
    (place / "verifier.json").write_text((calibration or a_calibration()).dump())
    policy = a_policy([large.url], [small.url])
    verifier = {"model": "small", "calibration": "verifier.json", "wait": "always", "timeout_ms": 20000}
    policy["routes"][1]["cache"]["semantic"]["verifier"] = verifier | keys
    return policy


async def paths(gateway: Served, *questions: str, **fields: JsonValue) -> list[str]:
    """Ask one after another, each when the one before is stored and its questions are answered."""
    found = []
    for question in questions:
        seen = await gateway.ask(question, model="cached", **fields)
        found.append(seen.headers.get("x-faregate-path", str(seen.status)))
        await gateway.rows_of(seen)
        await gateway.opened.gateway.parts.verifying.settled()
        await gateway.stored()
    return found


def verifiers(rows: Rows) -> list[JsonValue]:
    return [charge for charge in rows.charges if charge["kind"] == "verifier"]


async def test_what_the_model_confirms_is_served_and_its_question_is_part_of_the_requests_cost(tmp_path: Path):
    async with (
        Upstream({"": says("yes")}) as small,
        Upstream({"": says("Click on it.")}) as large,
        serving(tmp_path, verified(tmp_path, large, small)) as gateway,
    ):
        first, second = await gateway.ask(FIRST, model="cached"), None
        await gateway.stored()
        second = await gateway.ask(OTHER, model="cached", headers={"x-faregate-explain": "true"})
        rows = await gateway.rows_of(first, second)

    assert (second.headers["x-faregate-path"], second.text) == ("cache:semantic", "Click on it.")
    assert "hit:verified" in second.headers["x-faregate-explain"]
    (asked,) = verifiers(rows)
    assert (asked["model"], asked["request_id"]) == ("small", second.headers["x-request-id"])
    assert rows.requests[1]["cost_nusd"] == asked["cost_nusd"] > 0
    assert float(second.headers["x-faregate-cost-usd"]) == asked["cost_nusd"] / 1e9
    assert rows.requests[1]["baseline_nusd"] == rows.requests[0]["cost_nusd"]


async def test_what_the_model_denies_is_a_miss_and_the_answer_is_not_charged_for_the_question(tmp_path: Path):
    async with (
        Upstream({"": says("no")}) as small,
        Upstream({"": says("Click on it.", prompt_tokens=11)}) as large,
        serving(tmp_path, verified(tmp_path, large, small)) as gateway,
    ):
        assert await paths(gateway, FIRST, OTHER) == ["large", "large"]
        rows = await gateway.rows(2)
    kinds = [(charge["kind"], charge["attempt"]) for charge in rows.charges]
    assert kinds == [("answer", 0), ("verifier", 0), ("answer", 1)]
    assert rows.requests[1]["cost_nusd"] == sum(charge["cost_nusd"] for charge in rows.charges[1:])


CUT = says("Click on it", finish="length")
"""An answer that is not stored, so that its question is asked again."""


async def test_a_pair_is_asked_about_once_and_by_each_tenant_for_itself(tmp_path: Path):
    async with (
        Upstream({"": says("no")}) as small,
        Upstream({FIRST: says("Click on it."), "": CUT}) as large,
        serving(tmp_path, verified(tmp_path, large, small)) as gateway,
    ):
        assert await paths(gateway, FIRST, OTHER, OTHER) == ["large"] * 3
        assert len(small.requests) == 1
        assert await paths(gateway, FIRST, OTHER, tenant="other") == ["large"] * 2
        assert len(small.requests) == 2
        told = 'faregate_cache_verifier_total{result="remembered_no",route="cached"}'
        assert await metric(gateway, told) == 1


async def test_a_question_that_nobody_waits_for_serves_the_next_time(tmp_path: Path):
    async with (
        Upstream({"": says("yes")}) as small,
        Upstream({FIRST: says("Click on it."), "": CUT}) as large,
        serving(tmp_path, verified(tmp_path, large, small, wait="never")) as gateway,
    ):
        assert await paths(gateway, FIRST, OTHER, OTHER) == ["large", "large", "cache:semantic"]
        rows = await gateway.rows(3)
    (asked,) = verifiers(rows)
    assert asked["request_id"] == rows.requests[1]["request_id"]
    answers = [charge["cost_nusd"] for charge in rows.charges if charge["kind"] == "answer"]
    assert [request["cost_nusd"] for request in rows.requests] == [*answers, 0]


async def test_a_request_waits_only_where_the_answer_takes_much_more(tmp_path: Path):
    long = says(" ".join(["word"] * 400), finish="length")
    gateway_waits = {"wait": "auto", "usd_per_day": 1000}
    async with (
        Upstream({"": says("yes")}) as small,
        Upstream({FIRST: says(" ".join(["word"] * 400)), "": long}) as large,
        serving(tmp_path, verified(tmp_path, large, small, **gateway_waits)) as gateway,
    ):
        verifying = gateway.opened.gateway.parts.verifying
        assert await paths(gateway, FIRST, OTHER) == ["large", "large"], "nothing is measured yet"
        verifying._asking["small"].seconds, verifying._answering["cached"].seconds = 1.0, 0.01
        assert await paths(gateway, f"{OTHER} It is urgent.") == ["cache:semantic"]
        verifying._answering["cached"].seconds = 0.005
        assert await paths(gateway, f"{OTHER} It really is urgent.") == ["large"]


FAILING: dict[str, tuple[Act, dict[str, JsonValue]]] = {
    "it is too slow": (Stalls(), {"timeout_ms": 50}),
    "it fails": (refuses(500, "out of order"), {}),
    "its word is unclear": (says("perhaps"), {}),
    "the day's money is spent": (says("yes"), {"usd_per_day": 0}),
}


@pytest.mark.parametrize("why", FAILING)
async def test_a_verifier_that_does_not_say_is_a_miss(why: str, tmp_path: Path):
    act, keys = FAILING[why]
    async with (
        Upstream({"": act}) as small,
        Upstream({"": says("Click on it.")}) as large,
        serving(tmp_path, verified(tmp_path, large, small, **keys)) as gateway,
    ):
        assert await paths(gateway, FIRST, OTHER) == ["large", "large"]
        requests = (await gateway.rows(2)).requests
    assert [request["status"] for request in requests] == [200, 200]


async def test_what_the_guard_objects_to_or_no_yes_could_lift_is_not_asked(tmp_path: Path):
    hopeless = a_calibration(said_weight=0.0, intercept=-1.0)
    async with (
        Upstream({"": says("yes")}) as small,
        Upstream({"": says("Click on it.")}) as large,
        serving(tmp_path, verified(tmp_path, large, small)) as gateway,
    ):
        assert (
            await paths(gateway, FIRST, "How do I reset my 2 passwords?", "Reset my password in German?")
            == ["large"] * 3
        )
        assert small.requests == []
    other = tmp_path / "other"
    other.mkdir()
    async with (
        Upstream({"": says("yes")}) as small,
        Upstream({"": says("Click on it.")}) as large,
        serving(other, verified(other, large, small, calibration=hopeless)) as gateway,
    ):
        assert await paths(gateway, FIRST, OTHER) == ["large", "large"]
        assert small.requests == []


@pytest.mark.parametrize(("alone_from", "path", "asked"), [(0.5, "cache:semantic", 0), (2.0, "large", 1)])
async def test_the_calibration_says_from_which_score_on_nobody_is_asked(
    alone_from: float, path: str, asked: int, tmp_path: Path
):
    async with (
        Upstream({"": says("no")}) as small,
        Upstream({"": says("Click on it.")}) as large,
        serving(
            tmp_path, verified(tmp_path, large, small, calibration=a_calibration(alone_from=alone_from))
        ) as gateway,
    ):
        assert await paths(gateway, FIRST, "How can I reset my password?") == ["large", path]
        assert len(small.requests) == asked


async def test_a_calibration_made_for_another_model_or_wording_is_refused_and_nobody_is_asked(tmp_path: Path):
    async with (
        Upstream({"": says("yes")}) as small,
        Upstream({"": says("Click on it.")}) as large,
        serving(tmp_path, verified(tmp_path, large, small, calibration=a_calibration(wording="older"))) as gateway,
    ):
        (warning,) = [text for text in gateway.opened.warnings if "verifier" in text]
        assert "wording 'older'" in warning
        assert await paths(gateway, FIRST, OTHER) == ["large", "large"]
        assert small.requests == []


async def test_questions_draw_from_the_budget_of_the_request_they_are_put_for(tmp_path: Path):
    policy_changes = {"tenants": [{"id": "acme", "budget": {"usd": 1, "per": "month"}}]}
    async with (
        Upstream({"": says("yes")}) as small,
        Upstream({"": says("Click on it.")}) as large,
        serving(tmp_path, verified(tmp_path, large, small) | policy_changes) as gateway,
    ):
        assert await paths(gateway, FIRST, OTHER, max_tokens=100) == ["large", "cache:semantic"]
        left = await metric(gateway, "faregate_budget_left_usd")
        rows = await gateway.rows(2)
    assert round(left * 10**9) == 10**9 - sum(charge["cost_nusd"] for charge in rows.charges)
