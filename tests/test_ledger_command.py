"""`faregate ledger`: what it prints, how it exits, and that a mistake changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backends.clock import SystemClock
from gateway.cli import main
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.pseudonyms import Pseudonyms
from tests.ledger.world import INFO, a_charge, a_request

Run = Callable[..., Result]
OLD = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger with one request of last January, of the end user ada."""
    folder = tmp_path / "data"
    ledger = JournaledLedger.open(folder, SystemClock(), INFO, tick_s=0.01)
    ada = Pseudonyms(folder).of("support", "ada")
    ledger.settle(a_charge(1, cost_nusd=95_000, started_at=OLD))
    ledger.book(a_request(1, cost_nusd=95_000, started_at=OLD, user_pseudonym=ada))
    ledger.close()
    return folder


@pytest.fixture
def run(folder: Path) -> Run:
    def runner(command: str, *options: str) -> Result:
        return CliRunner().invoke(main, ["ledger", command, "--folder", str(folder), *options])

    return runner


def test_a_whole_ledger_verifies_with_exit_status_0(run: Run):
    told = run("verify")

    assert (told.exit_code, "1 requests, 1 charges, 2 chain entries" in told.output) == (0, True)
    assert json.loads(run("verify", "--json").output)["is_whole"] is True


def test_a_changed_row_is_named_with_exit_status_1(run: Run, folder: Path):
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as db:
        db.execute("DROP TRIGGER charges_keep_update")
        db.execute("UPDATE charges SET tenant = 'other'")

    told = run("verify")
    as_json = run("verify", "--json")

    assert (told.exit_code, as_json.exit_code) == (1, 1)
    assert "chain: charges req_1/0: its content or place" in told.output
    assert json.loads(as_json.output)["problems"][0]["row"] == "charges req_1/0"


def test_a_month_is_closed_corrected_and_adjusted(run: Run):
    corrected = run("correct", "--request", "req_1", "--cost-usd", "0.0001", "--reason", "invoice")
    closed = run("close", "--period", "2026-01")
    credited = run("adjust", "--period", "2026-01", "--tenant", "support", "--usd", "-1.5", "--reason", "credit note")
    again = run("close", "--period", "2026-01")

    assert "booked: +0.000005000 dollars in 2026-01" in corrected.output
    assert "2026-01 is sealed: 1 charges, $0.000095000, corrections and adjustments $0.000005000" in closed.output
    assert "booked: -1.500000000 dollars in 2026-02" in credited.output
    assert (again.exit_code, "is sealed already" in again.output) == (1, True)
    assert run("verify").exit_code == 0


def test_an_end_user_is_forgotten_once(run: Run):
    first = run("forget", "--tenant", "support", "--user", "ada")
    second = run("forget", "--tenant", "support", "--user", "ada")

    assert (first.exit_code, second.exit_code) == (0, 1)
    assert "no end user 'ada'" in second.output
    assert run("verify").exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["correct", "--request", "req_1", "--cost-usd", "1,000", "--reason", "x"], "without separators"),
        (["correct", "--request", "req_1", "--cost-usd", "0.0000000001", "--reason", "x"], "nine decimals at most"),
        (["correct", "--request", "req_1", "--cost-usd", "-1", "--reason", "x"], "credits are booked with `adjust`"),
        (["correct", "--request", "req_2", "--cost-usd", "1", "--reason", "x"], "there is no charge req_2/0"),
        (["adjust", "--period", "2026-1", "--tenant", "t", "--usd", "1", "--reason", "x"], '"2026-1" is no month'),
        (["close", "--period", "9998-12"], "is not over"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(run: Run, folder: Path, options: list[str], message: str):
    before = (folder / "ledger.db").read_bytes()

    told = run(*options)

    assert message in told.output
    assert told.exit_code != 0
    assert (folder / "ledger.db").read_bytes() == before


def test_a_folder_without_a_ledger_is_told(tmp_path: Path):
    told = CliRunner().invoke(main, ["ledger", "verify", "--folder", str(tmp_path)])

    assert (told.exit_code, "there is no ledger in" in told.output) == (1, True)
