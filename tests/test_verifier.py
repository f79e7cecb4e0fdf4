"""The verifier's request and what is read out of its reply."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from semantic_cache.verifier import VerifierCalibration, VerifierError, request_for, score_of, wording_id

CALIBRATION = VerifierCalibration(
    format=1, model="m", weights="w", wording=wording_id(), made="2026-11-21", threshold=2.5, repeats=10,
    repeats_served=6, traps=10, traps_served=0, source="made up",
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


def test_a_threshold_serves_only_the_weights_and_the_wording_it_was_measured_with():
    assert CALIBRATION.threshold_for(weights="w") == 2.5
    with pytest.raises(VerifierError, match="weights w "):
        CALIBRATION.threshold_for(weights="other")
    with pytest.raises(VerifierError, match="measure it again"):
        msgspec.structs.replace(CALIBRATION, wording="old").threshold_for(weights="w")


def test_a_calibration_is_read_back_and_what_is_none_is_refused(tmp_path: Path):
    file = tmp_path / "verifier.json"
    file.write_bytes(msgspec.json.encode(CALIBRATION))
    assert VerifierCalibration.load(file) == CALIBRATION
    file.write_text("{}")
    with pytest.raises(VerifierError, match="is no verifier's calibration"):
        VerifierCalibration.load(file)
    with pytest.raises(VerifierError, match="cannot read"):
        VerifierCalibration.load(tmp_path / "none.json")
