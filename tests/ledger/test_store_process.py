"""Folding in a process of its own: the same ledger, whoever of the two dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends.clock import SystemClock
from gateway.ledger.errors import FolderInUse, FolderUnusable, JournalCorrupt, LedgerUnavailable
from gateway.ledger.journal import segments
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.report import Books
from gateway.ledger.rows import ChargeKind
from gateway.ledger.seam import Terms
from gateway.ledger.service import FoldService
from gateway.ledger.store_process import StoreProcess
from gateway.ledger.verify import verify
from gateway.settings import environment
from tests.ledger.world import INFO, a_charge, a_hold, a_request

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store() -> Iterator[StoreProcess]:
    with closing(StoreProcess.hatched(environment())) as hatched:
        yield hatched
        hatched.discard()


def opened(folder: Path, store: StoreProcess, terms: Terms | None = None) -> JournaledLedger:
    return JournaledLedger.open(folder, SystemClock(), INFO, terms=terms, store=store, tick_s=0.02)


def buy(ledger: JournaledLedger, number: int) -> None:
    ledger.hold(a_hold(number))
    ledger.settle(a_charge(number, cost_nusd=95_000))
    ledger.book(a_request(number, cost_nusd=95_000))


def test_a_process_that_folds_and_is_killed_is_started_anew_and_nothing_is_lost_or_refused(
    store: StoreProcess, folder: Path
):
    ledger = opened(folder, store)
    buy(ledger, 1)
    assert ledger.flush(20)
    former = store.pid
    assert former is not None
    ledger.hold(a_hold(3))

    os.kill(former, signal.SIGKILL)
    buy(ledger, 2)

    assert ledger.flush(20)
    assert store.pid not in {former, None}
    ledger.settle(a_charge(3, cost_nusd=95_000))  # held in the life of the former: still open, not estimated
    assert ledger.flush(20)
    assert (ledger.status().is_writable, ledger.status().error, ledger.status().unfolded_bytes) == (True, None, 0)
    ledger.close()
    totals = Books(folder).bill().totals
    assert (totals.attempts, totals.cost_nusd) == (3, 3 * 95_000)
    assert verify(folder).found == 0
    assert segments(folder / "journal") == []


def test_a_killed_gateway_takes_its_store_process_along_and_the_next_estimates_what_it_left(
    store: StoreProcess, folder: Path
):
    command = [sys.executable, "-m", "tests.ledger.spender", "beside", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as spender:
        assert spender.stdout is not None
        assert spender.stdout.readline() == "held 1\n"
        with pytest.raises(FolderInUse, match=rf"in use by another gateway \(process {spender.pid}\)"):
            FoldService.open(folder, SystemClock())
        spender.kill()

    opened(folder, store).close()

    assert {line.kind: line.attempts for line in Books(folder).bill().by_kind} == {ChargeKind.ESTIMATED: 1}


def test_what_is_wrong_with_a_folder_is_told_as_by_a_gateway_that_folds_itself(
    store: StoreProcess, folder: Path, tmp_path: Path
):
    with pytest.raises(FolderUnusable, match=r"ledger\.roots is .* whose folder does not exist"):
        opened(folder, store, Terms(roots=tmp_path / "absent" / "roots.jsonl"))


def test_damage_found_by_the_process_stops_spending(store: StoreProcess, folder: Path):
    ledger = opened(folder, store)
    buy(ledger, 1)
    assert ledger.flush(20)
    (live,) = segments(folder / "journal")
    with (folder / "journal" / live.name).open("ab") as file:
        file.write(b"garbage\n")

    assert not ledger.flush(0.5)

    with pytest.raises(LedgerUnavailable, match=r"damaged at byte \d+"):
        ledger.hold(a_hold(2))
    assert isinstance(store.damage, JournalCorrupt)
    ledger.close()
