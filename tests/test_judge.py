"""The judge: what it keeps, what it refuses to look at, where it starts, and what its artefact promises."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backends.words import TokenLogprob
from router.judge import (
    FEATURES,
    Calibration,
    CalibrationError,
    Evidence,
    Judge,
    NoThreshold,
    Outside,
    Rates,
    Signal,
    Task,
    features,
    is_refusal,
    text_features,
)
from router.train_check import Held, hold_against
from router.train_judge import FEWEST, Pairs, fit, pair, promises
from router.train_outcomes import Outcome, TrainingError

SURE = TokenLogprob(-0.01, (-0.01, -5.0, -7.0))
TORN = TokenLogprob(-1.0, (-0.9, -1.0, -2.0))
TOKENS = st.builds(
    lambda values: TokenLogprob(values[0], tuple(sorted(values, reverse=True))),
    st.lists(st.floats(-30, 0), min_size=1, max_size=5),
)
Damage = Callable[[str], str] | None
SHIPPED = Path("router/calibrations/qwen2.5-coder-0.5b-1.5b.json")


def outcome(index: int, model: str, *, quality: float, token: TokenLogprob, count: int = 12) -> Outcome:
    return Outcome(
        key=f"q{index}", task="easy" if index % 2 else "hard", prompt=f"{'easy' if index % 2 else 'hard'} {index}",
        model=model, quality=quality, text="x", finish_reason="stop", input_tokens=20, output_tokens=count,
        seconds=1.0, tokens=(token,) * count,
    )  # fmt: skip


def embed(texts: list[str]) -> NDArray[np.float32]:
    draw = np.random.default_rng(0)
    rows = draw.normal(0, 0.01, (len(texts), 384))
    rows[:, 0] += [text.startswith("easy") for text in texts]
    rows[:, 1] += [text.startswith("hard") for text in texts]
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """A small model that is sure and right on easy questions, torn and mostly wrong on hard ones."""
    draw = np.random.default_rng(1)
    small, large = [], []
    for index in range(FEWEST + 200):
        is_easy = index % 2 == 1
        count = int(draw.integers(6, 40))
        token = SURE if draw.random() < (0.9 if is_easy else 0.1) else TORN
        right = draw.random() < (0.99 if token is SURE else 0.4)
        small.append(outcome(index, "small", quality=float(right), token=token, count=count))
        large.append(outcome(index, "large", quality=1.0, token=SURE, count=count))
    return Pairs(small=small, large=large)


@pytest.fixture(scope="module")
def calibration(pairs: Pairs) -> Calibration:
    return fit(
        pairs,
        small_rates=Rates(uncached_input_s=0.01, output_s=0.03),
        large_rates=Rates(uncached_input_s=0.03, output_s=0.09),
        embed=embed, embedder="fake", made="2026-11-21", source="made up", grid=(0.99, 0.95, 0.9, 0.8, 0.5, 0.1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def judge(calibration: Calibration) -> Judge:
    found = calibration.judge(max_loss=0.03, confidence=0.9)
    assert isinstance(found, Judge)
    return found


def finished(*tokens: TokenLogprob, reason: str = "stop") -> Evidence:
    return Evidence(tokens=tokens, is_finished=True, finish_reason=reason)


def test_a_sure_answer_is_kept_and_a_torn_one_is_not(judge: Judge):
    kept, climbed = (judge.weigh(finished(*[token] * 12), "easy-1") for token in (SURE, TORN))

    assert (kept.is_kept, kept.window, kept.reason) == (True, "whole", "above_threshold")
    assert (climbed.is_kept, climbed.reason) == (False, "below_threshold")
    assert climbed.confidence < judge.promise.threshold <= kept.confidence


@pytest.mark.parametrize(("seen", "window"), [(7, "none"), (8, "8"), (15, "8"), (16, "16"), (32, "32"), (60, "32")])
def test_an_unfinished_answer_is_judged_by_the_largest_window_it_fills(judge: Judge, seen: int, window: str):
    verdict = judge.weigh(Evidence(tokens=[SURE] * seen, is_finished=False, finish_reason=None), "easy-1")

    assert verdict.window == window
    assert verdict.is_kept == (window != "none")


def test_tokens_beyond_the_window_change_nothing(judge: Judge):
    early = judge.weigh(Evidence(tokens=[SURE] * 8, is_finished=False, finish_reason=None))
    late = judge.weigh(Evidence(tokens=[*[SURE] * 8, TORN, TORN], is_finished=False, finish_reason=None))

    assert early == late


def test_a_question_of_no_known_task_counts_as_one_of_the_least_promising(judge: Judge):
    answer = finished(*[SURE] * 12)

    assert judge.weigh(answer).confidence < judge.weigh(answer, "easy-1").confidence


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (finished(), "no_logprobs"),
        (finished(*[SURE] * 12, reason="content_filter"), "unusual_end"),
        (finished(*[SURE] * 500), "longer_than_calibrated"),
        (Evidence(tokens=[SURE] * 12, is_finished=False, finish_reason=None, is_json=True), "json_unfinished"),
        (Evidence(tokens=[SURE] * 12, is_finished=True, finish_reason="length", is_json=True), "json_cut"),
        (
            Evidence(tokens=[SURE] * 12, is_finished=True, finish_reason="stop", is_json=True, is_valid=False),
            "json_invalid",
        ),
    ],
)
def test_what_cannot_be_weighed_is_never_kept(judge: Judge, evidence: Evidence, reason: str):
    verdict = judge.weigh(evidence)

    assert (verdict.is_kept, verdict.confidence, verdict.window, verdict.reason) == (False, 0.0, "none", reason)


def test_a_question_starts_small_only_where_that_pays(judge: Judge):
    easy, hard = (judge.place(vector) for vector in embed(["easy one", "hard one"]))

    assert isinstance(easy, Task)
    assert isinstance(hard, Task)
    assert easy.name.startswith("easy")
    assert (easy.start_small, hard.start_small) == (True, False)
    assert easy.keep_rate > hard.keep_rate


def test_a_question_like_none_of_the_calibrations_is_outside(judge: Judge):
    stranger = np.zeros(384, dtype=np.float32)
    stranger[200] = 1.0

    place = judge.place(stranger)

    assert isinstance(place, Outside)
    assert place.similarity < place.cutoff


def test_a_promise_names_its_bound_and_no_window_breaks_it(judge: Judge):
    promise = judge.promise

    assert promise.mean_loss < promise.bound <= promise.max_loss == 0.03
    assert all(kept.bounds["0.9"] <= 0.03 for kept in promise.windows.values())
    assert promise.savings_low <= promise.savings <= promise.savings_high
    assert promise.share_kept > 0.3


def test_a_looser_promise_never_keeps_less(calibration: Calibration):
    judges = [calibration.judge(max_loss=loss, confidence=0.9) for loss in (0.02, 0.05, 0.2)]

    thresholds = [judge.promise.threshold for judge in judges if isinstance(judge, Judge)]
    assert thresholds == sorted(thresholds, reverse=True)


def test_more_confidence_is_never_rounded_down(calibration: Calibration):
    judge = calibration.judge(max_loss=0.05, confidence=0.92)

    assert isinstance(judge, Judge)
    assert judge.promise.confidence == 0.95


def test_a_promise_that_cannot_be_kept_is_a_fact_with_its_best_bound(calibration: Calibration):
    refused = calibration.judge(max_loss=0.0001, confidence=0.9)

    assert isinstance(refused, NoThreshold)
    assert refused.needed == 0.0001 < (refused.best_bound or 0)
    assert "calibrate with more questions" in refused.reason


def test_a_confidence_beyond_the_computed_ones_promises_nothing(calibration: Calibration):
    refused = calibration.judge(max_loss=0.5, confidence=0.999)

    assert isinstance(refused, NoThreshold)
    assert refused.best_bound is None


def test_an_artefact_survives_its_file(calibration: Calibration, tmp_path: Path):
    path = tmp_path / "calibration.json"
    path.write_text(calibration.dump(), encoding="utf-8")

    assert Calibration.load(path) == calibration


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-9], "is not JSON"),
        (lambda text: text.replace('"threshold":0.99', '"threshold":0.09'), "was changed or cut"),
        (None, "cannot be read"),
    ],
    ids=["cut", "changed", "missing"],
)
def test_a_damaged_artefact_is_refused(calibration: Calibration, tmp_path: Path, damage: Damage, says: str):
    path = tmp_path / "calibration.json"
    if damage:
        path.write_text(damage(calibration.dump()), encoding="utf-8")

    with pytest.raises(CalibrationError, match=says):
        Calibration.load(path)


def test_too_few_questions_are_not_fitted(pairs: Pairs):
    with pytest.raises(TrainingError, match="at least 400"):
        pair(pairs.small[:10], pairs.large)


def test_the_table_shows_every_promise(calibration: Calibration):
    table = promises(calibration)

    assert table.row_count >= 4
    assert [column.header for column in table.columns][:3] == ["max_loss", "threshold", "window"]


@given(st.lists(TOKENS, min_size=1, max_size=40), st.booleans())
def test_any_tokens_give_finite_features(tokens: list[TokenLogprob], is_json: bool):
    row = features(tokens, is_json=is_json, prior=0.0)

    assert row.shape == (len(FEATURES),)
    assert np.isfinite(row).all()


def test_the_shipped_calibration_promises_what_the_demo_states():
    calibration = Calibration.load(SHIPPED)
    judge = calibration.judge(max_loss=0.03, confidence=0.9)

    assert calibration.questions >= 400
    assert json.loads(SHIPPED.read_text(encoding="utf-8"))["made"] == "2026-11-21"
    assert isinstance(judge, Judge)
    assert judge.promise.bound <= 0.03


def held(judge: Judge, calibration: Calibration, pairs: Pairs) -> Held:
    return hold_against(
        judge,
        pairs.small,
        pairs.large,
        embed([one.prompt for one in pairs.small]),
        small_rates=calibration.small_rates,
        large_rates=calibration.large_rates,
    )


def test_a_check_on_the_calibrations_own_rows_agrees_with_what_it_says(
    judge: Judge, calibration: Calibration, pairs: Pairs
):
    seen = held(judge, calibration, pairs)
    assert seen.kept + seen.climbed + seen.straight == seen.n == len(pairs.small)
    assert seen.loss.value == pytest.approx(judge.promise.mean_loss, abs=0.01)
    assert seen.kept / seen.n == pytest.approx(judge.promise.share_kept, abs=0.05)
    assert seen.savings.low < seen.savings.value < seen.savings.high
    assert seen.savings.value == pytest.approx(judge.promise.savings, abs=0.05)


def test_a_check_sees_a_promise_that_does_not_hold(judge: Judge, calibration: Calibration, pairs: Pairs):
    worse = Pairs(small=[replace(one, quality=0.0) for one in pairs.small], large=pairs.large)
    seen = held(judge, calibration, worse)
    assert seen.loss.value == pytest.approx(seen.kept / seen.n)
    assert seen.loss.low > judge.promise.bound


def test_the_harm_is_bounded_above_the_loss_and_shared_ladders_go_by_it(calibration: Calibration):
    step = calibration.steps[-1]
    assert all(step.bound(level, is_shared=True) >= step.bound(level) for level in ("0.9", "0.95"))
    shared = calibration.judge(max_loss=0.05, confidence=0.95, is_shared=True)
    assert isinstance(shared, Judge)
    assert shared.promise.bound <= 0.05
    assert all(kept.harm_bounds["0.95"] <= 0.05 for kept in shared.promise.windows.values())


def test_an_older_artefact_judges_alone_only():
    shipped = Calibration.load(SHIPPED)
    assert isinstance(shipped.judge(max_loss=0.05, confidence=0.9), Judge)
    shared = shipped.judge(max_loss=0.05, confidence=0.9, is_shared=True)
    assert isinstance(shared, NoThreshold)
    assert "several judged rungs" in shared.reason


def test_a_threshold_that_verdicts_raised_holds_for_smaller_losses_too(judge: Judge):
    raised = judge.at_least(0.99)

    tight = raised.tightened(judge.promise.max_loss * 0.99)
    assert isinstance(tight, Judge)
    assert (raised.promise.threshold, tight.promise.threshold) == (0.99, 0.99)
    assert judge.at_least(0.0).promise == judge.promise


def test_a_judge_that_verdicts_made_stricter_starts_small_nowhere_else(judge: Judge):
    strict = judge.at_least(0.999)
    places = [(judge.place(v), strict.place(v)) for v in embed(["easy one", "hard one"])]
    assert all(isinstance(a, Task) and isinstance(b, Task) and b.start_small <= a.start_small for a, b in places)
    assert strict.certificate != judge.certificate


def test_a_tightened_judge_keeps_no_more(judge: Judge):
    tight = judge.tightened(0.015)
    assert judge.tightened(0.5) is judge
    assert isinstance(tight, NoThreshold) or tight.promise.threshold >= judge.promise.threshold


@pytest.fixture(scope="module")
def text_judge(pairs: Pairs) -> Judge:
    """The same models without log-probabilities: a small model that hedges where it is wrong."""
    small = [
        replace(one, tokens=(), text="Paris." if one.quality else "Perhaps it could be Rome, I think.")
        for one in pairs.small
    ]
    made = fit(
        Pairs(small=small, large=pairs.large),
        small_rates=Rates(uncached_input_s=0.01, output_s=0.03),
        large_rates=Rates(uncached_input_s=0.03, output_s=0.09),
        embed=embed, embedder="fake", made="2026-11-21", source="made up", grid=(0.99, 0.9, 0.5), signal=Signal.TEXT,
    )  # fmt: skip
    found = made.judge(max_loss=0.03, confidence=0.9)
    assert isinstance(found, Judge)
    return found


def said(text: str, *, is_finished: bool = True) -> Evidence:
    return Evidence(tokens=(), is_finished=is_finished, finish_reason="stop" if is_finished else None, text=text)


@pytest.mark.parametrize(
    ("evidence", "is_kept", "reason"),
    [
        (said("Paris."), True, "above_threshold"),
        (said("Perhaps it could be Rome, I think."), False, "below_threshold"),
        (said("Paris", is_finished=False), False, "text_unfinished"),
        (said("I'm sorry, I can't help."), False, "refused_to_answer"),
        (said(" "), False, "refused_to_answer"),
        (said("Paris. " * 100), False, "longer_than_calibrated"),
    ],
)
def test_without_logprobs_the_answers_form_is_judged(text_judge: Judge, evidence: Evidence, is_kept: bool, reason: str):
    verdict = text_judge.weigh(evidence, "easy-1")
    assert (verdict.is_kept, verdict.reason) == (is_kept, reason)
    assert text_judge.needs == frozenset()


@pytest.mark.parametrize("text", ["I cannot help with that.", "As an AI, I have no taste", "", "I don\u2019t know."])
def test_a_refusal_is_told(text: str):
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["The answer is 4.", "word " * 80 + "she said: I cannot", "AI is a field"])
def test_an_answer_is_no_refusal(text: str):
    assert not is_refusal(text)


@given(st.text())
def test_any_text_has_finite_features(text: str):
    assert np.isfinite(text_features(text, is_json=False, prior=0.5)).all()


def asked_again(pairs: Pairs, *, share_with_tools: float = 0.0, method: str = "self_check/1 by word") -> Pairs:
    """The same models without log-probabilities: a small model that nearly always knows whether it was right."""
    draw = np.random.default_rng(3)
    small = [
        replace(
            one, tokens=(), text="Paris.", probe=(6.9 if (one.quality > 0) is (draw.random() < 0.97) else -6.9,),
            method=method, again_input_tokens=60, again_output_tokens=1,
            has_tools=index < share_with_tools * len(pairs),
        )
        for index, one in enumerate(pairs.small)
    ]  # fmt: skip
    return Pairs(small=small, large=pairs.large)


def fitted(pairs: Pairs, *, signal: Signal, grid: tuple[float, ...] = (0.5,)) -> Calibration:
    return fit(
        pairs,
        small_rates=Rates(uncached_input_s=0.01, output_s=0.03),
        large_rates=Rates(uncached_input_s=0.03, output_s=0.09),
        embed=embed, embedder="fake", made="2026-11-21", source="made up", grid=grid, signal=signal,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checked(pairs: Pairs) -> Calibration:
    return fitted(asked_again(pairs, share_with_tools=0.5), signal=Signal.SELF_CHECK, grid=(0.95, 0.8, 0.5))


def test_a_self_check_is_evidence_and_part_of_the_price(checked: Calibration, pairs: Pairs):
    made = checked.judge(max_loss=0.04, confidence=0.9)
    assert isinstance(made, Judge)
    yes, no = (made.weigh(replace(said("Paris."), probe=(p,)), "easy-1") for p in (6.9, -6.9))
    free = replace(asked_again(pairs), small=[replace(o, again_input_tokens=0) for o in asked_again(pairs).small])
    priced, unpriced = (fitted(p, signal=Signal.SELF_CHECK).steps[-1] for p in (asked_again(pairs), free))
    assert (yes.is_kept, no.is_kept, checked.method) == (True, False, "self_check/1 by word")
    assert priced.windows["whole"].savings < unpriced.windows["whole"].savings


def test_an_answer_is_not_asked_about_when_nothing_would_keep_it(checked: Calibration):
    made = checked.judge(max_loss=0.04, confidence=0.9)
    assert isinstance(made, Judge)
    assert made.wants_probe(said("Paris."))
    assert not any(map(made.wants_probe, (said("I'm sorry."), said("x" * 999), replace(said("P"), probe=(1.0,)))))
    assert made.weigh(said("Paris.")).reason == "not_asked_again"


def test_requests_with_tools_have_a_window_and_bounds_of_their_own(checked: Calibration, judge: Judge):
    made = checked.judge(max_loss=0.04, confidence=0.9)
    assert isinstance(made, Judge)
    called = replace(said("[]"), has_tools=True, finish_reason="tool_calls", probe=(6.9,))
    kept, broken = made.weigh(called), made.weigh(replace(called, is_valid=False))
    assert (kept.window, kept.is_kept, broken.reason) == ("tools", True, "tool_call_invalid")
    assert (made.speaks_for_tools, judge.speaks_for_tools) == (True, False)
    assert judge.weigh(replace(finished(SURE), has_tools=True)).reason == "tools_outside_calibration"
    step = checked.steps[-1]
    assert step.bound("0.9") == max(step.windows[name].bounds["0.9"] for name in ("whole", "tools"))


def test_answers_that_were_asked_about_in_two_ways_are_not_mixed(pairs: Pairs):
    one, other = asked_again(pairs), asked_again(pairs, method="self_check/1 by log-probabilities")
    mixed = Pairs(small=[*one.small[:100], *other.small[100:]], large=pairs.large)
    with pytest.raises(TrainingError, match="not asked again for self_check in one way"):
        fitted(mixed, signal=Signal.SELF_CHECK)


def test_few_questions_with_tools_are_refused(pairs: Pairs):
    few = asked_again(pairs, share_with_tools=0.1)
    with pytest.raises(TrainingError, match="60 of 600 questions offer tools"):
        pair(few.small, few.large)
