"""Archived rows read again beside the ledger's own, for those who need single rows: the FOCUS export, reconciliation.

Rules:
- nothing is changed: rows go into temporary tables of the reader's connection, which SQLite keeps in a file of its own
  where they are many;
- only files with the digest that their tombstone names are read, and only rows of the period;
- an archive is put back whole or not at all: what is, no longer counts as archived to this reader.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from gateway.ledger.archive import COLUMNS, read_archive, sha256_of
from gateway.ledger.archived import tombstones
from gateway.ledger.derived import DAY_US
from gateway.ledger.errors import ArchiveUnusable
from gateway.ledger.store import microseconds

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.ledger.archived import Tombstone

REQUESTS: Final = "temp.put_back_requests"
"""The archived requests of the period, with `archive.COLUMNS`."""
CHARGES: Final = "temp.put_back_charges"
"""Their charges, and those that themselves began in the period."""

_NAMES: Final = {what: [name.strip() for name in columns.split(",")] for what, columns in COLUMNS.items()}
_SHADOWED: Final = ("archived_daily_charges", "archived_daily_requests")
_AROUND_US: Final = 2 * DAY_US  # days of other zones, and who looks at neighbours
_BATCH: Final = 10_000


def put_back(db: sqlite3.Connection, folder: Path, *, since_us: int, until_us: int) -> tuple[str, ...]:
    """Read the archives' rows of a period into `REQUESTS` and `CHARGES`; once a connection.

    Args:
        db: the ledger, opened for reading.
        folder: where the archives' files lie.
        since_us: the period's beginning, microseconds since 1970 UTC.
        until_us: its end; two days around are read, too.

    Returns:
        The names of files that are not in the folder; their archives' sums still stand for their rows.

    Raises:
        ArchiveUnusable: a file is not what was archived, or cannot be read.
    """
    for table, what in ((REQUESTS, "requests"), (CHARGES, "charges")):
        db.execute(f"CREATE TABLE {table} AS SELECT {COLUMNS[what]} FROM main.{what} WHERE false")  # noqa: S608 - constants
    window = since_us - _AROUND_US, until_us + _AROUND_US
    there, absent = [], []
    for book_id, tombstone in tombstones(db).items():
        if microseconds(datetime.fromisoformat(tombstone.before).replace(tzinfo=UTC)) <= window[0]:
            continue
        lacking = [file.name for file in tombstone.files.values() if not (folder / file.name).is_file()]
        absent += lacking
        if not lacking:
            _read(db, folder, tombstone, window)
            there.append(str(book_id))
    db.execute("CREATE INDEX temp.put_back_charges_of ON put_back_charges (request_id)")
    for table in _SHADOWED:  # a temporary view goes before the ledger's table of the same name
        db.execute(
            f"CREATE TEMP VIEW {table} AS SELECT * FROM main.{table} WHERE book_id NOT IN ({', '.join(there)})"  # noqa: S608
        )
    return tuple(absent)


def _read(db: sqlite3.Connection, folder: Path, tombstone: Tombstone, window: tuple[int, int]) -> None:
    for file in tombstone.files.values():
        if sha256_of(folder / file.name) != file.sha256:
            raise ArchiveUnusable(
                f"{folder / file.name} is not the file that was archived: its digest is not the tombstone's; "
                "give a folder with an untouched copy"
            )
    requests = _rows(folder, tombstone, "requests")
    started = _NAMES["requests"].index("started_at_us")
    chosen = (row for row in requests if window[0] <= int(str(row[started])) < window[1])
    places = ", ".join("?" for _ in _NAMES["requests"])
    _insert(db, f"INSERT INTO {REQUESTS} VALUES ({places})", chosen)  # noqa: S608 - constants
    db.execute("CREATE UNIQUE INDEX IF NOT EXISTS temp.put_back_requests_by_id ON put_back_requests (request_id)")
    places = ", ".join(f"?{number + 1}" for number in range(len(_NAMES["charges"])))
    own, asked = (_NAMES["charges"].index(name) + 1 for name in ("started_at_us", "request_id"))
    _insert(
        db,
        f"INSERT INTO {CHARGES} SELECT {places} WHERE ?{own} >= {window[0]} AND ?{own} < {window[1]} "  # noqa: S608
        f"OR EXISTS (SELECT 1 FROM {REQUESTS} WHERE request_id = ?{asked})",
        _rows(folder, tombstone, "charges"),
    )


def _rows(folder: Path, tombstone: Tombstone, what: str) -> Iterator[tuple[object, ...]]:
    return (values for _, _, values in read_archive(folder / tombstone.files[what].name, what))


def _insert(db: sqlite3.Connection, sql: str, rows: Iterator[tuple[object, ...]]) -> None:
    while batch := list(islice(rows, _BATCH)):
        db.executemany(sql, batch)
