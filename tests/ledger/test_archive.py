"""Retention: rows go into files, the chain holds, and every sum stays what it was."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result

from backends.prices import Rates, Tier
from backends.words import JsonValue
from gateway.cli import main
from gateway.ledger.archive import Archived, archive
from gateway.ledger.archived import archived_note
from gateway.ledger.bookings import BooksWriter
from gateway.ledger.budgets import Cap
from gateway.ledger.errors import ArchiveUnusable, BookingRefused
from gateway.ledger.focus import Spec, export_focus
from gateway.ledger.invoices import Billed
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.put_back import put_back
from gateway.ledger.reconcile import Reconciled, reconcile
from gateway.ledger.report import posted_nusd
from gateway.ledger.reports.answer import ask, opened
from gateway.ledger.reports.baselines import baseline
from gateway.ledger.reports.question import Question, dimensions
from gateway.ledger.rows import CostProvenance
from gateway.ledger.spent import read_spent
from gateway.ledger.store import microseconds
from gateway.ledger.verify import verify
from policies.schema import AtLimit, Dimension
from policies.windows import Per
from tests.ledger.test_focus import RULES, RULES_1_3, breaches, lines
from tests.ledger.test_verify import COST
from tests.ledger.world import INFO, NOON, OwnClock, a_charge, a_hold, a_request

DECEMBER = date(2026, 12, 1)
LATER = datetime(2027, 1, 20, tzinfo=UTC)
NOVEMBER = Question(since=datetime(2026, 11, 1, tzinfo=UTC), until=datetime(2026, 12, 1, tzinfo=UTC))


def answered(ledger: JournaledLedger, number: int, at: datetime, **changes: JsonValue) -> None:
    ledger.hold(a_hold(number, held_at=at))
    ledger.settle(a_charge(number, started_at=at, **({"cost_nusd": COST} | changes)))
    unknown = int(changes.get("cost_nusd", COST) is None)
    cost = 0 if unknown else COST
    ledger.book(a_request(number, started_at=at, cost_nusd=cost, unknown_charges=unknown, session=f"chat-{number % 2}"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four requests of November, one corrected and one without a cost, and two of December; November is sealed."""
    folder, clock = tmp_path / "ledger", OwnClock()
    ledger = JournaledLedger.open(folder, clock, INFO, tick_s=0.01)
    for number in range(1, 4):
        answered(ledger, number, NOON + timedelta(days=number))
    answered(ledger, 4, NOON + timedelta(days=4), cost_nusd=None, cost_provenance=CostProvenance.UNKNOWN)
    for number in range(5, 7):
        answered(ledger, number, NOON + timedelta(days=30 + number))
    ledger.close()
    books = BooksWriter(folder, now=LATER, made_by="ada")
    books.correct("req_2", 0, cost_nusd=COST + 7, reason="invoice")
    books.close("2026-11", reason="month closed")
    return folder


def archived(folder: Path) -> Archived:
    return archive(folder, before=DECEMBER, out=folder.parent / "cold", now=LATER, made_by="ada")


@contextmanager
def without_pyarrow() -> Iterator[None]:
    known, sys.modules["pyarrow"] = sys.modules.get("pyarrow"), None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["pyarrow"]
        if known is not None:
            sys.modules["pyarrow"] = known


def left(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        return [row for (row,) in db.execute("SELECT request_id FROM requests ORDER BY id")]


def test_old_requests_go_with_their_charges_and_those_the_books_name_stay(folder: Path):
    done = archived(folder)

    assert (done.requests, done.charges, done.tombstone.cost_nusd) == (3, 3, 2 * COST)
    assert left(folder) == ["req_2", "req_5", "req_6"]
    assert [file.suffix for file in done.files] == [".parquet", ".parquet"]
    assert {path.stat().st_mode & 0o077 for path in (*done.files, done.files[0].parent)} == {0}


def test_the_chain_is_whole_without_the_files_and_through_them(folder: Path):
    before = verify(folder).entries

    archived(folder)

    assert (verify(folder).problems, verify(folder).entries) == ((), before - 6 + 1)
    through = verify(folder, archives=folder.parent / "cold")
    assert (through.problems, through.entries) == ((), before + 1)


def test_sums_of_an_archived_month_stay_and_say_so(folder: Path):
    question = Question(since=NOVEMBER.since, until=NOVEMBER.until, by=dimensions("tenant,model,day"))
    with opened(folder) as db:
        before, periods = ask(db, question).total, db.execute("SELECT * FROM period_sums").fetchall()

    archived(folder)

    with opened(folder) as db:
        after = ask(db, question).total
        note = archived_note(db, *(int(moment.timestamp()) * 10**6 for moment in (question.since, question.until)))
        assert db.execute("SELECT * FROM period_sums").fetchall() == periods
    assert (after.cost_nusd, after.requests, after.unknown_charges) == (
        before.cost_nusd,
        before.requests,
        before.unknown_charges,
    )
    assert str(note).startswith("3 requests of 2026-11-03 to 2026-11-06 are archived")


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_an_archived_month_of_any_zone_is_in_the_report_and_in_the_export(folder: Path, zone: str):
    begin, end = (datetime(2026, month, 1, tzinfo=ZoneInfo(zone)) for month in (11, 12))
    question = Question(since=begin, until=end, by=dimensions("day,model"), zone=zone)
    with opened(folder) as db:
        before = ask(db, question)

    archived(folder)

    with opened(folder) as db:
        after = ask(db, question)
        done = export_focus(db, question, spec=Spec.V1_2, file=folder / "focus.csv")
    assert after.total.cost_nusd == before.total.cost_nusd == sum(line.cost_nusd for line in after.lines)
    assert (done.cost_nusd, done.unknown) == (after.total.cost_nusd, 1)


@pytest.mark.parametrize("spec", [Spec.V1_2, Spec.V1_3])
def test_an_archived_month_is_exported_from_its_sums_and_adds_up_to_the_report(folder: Path, spec: Spec):
    archived(folder)
    with opened(folder) as db:
        done = export_focus(db, NOVEMBER, spec=spec, file=folder / "focus.csv")
        billed = ask(db, NOVEMBER).total.cost_nusd + posted_nusd(db, NOVEMBER)

    rows = lines(folder / "focus.csv")
    assert sum(Decimal(row["BilledCost"]) for row in rows).scaleb(9) == billed == 3 * COST + 7
    assert (done.archived, done.charges, done.unknown) == (2, 3, 1)
    rules = RULES if spec is Spec.V1_2 else RULES_1_3
    assert [breach for row in rows for breach in breaches(rules, row)] == []
    days = [row["ChargePeriodStart"] for row in rows if not row["x_RequestId"] and row["ChargeCategory"] == "Usage"]
    assert days == ["2026-11-03T00:00:00Z", "2026-11-05T00:00:00Z"]


def put_back_into(db: sqlite3.Connection, folder: Path) -> tuple[str, ...]:
    return put_back(db, folder, since_us=microseconds(NOVEMBER.since), until_us=microseconds(NOVEMBER.until))


@pytest.mark.parametrize("written", [nullcontext, without_pyarrow])
def test_with_the_archives_files_the_export_is_what_it_was(
    folder: Path, written: Callable[[], AbstractContextManager[None]]
):
    before, after = folder / "before.csv", folder / "after.csv"
    with opened(folder) as db:
        export_focus(db, NOVEMBER, spec=Spec.V1_3, file=before)
    with written():
        done = archived(folder)

    with opened(folder) as db:
        assert put_back_into(db, done.files[0].parent) == ()
        exported = export_focus(db, NOVEMBER, spec=Spec.V1_3, file=after, has_archives=True)
    assert sorted(after.read_text().splitlines()) == sorted(before.read_text().splitlines())
    assert (exported.archived, exported.charges) == (0, 3)


def test_with_the_archives_files_a_reconciliation_is_what_it_was(folder: Path):
    invoice = {(date(2026, 11, 3), "small"): Billed(cost_usd=Decimal(COST).scaleb(-9))}

    def compared(db: sqlite3.Connection, *, has_archives: bool) -> Reconciled:
        return reconcile(db, invoice, names={"small": "small"}, tolerance=Decimal(0), has_archives=has_archives)

    with opened(folder) as db:
        before = compared(db, has_archives=False)
    done = archived(folder)

    with opened(folder) as db:
        assert compared(db, has_archives=False) != before
        put_back_into(db, done.files[0].parent)
        assert compared(db, has_archives=True) == before
    assert not before.is_off


def test_files_that_are_not_there_leave_the_sums_and_are_named(folder: Path, tmp_path: Path):
    done = archived(folder)
    with opened(folder) as db:
        absent = put_back_into(db, tmp_path)
        exported = export_focus(db, NOVEMBER, spec=Spec.V1_2, file=folder / "focus.csv", has_archives=True)

    assert set(absent) == {file.name for file in done.files}
    assert exported.archived == 2


def test_an_archives_file_that_was_changed_is_not_read(folder: Path):
    changed = archived(folder).files[1]
    changed.write_bytes(changed.read_bytes() + b" ")

    with opened(folder) as db, pytest.raises(ArchiveUnusable, match="not the file that was archived"):
        put_back_into(db, changed.parent)


def test_the_commands_read_archives_from_the_folder_that_is_named(folder: Path, tmp_path: Path):
    invoice, cold = tmp_path / "usage.csv", folder.parent / "cold"
    usd = f"{Decimal(COST).scaleb(-9):f}"
    invoice.write_text(f"date,model,cost_usd\n2026-11-03,small,{usd}\n2026-11-05,small,{usd}\n")
    archived(folder)

    def run(*options: str) -> Result:
        common = ["--folder", str(folder), "--archives", str(cold)]
        return CliRunner().invoke(main, [*options, *common])

    out = tmp_path / "focus.csv"
    exported = run("export", "focus", "--since", "2026-11-01", "--until", "2026-12-01", "--out", str(out))
    compared = run("reconcile", "--provider", "generic", "--file", str(invoice), "--format", "csv")

    assert (exported.exit_code, "sums" in exported.stderr) == (0, False), exported.output
    assert {row["x_RequestId"] for row in lines(out)} >= {"req_1", "req_2", "req_3"}
    assert [row.split(",")[4] for row in compared.stdout.splitlines()[1:]] == [usd, usd, usd]


def test_other_baselines_price_archived_days_by_their_sums(folder: Path):
    tier = Tier(start_tokens=10, input=2 * 10**9, cached_input=0, cache_write=0, output=10**9, reasoning=0)
    rates = Rates(input=10**9, cached_input=0, cache_write=0, output=10**9, reasoning=0, per_request=7, tiers=(tier,))
    with opened(folder) as db:
        before = baseline(db, NOVEMBER, "other", rates, spent_nusd=0)

    archived(folder)

    with opened(folder) as db:
        assert baseline(db, NOVEMBER, "other", rates, spent_nusd=0) == before
    assert before.cost_nusd > 0


def a_cap(name: str, *each: Dimension, tenant: str = "") -> Cap:
    return Cap(
        name=name,
        tenant=tenant,
        cap_nusd=10 * COST,
        per=Per.TOTAL,
        zone=ZoneInfo("UTC"),
        at_limit=AtLimit.BLOCK,
        each=each,
    )


def test_a_total_budget_remembers_what_was_archived(folder: Path):
    caps = [a_cap("all"), a_cap("chat", Dimension.SESSION, Dimension.FEATURE), a_cap("mine", tenant="support")]
    before = read_spent(folder, caps, LATER)

    archived(folder)

    # The tombstone is a booking too.
    assert replace(read_spent(folder, caps, LATER), last_booking=before.last_booking) == before


def tampered(folder: Path, *statements: str) -> list[str]:
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
    return [problem.check for problem in verify(folder).problems]


@pytest.mark.parametrize(
    ("statement", "checks"),
    [
        ("UPDATE archived_daily_charges SET cost_nusd = cost_nusd + 1 WHERE day = 20760", {"archives", "rollups"}),
        ("UPDATE archived_months SET cost_nusd = 0", {"archives"}),
        ("INSERT INTO archived_ranges VALUES ('chain', 0, 90, 91, '', '', 1)", {"archives"}),
        ("DELETE FROM chain WHERE slot = 0 AND seq = 3", {"gapless", "chain"}),
        ("DELETE FROM books WHERE kind = 'tombstone'", {"archives", "gapless", "chain", "roots", "periods"}),
    ],
)
def test_what_an_archive_left_cannot_be_changed_unseen(folder: Path, statement: str, checks: set[str]):
    archived(folder)

    found = set(tampered(folder, statement))

    assert found <= checks | {"chain"}
    assert found & checks


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM charges WHERE request_id = 'req_5'",
        "DELETE FROM requests WHERE request_id = 'req_2'",
        "DELETE FROM chain WHERE entry = (SELECT MAX(entry) FROM chain)",
        "DELETE FROM archived_ranges",
        "UPDATE archived_months SET cost_nusd = 0",
        "INSERT INTO archived_ranges VALUES ('charges', 0, 5, 5, '', '', (SELECT MAX(id) FROM books))",
    ],
)
def test_the_store_lets_nothing_go_but_what_a_tombstone_names(folder: Path, statement: str):
    archived(folder)

    with (
        closing(sqlite3.connect(folder / "ledger.db")) as db,
        pytest.raises(sqlite3.IntegrityError, match=r"append-only|no tombstone"),
    ):
        db.execute(statement)


def change_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [change_a_byte, Path.unlink])
def test_a_damaged_or_missing_file_is_found(folder: Path, damage: Callable[[Path], None]):
    file = archived(folder).files[1]

    damage(file)

    assert [problem.row for problem in verify(folder, archives=file.parent).problems] == [file.name]


def test_without_pyarrow_the_files_are_csv_and_hold_the_same(folder: Path):
    with without_pyarrow():
        done = archived(folder)

    assert [file.suffix for file in done.files] == [".csv", ".csv"]
    assert verify(folder, archives=folder.parent / "cold").problems == ()


def test_a_second_archive_takes_up_where_the_first_ended(folder: Path):
    archived(folder)
    later = datetime(2027, 3, 1, tzinfo=UTC)
    BooksWriter(folder, now=later, made_by="ada").close("2026-12", reason="month closed")

    second = archive(folder, before=date(2027, 1, 1), out=folder.parent / "cold", now=later, made_by="ada")

    assert (second.requests, left(folder)) == (1, ["req_2", "req_6"])
    assert verify(folder, archives=folder.parent / "cold").problems == ()


def test_only_old_and_sealed_months_go(folder: Path):
    with pytest.raises(BookingRefused, match="months up to 2026-11 are sealed; close all that lies before 2026-12-05"):
        archive(folder, before=date(2026, 12, 5), out=folder.parent, now=LATER, made_by="ada")
    with pytest.raises(BookingRefused, match="2026-12-01 is too young"):
        archive(folder, before=DECEMBER, out=folder.parent, now=datetime(2026, 12, 9, tzinfo=UTC), made_by="ada")
    archived(folder)
    with pytest.raises(BookingRefused, match="no request that began before 2026-12-01 is left to go"):
        archived(folder)


def test_a_folder_that_cannot_be_written_leaves_the_ledger_as_it_was(folder: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ArchiveUnusable, match="nothing was archived"):
        archive(folder, before=DECEMBER, out=tmp_path / "file" / "cold", now=LATER, made_by="ada")

    assert len(left(folder)) == 6


def test_the_command_archives_and_verifies(folder: Path):
    place, cold = ["--folder", str(folder)], str(folder.parent / "cold")

    done = CliRunner().invoke(main, ["ledger", "archive", *place, "--before", "2026-10-01", "--out", cold])

    assert (done.exit_code, done.stderr) == (1, "faregate: no request that began before 2026-10-01 is left to go\n")
    assert CliRunner().invoke(main, ["ledger", "verify", *place, "--archives", cold]).exit_code == 0


def test_what_reads_single_rows_says_what_is_archived(folder: Path):
    archived(folder)
    (folder.parent / "usage.csv").write_text("date,model,cost_usd\n2026-11-03,small,0.1\n")
    window = ["--since", "2026-11-01", "--until", "2026-12-01"]

    told = [
        CliRunner().invoke(main, [*command, "--folder", str(folder)]).stderr
        for command in (
            ["reconcile", "--provider", "generic", "--file", str(folder.parent / "usage.csv")],
            ["report", "--by", "attempt", *window],
            ["export", "focus", "--spec", "1.2", "--out", str(folder.parent / "focus.csv"), *window],
        )
    ]

    assert ["requests of 2026-11-03" in text and "archived" in text for text in told] == [True, True, True]
