"""The main job on the demo's two real models, through the command a user runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import pytest

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]


@cache
def demo() -> dict[str, Any]:
    """Run `faregate demo --json` once for all tests of this file; the models are fetched if need be."""
    command = [sys.executable, "-m", "gateway", "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def rows_of(kind: str) -> list[dict[str, Any]]:
    return [row for row in demo()["rows"] if row["kind"] == kind]


def test_questions_stay_small_escalate_and_hit_each_cache():
    paths = Counter(row["path"] for row in demo()["rows"])

    assert set(paths) == {"small", "small>large", "large", "cache:exact", "cache:semantic"}
    assert len(demo()["rows"]) >= 40


def test_every_exact_repeat_hits_the_exact_cache():
    assert {row["path"] for row in rows_of("repeat")} == {"cache:exact"}


def test_no_near_miss_is_answered_from_a_cache():
    hits = [row["question"] for row in rows_of("near-miss") if row["path"].startswith("cache:")]

    assert rows_of("near-miss")
    assert hits == []


def test_a_semantic_hit_says_what_was_said_before():
    answers = {row["answer"] for row in demo()["rows"] if not row["path"].startswith("cache:")}

    assert all(row["answer"] in answers for row in demo()["rows"] if row["path"].startswith("cache:"))


def test_the_schema_answers_are_what_was_asked_for():
    people = [json.loads(row["answer"]) for row in rows_of("json")]

    assert all(set(person) == {"name", "age", "city", "job"} for person in people)


def test_streamed_text_equals_collected_text():
    """Each `again` question was asked before in the other form, and is asked past the caches now."""
    first: dict[str, dict[str, Any]] = {}
    for row in demo()["rows"]:
        first.setdefault(row["question"], row)
    again = rows_of("again")

    assert {row["is_stream"] for row in again} == {True, False}
    assert all(first[row["question"]]["is_stream"] != row["is_stream"] for row in again)
    assert [row["answer"] for row in again] == [first[row["question"]]["answer"] for row in again]


def test_the_charges_add_up_to_the_report_to_the_nano_dollar():
    bill = demo()["bill"]
    told = sum(round(float(row["cost_usd"]) * 1e9) for row in demo()["rows"])

    assert bill["totals"]["cost_nusd"] == told
    assert sum(line["cost_nusd"] for line in bill["by_model"]) == told


def test_the_savings_by_cause_add_up_to_baseline_minus_cost():
    savings, totals = demo()["bill"]["savings"], demo()["bill"]["totals"]
    causes = sum(savings[f"{cause}_nusd"] for cause in ("exact", "semantic", "small", "waste", "other"))

    assert causes == savings["total_nusd"] == totals["baseline_nusd"] - totals["cost_nusd"]
