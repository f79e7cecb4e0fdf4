"""What the ledger says was spent against budgets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from backends.words import TenantId
from gateway.ledger.budgets import BudgetAuthority, Cap
from gateway.ledger.following import LOOK_S, BooksFollower
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.spent import budget_lines, read_spent
from gateway.ledger.store import Store, microseconds
from policies.schema import Dimension
from policies.windows import Per
from tests.ledger.test_budgets import a_cap
from tests.ledger.world import INFO, NOON, OwnClock, a_charge, a_hold, a_request

DAY = timedelta(days=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[JournaledLedger]:
    opened = JournaledLedger.open(tmp_path, OwnClock(), INFO)
    yield opened
    opened.close()


def spent(folder: Path, *caps: Cap, **changes: object) -> dict[tuple[str, ...], int]:
    return dict(read_spent(folder, caps, NOON, **changes).nusd)  # type: ignore[arg-type]  # `epochs` only


def test_charges_of_the_present_window_are_added_up_by_pot(tmp_path: Path, ledger: JournaledLedger):
    for number, (tenant, tags, at) in enumerate(
        [("acme", "a", NOON), ("acme", "a", NOON), ("acme", "b", NOON), ("other", "a", NOON), ("acme", "a", NOON - DAY)]
    ):
        request = {"tenant": TenantId(tenant), "tags": {"feature": tags}, "task_id": str(number), "session": "s"}
        ledger.settle(a_charge(number, tenant=TenantId(tenant), started_at=at, cost_nusd=10**number))
        ledger.book(a_request(number, **request, started_at=at))
    assert ledger.flush(10)
    features = a_cap("features", each=(Dimension.FEATURE,))
    tasks = a_cap("tasks", each=(Dimension.TASK, Dimension.SESSION), match=((Dimension.FEATURE, "b"),))
    everyone = a_cap("all", "", per=Per.TOTAL, each=(Dimension.ROUTE,))
    assert spent(tmp_path, a_cap(), features, tasks, everyone) == {
        ("daily", "acme"): 111,
        ("features", "acme", "a"): 11,
        ("features", "acme", "b"): 100,
        ("tasks", "acme", "2", "s"): 100,
        ("all", "", "default"): 11111,
    }


def test_an_open_hold_counts_at_its_upper_bound(tmp_path: Path, ledger: JournaledLedger):
    ledger.hold(a_hold(1, tenant=TenantId("acme"), tags={"feature": "a"}, upper_bound_nusd=70))
    assert ledger.flush(10)
    features = a_cap("features", each=(Dimension.FEATURE,))
    assert spent(tmp_path, a_cap(), features) == {("daily", "acme"): 70, ("features", "acme", "a"): 70}


def test_what_a_killed_gateway_left_open_stays_with_its_feature_and_session(tmp_path: Path, ledger: JournaledLedger):
    hold = {"tenant": TenantId("acme"), "tags": {"feature": "a"}, "session": "s", "upper_bound_nusd": 70}
    ledger.hold(a_hold(1, **hold))
    ledger.hold(a_hold(1, **hold, attempt=1))
    assert ledger.flush(10)
    store = Store(tmp_path)
    assert store.recover() == 2
    store.close()
    features = a_cap("features", each=(Dimension.FEATURE, Dimension.SESSION))
    assert spent(tmp_path, features) == {("features", "acme", "a", "s"): 140}


def test_a_folder_without_a_ledger_has_spent_nothing(tmp_path: Path):
    assert spent(tmp_path, a_cap()) == {}
    assert [(line.spent_nusd, line.left_nusd) for line in budget_lines(tmp_path, [a_cap()], NOON)] == [(0, 100)]


def test_a_report_shows_every_pot_the_dearest_first(tmp_path: Path, ledger: JournaledLedger):
    for number, feature in enumerate("aab"):
        ledger.settle(a_charge(number, tenant=TenantId("acme"), cost_nusd=30))
        ledger.book(a_request(number, tenant=TenantId("acme"), tags={"feature": feature}))
    assert ledger.flush(10)
    lines = budget_lines(tmp_path, [a_cap("features", nusd=50, each=(Dimension.FEATURE,))], NOON)
    assert [(dict(line.values), line.spent_nusd, line.left_nusd) for line in lines] == [
        ({Dimension.FEATURE: "a"}, 60, -10),
        ({Dimension.FEATURE: "b"}, 30, 20),
    ]


def test_a_dead_workers_charges_are_told_apart_by_epoch(tmp_path: Path, ledger: JournaledLedger):
    ledger.settle(a_charge(1, tenant=TenantId("acme"), cost_nusd=30))
    ledger.renew(INFO)
    ledger.settle(a_charge(2, tenant=TenantId("acme"), cost_nusd=4))
    assert ledger.flush(10)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        (latest,) = db.execute("SELECT MAX(epoch) FROM charges").fetchone()
    booked = spent(tmp_path, a_cap(), epochs=[latest])
    assert booked == {("daily", "acme"): 4}
    authority = BudgetAuthority([a_cap()], NOON)
    authority.rebuild({("daily", "acme"): 30}, NOON)
    authority.lease("w", [(("daily", "acme"), 50)], NOON)
    authority.reclaim("w", booked, NOON)
    assert authority.pot(("daily", "acme"), NOON).left_nusd == 66


def test_a_charge_whose_request_is_still_running_counts(tmp_path: Path, ledger: JournaledLedger):
    ledger.settle(a_charge(1, tenant=TenantId("acme"), cost_nusd=30))
    assert ledger.flush(10)
    assert spent(tmp_path, a_cap()) == {("daily", "acme"): 30}


BOOKS = """CREATE TABLE IF NOT EXISTS books (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, period TEXT NOT NULL,
  request_id TEXT, attempt INTEGER, tenant TEXT, model TEXT, amount_nusd INTEGER NOT NULL, about TEXT NOT NULL,
  reason TEXT NOT NULL, made_by TEXT NOT NULL, made_at_us INTEGER NOT NULL) STRICT"""


def test_what_the_books_add_in_one_window_is_spent_in_the_next(tmp_path: Path, ledger: JournaledLedger):
    ledger.settle(a_charge(1, tenant=TenantId("acme"), cost_nusd=30))
    ledger.book(a_request(1, tenant=TenantId("acme"), tags={"feature": "a"}))
    assert ledger.flush(10)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.execute(BOOKS)
        for kind, request_id, nusd in (("correction", "req_1", 5), ("adjustment", None, 20), ("late", "req_1", 99)):
            values = (kind, "2026-11", request_id, 0, "acme", "m", nusd, "", "", "me", microseconds(NOON))
            db.execute("INSERT INTO books VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        db.commit()
    caps = [a_cap(), a_cap("features", each=(Dimension.FEATURE,)), a_cap("ever", per=Per.TOTAL)]
    today, tomorrow = read_spent(tmp_path, caps, NOON), read_spent(tmp_path, caps, NOON + DAY)
    assert today.nusd == {("daily", "acme"): 30, ("features", "acme", "a"): 30, ("ever", "acme"): 55}
    assert today.carried == {("daily", "acme"): 25, ("features", "acme", "a"): 5}
    assert tomorrow.nusd == {("daily", "acme"): 25, ("features", "acme", "a"): 5, ("ever", "acme"): 55}
    authority = BudgetAuthority(caps, NOON)
    authority.rebuild(today.nusd, NOON, carried=today.carried)
    assert authority.pot(("daily", "acme"), NOON + DAY).left_nusd == 75


def booked_after_the_fact(folder: Path, *bookings: tuple[str, str | None, int]) -> None:
    """Book corrections and adjustments at noon."""
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        for kind, request_id, nusd in bookings:
            values = (kind, "2026-11", request_id, 0, "acme", "m", nusd, "", "", "me", microseconds(NOON))
            db.execute("INSERT INTO books VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        db.commit()


async def test_what_is_booked_while_a_gateway_runs_reaches_its_budgets_once(tmp_path: Path, ledger: JournaledLedger):
    ledger.settle(a_charge(1, tenant=TenantId("acme"), cost_nusd=30))
    ledger.book(a_request(1, tenant=TenantId("acme"), tags={"feature": "a"}))
    assert ledger.flush(10)
    booked_after_the_fact(tmp_path, ("correction", "req_1", 1))
    caps, clock = [a_cap(), a_cap("ever", per=Per.TOTAL)], OwnClock()
    authority, known = BudgetAuthority(caps, NOON), read_spent(tmp_path, caps, NOON)
    authority.rebuild(known.nusd, NOON, carried=known.carried)
    follower = BooksFollower(
        tmp_path, authority, clock, last_booking=known.last_booking, latest=lambda: ledger.last_booking
    )
    booked_after_the_fact(tmp_path, ("correction", "req_1", 5), ("adjustment", None, 20))
    assert ledger.flush(10)  # who folds looks at the books, too
    for _ in range(3):
        clock.move(LOOK_S)
        await follower.look_if_due()
    assert authority.pot(("ever", "acme"), NOON).left_nusd == 100 - 30 - 26
    assert authority.pot(("daily", "acme"), NOON + DAY).left_nusd == 100 - 26
