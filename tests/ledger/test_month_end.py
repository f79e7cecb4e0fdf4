"""A month from its charges to its bill: close, late charge, corrections; all reports agree to the nano-dollar."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from backends.words import JsonValue, ModelId, TenantId
from gateway.cli import main
from gateway.ledger.bookings import BooksWriter
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.verify import verify
from tests.ledger.test_verify import COST
from tests.ledger.world import INFO, NOON, OwnClock, a_charge, a_hold, a_request

JANUARY = datetime(2027, 1, 5, tzinfo=UTC)
DECEMBER = NOON + timedelta(days=30)
LARGE = ModelId("large")
OTHER = TenantId("search")


def answered(ledger: JournaledLedger, number: int, at: datetime, **changes: JsonValue) -> None:
    whose = {name: value for name, value in changes.items() if name == "tenant"}
    ledger.hold(a_hold(number, held_at=at))
    ledger.settle(a_charge(number, started_at=at, **({"cost_nusd": COST} | changes)))
    ledger.book(a_request(number, started_at=at, cost_nusd=COST, **whose))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """November is closed, then gets a late charge, two corrections and a credit; December is open."""
    folder, clock = tmp_path / "ledger", OwnClock()
    ledger = JournaledLedger.open(folder, clock, INFO, tick_s=0.01)
    answered(ledger, 1, NOON)
    answered(ledger, 2, NOON, tenant=OTHER, model=LARGE)
    assert ledger.flush(5)
    books = BooksWriter(folder, now=DECEMBER + timedelta(days=1), made_by="ada")
    books.correct("req_1", 0, cost_nusd=COST + 11, reason="invoice")
    books.close("2026-11", reason="month closed")
    answered(ledger, 3, NOON + timedelta(hours=1), model=LARGE)  # late: its month is sealed
    answered(ledger, 4, DECEMBER)
    assert ledger.flush(5)
    books.correct("req_2", 0, cost_nusd=COST - 5, reason="invoice")
    books.adjust("2026-12", amount_nusd=-100, tenant="search", model=None, reason="credit note")
    ledger.close()
    return folder


def command(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def window(month: str) -> list[str]:
    return {
        "november": ["--since", "2026-11-01", "--until", "2026-12-01"],
        "december": ["--since", "2026-12-01", "--until", "2027-01-01"],
    }[month]


@pytest.mark.parametrize(("month", "billed"), [("november", 2 * COST + 11), ("december", 2 * COST - 5 - 100)])
@pytest.mark.parametrize("by", ["tenant,model", "route,feature", "day", "kind", "month"])
def test_the_lines_of_a_month_add_up_to_its_bill(folder: Path, month: str, billed: int, by: str):
    told = json.loads(command("report", "--folder", str(folder), "--by", by, *window(month), "--format", "json"))

    assert sum(line["billed_nusd"] for line in told["lines"]) == told["total"]["billed_nusd"] == billed


def test_a_correction_stands_on_the_line_of_its_charge_and_a_credit_on_its_tenants(folder: Path):
    told = json.loads(
        command("report", "--folder", str(folder), "--by", "tenant,model", *window("december"), "--format", "json")
    )

    lines = {(line["tenant"], line["model"]): (line["cost_nusd"], line["posted_nusd"]) for line in told["lines"]}
    assert lines == {
        ("support", "small"): (COST, 0),
        ("support", "large"): (0, COST),
        ("search", "large"): (0, -5),
        ("search", ""): (0, -100),
    }


@pytest.mark.parametrize("month", ["november", "december"])
def test_focus_equals_the_bill_to_the_nano_dollar(folder: Path, month: str):
    out = folder.parent / f"{month}.csv"
    command("export", "focus", "--spec", "1.2", "--folder", str(folder), "--out", str(out), *window(month))
    total = json.loads(
        command("report", "--folder", str(folder), "--by", "tenant", *window(month), "--format", "json")
    )["total"]

    with out.open(newline="") as text:
        billed = sum(Decimal(row["BilledCost"]) for row in csv.DictReader(text))

    assert billed.scaleb(9) == total["billed_nusd"]


def test_a_sealed_month_stays_sealed_and_the_ledger_whole(folder: Path):
    BooksWriter(folder, now=JANUARY, made_by="ada").close("2026-12", reason="month closed")

    assert verify(folder).problems == ()
