"""`faregate evaluate cache`: what is read, what is counted, and what is said about input that cannot be measured."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gateway.cli import main
from semantic_cache.acceptance import Acceptance
from semantic_cache.evaluate import TRAP_RATES, EvaluationError, Report, evaluate, groups_of, measure, read_cases
from semantic_cache.evaluate_report import draw, to_json

_REPEAT = {"a": "How do I bake bread?", "b": "How can I bake bread?", "same": 1}
_TRAP = {"a": "How do I bake bread?", "b": "How do I freeze bread?", "same": 0}
_NUMBER_TRAP = {"a": "Add 5 and 6", "b": "Add 5 and 7", "same": 0}


def _file(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


class _Everywhere:
    """An embedder that finds all texts alike."""

    id = "test"
    dimensions = 2

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (len(texts), 1))


def _measured(scores: list[float], same: list[int], threshold: float | None = 0.5, *, draws: int = 40) -> Report:
    labels = np.array(same, dtype=bool)
    return measure(np.array(scores), labels, np.arange(len(scores)), threshold=threshold, max_error=0.01, draws=draws)


def test_the_operating_point_counts_repeats_and_traps_at_its_threshold():
    point = _measured([0.9, 0.8, 0.4, 0.7, 0.3], [1, 1, 1, 0, 0]).operating_point
    assert point.hit_rate.value == pytest.approx(2 / 3)
    assert point.trap_rate.value == pytest.approx(1 / 2)
    assert point.served_wrong_share.value == pytest.approx(1 / 3)


def test_without_a_threshold_nothing_is_served_and_no_share_is_invented():
    point = _measured([0.9, 0.8], [1, 0], threshold=None).operating_point
    assert (point.hit_rate.value, point.trap_rate.value, point.served_wrong_share.value) == (0, 0, None)


def test_what_the_guard_rejects_is_served_by_no_threshold():
    report = _measured([-1.0, 0.8, -1.0], [1, 1, 0], threshold=-2.0)
    assert report.operating_point.hit_rate.value == pytest.approx(1 / 2)
    assert report.curve[-1].hit_rate == pytest.approx(1 / 2)


def test_pairs_with_equal_scores_are_served_together():
    report = _measured([0.9, 0.9, 0.5], [1, 0, 1])
    assert [(step.hit_rate, step.trap_rate) for step in report.curve] == [(0.5, 1.0), (1.0, 1.0)]
    assert report.in_hindsight[0.05].hit_rate.value == 0


@given(rows=st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=60))
def test_hindsight_keeps_its_trap_rate_and_laxer_rates_serve_no_less(rows: list[tuple[int, bool]]):
    scores, same = [score / 20 for score, _ in rows] + [0.5, 0.5], [int(label) for _, label in rows] + [0, 1]
    found = _measured(scores, same, draws=2).in_hindsight
    hits = [found[rate].hit_rate.value for rate in TRAP_RATES]
    assert all(found[rate].trap_rate.value <= rate for rate in TRAP_RATES)
    assert hits == sorted(hits)


def test_pairs_that_share_a_question_through_a_chain_are_one_group():
    groups = groups_of([("a", "b"), ("B ", "c"), ("d", "e")])
    assert groups[0] == groups[1] != groups[2]


def test_intervals_hold_the_figure_and_come_again_with_the_same_seed():
    first, again = (_measured([0.9, 0.8, 0.4, 0.7, 0.3] * 8, [1, 1, 1, 0, 0] * 8) for _ in range(2))
    share = first.operating_point.hit_rate
    assert share.low < share.value < share.high
    assert share == again.operating_point.hit_rate


def test_conversations_with_other_earlier_turns_are_never_served(tmp_path: Path):
    turns = [{"role": "assistant", "content": "Shall I refund it?"}, {"role": "user", "content": "go ahead"}]
    first, second = ([{"role": "user", "content": text}, *turns] for text in ("A fee", "Another fee"))
    rows = [{"a": first, "b": first, "same": 1}, {"a": first, "b": second, "same": 0}]
    cases = read_cases([_file(tmp_path, *rows)])
    report = evaluate(cases, Acceptance.load(), _Everywhere(), max_error=0.1, console=Console(file=StringIO()))
    assert (report.operating_point.hit_rate.value, report.operating_point.trap_rate.value) == (1, 0)
    assert report.reasons == {"partition": (0, 1)}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"a": "x", "b": "y"}, "line 3: no column 'same'; needed are a, b, same"),
        ({"a": "x", "b": "y", "same": 2}, "line 3: same = 2; allowed are 1"),
        ({"a": "x", "b": "y", "same": "1"}, "line 3: same = '1'"),
        ({"a": "x", "b": [], "same": 1}, "line 3: a and b must both be"),
        ({"a": [], "b": [], "same": 1}, "line 3, a: .* neither a text nor a list"),
        ({"a": [{"role": "user"}], "b": [{"content": 1}], "same": 1}, "line 3, a"),
        ({"a": "x", "b": " ", "same": 1}, "line 3, b: no text of a user"),
        (["a", "b", 1], "line 3: list instead of an object"),
    ],
)
def test_a_bad_line_is_named_with_what_is_allowed(tmp_path: Path, row: object, said: str):
    with pytest.raises(EvaluationError, match=said):
        read_cases([_file(tmp_path, _REPEAT, _TRAP, row)])


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "holds no pairs"), ([_REPEAT], "all 1 pairs have same = 1"), ([_TRAP, _TRAP], r"same = 1 \(repeats\)")],
)
def test_pairs_that_nothing_can_be_measured_on_are_refused(tmp_path: Path, rows: list[object], said: str):
    with pytest.raises(EvaluationError, match=said):
        read_cases([_file(tmp_path, *rows)])


def test_a_line_that_is_no_json_and_a_missing_file_are_named(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": ')
    with pytest.raises(EvaluationError, match="line 1: not JSON"):
        read_cases([path])
    with pytest.raises(EvaluationError, match=r"cannot read .*none\.jsonl"):
        read_cases([tmp_path / "none.jsonl"])


def test_the_command_prints_the_figures_as_json(tmp_path: Path):
    file = _file(tmp_path, _REPEAT, _TRAP, _NUMBER_TRAP)
    result = CliRunner().invoke(main, ["evaluate", "cache", "--pairs", str(file), "--max-error", "0.1", "--json"])
    figures = json.loads(result.stdout)
    assert (figures["n_same"], figures["n_different"]) == (1, 2)
    assert figures["operating_point"] == {"hit_rate": 1.0, "trap_rate": 0.0, "served_wrong_share": 0.0}
    assert figures["hits_at_trap_rate"] == {"0.01": 1.0, "0.02": 1.0, "0.05": 1.0}
    assert figures["not_served"]["number"] == {"same": 0, "different": 1}


def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path):
    result = CliRunner().invoke(main, ["evaluate", "cache", "--pairs", str(_file(tmp_path, _REPEAT))])
    assert result.exit_code == 1
    assert "all 1 pairs have same = 1" in result.stderr


def test_the_drawing_is_a_png_and_json_has_no_nan(tmp_path: Path):
    report = _measured([0.9, 0.8], [1, 0], threshold=None)
    draw(report, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(to_json(report))["operating_point"]["served_wrong_share"] is None
