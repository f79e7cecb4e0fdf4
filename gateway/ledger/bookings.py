"""The books writer: what people book after the fact. Nothing is changed, everything is added.

Rules:
- a row names what it corrects; its amount is the difference, so that a bill is Σ charges + Σ books of its period;
- a sealed month never changes: what corrects it posts to the first open month;
- it may be done while a gateway runs: the store's own transactions keep them apart.

Views for the reader: `charges_corrected` has each charge with its corrections, `period_sums` each month's bill.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from gateway.ledger.errors import BookingRefused, LedgerMissing
from gateway.ledger.journal import JOURNAL_FOLDER, segments
from gateway.ledger.store import FILE_NAME, Store, check_schema, microseconds, month_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """What was booked: the month it posts to and what it adds to that month's bill, in nano-dollars."""

    period: str
    amount_nusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A month that was closed: its charges, their sum, and what the books add, in nano-dollars."""

    period: str
    charges: int
    cost_nusd: int
    unknown_charges: int
    books_nusd: int


class BooksWriter:
    """Books into the ledger of a folder.

    Args:
        folder: with a ledger of this version.
        now: the time.
        made_by: who books, as the rows shall say.
    """

    def __init__(self, folder: Path, *, now: datetime, made_by: str) -> None:
        self._folder = folder
        self._now = now.astimezone(UTC)
        self._made_by = made_by
        if not (folder / FILE_NAME).is_file():
            raise LedgerMissing(f"there is no ledger in {folder}; give the data folder of a gateway (with {FILE_NAME})")

    def correct(self, request_id: str, attempt: int, *, cost_nusd: int, reason: str) -> Booked:
        """Say what a charge really cost; the difference to what it cost so far is booked.

        Raises:
            BookingRefused: there is no such charge, or it costs that already.
            LedgerMissing, SchemaMismatch: the ledger cannot be written.
        """
        with self._books() as (db, book):
            row = db.execute(
                "SELECT started_at_us, tenant, model, corrected_nusd FROM charges_corrected "
                "WHERE request_id = ? AND attempt = ?",
                (request_id, attempt),
            ).fetchone()
            if row is None:
                raise BookingRefused(
                    f"there is no charge {request_id}/{attempt}; `faregate report --by attempt` lists them (what is "
                    "archived is corrected with `faregate ledger adjust`)"
                )
            started_at_us, tenant, model, so_far = row
            if so_far == cost_nusd:
                raise BookingRefused(f"the charge {request_id}/{attempt} costs {cost_nusd} nano-dollars already")
            started = datetime.fromtimestamp(started_at_us // 10**6, UTC)
            period, amount = self._open_month(db, started), cost_nusd - (so_far or 0)
            about = {"was_nusd": so_far, "is_nusd": cost_nusd}
            book(
                self._row(
                    "correction",
                    period,
                    of=(request_id, attempt, tenant, model),
                    amount_nusd=amount,
                    about=about,
                    reason=reason,
                )
            )
        return Booked(period=period, amount_nusd=amount)

    def adjust(self, period: str, *, amount_nusd: int, tenant: str, model: str | None, reason: str) -> Booked:
        """Book an amount that belongs to no single charge, such as a credit; a sealed month's goes to the open one.

        Raises:
            BookingRefused: the amount is 0.
            PeriodInvalid: it is no month.
            LedgerMissing, SchemaMismatch: the ledger cannot be written.
        """
        if amount_nusd == 0:
            raise BookingRefused("an adjustment of 0 adjusts nothing; give dollars, with a minus for a credit")
        last = month_end(period)
        with self._books() as (db, book):
            posted = self._open_month(db, datetime.fromtimestamp(last.timestamp() - 1, UTC))
            about = {"of": period}
            book(
                self._row(
                    "adjustment",
                    posted,
                    of=(None, None, tenant, model),
                    amount_nusd=amount_nusd,
                    about=about,
                    reason=reason,
                )
            )
        return Booked(period=posted, amount_nusd=amount_nusd)

    def close(self, period: str, *, reason: str) -> Sealed:
        """Seal a month: its sums are written down, and nothing is added to it any more.

        Raises:
            BookingRefused: it is not over, is sealed, attempts of it are running, or its journal is not folded.
            PeriodInvalid: it is no month.
            LedgerMissing, SchemaMismatch: the ledger cannot be written.
        """
        until = month_end(period)
        if self._now < until:
            raise BookingRefused(f"{period} is not over; it can be sealed from {until.isoformat()} on")
        with self._books() as (db, book):
            self._refuse_unless_settled(db, period, until)
            charges, cost, unknown = db.execute(
                "SELECT COUNT(*), COALESCE(SUM(cost_nusd), 0), COUNT(*) - COUNT(cost_nusd) FROM charges "
                "WHERE started_at_us >= ? AND started_at_us < ? "
                "AND (request_id, attempt) NOT IN (SELECT request_id, attempt FROM books WHERE kind = 'late')",
                (microseconds(_month_start(period)), microseconds(until)),
            ).fetchone()
            (books,) = db.execute(
                "SELECT COALESCE(SUM(amount_nusd), 0) FROM books WHERE period = ? AND kind <> 'close'", (period,)
            ).fetchone()
            about = {"charges": charges, "cost_nusd": cost, "unknown_charges": unknown, "books_nusd": books}
            book(self._row("close", period, of=(None, None, None, None), amount_nusd=0, about=about, reason=reason))
        return Sealed(period=period, charges=charges, cost_nusd=cost, unknown_charges=unknown, books_nusd=books)

    def forget(self, known_as: str) -> bool:
        """Forget whose a pseudonym is; False when nobody is known as that (see `pseudonyms`).

        The rows stay and so does the chain: they carry a digest under a salt that is then gone.

        Raises:
            LedgerMissing, SchemaMismatch: the ledger cannot be written.
        """
        with self._opened() as store:
            return store.forget_user(known_as, now=self._now, made_by=self._made_by)

    @contextmanager
    def _books(self) -> Iterator[tuple[sqlite3.Connection, Callable[[Sequence[object]], None]]]:
        with self._opened() as store, store.booking() as (db, book):
            yield db, book

    @contextmanager
    def _opened(self) -> Iterator[Store]:
        path = self._folder / FILE_NAME
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
                check_schema(db, path)  # an older ledger is brought up to date by its gateway, not by the way
            with closing(Store(self._folder)) as store:
                yield store
        except sqlite3.Error as error:
            raise LedgerMissing(f"cannot write {path}: {error}; nothing was booked, try again") from error

    def _row(
        self,
        kind: str,
        period: str,
        *,
        of: tuple[str | None, int | None, str | None, str | None],
        amount_nusd: int,
        about: Mapping[str, str | int | None],
        reason: str,
    ) -> tuple[object, ...]:
        """Return a row's values; `of` is request, attempt, tenant and model."""
        text = msgspec.json.encode(about, order="sorted").decode()
        return (kind, period, *of, amount_nusd, text, reason, self._made_by, microseconds(self._now))

    def _open_month(self, db: sqlite3.Connection, moment: datetime) -> str:
        """Return a moment's month, or the first one after it that is not sealed."""
        (sealed,) = db.execute("SELECT MAX(period) FROM books WHERE kind = 'close'").fetchone()
        if sealed is None or moment >= month_end(sealed):
            return moment.strftime("%Y-%m")
        return month_end(sealed).strftime("%Y-%m")

    def _refuse_unless_settled(self, db: sqlite3.Connection, period: str, until: datetime) -> None:
        (sealed,) = db.execute("SELECT MAX(period) FROM books WHERE kind = 'close'").fetchone()
        if sealed is not None and sealed >= period:
            raise BookingRefused(f"{period} is sealed already (months up to {sealed} are)")
        held = 0
        for (hold,) in db.execute("SELECT hold FROM open_holds"):
            held += msgspec.json.decode(hold, type=_HeldAt).held_at < until
        if held:
            raise BookingRefused(
                f"{held} attempts that began in {period} are running, or were when their gateway died; "
                "wait for them, or start the gateway again, then close"
            )
        folded = {
            (row[0], row[1]): row[2] for row in db.execute("SELECT epoch, seq, bytes_folded FROM journal_offsets")
        }
        journal = self._folder / JOURNAL_FOLDER
        for segment in segments(journal):
            path = journal / segment.name
            known = folded.get((segment.epoch, segment.seq), 0)
            if path.exists() and path.stat().st_size > known and _last_change(path) < until:
                raise BookingRefused(
                    f"{path} has records of {period} that are not in the store; start the gateway, then close"
                )


class _HeldAt(msgspec.Struct):
    held_at: datetime


def _last_change(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _month_start(period: str) -> datetime:
    end = month_end(period)
    return datetime(end.year - (end.month == 1), (end.month - 2) % 12 + 1, 1, tzinfo=UTC)
