r"""Retention: old requests and their charges go into files, and a tombstone stands in their place.

Rules:
- only what lies in sealed months goes, and what began at least `YOUNGEST` ago: no budget's window and no month's sum
  can change by it;
- a request goes with all of its charges or stays with all of them; it stays while a hold of it is open, while the books
  name it (a correction must find its charge), and when a row of it is the newest of its table;
- the files are written and on the disk before anything is deleted; the tombstone, the sums that stay and the deletion
  are one transaction;
- each file's rows carry their chain entry's writer and number, so that `verify --archives` can walk the chain through
  them; without the files the tombstone's hashes, themselves entries of the books' chain, bridge the gap.

The store's file does not shrink: SQLite uses the room again. Where pyarrow (the extra `export`) is not installed the
files are CSV: NULL is \N, a leading backslash is doubled.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.ledger.archived import SUMMED, File, Range, Tombstone, sums_digest
from gateway.ledger.errors import ArchiveUnusable, BookingRefused, LedgerMissing
from gateway.ledger.rollups import archived_sums_sql
from gateway.ledger.store import (
    CHARGE_COLUMNS,
    FILE_NAME,
    REQUEST_COLUMNS,
    Store,
    check_schema,
    microseconds,
    month_end,
)

if TYPE_CHECKING:
    import pyarrow as pa

YOUNGEST: Final = timedelta(days=32)
"""How old a request must be: more than the longest window of a budget that ends."""
COLUMNS: Final = {"requests": REQUEST_COLUMNS, "charges": CHARGE_COLUMNS}
_LATER: Final = frozenset({"decision"})
"""Columns that files of an earlier version lack; what they hold is NULL there."""
_BATCH: Final = 20_000
_NULL: Final = "\\N"

_LEAVING: Final = """
CREATE TEMP TABLE leaving AS SELECT request_id FROM requests
WHERE started_at_us < :before AND id < (SELECT MAX(id) FROM requests)
  AND NOT EXISTS (SELECT 1 FROM charges WHERE charges.request_id = requests.request_id
                  AND (charges.started_at_us >= :before OR charges.id = (SELECT MAX(id) FROM charges)))
  AND request_id NOT IN (SELECT request_id FROM books WHERE request_id IS NOT NULL)
  AND request_id NOT IN (SELECT request_id FROM open_holds)
"""
_IDS: Final = """
CREATE TEMP TABLE ids (what TEXT, row_id INTEGER, PRIMARY KEY (what, row_id)) WITHOUT ROWID;
INSERT INTO ids SELECT 'requests', id FROM requests WHERE request_id IN (SELECT request_id FROM leaving);
INSERT INTO ids SELECT 'charges', id FROM charges WHERE request_id IN (SELECT request_id FROM leaving);
CREATE TEMP TABLE links AS SELECT slot, seq, what, row_id, hash FROM chain CROSS JOIN ids USING (what, row_id);
CREATE INDEX temp.links_in_order ON links (slot, seq);
"""
_MONTHS: Final = """
SELECT strftime('%Y-%m', started_at_us / 1000000, 'unixepoch'), COUNT(*), COALESCE(SUM(cost_nusd), 0),
       COUNT(*) - COUNT(cost_nusd)
FROM charges WHERE request_id IN (SELECT request_id FROM leaving) GROUP BY 1 ORDER BY 1
"""
_SPENT: Final = """
SELECT charges.tenant, charges.key_id, charges.route, json_extract(requests.tags, '$.feature'), session, task_id,
       user_pseudonym, COALESCE(SUM(charges.cost_nusd), 0), COUNT(*) - COUNT(charges.cost_nusd)
FROM charges JOIN requests USING (request_id) WHERE request_id IN (SELECT request_id FROM leaving)
GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
"""
# Booked while the files were written, for a request that goes: a late attempt of it.
_CAME: Final = """
SELECT COUNT(*) FROM charges JOIN requests USING (request_id) WHERE charges.id > ? AND requests.started_at_us < ?
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What went: its tombstone, and where the files lie."""

    tombstone: Tombstone
    files: tuple[Path, ...]

    @property
    def requests(self) -> int:
        """How many requests."""
        return self.tombstone.files["requests"].rows

    @property
    def charges(self) -> int:
        """How many charges."""
        return self.tombstone.files["charges"].rows


def archive(folder: Path, *, before: date, out: Path, now: datetime, made_by: str) -> Archived:
    """Move what began before a UTC day into files, and book the tombstone; a gateway may be running.

    Args:
        folder: the ledger's.
        before: its month and all before it but the day's own must be sealed.
        out: a folder for the files; it is made where there is none.
        now: the time.
        made_by: who does it, as the row shall say.

    Raises:
        BookingRefused: the months are not sealed, it is too young, nothing is there to go, or something came between.
        ArchiveUnusable: a file is there already, or cannot be written.
        LedgerMissing, SchemaMismatch: the ledger cannot be read or written.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise LedgerMissing(f"there is no ledger in {folder}; give the data folder of a gateway (with {FILE_NAME})")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
            check_schema(db, path)
            db.execute("BEGIN")
            _refuse_unless_old(db, before, now)
            leaving = _Leaving.of(db, before)
            files = leaving.write(out)
            with closing(Store(folder)) as store:
                tombstone = leaving.book(store, files, now=now, made_by=made_by)
    except sqlite3.Error as error:
        raise LedgerMissing(f"cannot read or write {path}: {error}; nothing was archived, try again") from error
    return Archived(tombstone=tombstone, files=tuple(out / file.name for file in files.values()))


def _refuse_unless_old(db: sqlite3.Connection, before: date, now: datetime) -> None:
    youngest = (now - YOUNGEST).astimezone(UTC).date()
    if before > youngest:
        raise BookingRefused(
            f"{before} is too young: budgets read the rows of their windows; archive what began before {youngest} or "
            "earlier"
        )
    (sealed,) = db.execute("SELECT MAX(period) FROM books WHERE kind = 'close'").fetchone()
    if sealed is None or datetime(before.year, before.month, before.day, tzinfo=UTC) > month_end(sealed):
        last = "no month is sealed yet" if sealed is None else f"months up to {sealed} are sealed"
        raise BookingRefused(
            f"{last}; close all that lies before {before} first (`faregate ledger close --period …`), then archive it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaving:
    """What goes, as it stands in one snapshot; the temporary tables of `db` have the rows."""

    db: sqlite3.Connection
    before: date
    last_charge: int
    last_book: int

    @classmethod
    def of(cls, db: sqlite3.Connection, before: date) -> _Leaving:
        """Find what goes."""
        moment = datetime(before.year, before.month, before.day, tzinfo=UTC)
        db.execute(_LEAVING, {"before": microseconds(moment)})
        if db.execute("SELECT 1 FROM leaving LIMIT 1").fetchone() is None:
            raise BookingRefused(f"no request that began before {before} is left to go")
        db.execute("CREATE UNIQUE INDEX temp.leaving_by_id ON leaving (request_id)")
        for statement in _IDS.split(";\n")[:-1]:
            db.execute(statement)
        last = [
            int(db.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}").fetchone()[0])  # noqa: S608 - the names stand here
            for table in ("charges", "books")
        ]
        return cls(db=db, before=before, last_charge=last[0], last_book=last[1])

    def write(self, out: Path) -> dict[str, File]:
        """Write the files; they are on the disk when it returns."""
        try:
            out.mkdir(parents=True, exist_ok=True, mode=0o700)
            return {what: self._write(out, what) for what in COLUMNS}
        except OSError as error:
            raise ArchiveUnusable(
                f"cannot write to {out}: {error.strerror}; nothing was archived, give a folder with room"
            ) from error

    def _write(self, out: Path, what: str) -> File:
        columns = ["slot", "seq", *(name.strip() for name in COLUMNS[what].split(","))]
        kinds = {row[1]: row[2] for row in self.db.execute(f"PRAGMA table_info({what})")}
        write, suffix = _writer({name: kinds.get(name, "INTEGER") for name in columns})
        # The last entry it holds tells it from the archives before and after it.
        (upto,) = self.db.execute("SELECT MAX(row_id) FROM ids WHERE what = ?", (what,)).fetchone()
        file = out / f"{what}-before-{self.before}-{upto or 0}{suffix}"
        if file.exists():
            raise ArchiveUnusable(f"{file} is there already; give another folder, or remove what no tombstone names")
        rows = self.db.execute(
            f"SELECT links.slot, links.seq, {', '.join(f't.{name}' for name in columns[2:])} "  # noqa: S608 - constants
            f"FROM links CROSS JOIN {what} AS t ON t.id = links.row_id WHERE links.what = ? "
            "ORDER BY links.slot, links.seq",
            (what,),
        )
        partial = file.with_name(f"{file.name}.part")
        try:
            partial.touch(mode=0o600)
            count = write(partial, rows)
            _sync(partial)
            digest = sha256_of(partial)
            partial.rename(file)
            _sync(out)
        finally:
            partial.unlink(missing_ok=True)
        return File(name=file.name, rows=count, sha256=digest)

    def book(self, store: Store, files: dict[str, File], *, now: datetime, made_by: str) -> Tombstone:
        """Book the tombstone and delete what it names."""
        ranges = [*self._chain_ranges(), *self._id_ranges()]
        months = self.db.execute(_MONTHS).fetchall()
        with store.booking() as (db, book):
            self._refuse_if_something_came(db)
            (book_id,) = db.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM books").fetchone()
            self._keep_sums(db, book_id, months)
            tombstone = Tombstone(
                before=self.before.isoformat(),
                files=files,
                cost_nusd=sum(cost for _, _, cost, _ in months),
                months=months,
                sums=sums_digest(db, book_id),
                ranges=ranges,
            )
            about = msgspec.json.encode(tombstone).decode()
            period, at_us = now.astimezone(UTC).strftime("%Y-%m"), microseconds(now)
            book(("tombstone", period, None, None, None, None, 0, about, "archived", made_by, at_us))
            db.executemany(
                "INSERT INTO archived_ranges VALUES (?, ?, ?, ?, ?, ?, ?)", [(*each, book_id) for each in ranges]
            )
            for what, slot, first, last, _, _ in ranges:
                if what == "chain":
                    db.execute("DELETE FROM chain WHERE slot = ? AND seq BETWEEN ? AND ?", (slot, first, last))
                else:
                    db.execute(f"DELETE FROM {what} WHERE id BETWEEN ? AND ?", (first, last))  # noqa: S608 - ours
        return tombstone

    def _refuse_if_something_came(self, db: sqlite3.Connection) -> None:
        moment = datetime(self.before.year, self.before.month, self.before.day, tzinfo=UTC)
        (books,) = db.execute("SELECT COUNT(*) FROM books WHERE id > ?", (self.last_book,)).fetchone()
        (charges,) = db.execute(_CAME, (self.last_charge, microseconds(moment))).fetchone()
        if books or charges:
            raise BookingRefused("something was booked while the files were written; remove them and try again")

    def _keep_sums(self, db: sqlite3.Connection, book_id: int, months: Iterable[Sequence[object]]) -> None:
        for table in SUMMED:
            rows = self.db.execute(archived_sums_sql(table, "leaving")).fetchall()
            if rows:
                places = ", ".join("?" for _ in rows[0])
                db.executemany(
                    f"INSERT INTO archived_{table} VALUES ({book_id}, {places})",  # noqa: S608 - names of the schema
                    rows,
                )
        db.executemany(f"INSERT INTO archived_months VALUES ({book_id}, ?, ?, ?, ?)", months)  # noqa: S608 - a number
        db.executemany(
            "INSERT INTO archived_spent (book_id, tenant, key_id, route, feature, session, task_id, user_pseudonym, "
            "cost_nusd, unknown_charges) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((book_id, *row) for row in self.db.execute(_SPENT)),
        )

    def _chain_ranges(self) -> list[Range]:
        links = self.db.execute("SELECT slot, seq, hash FROM links ORDER BY slot, seq")
        found: list[Range] = []
        for slot, seq, hash_ in links:
            last = found[-1] if found else None
            if last is not None and last[1] == slot and last[3] == seq - 1:
                found[-1] = (*last[:3], seq, last[4], hash_.hex())
            else:
                found.append(("chain", slot, seq, seq, self._former(slot, seq), hash_.hex()))
        return found

    def _former(self, slot: int, seq: int) -> str:
        """Return the hash (hex) of the entry before: in the store, in the archive before, or the chain's beginning."""
        if seq == 1:
            return bytes(32).hex()
        row = self.db.execute(
            "SELECT hash FROM archived_ranges WHERE what = 'chain' AND slot = ? AND last = ?", (slot, seq - 1)
        ).fetchone()
        if row is not None:
            return str(row[0])
        (hash_,) = self.db.execute("SELECT hash FROM chain WHERE slot = ? AND seq = ?", (slot, seq - 1)).fetchone()
        return bytes(hash_).hex()

    def _id_ranges(self) -> list[Range]:
        found: list[Range] = []
        for what, row_id in self.db.execute("SELECT what, row_id FROM ids ORDER BY what, row_id"):
            last = found[-1] if found else None
            if last is not None and last[0] == what and last[3] == row_id - 1:
                found[-1] = (*last[:3], row_id, "", "")
            else:
                found.append((what, 0, row_id, row_id, "", ""))
        return found


def read_archive(file: Path, what: str) -> Iterator[tuple[int, int, tuple[object, ...]]]:
    """Yield (slot, seq, values) of each row of an archive's file, the values as they stood in the store.

    Raises:
        ArchiveUnusable: the file cannot be read, or is no archive of `what`.
    """
    try:
        yield from _read_parquet(file, what) if file.suffix == ".parquet" else _read_csv(file, what)
    except (OSError, ValueError) as error:
        raise ArchiveUnusable(f"cannot read {file}: {error}; it is damaged, or no archive of {what}") from error


def sha256_of(file: Path) -> str:
    """Return the digest (hex) of a file's bytes."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


_Write = Callable[[Path, Iterable[Sequence[object]]], int]


def _writer(kinds: dict[str, str]) -> tuple[_Write, str]:
    """Return what writes rows of these columns (name: SQLite's type), and the file's ending."""
    try:
        import pyarrow as pa  # here: an extra, and heavy
    except ImportError:
        return lambda file, rows: _write_csv(file, list(kinds), rows), ".csv"
    types = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in kinds.items()])
    return lambda file, rows: _write_parquet(file, schema, rows), ".parquet"


def _write_parquet(file: Path, schema: pa.Schema, rows: Iterable[Sequence[object]]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    count, left = 0, iter(rows)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(left, _BATCH)):
            held = [
                pa.array(column, field.type) for column, field in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.table(held, schema=schema))
            count += len(batch)
    return count


def _write_csv(file: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    count = 0
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow([_text(value) for value in row])
            count += 1
    return count


def _text(value: object) -> str:
    if value is None:
        return _NULL
    text = repr(value) if isinstance(value, float) else str(value)
    return f"\\{text}" if text.startswith("\\") else text


def _read_parquet(file: Path, what: str) -> Iterator[tuple[int, int, tuple[object, ...]]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ArchiveUnusable(
            f"{file} needs one more package to be read; install it with `pip install 'faregate[export]'`"
        ) from error
    columns = ["slot", "seq", *(name.strip() for name in COLUMNS[what].split(","))]
    with parquet.ParquetFile(file) as table:
        here = {name for name in columns if name not in _LATER or name in table.schema_arrow.names}
        for batch in table.iter_batches(batch_size=_BATCH, columns=[name for name in columns if name in here]):
            held = [batch.column(name).to_pylist() if name in here else [None] * len(batch) for name in columns]
            for slot, seq, *values in zip(*held, strict=True):
                yield slot, seq, tuple(values)


def _read_csv(file: Path, what: str) -> Iterator[tuple[int, int, tuple[object, ...]]]:
    columns = ["slot", "seq", *(name.strip() for name in COLUMNS[what].split(","))]
    kinds = _kinds(what)
    with file.open(encoding="utf-8", newline="") as text:
        lines = csv.reader(text, strict=True)
        here = next(lines, [])
        if here != [name for name in columns if name not in _LATER or name in here]:
            raise ArchiveUnusable(f"{file} has other columns than an archive of {what}")
        gaps = [place - 2 for place, name in enumerate(columns) if name not in here]
        for slot, seq, *fields in lines:
            for place in gaps:
                fields.insert(place, _NULL)
            values = [
                None if field == _NULL else kind(field.removeprefix("\\") if kind is str else field)
                for field, kind in zip(fields, kinds, strict=True)
            ]
            yield int(slot), int(seq), tuple(values)


def _kinds(what: str) -> list[type[str] | type[int] | type[float]]:
    from gateway.ledger.schema import SCHEMA

    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        found = {row[1]: row[2] for row in db.execute(f"PRAGMA table_info({what})")}
    named: dict[str, type[str] | type[int] | type[float]] = {"TEXT": str, "INTEGER": int, "REAL": float}
    return [named[found[name.strip()]] for name in COLUMNS[what].split(",")]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
