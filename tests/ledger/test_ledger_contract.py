"""What every `seam.Ledger` keeps, checked on each that there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.report import Books
from gateway.ledger.rows import ChargeKind
from gateway.ledger.seam import EpochInfo, Ledger
from tests.ledger.world import NOON, a_charge, a_hold, a_request

Opener = Callable[[], Ledger]


@pytest.fixture(params=["journaled"])
def ledger(request: pytest.FixtureRequest, reopen: Opener) -> Ledger:
    """Every implementation, by name; a new one adds its opener here."""
    return {"journaled": reopen}[request.param]()


def test_what_was_booked_is_on_the_bill_after_a_flush(ledger: Ledger, folder: Path):
    ledger.hold(a_hold())
    ledger.settle(a_charge(cost_nusd=5_000))
    ledger.book(a_request())

    assert ledger.flush(5)

    totals = Books(folder).bill().totals
    assert (totals.requests, totals.attempts, totals.cost_nusd) == (1, 1, 5_000)


def test_booking_twice_books_once(ledger: Ledger, folder: Path):
    for cost in (5_000, 7_000):
        ledger.settle(a_charge(cost_nusd=cost))
        ledger.book(a_request(baseline_nusd=cost))

    assert ledger.flush(5)

    totals = Books(folder).bill().totals
    assert (totals.requests, totals.cost_nusd, totals.baseline_nusd) == (1, 5_000, 5_000)
    assert ledger.status().duplicates == 2


def test_a_released_hold_costs_nothing_even_after_a_restart(ledger: Ledger, reopen: Opener, folder: Path):
    row = a_hold()
    ledger.hold(row)
    ledger.release(row.request_id, row.attempt)
    ledger.close()

    reopen()

    assert Books(folder).bill().totals.attempts == 0


def test_an_open_hold_is_closed_as_estimated_when_the_folder_is_opened_again(
    ledger: Ledger, reopen: Opener, folder: Path
):
    ledger.hold(a_hold(upper_bound_nusd=9_000))
    ledger.close()

    reopen()

    bill = Books(folder).bill()
    assert [(line.kind, line.cost_nusd) for line in bill.by_kind] == [(ChargeKind.ESTIMATED, 9_000)]
    assert (bill.totals.requests, bill.totals.refused) == (1, 1)


def test_a_hold_of_a_running_attempt_stays_open_and_is_told(ledger: Ledger, folder: Path):
    ledger.hold(a_hold())

    assert ledger.flush(5)

    bill = Books(folder).bill()
    assert bill.totals.cost_nusd == 0
    assert any("1 attempts are running" in note for note in bill.notes)


def test_a_closed_ledger_holds_no_more_money(ledger: Ledger):
    ledger.close()

    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.hold(a_hold())


def test_a_settlement_after_close_is_booked_as_estimated_by_the_next_start(
    ledger: Ledger, reopen: Opener, folder: Path
):
    ledger.hold(a_hold(upper_bound_nusd=9_000))
    ledger.close()
    ledger.settle(a_charge(cost_nusd=1))

    reopen()

    assert Books(folder).bill().totals.cost_nusd == 9_000


def test_closing_twice_is_closing_once(ledger: Ledger):
    ledger.close()

    ledger.close()

    assert not ledger.status().is_writable


def test_a_healthy_ledger_says_so(ledger: Ledger):
    ledger.book(a_request())
    ledger.flush(5)

    status = ledger.status()

    assert status.is_writable
    assert (status.pending, status.dropped, status.unfolded_bytes, status.torn, status.error) == (0, 0, 0, 0, None)


def test_a_new_epoch_goes_on_booking(ledger: Ledger, folder: Path):
    ledger.hold(a_hold(1))
    ledger.renew(EpochInfo(policy_digest="policy-2"))
    ledger.settle(a_charge(1))
    ledger.settle(a_charge(2, started_at=NOON))

    assert ledger.flush(5)

    assert Books(folder).bill().totals.attempts == 2
