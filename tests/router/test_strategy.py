"""Why a route starts small or goes to its baseline at once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from backends.asks import parse_ask
from backends.words import Ask, Capability, JsonValue, ModelId, Surface
from router.judge import Judge
from router.strategy import Candidate, Cascade, Judged, NoEligibleModel, Pinned, PlanReason, Tables
from tests.served.world import Prices, a_judge

SMALL = Candidate(
    model=ModelId("small"),
    capabilities=frozenset({Capability.CHAT, Capability.COMPLETIONS, Capability.LOGPROBS, Capability.VISION}),
    context_tokens=2000,
)
MIDDLE = replace(SMALL, model=ModelId("middle"))
LARGE = Candidate(
    model=ModelId("large"),
    capabilities=frozenset({Capability.CHAT, Capability.COMPLETIONS, Capability.TOOLS, Capability.VISION}),
    context_tokens=8000,
)
HERE = np.eye(1, 384, dtype=np.float32)[0]
ELSEWHERE = -HERE


def ask(surface: Surface = Surface.CHAT, **fields: JsonValue) -> Ask:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, **fields}
    return parse_ask(surface, json.dumps(body).encode())


def judged(model: str = "small", *, is_shared: bool = False, **judge: JsonValue) -> Judged:
    made = a_judge(**judge).judge(max_loss=0.05, confidence=0.9, is_shared=is_shared)
    assert isinstance(made, Judge)
    return Judged(model=ModelId(model), judge=made, temperature=0.0)


def ladder(candidates: list[Candidate], *judges: Judged, **nusd: float | None) -> Cascade:
    return Cascade(candidates, judged=judges, estimator=Tables(judges, Prices(**nusd)))


def cascade(small: Candidate = SMALL, large: Candidate = LARGE, **judge: JsonValue) -> Cascade:
    return ladder([small, large], judged(small.model, **judge), small=1, large=10)


def test_a_question_like_the_calibrations_starts_small_and_is_judged():
    plan = cascade().plan(ask(), HERE)
    assert [(rung.model, rung.is_judged) for rung in plan.rungs] == [("small", True), ("large", False)]
    assert (plan.reason, plan.task) == (PlanReason.CASCADE, "everything")


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
PARTS = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": TURNS}, PlanReason.FORM),
        ({"messages": PARTS}, PlanReason.FORM),
        ({"n": 2}, PlanReason.FORM),
        ({"temperature": 0.7}, PlanReason.TEMPERATURE),
        ({"temperature": None}, PlanReason.TEMPERATURE),
        ({"tools": [{"type": "function"}]}, PlanReason.SMALL_INELIGIBLE),
        ({"max_tokens": 1990}, PlanReason.SMALL_INELIGIBLE),
    ],
)
def test_what_the_calibration_has_not_seen_goes_to_the_baseline(fields: JsonValue, reason: PlanReason):
    plan = cascade().plan(ask(**fields), HERE)
    assert ([rung.model for rung in plan.rungs], plan.reason) == (["large"], reason)


def test_legacy_completions_are_another_form():
    assert cascade().plan(ask(Surface.COMPLETIONS, prompt="x"), HERE).reason is PlanReason.FORM


def test_a_system_prompt_is_no_turn():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert cascade().plan(ask(messages=turns), HERE).reason is PlanReason.CASCADE


def test_a_question_unlike_the_calibrations_goes_to_the_baseline():
    assert cascade(cutoff=0.5).plan(ask(), ELSEWHERE).reason is PlanReason.OUTSIDE


def test_without_a_vector_nothing_starts_small():
    assert cascade().plan(ask(), None).reason is PlanReason.NO_VECTOR


def test_where_the_small_rung_does_not_pay_it_is_skipped():
    plan = cascade(start_small=False).plan(ask(), HERE)
    assert (plan.reason, plan.task) == (PlanReason.SMALL_DOES_NOT_PAY, "everything")


def test_without_a_calibration_the_baseline_answers():
    strategy = ladder([SMALL, LARGE])
    assert strategy.plan(ask(), HERE).reason is PlanReason.UNCALIBRATED
    assert not strategy.needs_vector(ask())


def test_when_the_baseline_cannot_the_highest_that_can_answers_unjudged():
    tiny = Candidate(model=ModelId("large"), capabilities=LARGE.capabilities, context_tokens=10)
    plan = cascade(large=tiny).plan(ask(), HERE)
    assert ([rung.model for rung in plan.rungs], plan.reason) == (["small"], PlanReason.BASELINE_INELIGIBLE)


def test_an_embedding_is_wanted_only_where_it_is_looked_at():
    assert cascade().needs_vector(ask())
    assert not cascade().needs_vector(ask(n=2))
    assert not Pinned(LARGE).needs_vector(ask())


def test_a_need_nobody_has_says_what_there_is():
    needy = ask(response_format={"type": "json_schema", "json_schema": {"schema": {}}})
    with pytest.raises(NoEligibleModel, match=r"json_schema.*available: small: .*2000 tokens; large: "):
        cascade().plan(needy, HERE)
    with pytest.raises(NoEligibleModel):
        Pinned(LARGE).plan(needy, None)


def three(keep_small: float, keep_middle: float, **nusd: float | None) -> Cascade:
    """Three rungs whose judges keep so many answers."""
    judges = [
        judged(model, is_shared=True, keep_rate=rate)
        for model, rate in (("small", keep_small), ("middle", keep_middle))
    ]
    return ladder([SMALL, MIDDLE, LARGE], *judges, **nusd)


@pytest.mark.parametrize(
    ("keep", "nusd", "models"),
    [
        ((0.5, 0.5), {"small": 1, "middle": 3, "large": 10}, ["small", "middle", "large"]),
        ((0.05, 0.5), {"small": 1, "middle": 3, "large": 10}, ["middle", "large"]),
        ((0.5, 0.05), {"small": 1, "middle": 3, "large": 10}, ["small", "large"]),
        ((0.05, 0.05), {"small": 1, "middle": 3, "large": 10}, ["large"]),
        ((0.9, 0.5), {"small": 1, "middle": 9, "large": 10}, ["small", "large"]),
    ],
)
def test_of_several_judged_rungs_the_cheapest_way_is_taken(
    keep: tuple[float, float], nusd: dict[str, float], models: list[str]
):
    plan = three(*keep, **nusd).plan(ask(), HERE)
    assert [rung.model for rung in plan.rungs] == models
    assert [rung.is_judged for rung in plan.rungs] == [True] * (len(models) - 1) + [False]
    assert list(plan.alternatives[0].models) == models


def test_what_a_way_costs_is_every_rung_as_often_as_it_is_reached():
    plan = three(0.5, 0.5, small=1, middle=3, large=10).plan(ask(max_tokens=10), HERE)
    tokens = (plan.input_tokens or 0) + 10
    assert plan.alternatives[0].cost_nusd == pytest.approx(tokens * (1 + 0.5 * 3 + 0.25 * 10))
    assert [way.models for way in plan.alternatives if len(way.models) == 1] == [("large",)]


def test_without_known_prices_every_rung_that_may_is_tried():
    plan = three(0.05, 0.05, small=None, middle=3, large=10).plan(ask(), HERE)
    assert len(plan.rungs) == 3


def test_a_rung_that_cannot_answer_leaves_the_others():
    needy = ask(max_tokens=1990)
    short = replace(SMALL, context_tokens=100)
    middle = replace(MIDDLE, context_tokens=8000)
    judges = [judged(model, is_shared=True) for model in ("small", "middle")]
    plan = ladder([short, middle, LARGE], *judges, small=1, middle=3, large=10).plan(needy, HERE)
    assert [rung.model for rung in plan.rungs] == ["middle", "large"]
    assert [look.reason for look in plan.looks] == [PlanReason.SMALL_INELIGIBLE, PlanReason.CASCADE]


def test_a_full_prompt_cache_of_the_baselines_is_stayed_with():
    long = ask(
        messages=[{"role": "system", "content": "word " * 1000}, {"role": "user", "content": "Hi"}], max_tokens=5
    )
    strategy = cascade(small=replace(SMALL, context_tokens=8000), keep_rate=0.3)
    stays = strategy.plan(long, HERE, {LARGE.model: 1600})
    assert ([rung.model for rung in stays.rungs], stays.reason) == (["large"], PlanReason.SESSION)
    assert strategy.plan(long, HERE, {LARGE.model: 10}).reason is PlanReason.CASCADE


def test_a_smaller_loss_drops_the_rungs_that_cannot_keep_it():
    strategy = three(0.5, 0.5, small=1, middle=3, large=10)
    assert len(strategy.tightened(0.02).judged) == 2
    assert strategy.tightened(0.01).judged == ()
    assert strategy.tightened(0.01).plan(ask(), HERE).reason is PlanReason.UNCALIBRATED
    assert strategy.tightened(0.5).plan(ask(), HERE) == strategy.plan(ask(), HERE)


LONGER = {
    "messages": [*({"role": role, "content": "Hi"} for role in ("user", "assistant")), {"role": "user", "content": "q"}]
}
OFFERING = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}


@pytest.mark.parametrize("fields", [LONGER, OFFERING])
def test_a_form_that_was_opened_is_judged_and_stays_closed_for_a_client_that_wants_less_loss(fields: JsonValue):
    able = replace(SMALL, capabilities=SMALL.capabilities | {Capability.TOOLS})
    best = replace(LARGE, capabilities=LARGE.capabilities | {Capability.TOOLS})
    closed = cascade(able, best)
    opened = closed.taking(turns=3, tools=True)

    reasons = [each.plan(ask(**fields), HERE).reason for each in (closed, opened, opened.tightened(0.02))]

    assert reasons == [PlanReason.FORM, PlanReason.CASCADE, PlanReason.FORM]
    assert opened.taking(turns=1, tools=False).plan(ask(**fields), HERE).reason is PlanReason.FORM
