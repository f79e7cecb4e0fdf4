"""The append side on its own: several workers beside one fold, power cuts, a disk that fills while requests go on."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typing_extensions import override

from gateway.ledger.errors import FolderInUse, FolderUnusable, JournalCorrupt, LedgerUnavailable
from gateway.ledger.journal import SEGMENT_BYTES, Files, segments
from gateway.ledger.journaled import JournaledLedger, WorkerLedger
from gateway.ledger.report import Books
from gateway.ledger.rows import ChargeKind
from gateway.ledger.seam import EpochInfo, Terms
from gateway.ledger.service import FoldService
from gateway.ledger.verify import verify
from gateway.ledger.writer import Writer
from policies.schema import Durability, OnFailure
from tests.ledger.world import INFO, OwnClock, SmallDisk, a_charge, a_hold, a_request


class SyncingDisk(SmallDisk):
    """A disk that counts its syncs, and can refuse them."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[int] = []
        self.can_sync = True

    @override
    def sync(self, fd: int) -> None:
        if not self.can_sync:
            raise OSError(errno.EIO, "Input/output error")
        self.synced.append(fd)


@pytest.fixture
def service(folder: Path, clock: OwnClock) -> Iterator[FoldService]:
    opened = FoldService.open(folder, clock, tick_s=0.01)
    opened.start()
    yield opened
    opened.close()


def a_worker(service: FoldService, folder: Path, slot: int, *, files: Files | None = None) -> WorkerLedger:
    writer_id = service.writer_id(slot)
    return WorkerLedger.open(folder, OwnClock(), INFO, slot=slot, writer_id=writer_id, files=files, tick_s=0.01)


def test_several_workers_are_folded_into_one_ledger_with_a_chain_each(service: FoldService, folder: Path):
    workers = [a_worker(service, folder, slot) for slot in range(3)]
    for number in range(30):
        worker = workers[number % 3]
        worker.hold(a_hold(number))
        worker.settle(a_charge(number, cost_nusd=95_000))
        worker.book(a_request(number, cost_nusd=95_000))
    for worker in workers:
        assert worker.flush(1)
        worker.close()
    service.close()

    totals = Books(folder).bill().totals
    assert (totals.requests, totals.attempts, totals.cost_nusd) == (30, 30, 30 * 95_000)
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        assert db.execute("SELECT slot, seq FROM writers ORDER BY slot").fetchall() == [(0, 20), (1, 20), (2, 20)]
        assert db.execute("SELECT COUNT(DISTINCT writer), COUNT(DISTINCT epoch) FROM epochs").fetchone() == (3, 3)
    assert segments(folder / "journal") == []


def test_a_pool_kept_up_by_several_workers_is_billed_once(service: FoldService, folder: Path):
    workers = [a_worker(service, folder, slot) for slot in range(3)]
    for worker in workers:
        worker.close()
    service.close()
    with closing(sqlite3.connect(folder / "ledger.db")) as db, db:
        db.execute("UPDATE epochs SET last_seen_at_us = started_at_us + 3600000000")

    (pool,) = Books(folder).bill().pools
    assert pool.up_us == 3_600_000_000


def a_dead_worker(service: FoldService, folder: Path, slot: int) -> Writer:
    """Return a writer that is never closed and has no lock, as a killed process leaves it."""
    writer_id, files = service.writer_id(slot), SmallDisk()
    writer = Writer(
        folder=folder,
        clock=OwnClock(),
        writer_id=writer_id,
        slot=slot,
        terms=Terms(),
        files=files,
        segment_bytes=SEGMENT_BYTES,
    )
    writer.renew(INFO)
    return writer


def test_a_dead_workers_holds_are_estimated_while_the_others_go_on(service: FoldService, folder: Path):
    a_dead_worker(service, folder, 1).hold(a_hold(1))
    alive = a_worker(service, folder, 2)
    alive.hold(a_hold(2))

    assert service.bury(1) == 1
    alive.settle(a_charge(2))
    alive.book(a_request(2))
    again = a_worker(service, folder, 1)
    again.settle(a_charge(3))
    for worker in (alive, again):
        worker.close()
    service.close()

    kinds = {line.kind: line.attempts for line in Books(folder).bill().by_kind}
    assert kinds == {ChargeKind.ANSWER: 2, ChargeKind.ESTIMATED: 1}


def test_a_live_worker_is_neither_buried_nor_doubled_nor_left_behind(
    service: FoldService, folder: Path, clock: OwnClock
):
    worker = a_worker(service, folder, 1)

    with pytest.raises(FolderInUse, match=r"worker 1 of .* is alive"):
        service.bury(1)
    with pytest.raises(FolderInUse):
        a_worker(service, folder, 1)
    service.close()
    with pytest.raises(FolderInUse, match=r"worker 1 of .* is alive"):
        FoldService.open(folder, clock)
    worker.close()
    FoldService.open(folder, clock).close()


def test_a_record_missing_from_a_journal_is_damage(folder: Path, clock: OwnClock, disk: SmallDisk):
    ledger = JournaledLedger.open(folder, clock, INFO, files=disk, tick_s=3_600)
    for number in range(3):
        ledger.hold(a_hold(number))
    (live,) = segments(folder / "journal")
    path = folder / "journal" / live.name
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))

    ledger.close()

    with pytest.raises(JournalCorrupt, match="record 4 follows, but record 3 is missing"):
        JournaledLedger.open(folder, clock, INFO)
    path.write_bytes(b"".join([*lines[:2], b'{"n":3,"kind":"void","row":{}}\n', *lines[3:]]))
    JournaledLedger.open(folder, clock, INFO).close()
    assert Books(folder).bill().totals.attempts == 2


async def test_holds_of_many_requests_share_a_sync_before_the_upstream_is_asked(folder: Path, clock: OwnClock):
    disk = SyncingDisk()
    terms = Terms(durability=Durability.POWER)
    ledger = JournaledLedger.open(folder, clock, INFO, terms=terms, files=disk, tick_s=0.02)

    async def buy(number: int) -> None:
        ledger.hold(a_hold(number))
        await ledger.secured()

    await asyncio.gather(*(buy(number) for number in range(50)))
    synced = len(disk.synced)
    ledger.close()

    assert 1 <= synced < 50


async def test_a_sync_that_fails_lets_nothing_be_bought(folder: Path, clock: OwnClock):
    disk = SyncingDisk()
    terms = Terms(durability=Durability.POWER)
    ledger = JournaledLedger.open(folder, clock, INFO, terms=terms, files=disk, tick_s=0.02)
    disk.can_sync = False
    ledger.hold(a_hold(1))

    with pytest.raises(LedgerUnavailable, match="cannot write"):
        await ledger.secured()
    ledger.close()


def test_the_roots_go_where_the_policy_says(folder: Path, clock: OwnClock, tmp_path: Path):
    elsewhere = tmp_path / "audit" / "roots.jsonl"
    with pytest.raises(FolderUnusable, match=r"ledger\.roots is .* whose folder does not exist"):
        JournaledLedger.open(folder, clock, INFO, terms=Terms(roots=elsewhere))
    elsewhere.parent.mkdir()

    JournaledLedger.open(folder, clock, INFO, terms=Terms(roots=elsewhere)).close()

    assert verify(folder, roots_file=elsewhere).found == 0
    assert "roots" in {problem.check for problem in verify(folder).problems}


async def test_process_durability_waits_for_nothing(ledger: JournaledLedger):
    ledger.hold(a_hold(1))

    await ledger.secured()


def test_a_full_disk_is_bridged_in_memory_when_the_policy_wants_that(folder: Path, clock: OwnClock, disk: SmallDisk):
    terms = Terms(on_failure=OnFailure.BUFFER, buffer_bytes=20_000)
    ledger = JournaledLedger.open(folder, clock, INFO, terms=terms, files=disk, tick_s=0.02)
    disk.room = 0
    bought = 0
    while ledger.status().is_writable:
        ledger.hold(a_hold(bought))
        ledger.settle(a_charge(bought, cost_nusd=95_000))
        ledger.book(a_request(bought, cost_nusd=95_000))
        bought += 1
    with pytest.raises(LedgerUnavailable, match="cannot write"):
        ledger.hold(a_hold(bought))
    bridged = ledger.status()
    disk.room = None

    assert ledger.flush(10)
    assert bought > 5
    assert (bridged.pending, bridged.is_writable) == (3 * bought, False)
    assert Books(folder).bill().totals.cost_nusd == 95_000 * bought
    assert ledger.status().is_writable
    ledger.close()
    assert verify(folder).found == 0


def test_a_clock_that_goes_back_changes_no_sum_and_doubles_no_root(
    ledger: JournaledLedger, clock: OwnClock, folder: Path
):
    ledger.hold(a_hold(1, held_at=clock.now()))
    ledger.flush(5)
    clock.move(-3 * 86_400)
    ledger.renew(EpochInfo(policy_digest="policy-2"))
    ledger.settle(a_charge(1, cost_nusd=95_000, started_at=clock.now()))
    ledger.book(a_request(1, cost_nusd=95_000, started_at=clock.now()))

    assert ledger.flush(5)
    ledger.close()

    verdict = verify(folder)
    assert (verdict.found, verdict.charges) == (0, 1)
    assert Books(folder).bill().totals.cost_nusd == 95_000
