"""The journal on a disk that fills, tears and lies; the fold that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ledger.errors import JournalCorrupt, LedgerUnavailable
from gateway.ledger.journal import Journal, OsFiles, RecordKind, Segment, segments
from gateway.ledger.journaled import MOST_PENDING_REQUESTS, JournaledLedger
from gateway.ledger.report import Books
from gateway.ledger.rows import ChargeKind
from tests.ledger.world import INFO, OwnClock, SmallDisk, a_charge, a_hold, a_request

Opener = Callable[[], JournaledLedger]


def lines(folder: Path) -> list[bytes]:
    return [line for segment in segments(folder) for line in (folder / segment.name).read_bytes().splitlines()]


def test_a_record_is_one_numbered_line(tmp_path: Path):
    journal = Journal(tmp_path, epoch=3, files=OsFiles())

    journal.append(RecordKind.HOLD, b'{"a":1}')
    journal.append(RecordKind.RELEASE, b'{"b":2}')
    journal.close()

    assert [json.loads(line) for line in lines(tmp_path)] == [
        {"n": 1, "kind": "hold", "row": {"a": 1}},
        {"n": 2, "kind": "release", "row": {"b": 2}},
    ]


def test_a_full_segment_is_followed_by_the_next(tmp_path: Path):
    journal = Journal(tmp_path, epoch=1, files=OsFiles(), segment_bytes=30)

    for _ in range(3):
        journal.append(RecordKind.HOLD, b"{}")
    journal.close()

    assert segments(tmp_path) == [Segment(1, 1), Segment(1, 2), Segment(1, 3)]


def test_a_short_write_is_cut_off_again(tmp_path: Path):
    disk = SmallDisk()
    journal = Journal(tmp_path, epoch=1, files=disk)
    journal.append(RecordKind.HOLD, b"{}")
    disk.room = 10

    with pytest.raises(OSError, match="bytes could be written"):
        journal.append(RecordKind.HOLD, b"{}")
    disk.room = None
    journal.append(RecordKind.RELEASE, b"{}")
    journal.close()

    assert [json.loads(line)["n"] for line in lines(tmp_path)] == [1, 2]


def test_a_torn_end_that_cannot_be_cut_off_is_left_behind_in_its_segment(tmp_path: Path):
    disk = SmallDisk()
    disk.can_truncate = False
    journal = Journal(tmp_path, epoch=1, files=disk)
    journal.append(RecordKind.HOLD, b"{}")
    disk.room = 10

    with pytest.raises(OSError, match="bytes could be written"):
        journal.append(RecordKind.HOLD, b"{}")
    disk.room = None
    journal.append(RecordKind.RELEASE, b"{}")
    journal.close()

    assert segments(tmp_path) == [Segment(1, 1), Segment(1, 2)]
    assert (tmp_path / Segment(1, 2).name).read_bytes() == b'{"n":2,"kind":"release","row":{}}\n'


@given(rooms=st.lists(st.integers(0, 120), max_size=30), can_truncate=st.lists(st.booleans(), min_size=30, max_size=30))
@settings(max_examples=60, deadline=None)
def test_whatever_the_disk_refuses_the_journal_holds_exactly_what_was_appended(
    rooms: list[int], can_truncate: list[bool], tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("journal")
    disk = SmallDisk()
    journal = Journal(folder, epoch=1, files=disk, segment_bytes=100)
    appended = []
    for number, (room, can) in enumerate(zip(rooms, can_truncate, strict=False)):
        disk.room, disk.can_truncate = room, can
        try:
            journal.append(RecordKind.HOLD, b'{"v":%d}' % number)
        except OSError:
            continue
        appended.append(number)
    journal.close()

    whole = [
        json.loads(line)["row"]["v"]
        for segment in segments(folder)
        for line in (folder / segment.name).read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    assert whole == appended


def test_a_full_disk_refuses_holds_and_keeps_settlements_until_there_is_room(
    ledger: JournaledLedger, disk: SmallDisk, folder: Path
):
    ledger.hold(a_hold(1))
    disk.room = 0
    ledger.settle(a_charge(1))
    ledger.book(a_request(1))

    with pytest.raises(LedgerUnavailable, match=r"cannot write.*No space left.*free space") as caught:
        ledger.hold(a_hold(2))
    refused = ledger.status()
    disk.room = None

    assert ledger.flush(5)
    assert (caught.value.pending, refused.pending, refused.is_writable) == (2, 2, False)
    assert "No space left" in str(refused.error)
    assert Books(folder).bill().totals.cost_nusd == 5_000
    ledger.hold(a_hold(2))
    assert ledger.status().is_writable


def test_a_full_disk_is_tried_again_without_being_asked(ledger: JournaledLedger, disk: SmallDisk):
    disk.room = 0
    ledger.settle(a_charge(1))
    ledger.flush(0)
    disk.room = None

    assert ledger.flush(5)
    assert ledger.status().is_writable


def test_settlements_still_refused_at_close_are_told_and_estimated_by_the_next_start(
    ledger: JournaledLedger, disk: SmallDisk, reopen: Opener, folder: Path
):
    ledger.hold(a_hold(1, upper_bound_nusd=9_000))
    disk.room = 0
    ledger.settle(a_charge(1))

    with pytest.raises(LedgerUnavailable, match="1 records could not be written") as caught:
        ledger.close()
    disk.room = None
    reopen()

    assert caught.value.pending == 1
    assert [(line.kind, line.cost_nusd) for line in Books(folder).bill().by_kind] == [(ChargeKind.ESTIMATED, 9_000)]


def test_a_renewal_that_the_disk_refuses_leaves_the_former_epoch_going(
    ledger: JournaledLedger, disk: SmallDisk, folder: Path
):
    ledger.flush(5)
    disk.room = 90
    with pytest.raises(LedgerUnavailable, match="cannot write"):
        ledger.renew(INFO)
    disk.room = None
    ledger.settle(a_charge(1))
    ledger.flush(5)
    ledger.renew(INFO)
    ledger.settle(a_charge(2))

    assert ledger.flush(5)
    assert Books(folder).bill().totals.attempts == 2


def a_crashed_folder(folder: Path, end: bytes, *, after: bytes = b"") -> None:
    """Leave behind what a killed gateway would: one charge in the journal, then `end`."""
    (folder / "journal").mkdir(parents=True)
    journal = Journal(folder / "journal", epoch=1, files=OsFiles())
    journal.append(RecordKind.CHARGE, msgspec.json.encode(a_charge(1)))
    journal.close()
    with (folder / "journal" / Segment(1, 1).name).open("ab") as file:
        file.write(end + after)


@pytest.mark.parametrize(
    "end", [b'{"n":2,"kind":"cha', b'{"n":2,"ki\n', b"\0\0\0\0", b"\n", b'{"n":2,"kind":"hold","row":{}}\n']
)
def test_a_torn_last_line_is_ignored_and_counted(end: bytes, folder: Path, reopen: Opener):
    a_crashed_folder(folder, end)

    ledger = reopen()

    assert ledger.status().torn == 1
    assert Books(folder).bill().totals.attempts == 1
    assert reopen().status().torn == 1


def test_damage_inside_a_segment_is_refused_and_nothing_is_lost(folder: Path, clock: OwnClock):
    a_crashed_folder(folder, b"garbage\n", after=b'{"n":3,"kind":"release","row":{"request_id":"r","attempt":0}}\n')

    with pytest.raises(JournalCorrupt, match=r"damaged at byte \d+.*restore"):
        JournaledLedger.open(folder, clock, INFO)

    assert segments(folder / "journal") == [Segment(1, 1)]


def test_folded_segments_are_removed(folder: Path, clock: OwnClock):
    ledger = JournaledLedger.open(folder, clock, INFO, segment_bytes=1_000, tick_s=0.02)
    for number in range(50):
        ledger.settle(a_charge(number))

    assert ledger.flush(5)

    assert len(segments(folder / "journal")) == 1
    assert Books(folder).bill().totals.attempts == 50
    ledger.close()
    assert segments(folder / "journal") == []


def test_folding_a_segment_again_changes_nothing(folder: Path, reopen: Opener):
    ledger = reopen()
    ledger.hold(a_hold(1))
    ledger.settle(a_charge(1))
    ledger.flush(5)
    (kept,) = segments(folder / "journal")
    written = (folder / "journal" / kept.name).read_bytes()
    ledger.close()
    (folder / "journal" / kept.name).write_bytes(written)

    again = reopen()

    assert again.status().duplicates == 1
    assert Books(folder).bill().totals.cost_nusd == 5_000


def test_damage_to_the_live_journal_stops_spending_and_says_where(ledger: JournaledLedger, folder: Path):
    ledger.settle(a_charge(1))
    assert ledger.flush(5)
    (live,) = segments(folder / "journal")
    with (folder / "journal" / live.name).open("ab") as file:
        file.write(b"garbage\n")

    assert not ledger.flush(0.3)
    with pytest.raises(LedgerUnavailable, match=r"damaged at byte \d+"):
        ledger.hold(a_hold(2))
    assert "damaged" in str(ledger.status().error)


def test_too_many_refused_requests_are_dropped_and_counted_but_no_charge_is(
    ledger: JournaledLedger, disk: SmallDisk, folder: Path
):
    disk.room = 0
    for number in range(MOST_PENDING_REQUESTS + 3):
        ledger.book(a_request(number))
    ledger.settle(a_charge(1))
    dropped = ledger.status().dropped
    disk.room = None

    assert ledger.flush(30)
    totals = Books(folder).bill().totals
    assert (dropped, totals.requests, totals.attempts) == (3, MOST_PENDING_REQUESTS, 1)


def test_a_pool_is_billed_until_the_gateways_last_sign_of_life(ledger: JournaledLedger, clock: OwnClock, folder: Path):
    clock.move(3600)

    assert ledger.flush(5)

    (pool,) = Books(folder).bill().pools
    assert (pool.up_us, pool.bill_nusd, pool.idle_nusd) == (3_600_000_000, 360_000_000, 360_000_000)


def test_a_request_and_what_it_cost_are_one_write_and_both_wait_when_it_is_refused(
    ledger: JournaledLedger, disk: SmallDisk, folder: Path
):
    ledger.hold(a_hold(1))
    ledger.book(a_request(1), [a_charge(1)])
    ledger.hold(a_hold(2))
    disk.room = 700  # more than the charge takes, less than both
    ledger.book(a_request(2), [a_charge(2)])
    waiting = ledger.status().pending
    disk.room = None

    assert ledger.flush(5)
    totals = Books(folder).bill().totals
    assert (waiting, totals.requests, totals.attempts, ledger.status().duplicates) == (2, 2, 2, 0)
