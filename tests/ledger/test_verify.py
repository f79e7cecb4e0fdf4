"""Whatever is done to a ledger by hand, `verify` finds it and names the row."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backends.words import ModelId, Usage
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.verify import Verdict, verify
from tests.ledger.world import INFO, RATES, OwnClock, a_charge, a_hold, a_request

Change = Callable[[sqlite3.Connection], None]
COST = RATES.cost_nusd(Usage(input_tokens=100, cached_input_tokens=10, output_tokens=20))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that was used and closed in order: five requests, one of two attempts."""
    folder = tmp_path_factory.mktemp("whole") / "ledger"
    ledger = JournaledLedger.open(folder, OwnClock(), INFO, tick_s=0.01)
    for number in range(1, 6):
        ledger.hold(a_hold(number))
        ledger.settle(a_charge(number, cost_nusd=COST))
        if number == 3:
            ledger.settle(a_charge(number, 1, cost_nusd=COST, model=ModelId("large")))
        ledger.book(a_request(number, cost_nusd=COST * (2 if number == 3 else 1)))
    ledger.close()
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "ledger"))


def by_hand(folder: Path, *statements: str) -> Verdict:
    """Change the store as somebody could who may write the file, and verify it."""
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
    return verify(folder)


def test_an_untouched_ledger_is_whole(folder: Path):
    verdict = verify(folder)

    assert (verdict.found, verdict.requests, verdict.charges, verdict.entries) == (0, 5, 6, 11)
    assert verdict.roots >= 1


@pytest.mark.parametrize(
    ("statement", "check", "row"),
    [
        ("UPDATE charges SET output_tokens = 21 WHERE request_id = 'req_2'", "chain", "charges req_2/0"),
        ("UPDATE charges SET duration_ms = 250.0000000001 WHERE request_id = 'req_2'", "chain", "charges req_2/0"),
        ("UPDATE requests SET tags = '{}' WHERE request_id = 'req_4'", "chain", "requests req_4"),
        ("DELETE FROM charges WHERE request_id = 'req_1'", "chain", "charges id 1"),
        ("DELETE FROM requests WHERE request_id = 'req_5'", "chain", "requests id 5"),
        ("UPDATE chain SET hash = zeroblob(32) WHERE seq = 4", "chain", "requests req_2"),
        (
            "INSERT INTO charges SELECT id + 100, request_id, attempt + 7, {rest} FROM charges WHERE id = 1",
            "chain",
            "charges req_1/7",
        ),
    ],
)
def test_a_row_that_was_changed_deleted_or_put_in_is_named(folder: Path, statement: str, check: str, row: str):
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        columns = [found[1] for found in db.execute("PRAGMA table_info(charges)")]

    verdict = by_hand(folder, statement.replace("{rest}", ", ".join(columns[3:])))

    assert (check, row) in {(problem.check, problem.row) for problem in verdict.problems}


def test_one_flipped_bit_is_one_broken_entry(folder: Path):
    verdict = by_hand(folder, "UPDATE charges SET finish_reason = 'length' WHERE request_id = 'req_2'")

    assert [(problem.check, problem.row) for problem in verdict.problems] == [("chain", "charges req_2/0")]


def test_rows_that_changed_places_are_named(folder: Path):
    verdict = by_hand(
        folder,
        "UPDATE chain SET row_id = -1 WHERE what = 'charges' AND row_id = 1",
        "UPDATE chain SET row_id = 1 WHERE what = 'charges' AND row_id = 2",
        "UPDATE chain SET row_id = 2 WHERE what = 'charges' AND row_id = -1",
    )

    assert {problem.row for problem in verdict.problems} >= {"charges req_1/0", "charges req_2/0"}


def test_a_row_deleted_with_its_entry_leaves_a_gap(folder: Path):
    verdict = by_hand(folder, "DELETE FROM requests WHERE id = 2", "DELETE FROM chain WHERE seq = 4")

    assert any(problem.check == "gapless" and "entry 4 is missing" in problem.message for problem in verdict.problems)


def test_the_last_row_deleted_with_all_that_names_it_in_the_store_is_missed_by_the_roots_file(folder: Path):
    verdict = by_hand(
        folder,
        "DELETE FROM requests WHERE id = 5",
        "DELETE FROM chain WHERE seq = 11",
        "UPDATE writers SET seq = 10, hash = (SELECT hash FROM chain WHERE seq = 10) WHERE slot = 0",
        "DELETE FROM roots",
    )

    assert ("roots", "writer 0") in {(problem.check, problem.row) for problem in verdict.problems}


def test_an_entry_given_twice_is_named(folder: Path):
    verdict = by_hand(folder, "INSERT INTO chain SELECT entry + 100, slot, seq, what, row_id, hash FROM chain")

    assert any("names a row that has an entry already" in problem.message for problem in verdict.problems)


def test_a_cost_that_does_not_follow_from_tokens_and_rates_is_named(tmp_path: Path):
    ledger = JournaledLedger.open(tmp_path / "ledger", OwnClock(), INFO, tick_s=0.01)
    ledger.settle(a_charge(1, cost_nusd=COST + 1))
    ledger.book(a_request(1, cost_nusd=COST + 2))
    ledger.close()

    verdict = verify(tmp_path / "ledger")

    assert [(problem.check, problem.row) for problem in verdict.problems] == [
        ("prices", "charges req_1/0"),
        ("sums", "requests req_1"),
    ]


def test_a_roots_file_that_was_cut_or_changed_is_told(folder: Path):
    roots = folder / "roots.jsonl"
    lines = roots.read_text().splitlines()
    last = json.loads(lines[-1])

    roots.write_text("".join(f"{line}\n" for line in lines[:-1]))
    cut = verify(folder)
    roots.write_text("".join(f"{line}\n" for line in [*lines[:-1], json.dumps({**last, "day": "2020-01-01"})]))
    changed = verify(folder)

    assert [problem.check for problem in (*cut.problems, *changed.problems)] == ["roots", "roots"]


def test_a_ledger_that_is_being_written_and_one_that_was_killed_are_whole(tmp_path: Path):
    place = tmp_path / "ledger"
    ledger = JournaledLedger.open(place, OwnClock(), INFO, tick_s=0.01)
    ledger.hold(a_hold(1))
    ledger.settle(a_charge(2, cost_nusd=COST))
    assert ledger.flush(5)

    running = verify(place)
    ledger.close()
    JournaledLedger.open(place, OwnClock(), INFO, tick_s=0.01).close()

    assert (running.found, verify(place).found) == (0, 0)
    assert verify(place).entries == 4
