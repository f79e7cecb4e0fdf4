"""Why a route starts small or goes to its baseline at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backends.asks import parse_ask
from backends.words import Ask, Capability, JsonValue, ModelId, Surface
from router.judge import Judge
from router.strategy import Candidate, Cascade, NoEligibleModel, Pinned, PlanReason
from tests.served.world import a_judge

SMALL = Candidate(
    model=ModelId("small"),
    capabilities=frozenset({Capability.CHAT, Capability.COMPLETIONS, Capability.LOGPROBS, Capability.VISION}),
    context_tokens=2000,
)
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


def cascade(small: Candidate = SMALL, large: Candidate = LARGE, **judge: JsonValue) -> Cascade:
    made = a_judge(**judge).judge(max_loss=0.05, confidence=0.9)
    assert isinstance(made, Judge)
    return Cascade([small, large], small=small.model, judge=made, temperature=0.0)


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
    strategy = Cascade([SMALL, LARGE], small=None, judge=None, temperature=0.0)
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
