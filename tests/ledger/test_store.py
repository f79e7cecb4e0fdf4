"""The store refuses to forget, and to be what it is not."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from gateway.ledger.chain import GENESIS, link
from gateway.ledger.errors import FolderInUse, FolderUnusable, RowInvalid, SchemaMismatch
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.report import Books
from gateway.ledger.rows import CRASHED, CostProvenance
from gateway.ledger.schema import SCHEMA
from gateway.ledger.verify import verify
from tests.ledger.world import INFO, OwnClock, a_charge, a_hold, a_request

Opener = Callable[[], JournaledLedger]


@pytest.fixture
def db(ledger: JournaledLedger, folder: Path) -> Iterator[sqlite3.Connection]:
    """A second connection to a store with one request and one charge."""
    ledger.settle(a_charge())
    ledger.book(a_request())
    assert ledger.flush(5)
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
        yield connection


@pytest.mark.parametrize("table", ["requests", "charges"])
@pytest.mark.parametrize("change", ["UPDATE {} SET cost_nusd = 0", "DELETE FROM {}"])
def test_the_store_refuses_to_change_or_delete_a_row(db: sqlite3.Connection, table: str, change: str):
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(change.format(table))


@pytest.mark.parametrize("table", ["requests", "charges"])
def test_replacing_a_row_leaves_the_first(db: sqlite3.Connection, table: str):
    before = list(db.iterdump())

    db.execute(f"CREATE TEMP TABLE other AS SELECT * FROM {table}")  # noqa: S608 - the names stand above
    db.execute("UPDATE other SET cost_nusd = 999")
    db.execute(f"INSERT OR REPLACE INTO {table} SELECT * FROM other")  # noqa: S608 - as above

    assert list(db.iterdump()) == before


def test_every_column_is_described_in_the_schema():
    for body in re.findall(r"CREATE TABLE \w+ \(\s+--(.*?)\n\) STRICT", SCHEMA, re.DOTALL):
        for line in body.splitlines()[1:]:
            assert "--" in line or line.strip().startswith(("PRIMARY KEY", "UNIQUE", "CHECK")), line


def test_the_readable_view_shows_exact_dollars(db: sqlite3.Connection):
    assert db.execute("SELECT started_at, cost_usd FROM charges_readable").fetchone() == (
        "2026-11-02T12:00:00Z",
        "0.000005000",
    )


def test_a_locked_store_delays_folding_and_loses_nothing(ledger: JournaledLedger, db: sqlite3.Connection, folder: Path):
    db.execute("BEGIN EXCLUSIVE")
    ledger.hold(a_hold(2))
    ledger.settle(a_charge(2))

    folded_while_locked = ledger.flush(0.1)
    db.execute("ROLLBACK")

    assert not folded_while_locked
    assert ledger.flush(10)
    assert Books(folder).bill().totals.attempts == 2


def test_a_second_gateway_on_the_folder_is_refused_with_the_first_ones_pid(
    ledger: JournaledLedger, folder: Path, clock: OwnClock
):
    with pytest.raises(
        FolderInUse, match=rf"in use by another gateway \(process {os.getpid()}\).*of its own"
    ) as caught:
        JournaledLedger.open(folder, clock, INFO)

    assert caught.value.pid == os.getpid()
    assert ledger.status().is_writable


def test_a_lock_without_a_readable_owner_is_still_a_lock(ledger: JournaledLedger, folder: Path, clock: OwnClock):
    (folder / "lock").write_text("")

    with pytest.raises(FolderInUse, match="process unknown"):
        JournaledLedger.open(folder, clock, INFO)

    assert ledger.status().is_writable


def test_a_lock_that_is_a_folder_is_refused(folder: Path, clock: OwnClock):
    (folder / "lock").mkdir(parents=True)

    with pytest.raises(FolderUnusable, match=r"cannot open .*lock: Is a directory"):
        JournaledLedger.open(folder, clock, INFO)


def test_a_store_that_is_a_folder_is_refused(folder: Path, clock: OwnClock):
    (folder / "ledger.db").mkdir(parents=True)

    with pytest.raises(FolderUnusable, match=r"cannot open .*ledger.db"):
        JournaledLedger.open(folder, clock, INFO)


def test_a_store_locked_by_another_program_at_the_start_is_told(
    ledger: JournaledLedger, db: sqlite3.Connection, folder: Path, clock: OwnClock
):
    ledger.close()
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("BEGIN EXCLUSIVE")

    with pytest.raises(FolderUnusable, match="lock"):
        JournaledLedger.open(folder, clock, INFO)


def test_a_newer_ledger_is_refused_and_left_alone(ledger: JournaledLedger, folder: Path, clock: OwnClock):
    ledger.close()
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(SchemaMismatch, match="version 99, this Faregate reads version 8; install"):
        JournaledLedger.open(folder, clock, INFO)
    with pytest.raises(SchemaMismatch, match="version 99"):
        Books(folder).bill()


def a_ledger_of_version_1(folder: Path) -> None:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
        connection.executescript((Path(__file__).parent / "ledger_v1.sql").read_text())


def test_a_ledger_of_version_1_is_brought_up_to_date_with_all_it_holds(folder: Path, reopen: Opener):
    a_ledger_of_version_1(folder)
    with pytest.raises(SchemaMismatch, match="version 1, this Faregate reads version 8; start a gateway"):
        Books(folder).bill()

    ledger = reopen()
    ledger.settle(a_charge(3, cost_nusd=5_000))
    assert ledger.flush(5)

    totals = Books(folder).bill().totals
    assert (totals.requests, totals.attempts, totals.cost_nusd) == (2, 3, 195_000)
    assert verify(folder).entries == 5
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        assert connection.execute("SELECT id FROM writer").fetchall() == [("00112233445566aa",)]
        assert connection.execute("SELECT DISTINCT cost_provenance, tier FROM charges").fetchall() == [("priced", "")]
        fresh = sqlite3.connect(":memory:")
        fresh.executescript(SCHEMA)
        shape = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
        assert connection.execute(shape).fetchall() == fresh.execute(shape).fetchall()
        fresh.close()


def test_a_request_without_a_decision_has_the_hash_it_had_before_there_was_that_column():
    before = hashlib.blake2b(GENESIS + b'["requests","req_1",7]', digest_size=32).digest()

    assert link(GENESIS, "requests", ["req_1", None, 7]) == before


def test_a_ledger_of_version_5_is_brought_up_to_date_and_keeps_its_chain(
    folder: Path, db: sqlite3.Connection, reopen: Opener
):
    beside = "SELECT type, name FROM sqlite_master WHERE type IN ('view', 'trigger')"
    for kind, name in db.execute(beside).fetchall():
        db.execute(f"DROP {kind} {name}")
    db.execute("ALTER TABLE requests DROP COLUMN decision")
    db.execute("PRAGMA user_version = 5")

    ledger = reopen()
    ledger.settle(a_charge(2))
    ledger.book(a_request(2, decision='{"plan": null}'))
    assert ledger.flush(5)

    assert not {each.check for each in verify(folder).problems} & {"chain", "gapless", "rollups"}


def test_a_ledger_of_version_6_only_gets_the_tables_it_lacks(ledger: JournaledLedger, folder: Path, reopen: Opener):
    ledger.settle(a_charge())
    ledger.book(a_request())
    ledger.close()
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        db.executescript("DROP TABLE energy; DROP TABLE epoch_replicas; PRAGMA user_version = 6")
        before = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'charges'").fetchone()

    reopen().close()

    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        assert db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'charges'").fetchone() == before
        assert db.execute("SELECT COUNT(*) FROM energy").fetchone() == (0,)
    assert not {each.check for each in verify(folder).problems} & {"chain", "gapless", "rollups"}


def test_a_ledger_of_version_7_keeps_its_rollups_without_the_triggers(
    ledger: JournaledLedger, folder: Path, reopen: Opener
):
    ledger.settle(a_charge())
    ledger.book(a_request())
    ledger.close()
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        summing = "INSERT INTO waiting_charges VALUES (NEW.request_id, 7)"
        db.executescript(f"CREATE TRIGGER requests_roll_up AFTER INSERT ON requests BEGIN {summing}; END")
        db.execute("PRAGMA user_version = 7")

    migrated = reopen()
    migrated.book(a_request(2), [a_charge(2)])
    assert migrated.flush(5)

    assert not {each.check for each in verify(folder).problems} & {"chain", "gapless", "rollups"}


def test_nobody_else_may_read_what_a_ledger_keeps(folder: Path, ledger: JournaledLedger):
    ledger.book(a_request())
    assert ledger.flush(5)

    found = [folder, *folder.rglob("*")]
    assert {path.name for path in found if path.stat().st_mode & 0o077} == {"roots.jsonl"}  # hashes, for whoever audits


def test_a_migration_that_fails_leaves_the_former_version(folder: Path, clock: OwnClock):
    a_ledger_of_version_1(folder)
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE former_charges (x)")
        before = list(connection.iterdump())

        with pytest.raises(FolderUnusable):
            JournaledLedger.open(folder, clock, INFO)

        assert list(connection.iterdump()) == before
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_cost_nobody_knows_is_null_and_counted(ledger: JournaledLedger, db: sqlite3.Connection):
    ledger.settle(a_charge(2, cost_nusd=None, cost_provenance=CostProvenance.UNKNOWN))
    ledger.book(a_request(2, cost_nusd=0, unknown_charges=1))
    assert ledger.flush(5)

    row = db.execute("SELECT cost_nusd, cost_usd, cost_provenance FROM charges_readable WHERE request_id = 'req_2'")

    assert row.fetchone() == (None, None, "unknown")


def test_a_file_that_is_no_ledger_is_refused(folder: Path, clock: OwnClock):
    folder.mkdir()
    (folder / "ledger.db").write_bytes(b"the cat sat on the mat, " * 100)

    with pytest.raises(SchemaMismatch, match="no ledger of Faregate"):
        JournaledLedger.open(folder, clock, INFO)


def test_another_applications_database_is_refused(folder: Path, clock: OwnClock):
    folder.mkdir()
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")

    with pytest.raises(SchemaMismatch, match="no ledger of Faregate"):
        JournaledLedger.open(folder, clock, INFO)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, clock: OwnClock):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(FolderUnusable, match="cannot be opened"):
        JournaledLedger.open(tmp_path / "file" / "ledger", clock, INFO)


def test_a_charge_whose_request_was_never_booked_gets_one(ledger: JournaledLedger, reopen: Opener, folder: Path):
    ledger.settle(a_charge(1, cost_nusd=5_000))
    ledger.hold(a_hold(1, 1, upper_bound_nusd=9_000))
    ledger.close()

    reopen()

    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        rows = db.execute("SELECT request_id, path, status, error_code, cost_nusd FROM requests").fetchall()
    assert rows == [("req_1", "", 499, CRASHED, 14_000)]


def test_a_crashed_request_keeps_its_tags_session_task_and_user(ledger: JournaledLedger, reopen: Opener, folder: Path):
    ledger.hold(a_hold(1, tags={"feature": "chat", "task": "t-1"}, session="s-1", user_pseudonym="known"))
    ledger.close()

    reopen()

    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        row = db.execute("SELECT tags, session, task_id FROM requests NATURAL JOIN end_users").fetchone()
        assert db.execute("SELECT COUNT(*) FROM open_holds").fetchone() == (0,)
    assert row == ('{"feature":"chat","task":"t-1"}', "s-1", "t-1")
    assert verify(folder).found == 0


def test_a_request_that_was_booked_gets_no_second_row(ledger: JournaledLedger, reopen: Opener, folder: Path):
    ledger.book(a_request(1))
    ledger.hold(a_hold(1))
    ledger.close()

    reopen()

    totals = Books(folder).bill().totals
    assert (totals.requests, totals.attempts, totals.refused) == (1, 1, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: a_charge(cost_nusd=-1), "cost_nusd is -1"),
        (lambda: a_charge(cached_input_tokens=-5), "cached_input_tokens is -5"),
        (lambda: a_charge(duration_ms=float("nan")), "duration_ms is nan"),
        (lambda: a_charge(cost_nusd=None), "an unknown cost is None"),
        (lambda: a_charge(cost_provenance=CostProvenance.UNKNOWN), "cost_nusd is 5000 and its provenance unknown"),
        (lambda: a_hold(upper_bound_nusd=2**63), "upper_bound_nusd is 9223372036854775808"),
        (lambda: a_request(started_at=datetime(2026, 1, 1)), "without a time zone"),  # noqa: DTZ001 - the point
    ],
)
def test_a_row_that_cannot_be_true_is_never_made(make: Callable[[], object], message: str):
    with pytest.raises(RowInvalid, match=message):
        make()
