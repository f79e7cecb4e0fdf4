"""Judges of one ladder fitted together: what the ladder and its parts lose and cost, and that the promise holds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from router.judge import FEATURES, WHOLE, Rates, Signal
from router.train_joint import Climb, Judging, align, fit_joint, from_records, joint_steps
from router.train_judge import Rows
from router.train_outcomes import TrainingError
from router.train_records import Outcomes, read_records
from router.train_trials import try_apart, try_together, world
from tests.router.outcomes import rows, vectors_of, write

LADDER = ("small", "middle", "large")
GRID = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3)


def rung(loss: list[float], confidence: list[float], *, usd: float) -> Rows:
    n = len(loss)
    return Rows(
        loss=np.array(loss),
        small_s=np.full(n, usd),
        large_s=np.full(n, 10.0),
        confidences={WHOLE: np.array(confidence)},
        rejected_s={WHOLE: np.full(n, usd / 2)},
        folds=np.arange(n) % 5,
        tasks=np.zeros(n, dtype=np.int64),
        is_inside=np.ones(n, dtype=bool),
        has_tools=np.zeros(n, dtype=bool),
        is_longer=np.zeros(n, dtype=bool),
    )


def made_up(n: int, *, seed: int) -> Climb:
    """Return a ladder whose judges are honest: an answer of confidence c is not worse with probability c."""
    draw = np.random.default_rng(seed)
    rungs = []
    for usd in (1.0, 3.0):
        confidence = draw.beta(6, 1, n)
        lost = (draw.random(n) > confidence).astype(float)
        gained = (draw.random(n) < 0.03) & (lost == 0)
        rungs.append(rung(list(lost - gained), list(confidence), usd=usd))
    return Climb(rungs=tuple(rungs))


def test_the_first_judge_that_keeps_decides_and_every_attempt_is_paid():
    climb = Climb(rungs=(rung([1, 1, 1], [0.9, 0.1, 0.1], usd=1), rung([-1, -1, -1], [0.9, 0.9, 0.1], usd=4)))
    every = [np.ones(3, dtype=bool)] * 2

    whole, low, high = climb.parts(0.5, every, [WHOLE] * 2)

    assert (whole.loss.tolist(), whole.paid.tolist(), whole.small.tolist()) == ([1, -1, 0], [1, 4.5, 12.5], [1, 1, 0])
    assert (low.loss.tolist(), low.paid.tolist()) == ([1, 0, 0], [1, 10.5, 10.5])
    assert (high.loss.tolist(), high.paid.tolist()) == ([-1, -1, 0], [4, 4, 12])


def test_a_rung_is_tried_where_it_pays_knowing_the_others():
    cheap, dear = rung([0] * 20, [0.9] * 20, usd=1), rung([0] * 20, [0.9] * 20, usd=9)
    hopeless = rung([0] * 20, [0.1] * 20, usd=4)

    assert [one.tolist() for one in Climb(rungs=(cheap, dear)).starts(0.5)[1]] == [[True], [False]]
    assert [one.tolist() for one in Climb(rungs=(hopeless, dear)).starts(0.5)[1]] == [[False], [True]]
    assert [one.tolist() for one in Climb(rungs=(hopeless, hopeless)).starts(0.5)[1]] == [[False], [False]]


def test_every_rungs_step_holds_the_ladders_figures_and_a_bound_no_part_exceeds():
    climb = made_up(400, seed=1)

    first, second = joint_steps(climb, 0.8)

    assert first.windows == second.windows
    kept = first.windows["whole>whole"]
    alone = [joint_steps(Climb(rungs=(one,)), 0.8)[0].windows[WHOLE] for one in climb.rungs]
    assert kept.mean_loss < kept.bounds["0.9"] < kept.bounds["0.99"]
    assert kept.bounds["0.9"] <= kept.harm_bounds["0.9"]
    assert kept.share > max(one.share for one in alone)


def test_the_promise_of_a_ladder_breaks_no_oftener_than_stated():
    known = world(made_up(3_000, seed=2), GRID)

    together = try_together(known, n=500, draws=range(80), max_loss=0.03, confidence=0.9)
    apart = try_apart(known, n=500, draws=range(80), max_loss=0.03, confidence=0.9, grid=GRID)

    allowed = 0.1 + 2 * math.sqrt(0.1 * 0.9 / 80)
    assert max(together.share, apart.share) <= allowed
    assert together.worth > apart.worth > 0


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    made = [{**row, "signal": min(row["signal"], -0.01)} for row in rows(420, models=LADDER)]
    return read_records([write(tmp_path_factory.mktemp("joint") / "r.jsonl", made)], LADDER)


def test_judges_from_records_look_at_nothing_that_records_do_not_hold(records: Outcomes):
    vectors = dict(zip(records.prompts, vectors_of(records), strict=True))
    judging = Judging(signal=Signal.LOGPROBS, rates=Rates(uncached_input_s=1, output_s=1))

    made = fit_joint(
        align(from_records(records)), [judging] * 2, large_rates=Rates(uncached_input_s=9, output_s=9),
        embed=lambda texts: np.array([vectors[text] for text in texts]), embedder="fake", made="2026-11-21",
        source="made up", grid=(0.9, 0.5),
    )  # fmt: skip

    assert [one.small for one in made] == ["small", "middle"]
    assert {one.fit for one in made} == {made[0].fit} != {""}
    assert {one.ladder for one in made} == {LADDER}
    for one in made:
        (window,) = one.windows
        looked_at = {name for name, weight in zip(FEATURES, window.weights, strict=True) if weight}
        assert looked_at <= {"mean_logprob", "log_length", "task_prior"}
        assert "mean_logprob" in looked_at


def test_records_whose_signal_is_no_log_probability_are_refused(tmp_path: Path):
    made = read_records([write(tmp_path / "r.jsonl", rows(420, models=LADDER))], LADDER)

    with pytest.raises(TrainingError, match="never above 0"):
        from_records(made)


def test_records_without_lengths_are_refused_by_the_columns_name(tmp_path: Path):
    made = [{**row, "signal": min(row["signal"], -0.01), "output_tokens": None} for row in rows(420, models=LADDER)]
    read = read_records([write(tmp_path / "r.jsonl", made)], LADDER)

    with pytest.raises(TrainingError, match="column output_tokens is empty"):
        from_records(read)
