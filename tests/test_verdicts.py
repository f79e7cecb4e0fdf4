"""The file of verdicts, thresholds from verdicts, and what the commands make of both."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from backends.clock import SystemClock
from backends.words import JsonValue, ModelId, RequestId, TenantId
from gateway.agreement import by_text, judged
from gateway.audit import promises_of
from gateway.cli import main
from gateway.prepare import lanes, price_book
from gateway.recalibrate import from_verdicts, is_due
from gateway.verdicts import (
    FILE_NAME,
    RECALIBRATED,
    Event,
    Kind,
    Origin,
    PromiseId,
    Scored,
    Subject,
    VerdictRow,
    Verdicts,
)
from policies.loader import load_policy
from policies.sequence import Sample, Standing, State, Stated
from tests.served.world import a_policy, write_policy

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROUTE, CACHE = PromiseId("r", Subject.ROUTE, "models"), PromiseId("r", Subject.SEMANTIC, "pairs")
STATED = Stated(max_loss=0.05, confidence=0.9)


def a_verdict(number: int = 1, **changes: JsonValue) -> VerdictRow:
    values = {
        "route": "r",
        "setup": ROUTE.setup,
        "cache_setup": CACHE.setup,
        "origin": Origin.SMALL,
        "request_id": RequestId(f"req-{number}"),
        "tenant": TenantId("acme"),
        "served": ModelId("small"),
        "baseline": ModelId("large"),
        "probability": 0.5,
        "route_before": 1,
        "hits_before": 0,
        "loss": 0.0,
        "how": "exact",
        "confidence": 0.9,
        "similarity": None,
        "policy_digest": "d",
        "judged_at_us": 0,
    }
    return VerdictRow(**values | changes)


@pytest.fixture
def verdicts(tmp_path: Path) -> Iterator[Verdicts]:
    opened = Verdicts.open(tmp_path)
    yield opened
    opened.close()


def test_a_verdict_on_a_hit_counts_for_the_cache_and_for_its_route(verdicts: Verdicts):
    verdicts.add(a_verdict(1))
    verdicts.add(a_verdict(2, origin=Origin.SEMANTIC, loss=1.0, hits_before=3))
    verdicts.add(a_verdict(3, origin=Origin.GREY, loss=1.0))

    route, cache = verdicts.series(ROUTE), verdicts.series(CACHE)

    assert (route.n, route.units, route.mean) == (2, 4, 0.5)
    assert (cache.n, cache.units, cache.mean) == (1, 4, 0.5)


def test_a_kinds_verdicts_count_for_it_as_if_nothing_below_the_threshold_were_kept(verdicts: Verdicts):
    kind = {"kind": Kind.TOOLS, "kind_before": 2}
    verdicts.add(a_verdict(1, **kind))
    verdicts.add(a_verdict(2, origin=Origin.UNSEEN, loss=1.0, confidence=0.4, **kind))
    verdicts.add(a_verdict(3, kind=Kind.CONVERSATION, loss=1.0))
    which = replace(ROUTE, subject=Subject.TOOLS)

    strict, lax = (verdicts.series_of(which, Kind.TOOLS, threshold=at) for at in (0.5, 0.3))

    assert (strict.n, strict.units, strict.mean, lax.mean) == (2, 6, 0.0, 2.0 / 6)
    assert verdicts.series(ROUTE).n == 2  # nobody was served the second
    assert verdicts.series_of(which, Kind.TOOLS, is_served=True).n == 1


def test_a_kinds_series_begins_anew_with_the_routes_threshold(verdicts: Verdicts):
    which = replace(ROUTE, subject=Subject.CONVERSATION)
    verdicts.add(a_verdict(1, kind=Kind.CONVERSATION, turns=9))
    verdicts.note(Event(promise=ROUTE, event=RECALIBRATED, detail="", at=NOON, threshold=0.2))
    verdicts.add(a_verdict(2, kind=Kind.CONVERSATION, turns=3))

    assert (verdicts.series_of(which, Kind.CONVERSATION).n, verdicts.longest(which, Kind.CONVERSATION)) == (1, 3)


def test_the_file_of_a_former_version_is_taken_over_with_its_verdicts(tmp_path: Path):
    with closing(Verdicts.open(tmp_path)) as made:
        made.add(a_verdict(loss=1.0))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        for column in ("kind", "kind_before", "turns"):
            db.execute(f"ALTER TABLE verdicts DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")

    with closing(Verdicts.open(tmp_path)) as again:
        again.add(a_verdict(2, kind=Kind.SINGLE))
        kinds = [row["kind"] for row in again.rows()]

        assert (kinds, again.series(ROUTE).n) == (["", "single"], 2)


def test_verdicts_of_another_setup_say_nothing(verdicts: Verdicts):
    verdicts.add(a_verdict(setup="other models"))
    verdicts.note(Event(promise=ROUTE, event=State.BREACHED, detail="", at=NOON))

    assert verdicts.series(ROUTE).n == 0
    assert verdicts.state(ROUTE) is State.BREACHED
    assert verdicts.state(PromiseId("r", Subject.ROUTE, "other models")) is State.PRIOR


def test_nobody_else_may_read_verdicts(tmp_path: Path):
    opened = Verdicts.open(tmp_path)

    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
    opened.close()


def test_a_recalibration_ends_a_breach_and_begins_anew(verdicts: Verdicts):
    verdicts.add(a_verdict(loss=1.0))
    verdicts.note(Event(promise=ROUTE, event=State.BREACHED, detail="", at=NOON))
    verdicts.note(Event(promise=ROUTE, event=RECALIBRATED, detail="", at=NOON, threshold=0.8))
    verdicts.add(a_verdict(2))

    assert (verdicts.state(ROUTE), verdicts.threshold(ROUTE)) == (State.PRIOR, 0.8)
    assert (verdicts.series(ROUTE).n, [one.floor for one in verdicts.scored(ROUTE)]) == (1, [0.8])


def test_two_workers_together_keep_a_days_cap(verdicts: Verdicts, tmp_path: Path):
    other = Verdicts.open(tmp_path)
    took = [v.reserve("2026-11-21", "r", Subject.ROUTE, 40, cap_nusd=100) for v in (verdicts, other, verdicts)]
    verdicts.give_back("2026-11-21", "r", Subject.ROUTE, 30)

    assert took == [True, True, False]
    assert other.spent_nusd("2026-11-21", "r", Subject.ROUTE) == 50
    assert other.reserve("2026-11-22", "r", Subject.ROUTE, 100, cap_nusd=100)
    other.close()


def test_labels_of_audited_answers_measure_the_verdicts_own_error(verdicts: Verdicts):
    for number in range(60):
        verdicts.add(a_verdict(number, loss=1.0))
    unlabelled = verdicts.proxy(ROUTE, 0.9)
    known = verdicts.label([(RequestId(f"req-{number}"), 0.0) for number in range(61)])

    proxy = verdicts.proxy(ROUTE, 0.9)

    assert (unlabelled, known) == (None, (60, 1))
    assert proxy is not None
    assert -1.2 < proxy.low <= -1 < proxy.high < -0.7  # they saw losses where people saw none


def scored(score: float, loss: float, origin: Origin = Origin.SMALL) -> Scored:
    return Scored(origin=origin, score=score, sample=Sample(loss=loss, probability=1.0))


@pytest.mark.parametrize(("which", "origin"), [(ROUTE, Origin.SMALL), (CACHE, Origin.SEMANTIC)])
def test_a_threshold_is_raised_above_the_answers_that_lose(which: PromiseId, origin: Origin):
    rows = [scored(0.9, 0.0, origin), scored(0.9, 0.0, origin), scored(0.6, 1.0, origin)] * 100

    found = from_verdicts(which, rows, STATED, can_gain=False)

    assert found.threshold == 0.61
    assert found.bound <= 0.05
    assert (found.kept, found.n, found.missing) == (200, 300, 0)


def test_what_a_stricter_threshold_hid_says_nothing_of_a_laxer_one():
    kept = [replace(scored(0.9, 0.0), floor=0.8)] * 100
    tried = [scored(0.9, 0.0, Origin.TRIAL), scored(0.6, 0.0, Origin.TRIAL), scored(0.3, 1.0, Origin.TRIAL)] * 60

    assert from_verdicts(ROUTE, kept, STATED, can_gain=False).threshold == 0.8
    assert from_verdicts(ROUTE, [*kept, *tried], STATED, can_gain=False).threshold == 0.31


def test_a_threshold_that_breaks_the_promise_is_seldom_taken_however_often_one_looks():
    # Answers of 0.6 lose one time in eight, those of 0.9 never; half of them each: 0.0625 below 0.6, and 0 above it.
    draw = np.random.default_rng(20261121)
    taken = 0
    for _ in range(40):
        kinds, losses = draw.random(240) < 0.5, draw.random(240) < 0.125
        rows = [scored(0.6, float(b)) if a else scored(0.9, 0.0) for a, b in zip(kinds, losses, strict=True)]
        looks = (from_verdicts(ROUTE, rows[:n], STATED, can_gain=False).threshold for n in (120, 240))
        taken += any(threshold is not None and threshold <= 0.6 for threshold in looks)
    assert taken <= 4


@pytest.mark.parametrize(
    ("state", "mean", "n", "tried_at", "due"),
    [
        (State.BREACHED, 0.5, 10, 0, True),
        (State.BREACHED, 0.5, 10, 10, False),
        (State.BREACHED, 0.5, 11, 10, True),
        (State.PRIOR, 0.06, 103, 0, False),
        (State.PRIOR, 0.06, 104, 0, True),
        (State.PRIOR, 0.04, 500, 0, False),
        (State.PRIOR, None, 0, 0, False),
    ],
)
def test_a_threshold_is_chosen_anew_when_the_promise_broke_or_looks_it(
    state: State, mean: float | None, n: int, tried_at: int, due: bool
):
    standing = Standing(state=state, n=n, units=n, mean=mean, low=0.0, bound=1.0, smallest=0.0)
    assert is_due(standing, STATED, verdicts=n, tried_at=tried_at) is due


def test_where_no_threshold_keeps_the_promise_it_says_how_many_verdicts_are_missing():
    found = from_verdicts(ROUTE, [scored(0.9, 0.0)] * 10, STATED, can_gain=False)

    assert found.threshold is None
    assert 20 < found.missing < 60


@pytest.mark.parametrize(
    ("served", "baseline", "loss"),
    [
        ("Paris.", "paris", 0.0),
        ("-5", "5", None),
        ("3.5 km", "35 km", None),
        ('["a"]', '["a" ]', 0.0),
        ('{"a": 1}', "one", None),
    ],
)
def test_texts_alone_tell_only_what_is_sure(served: str, baseline: str, loss: float | None):
    found = by_text(served, baseline)

    assert (found.loss if found else None) == loss


@pytest.mark.parametrize(
    ("reply", "is_swapped", "loss"),
    [("A", False, -1.0), ("Answer B.", False, 1.0), ("a", True, 1.0), ("SAME", True, 0.0), ("Absolutely!", True, None)],
)
def test_a_judges_word_is_read_in_the_order_it_was_asked(reply: str, is_swapped: bool, loss: float | None):
    found = judged(reply, is_swapped=is_swapped)

    assert (found.loss if found else None) == loss


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    policy = a_policy(["http://127.0.0.1:9/v1"])
    policy["routes"][2]["quality"]["audit"] = {"share": 0.5}
    (tmp_path / "data").mkdir()
    return write_policy(tmp_path, policy)


def fill(policy_file: Path, verdicts: list[VerdictRow]) -> PromiseId:
    """Store verdicts on the cascade's promise, and leave it breached."""
    policy = load_policy(policy_file, {})
    lane = lanes(policy, price_book(policy, NOON), SystemClock())["cascade"].lane
    (which,) = (watched.id for watched in promises_of(lane, policy) if watched.id.subject is Subject.ROUTE)
    store = Verdicts.open(policy.storage.folder)
    for row in verdicts:
        store.add(row)
    store.note(Event(promise=which, event=State.BREACHED, detail="", at=NOON))
    store.close()
    return which


def test_hits_that_another_acceptance_let_through_are_another_promise(policy_file: Path):
    policy = load_policy(policy_file, {})
    lane = lanes(policy, price_book(policy, NOON), SystemClock())["cached"].lane
    now, before = (
        {watched.id.setup for watched in promises_of(each, policy) if watched.id.subject is Subject.SEMANTIC}
        for each in (lane, replace(lane, acceptance="of the version before"))
    )

    assert now
    assert not now & before


def run(*command: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, command)
    return result.exit_code, result.output


def test_the_report_sets_what_is_promised_against_what_is_observed(policy_file: Path):
    code, text = run("report", "--quality", "--json", "--policy", str(policy_file))

    cached, cascade = json.loads(text)["promises"]
    assert code == 0
    assert (cached["route"], cached["subject"], cached["is_audited"]) == ("cached", "semantic", False)
    assert (cascade["state"], cascade["n"], cascade["observed"]["bound"]) == ("prior", 0, 1.0)
    assert cascade["promised"] == {"max_loss": 0.05, "confidence": 0.9}
    assert cascade["verdicts_needed"] == 52


def test_a_breached_route_is_recalibrated_by_its_own_verdicts(policy_file: Path):
    setup = fill(policy_file, []).setup
    rows = [a_verdict(n, setup=setup, loss=float(n % 3 == 0), confidence=0.6 + 0.3 * (n % 3 > 0)) for n in range(300)]
    fill(policy_file, rows)
    before = run("report", "--quality", "--policy", str(policy_file))[1]

    code, text = run("calibrate", "--policy", str(policy_file), "--route", "cascade", "--from-ledger")
    after = json.loads(run("report", "--quality", "--json", "--policy", str(policy_file))[1])["promises"][1]

    assert "breached" in before
    assert (code, "nothing below 0.61 is kept" in text) == (0, True)
    assert (after["state"], after["n"], after["threshold"]) == ("prior", 0, 0.61)


def test_a_recalibration_without_enough_verdicts_changes_nothing(policy_file: Path):
    code, text = run("calibrate", "--policy", str(policy_file), "--route", "cascade", "--from-ledger")

    assert code == 1
    assert "No threshold keeps a loss of at most 0.05 at 90% by 0 verdicts" in text


def test_labels_that_are_none_are_refused_with_their_line(policy_file: Path, tmp_path: Path):
    file = tmp_path / "labels.jsonl"
    file.write_text('{"request_id": "req-1", "loss": 0}\n{"request_id": "req-2", "loss": 7}\n')

    code, text = run("verdicts", "label", str(file), "--policy", str(policy_file))

    assert code == 1
    assert f"{file}:2: the loss is 7; it must lie in [-1, 1]" in text
