"""Why a trained artefact lets a rung answer, sends a prompt to the baseline, or leaves it to the static plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.words import JsonValue, ModelId, Surface
from router.by_prompt import ByPrompt, Foretold
from router.foresight import Sight
from router.judge import Judge
from router.strategy import Candidate, Cascade, PlanReason, Tables
from tests.router.foreseeing import OUTSIDE, a_promise, a_sight, foreseen
from tests.router.test_strategy import HERE, LARGE, MIDDLE, SMALL, TURNS, ask, judged
from tests.served.world import Prices

SMALL_DOES, SMALL_FAILS = foreseen(0.9, 0.92), foreseen(0.3, 0.9)


def by_prompt(sight: Sight | None = None, *, least_gain: float | None = 0.1, **nusd: float | None) -> ByPrompt:
    static = Cascade([SMALL, LARGE], judged=(), estimator=Tables((), Prices()))
    prices = Prices(**{"small": 1, "large": 10, **nusd})
    return ByPrompt([SMALL, LARGE], sight=sight or a_sight(), costs=prices, least_gain=least_gain, static=static)


def test_a_prompt_that_the_small_model_does_well_starts_there_with_the_baseline_behind_it():
    plan = by_prompt().plan(ask(), HERE, {}, SMALL_DOES)
    assert [(rung.model, rung.is_judged) for rung in plan.rungs] == [("small", False), ("large", False)]
    assert (plan.reason, plan.artefact) == (PlanReason.FORESEEN, "told")
    assert [(way.models, way.quality) for way in plan.alternatives] == [(("small",), 0.9), (("large",), 0.92)]


def test_a_prompt_that_the_baseline_does_better_starts_high():
    plan = by_prompt().plan(ask(), HERE, {}, SMALL_FAILS)
    assert ([rung.model for rung in plan.rungs], plan.reason) == (["large"], PlanReason.FORESEEN_HIGH)
    assert plan.looks[0].quality == 0.3


@pytest.mark.parametrize(("small", "model"), [(1, "small"), (9.9, "large")])
def test_what_has_to_be_gained_is_less_where_the_baseline_costs_hardly_more(small: float, model: str):
    assert by_prompt(small=small).plan(ask(), HERE, {}, foreseen(0.8, 0.85)).rungs[0].model == model


def test_a_baseline_that_has_the_conversation_cached_costs_less_to_stay_with():
    slight = foreseen(0.8, 0.82)
    long = ask(messages=[{"role": "user", "content": "word " * 1000}], max_tokens=1)
    assert by_prompt(small=5).plan(long, HERE, {}, slight).rungs[0].model == "small"
    assert by_prompt(small=5).plan(long, HERE, {LARGE.model: 1900}, slight).rungs[0].model == "large"


def test_without_prices_the_baseline_answers():
    assert by_prompt(small=None).plan(ask(), HERE, {}, SMALL_DOES).rungs[0].model == "large"


@pytest.mark.parametrize("start", [0, 1])
def test_a_threshold_of_its_own_decides_whatever_models_cost(start: int):
    strategy = by_prompt(a_sight(promise=a_promise()), least_gain=None, small=100)
    plan = strategy.plan(ask(), HERE, {}, foreseen(0.5, 0.5, start=start))
    assert plan.rungs[0].model == ("small", "large")[start]


def test_a_chosen_model_that_cannot_do_what_is_asked_makes_way_for_the_baseline():
    long = ask(messages=[{"role": "user", "content": "word " * 3000}])
    assert by_prompt().plan(long, HERE, {}, SMALL_DOES).rungs[0].model == "large"


FORMS = [{"messages": TURNS}, {"n": 2}, {"tools": [{"type": "function"}]}]


@pytest.mark.parametrize("fields", FORMS)
def test_forms_that_no_record_has_go_the_static_way(fields: dict[str, JsonValue]):
    plan = by_prompt().plan(ask(**fields), HERE, {}, SMALL_DOES)
    assert [rung.model for rung in plan.rungs] == ["large"]


@pytest.mark.parametrize("fields", [*FORMS, {"response_format": {"type": "json_object"}}])
def test_forms_that_no_record_has_need_no_forecast(fields: dict[str, JsonValue]):
    assert by_prompt().foresight(ask(**fields)) is None


def test_completions_are_no_questions():
    assert by_prompt().foresight(ask(Surface.COMPLETIONS, prompt="x")) is None
    assert by_prompt().foresight(ask()) is not None


def test_a_prompt_unlike_the_training_prompts_goes_the_static_way_and_says_so():
    plan = by_prompt().plan(ask(), HERE, {}, foreseen(0.9, 0.9, similarity=OUTSIDE))
    assert ([rung.model for rung in plan.rungs], plan.reason) == (["large"], PlanReason.UNLIKE_TRAINING)
    assert plan.looks[0].quality is None  # outside, an expectation means nothing


def test_without_a_forecast_the_static_plan_is_taken():
    assert by_prompt().plan(ask(), None).reason is PlanReason.NO_VECTOR


def test_a_route_whose_prompts_are_mostly_strange_is_left_alone_until_they_are_not():
    strategy, strange = by_prompt(), foreseen(0.9, 0.9, similarity=OUTSIDE)
    for _ in range(40):
        strategy.plan(ask(), HERE, {}, strange)

    assert strategy.plan(ask(), HERE, {}, SMALL_DOES).reason is PlanReason.STEPPED_ASIDE
    for _ in range(100):
        strategy.plan(ask(), HERE, {}, SMALL_DOES)
    assert strategy.plan(ask(), HERE, {}, SMALL_DOES).reason is PlanReason.FORESEEN


def test_a_few_strange_prompts_at_first_say_nothing_of_the_route():
    strategy = by_prompt()
    for _ in range(5):
        strategy.plan(ask(), HERE, {}, foreseen(0.9, 0.9, similarity=OUTSIDE))
    assert strategy.plan(ask(), HERE, {}, SMALL_DOES).reason is PlanReason.FORESEEN


def test_a_client_that_wants_less_loss_gets_the_baseline_unless_the_threshold_keeps_it():
    promising = by_prompt(a_sight(promise=a_promise(max_loss=0.02)), least_gain=None)
    assert promising.tightened(0.03) is promising
    assert promising.tightened(0.01).plan(ask(), HERE).rungs[0].model == "large"
    assert by_prompt().tightened(0.9).plan(ask(), HERE).rungs[0].model == "large"


def test_answers_without_a_confidence_are_not_sure_enough_for_a_raised_threshold():
    assert by_prompt().at_least(0.5).plan(ask(), HERE).rungs[0].model == "large"


def judging(ladder: list[Candidate]) -> ByPrompt:
    sight = a_sight(promise=a_promise(), judges_answers=True)
    static = Cascade(ladder, judged=(), estimator=Tables((), Prices()))
    prices = Prices(small=1, middle=3, large=10)
    return ByPrompt(ladder, sight=sight, costs=prices, least_gain=None, static=static)


@pytest.mark.parametrize(
    ("start", "rungs"), [(0, ["small", "middle", "large"]), (1, ["middle", "large"]), (2, ["large"])]
)
def test_where_the_artefact_judges_all_rungs_from_its_start_may_be_tried(start: int, rungs: list[str]):
    plan = judging([SMALL, MIDDLE, LARGE]).plan(ask(), HERE, {}, foreseen(0.5, 0.6, 0.9, start=start))
    assert [rung.model for rung in plan.rungs] == rungs
    assert [rung.is_judged for rung in plan.rungs] == [*(True for _ in rungs[1:]), False]


def test_beyond_a_rung_that_cannot_answer_only_the_baseline_is_left():
    narrow = replace(MIDDLE, context_tokens=1)
    plan = judging([SMALL, narrow, replace(SMALL, model=ModelId("wide")), LARGE]).plan(
        ask(), HERE, {}, foreseen(0.5, 0.6, 0.7, 0.9, start=0)
    )
    assert [rung.model for rung in plan.rungs] == ["small", "large"]


def test_an_artefact_that_judges_has_confidences_to_raise_a_threshold_on():
    strategy = judging([SMALL, MIDDLE, LARGE])
    assert strategy.at_least(0.9) is strategy


def foretold(*, keep_rate: float, small: float) -> Cascade:
    judges = (judged(is_shared=True, keep_rate=keep_rate),)
    sight = a_sight()
    tables = Tables(judges, Prices(small=small, large=10))
    estimator = Foretold(tables, sight=sight, ladder=[SMALL.model, LARGE.model])
    return Cascade([SMALL, LARGE], judged=judges, estimator=estimator, sight=sight)


def test_a_prompt_that_the_small_model_will_fail_starts_high_although_its_cluster_starts_low():
    strategy = foretold(keep_rate=0.6, small=3)
    assert strategy.plan(ask(), HERE, {}, foreseen(0.6, 0.9)).rungs[0].model == "small"
    high = strategy.plan(ask(), HERE, {}, foreseen(0.1, 0.9))
    assert ([rung.model for rung in high.rungs], high.reason) == (["large"], PlanReason.SMALL_DOES_NOT_PAY)


def test_an_expectation_never_makes_a_judged_rung_unjudged_nor_its_judge_laxer():
    strategy = foretold(keep_rate=0.6, small=1)
    plan = strategy.plan(ask(), HERE, {}, foreseen(0.999, 0.1))
    assert [(rung.model, rung.is_judged) for rung in plan.rungs] == [("small", True), ("large", False)]
    assert strategy.judged[0].judge.promise.is_shared


def test_strange_prompts_are_planned_by_the_tables_alone():
    strategy = foretold(keep_rate=0.6, small=3)
    strange = strategy.plan(ask(), HERE, {}, foreseen(0.1, 0.9, similarity=OUTSIDE))
    assert strange.rungs[0].model == "small"
    assert strange.foreseen is not None


def test_of_three_rungs_the_one_that_is_worth_most_answers():
    static = Cascade([SMALL, MIDDLE, LARGE], judged=(), estimator=Tables((), Prices()))
    strategy = ByPrompt(
        [SMALL, MIDDLE, LARGE],
        sight=a_sight(means=(0.5, 0.7, 0.9)),
        costs=Prices(small=1, middle=3, large=10),
        least_gain=0.1,
        static=static,
    )
    assert strategy.plan(ask(), HERE, {}, foreseen(0.4, 0.85, 0.9)).rungs[0].model == "middle"
    assert ModelId("large") in [rung.model for rung in strategy.plan(ask(), HERE, {}, foreseen(0.4, 0.5, 0.5)).rungs]
    assert isinstance(judged().judge, Judge)
