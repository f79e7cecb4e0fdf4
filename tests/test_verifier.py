"""The verifier's request and what is read out of its reply."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from policies.loader import SHIPPED_VERIFIERS
from policies.sealed import seal
from semantic_cache.acceptance import shipped_digest
from semantic_cache.verifier import (
    Point,
    VerifierCalibration,
    VerifierError,
    pair_key,
    request_for,
    score_of,
    wording_id,
)

CALIBRATION = VerifierCalibration(
    format=3, model="m", weights="w", wording=wording_id(), acceptance="a", made="2026-11-21", confidence=0.9,
    repeats=100, traps=100, assumption="made up", sources=(), said_weight=1.0, accepted_weight=0.5, intercept=-1.0,
    alone_from=0.99, most=6.0, points=(
        Point(max_error=0.01, threshold=None, served=0, wrong=0, upper_bound=1.0, repeats_served=0.0),
        Point(max_error=0.03, threshold=0.9, served=60, wrong=0, upper_bound=0.03, repeats_served=0.6),
        Point(max_error=0.1, threshold=0.5, served=80, wrong=3, upper_bound=0.08, repeats_served=0.77),
    ),
)  # fmt: skip


def _reply(**probabilities: float) -> object:
    top = [{"token": token, "logprob": math.log(probability)} for token, probability in probabilities.items()]
    return {"choices": [{"logprobs": {"content": [{"token": "?", "top_logprobs": top}]}}]}


def test_the_score_is_the_log_odds_of_yes_over_no():
    assert score_of(_reply(yes=0.6, no=0.2)) == pytest.approx(math.log(3))


def test_a_words_spellings_are_added_up():
    assert score_of(_reply(yes=0.3, Yes=0.3, no=0.1, **{" No": 0.1})) == pytest.approx(math.log(3))


def test_a_word_that_is_not_told_counts_as_the_least_likely():
    assert score_of(_reply(yes=0.9, maybe=0.01)) == pytest.approx(math.log(90))


@pytest.mark.parametrize(
    "reply",
    [None, {}, {"choices": []}, {"choices": [{"logprobs": None}]}, {"choices": [{"logprobs": {"content": []}}]}],
)
def test_a_reply_that_does_not_tell_has_no_score(reply: object):
    assert score_of(reply) is None
    assert score_of(_reply(maybe=0.9)) is None


def test_the_questions_stand_last_so_that_what_precedes_is_cached():
    one, other = (json.loads(request_for("a?", stored, model="m"))["messages"] for stored in ("b?", "c?"))
    assert one[:-1] == other[:-1]
    assert "a?" in one[-1]["content"]
    assert "b?" in one[-1]["content"]


def test_a_calibration_tells_what_else_it_was_measured_with():
    same = {"model": "m", "weights": "w", "acceptance": "a"}
    assert CALIBRATION.mismatch(**same) is None
    for name, known in same.items():
        said = CALIBRATION.mismatch(**same | {name: "other"})
        assert said is not None
        assert f"{name} '{known}', here 'other'" in said
    other = msgspec.structs.replace(CALIBRATION, wording="old")
    assert "measure it again" in (other.mismatch(**same) or "")


@pytest.mark.parametrize(("max_error", "threshold"), [(0.02, None), (0.03, 0.9), (0.09, 0.9), (0.5, 0.5)])
def test_a_route_gets_the_loosest_point_within_its_error(max_error: float, threshold: float | None):
    point = CALIBRATION.point(max_error)
    assert (point.threshold if point else None) == threshold


def test_the_score_grows_with_what_the_model_says_and_with_what_the_acceptance_says():
    assert CALIBRATION.score(1.0, 0.5) == pytest.approx(0.5)
    assert CALIBRATION.score(2.0, 0.5) > CALIBRATION.score(1.0, 0.5) < CALIBRATION.score(1.0, 0.9)
    assert CALIBRATION.score(1.0, 1.0) == CALIBRATION.score(1.0, 0.9999), "certainty counts no more than was measured"


def test_a_pair_that_the_surest_yes_could_not_lift_is_not_asked_about():
    point = CALIBRATION.point(0.03)
    assert point is not None
    assert CALIBRATION.may_serve(0.5, point)
    assert not msgspec.structs.replace(CALIBRATION, most=1.0).may_serve(0.5, point)


def test_what_is_remembered_of_a_pair_is_found_by_the_same_pair_of_the_same_owner_only():
    key = pair_key("a?", "b?", whose=b"acme", model="m")
    assert key == pair_key("a?", "b?", whose=b"acme", model="m")
    others = [
        ("a?b", "?", b"acme", "m"),
        ("b?", "a?", b"acme", "m"),
        ("a?", "b?", b"other", "m"),
        ("a?", "b?", b"acme", "n"),
    ]
    assert key not in {pair_key(a, b, whose=whose, model=model) for a, b, whose, model in others}


def test_a_calibration_is_read_back_and_what_is_none_or_was_changed_is_refused(tmp_path: Path):
    file = tmp_path / "verifier.json"
    file.write_text(CALIBRATION.dump())
    assert VerifierCalibration.load(file) == CALIBRATION
    file.write_text(CALIBRATION.dump().replace('"threshold":0.5', '"threshold":0.1'))
    with pytest.raises(VerifierError, match="was changed or cut"):
        VerifierCalibration.load(file)
    file.write_text(seal({"format": 2}))
    with pytest.raises(VerifierError, match="is no verifier's calibration"):
        VerifierCalibration.load(file)
    with pytest.raises(VerifierError, match="cannot be read"):
        VerifierCalibration.load(tmp_path / "none.json")


@pytest.mark.parametrize("file", sorted(SHIPPED_VERIFIERS.glob("*.json")), ids=lambda file: file.stem)
def test_a_shipped_calibration_is_for_the_shipped_wording_and_acceptance_and_keeps_one_percent(file: Path):
    calibration = VerifierCalibration.load(file)
    assert calibration.mismatch(model=file.stem, weights="", acceptance=shipped_digest()) is None
    point = calibration.point(0.01)
    assert point is not None
    assert (point.wrong, point.repeats_served > 0.6) == (0, True)
