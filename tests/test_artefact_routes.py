"""What a route's artefact may choose, and what `faregate check` says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backends.clock import SystemClock
from backends.words import JsonValue
from gateway.journey import OutputRatio
from gateway.prepare import PreparedLane, lanes, price_book
from policies.errors import PolicyError
from policies.loader import load_policy
from router.by_prompt import ByPrompt
from router.judge import Quantiles
from router.strategy import Cascade
from tests.router.foreseeing import a_promise, an_artefact
from tests.served.world import LARGE_NAME, SMALL_NAME, a_policy, write_policy

LADDER = (SMALL_NAME, LARGE_NAME)
QUALITY = {"max_loss": 0.05, "confidence": 0.9}


def prepared(place: Path, **fields: JsonValue) -> PreparedLane:
    policy = a_policy(["http://127.0.0.1:1/v1"])
    policy["routes"] = [{"name": "r", "ladder": ["small", "large"], **fields}]
    loaded = load_policy(write_policy(place, policy), {})
    clock = SystemClock()
    return lanes(loaded, price_book(loaded, clock.now()), clock)["r"]


def own(place: Path, **promise: JsonValue) -> JsonValue:
    (place / "own.json").write_text(an_artefact(0.5, 0.9, ladder=LADDER, promise=a_promise(**promise)).dump())
    return {"artefact": "own.json"}


def test_a_new_route_of_two_rungs_is_chosen_for_by_the_artefact_that_ships(tmp_path: Path):
    lane = prepared(tmp_path)
    assert isinstance(lane.lane.strategy, ByPrompt)
    assert lane.promise == "none (artefact default)"
    assert "promises nothing; its artefact lets small answer" in lane.warnings[0]


@pytest.mark.parametrize("fields", [{"router": {"artefact": "none"}}, {"quality": QUALITY}])
def test_without_an_artefact_nothing_below_the_baseline_answers_unjudged(tmp_path: Path, fields: JsonValue):
    lane = prepared(tmp_path, **fields)
    assert isinstance(lane.lane.strategy, Cascade)
    assert lane.lane.sight is None
    assert "answers nothing" in lane.warnings[-1]


def test_a_threshold_of_its_own_that_keeps_the_loss_is_the_routes_promise(tmp_path: Path):
    lane = prepared(tmp_path, quality=QUALITY, router=own(tmp_path, max_loss=0.05, confidence=0.9))
    assert isinstance(lane.lane.strategy, ByPrompt)
    assert lane.promise == "loss ≤ 0.05 at 90% (prior, n=400, artefact)"
    assert lane.warnings == ()


@pytest.mark.parametrize("promise", [{"max_loss": 0.06}, {"confidence": 0.8}])
def test_a_threshold_that_keeps_less_than_the_route_promises_chooses_nothing(tmp_path: Path, promise: JsonValue):
    lane = prepared(tmp_path, quality=QUALITY, router=own(tmp_path, **promise))
    assert isinstance(lane.lane.strategy, Cascade)
    assert "train it with --max-loss 0.05 --confidence 0.9" in lane.warnings[0]


def test_the_default_never_serves_under_a_promise(tmp_path: Path):
    lane = prepared(tmp_path, quality=QUALITY, router={"artefact": "default"})
    assert isinstance(lane.lane.strategy, Cascade)
    assert "of thresholds of its own it holds none" in lane.warnings[0]


def test_beside_a_calibration_it_chooses_which_questions_the_judge_sees(tmp_path: Path):
    quality = {**QUALITY, "calibration": "judge.json"}
    alone = prepared(tmp_path, quality=quality)
    both = prepared(tmp_path, quality=quality, router=own(tmp_path))
    assert (alone.lane.sight, alone.lane.judges["small"].promise.is_shared) == (None, False)
    assert both.lane.sight is not None
    assert both.lane.judges["small"].promise.is_shared


def test_a_refused_artefact_leaves_the_static_ladder_and_says_so(tmp_path: Path):
    quality = {**QUALITY, "calibration": "judge.json"}
    (tmp_path / "bad.json").write_text("{}")
    lane = prepared(tmp_path, quality=quality, router={"artefact": "bad.json"})
    assert lane.promise == "loss ≤ 0.05 at 90% (prior, n=400) (artefact refused)"
    assert lane.lane.refused_artefact is not None
    assert "runs on its static ladder, since its artefact is refused" in lane.warnings[0]
    assert "small" in lane.lane.judges


def test_another_artefact_has_other_answers_in_the_caches(tmp_path: Path):
    with_it, without = prepared(tmp_path), prepared(tmp_path, router={"artefact": "none"})
    assert with_it.lane.answers[:-1] == without.lane.answers
    assert with_it.lane.answers[-1].startswith("artefact=")


def test_savings_reckon_with_how_much_longer_the_records_of_the_baseline_were(tmp_path: Path):
    plain = an_artefact(0.5, 0.9, ladder=LADDER, promise=a_promise())
    longer = replace(plain, output_ratios=(Quantiles(p10=1.5, p50=2.0, p90=4.0),))
    (tmp_path / "longer.json").write_text(longer.dump())
    lane = prepared(tmp_path, quality=QUALITY, router={"artefact": "longer.json"}).lane
    assert lane.output_ratios == {"small": OutputRatio(low=1.5, middle=2.0, high=4.0)}
    assert prepared(tmp_path).lane.output_ratios == {}  # the one that ships knows nothing of these models


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"router": {"artefact": "absent.json"}}, "there is no file"),
        ({"router": {"artefact": "defualt"}}, 'unknown artefact "defualt"'),
        ({"ladder": ["large"], "router": {"artefact": "default"}}, "a ladder of one rung leaves an artefact nothing"),
        ({"router": {"artefact": "none", "least_gain": 0.2}}, "this one has none"),
        ({"quality": QUALITY, "router": {"artefact": "default", "least_gain": 0.2}}, "delete it, or `quality`"),
        ({"router": {"least_gain": 1.5}}, "least_gain"),
    ],
)
def test_what_cannot_be_meant_is_a_mistake_at_its_line(tmp_path: Path, fields: JsonValue, said: str):
    with pytest.raises(PolicyError) as caught:
        prepared(tmp_path, **fields)
    assert said in str(caught.value)
    assert "routes[0].router" in str(caught.value)
