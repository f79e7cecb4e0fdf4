"""The books: nothing is changed, everything is added, a sealed month stays what it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backends.words import JsonValue
from gateway.ledger.bookings import BooksWriter
from gateway.ledger.errors import BookingRefused, LedgerMissing, PeriodInvalid
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.pseudonyms import Pseudonyms
from gateway.ledger.rows import CostProvenance
from gateway.ledger.verify import verify
from tests.ledger.test_verify import COST
from tests.ledger.world import NOON, a_charge, a_hold, a_request

DECEMBER = datetime(2026, 12, 3, tzinfo=UTC)


@pytest.fixture
def booked(ledger: JournaledLedger) -> JournaledLedger:
    """A running gateway with one request in November."""
    ledger.settle(a_charge(1, cost_nusd=COST))
    ledger.book(a_request(1, cost_nusd=COST))
    assert ledger.flush(5)
    return ledger


def books(folder: Path, now: datetime = DECEMBER) -> BooksWriter:
    return BooksWriter(folder, now=now, made_by="ada")


def sums(folder: Path) -> list[tuple[JsonValue, ...]]:
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        return db.execute("SELECT period, charges_nusd, books_nusd, is_sealed FROM period_sums ORDER BY 1").fetchall()


@pytest.mark.usefixtures("booked")
def test_a_correction_adds_the_difference_and_leaves_the_charge(folder: Path):
    done = books(folder).correct("req_1", 0, cost_nusd=COST - 40, reason="the provider's invoice")

    assert (done.period, done.amount_nusd) == ("2026-11", -40)
    assert sums(folder) == [("2026-11", COST, -40, 0)]
    assert verify(folder).found == 0


def test_a_correction_makes_an_unknown_cost_known(ledger: JournaledLedger, folder: Path):
    ledger.settle(a_charge(1, cost_nusd=None, cost_provenance=CostProvenance.UNKNOWN))
    ledger.book(a_request(1, cost_nusd=0, unknown_charges=1))
    ledger.flush(5)

    assert books(folder).correct("req_1", 0, cost_nusd=700, reason="invoice").amount_nusd == 700
    with pytest.raises(BookingRefused, match="costs 700 nano-dollars already"):
        books(folder).correct("req_1", 0, cost_nusd=700, reason="again")


def test_what_comes_after_a_seal_posts_to_the_open_month(booked: JournaledLedger, folder: Path):
    sealed = books(folder).close("2026-11", reason="month closed")

    corrected = books(folder).correct("req_1", 0, cost_nusd=COST + 5, reason="late")
    credited = books(folder).adjust("2026-11", amount_nusd=-100, tenant="support", model=None, reason="credit")
    booked.settle(a_charge(2, cost_nusd=COST))
    booked.book(a_request(2, cost_nusd=COST))
    booked.flush(5)

    assert (sealed.charges, sealed.cost_nusd) == (1, COST)
    assert (corrected.period, credited.period) == ("2026-12", "2026-12")
    assert sums(folder) == [("2026-11", COST, 0, 1), ("2026-12", 0, 5 - 100 + COST, 0)]
    assert verify(folder).found == 0


def test_a_sealed_months_rows_cannot_be_changed_unseen(booked: JournaledLedger, folder: Path):
    books(folder).close("2026-11", reason="month closed")
    booked.close()
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as db:
        db.execute("DROP TRIGGER charges_keep_delete")
        db.execute("DELETE FROM charges")

    assert "periods" in {problem.check for problem in verify(folder).problems}


@pytest.mark.parametrize(
    ("period", "now", "message"),
    [
        ("2026-11", NOON, "2026-11 is not over"),
        ("2026-13", DECEMBER, '"2026-13" is no month'),
        ("november", DECEMBER, "write it as 2026-11"),
        ("2026-10", DECEMBER, r"2026-10 is sealed already \(months up to 2026-10 are\)"),
    ],
)
@pytest.mark.usefixtures("booked")
def test_a_month_that_cannot_be_sealed_is_refused(folder: Path, period: str, now: datetime, message: str):
    books(folder).close("2026-10", reason="first")

    with pytest.raises((BookingRefused, PeriodInvalid), match=message):
        books(folder, now).close(period, reason="x")


def test_a_month_with_running_attempts_is_not_sealed(booked: JournaledLedger, folder: Path):
    booked.hold(a_hold(7))
    booked.flush(5)

    with pytest.raises(BookingRefused, match="1 attempts that began in 2026-11 are running"):
        books(folder).close("2026-11", reason="x")


@pytest.mark.usefixtures("booked")
def test_what_cannot_be_booked_is_refused_and_nothing_is(folder: Path, tmp_path: Path):
    with pytest.raises(BookingRefused, match="there is no charge req_9/0"):
        books(folder).correct("req_9", 0, cost_nusd=1, reason="x")
    with pytest.raises(BookingRefused, match="an adjustment of 0"):
        books(folder).adjust("2026-11", amount_nusd=0, tenant="support", model=None, reason="x")
    with pytest.raises(LedgerMissing, match="no ledger in"):
        books(tmp_path / "nowhere")

    assert verify(folder).entries == 2


def test_an_end_user_can_be_forgotten_and_the_chain_holds(ledger: JournaledLedger, folder: Path):
    ada = Pseudonyms(folder).of("support", "ada@example.test")
    for number in (1, 2):
        ledger.book(a_request(number, user_pseudonym=ada, cost_nusd=0))
    ledger.flush(5)
    assert Pseudonyms(folder).of("support", "ada@example.test") == ada

    assert books(folder).forget(ada)
    assert not books(folder).forget(ada)

    ledger.book(a_request(3, user_pseudonym=ada, cost_nusd=0))
    ledger.flush(5)
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        users = [row[0] for row in db.execute("SELECT user_pseudonym FROM requests ORDER BY id")]
        known = [row[0] for row in db.execute("SELECT user_pseudonym FROM end_users")]
    assert users[0] == users[1] != users[2]
    assert known == [users[2]]
    assert ada not in users
    assert verify(folder).found == 0


def test_two_tenants_users_of_one_name_are_two(folder: Path):
    folder.mkdir()
    assert Pseudonyms(folder).of("a", "bc") != Pseudonyms(folder).of("ab", "c")
