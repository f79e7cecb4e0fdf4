"""`faregate evaluate cache --verifier`: the model is asked once a pair; its thresholds are made, kept and refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from gateway.cli import main
from semantic_cache.acceptance import Acceptance
from semantic_cache.evaluate import Case, Looked
from semantic_cache.evaluate_verified import ALONE, evaluate_verified, to_ask
from semantic_cache.train_verifier import Told, alone_from, calibrated, crossed, evaluate_crossed, fit, point_of
from semantic_cache.verifier import VerifierCalibration
from tests.served.world import SMALL_NAME, a_policy, an_acceptance, write_policy
from tests.test_verifier import CALIBRATION
from tests.upstream import Act, Received, Upstream, says

THINGS = ["kettle", "lamp", "bicycle", "radio", "violin", "heater", "tractor", "printer", "clock", "boiler"]


def a_file(place: Path) -> Path:
    """Write pairs: repairing is the same in two wordings, and selling is something else."""
    file = place / "pairs.jsonl"
    rows = [
        {"a": f"How do I repair a {thing}?", "b": f"What is the way to {verb} a {thing}?", "same": int(verb == "fix")}
        for thing in THINGS
        for verb in ("fix", "sell")
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def sees_through(received: Received) -> Act:
    return says("no" if "sell" in received.text else "yes")


@pytest_asyncio.fixture
async def small() -> AsyncIterator[Upstream]:
    """A model that tells the pairs apart."""
    async with Upstream(sees_through) as upstream:
        yield upstream


async def run(place: Path, upstream: Upstream, *more: str) -> Result:
    policy = write_policy(place, a_policy([upstream.url]))
    options = ["--verifier", "small", "--policy", str(policy), "--answers", str(place / "answers.jsonl"), "--json"]
    pairs = ["--pairs", str(a_file(place)), "--max-error", "0.15"]
    return await asyncio.to_thread(CliRunner().invoke, main, ["evaluate", "cache", *pairs, *options, *more])


@pytest.mark.asyncio
async def test_thresholds_are_made_on_pairs_and_used_for_the_same_model_only(small: Upstream, tmp_path: Path):
    file = tmp_path / "verifier.json"
    made = await run(tmp_path, small, "--save", str(file))
    asked = len(small.requests)
    told = json.loads(made.stdout)
    assert told["verifier"] | {"model": SMALL_NAME, "asked": asked} == told["verifier"], made.output
    assert told["hits_at_trap_rate"]["0.01"] == 1.0
    assert VerifierCalibration.load(file).traps == len(THINGS)

    again = await run(tmp_path, small, "--calibration", str(file))
    assert json.loads(again.stdout)["operating_point"]["hit_rate"] == 1.0, again.output
    assert len(small.requests) == asked, "what was said is kept"
    other = await run(tmp_path, small, "--calibration", str(file), "--weights", "fp8")
    assert (other.exit_code, "here 'fp8'" in other.stderr) == (1, True)


@pytest.mark.asyncio
async def test_a_model_that_cannot_be_asked_is_told(small: Upstream, tmp_path: Path):
    unknown = await run(tmp_path, small, "--verifier", "huge")
    assert 'unknown model "huge"; the catalog has: small, large' in unknown.stderr
    nowhere = CliRunner().invoke(main, ["evaluate", "cache", "--pairs", str(a_file(tmp_path)), "--verifier", "small"])
    assert "needs --policy" in nowhere.stderr
    alone = CliRunner().invoke(main, ["evaluate", "cache", "--pairs", str(a_file(tmp_path)), "--save", "x.json"])
    assert "go with --verifier" in alone.stderr


def made_up(n: int = 120, *, seed: int = 0) -> Told:
    """Return pairs of which the model knows much and the acceptance some; a third was not asked about."""
    random = np.random.default_rng(seed)
    is_right = random.random(n) < 0.5
    said = np.where(is_right, 2.0, -2.0) + random.normal(size=n)
    accepted = 1 / (1 + np.exp(-(np.where(is_right, 1.0, -1.0) + random.normal(size=n))))
    return Told(
        accepted=accepted,
        said=np.where(random.random(n) < 0.3, np.nan, said),
        passed=random.random(n) < 0.9,
        is_right=is_right,
        groups=np.arange(n),
    )


def test_both_voices_count_and_neither_backwards():
    told = made_up()
    rows = told.is_open
    fitted = fit(told.columns[rows], told.is_right[rows])
    assert fitted.said > fitted.accepted > 0
    reversed_ = fit(-told.columns[rows], told.is_right[rows])
    assert (reversed_.said, reversed_.accepted) == (0.0, 0.0)


def test_a_looser_error_serves_no_less_and_each_bound_is_kept():
    told = made_up()
    scores = crossed(told, splits=1)
    points = [point_of(told, scores, 2.0, error) for error in (0.02, 0.05, 0.1, 0.3)]
    assert [point.served for point in points] == sorted(point.served for point in points)
    assert points[-1].threshold is not None
    for point in points:
        assert point.threshold is None or point.upper_bound <= point.max_error


def test_the_acceptance_serves_alone_only_above_the_traps_it_would_serve():
    told, acceptance = made_up(), an_acceptance()
    above = alone_from(told, acceptance)
    assert above > told.accepted[told.passed & ~told.is_right].max()
    without = replace(told, is_right=np.ones_like(told.is_right))
    assert alone_from(without, acceptance) == acceptance.threshold(0.15)


def test_thresholds_out_of_fold_serve_what_the_model_knows():
    silent = Acceptance(msgspec.structs.replace(an_acceptance().calibration, steps=()), words=frozenset())
    point = evaluate_crossed(made_up(), silent, max_error=0.2).operating_point
    assert point.hit_rate.value is not None
    assert point.served_wrong_share.value is not None
    assert (point.hit_rate.value > 0.3, point.served_wrong_share.value < 0.2) == (True, True)


def seen(scores: list[float], *, doubtful: list[float] | None = None) -> Looked:
    return Looked(
        scores=np.array(scores),
        doubtful=np.array(doubtful or scores),
        similarities=np.full(len(scores), 0.9),
        is_same=np.array([True, True, True, False]),
        groups=np.arange(4),
        reasons=[None] * 4,
    )


CASES = [Case(asked=f"{n}?", stored=f"{n}!", is_comparable=True, is_same=n < 3) for n in range(4)]


def test_only_doubtful_pairs_are_asked_about():
    pairs = seen([0.99, 0.5, -1.0, -1.0], doubtful=[0.99, 0.5, 0.4, -1.0])
    assert [asked for asked, _ in to_ask(CASES, pairs, 0.9)] == ["1?", "2?"]
    assert len(to_ask(CASES, pairs, None)) == 3


def test_what_the_acceptance_serves_alone_stands_above_what_was_asked_about():
    acceptance = Acceptance.load()
    pairs = seen([0.99, 0.5, -1.0, 0.5], doubtful=[0.99, 0.5, 0.4, 0.5])
    said = np.array([np.nan, 5.0, np.nan, -5.0])
    report = evaluate_verified(pairs, said, acceptance, CALIBRATION, max_error=0.03)
    assert report.operating_point.hit_rate.value == pytest.approx(2 / 3)
    assert report.operating_point.trap_rate.value == 0.0
    assert max(step.threshold for step in report.curve) > ALONE


def test_a_calibration_names_what_it_belongs_to(tmp_path: Path):
    acceptance = Acceptance.load()
    made = calibrated(made_up(), acceptance, [a_file(tmp_path)], model="m", weights="w")
    assert made.mismatch(model="m", weights="w", acceptance=acceptance.digest) is None
    assert made.sources[0].rows == 2 * len(THINGS)
    assert [point.max_error for point in made.points] == sorted(point.max_error for point in made.points)
