"""What a ledger remembers of the rows that went into archives; see `archive` for how they go.

Rules:
- a tombstone is a row of `books` that names the files, their digests, rows and cost, and every range that went;
- `archived_ranges` repeats a tombstone's ranges: only what stands in one may be deleted, the triggers see to it;
- the archived rows' daily sums and months stay, and so do the rollups: sums over archived periods remain true;
- what reads single rows says what is missing (`archived_note`).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import sqlite3

_JUST_THIS: Final = (
    "NOT COALESCE((SELECT last FROM archived_ranges WHERE what = '{what}' AND slot = {slot} AND first <= OLD.{number}"
    " ORDER BY first DESC LIMIT 1) >= OLD.{number}, 0)"
)


def unless_archived(what: str) -> str:
    """Return the condition under which a row of `requests`, `charges` or `chain` may not be deleted, as SQL."""
    slot, number = ("OLD.slot", "seq") if what == "chain" else ("0", "id")
    return _JUST_THIS.format(what=what, slot=slot, number=number)


SUMMED: Final = ("daily_requests", "daily_charges", "daily_savings", "daily_pools", "busy_spans")
"""The rollups whose archived part is kept in a table of its own, named `archived_…`."""
KEPT: Final = (*(f"archived_{table}" for table in SUMMED), "archived_months", "archived_spent")
"""The tables whose content a tombstone's `sums` is the digest of."""


def archives_schema(rollups: str) -> str:
    """Return the part of the schema that this module owns.

    Args:
        rollups: the schema of the rollups, whose columns the archived parts have too.
    """
    return _TABLES.replace("{tables}", "".join(_archived(table, rollups) for table in SUMMED)) + "".join(
        f"CREATE TRIGGER {table}_keep_{verb.lower()} BEFORE {verb} ON {table}\n"
        f"  BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;\n"
        for table in ("archived_ranges", *KEPT)
        for verb in ("UPDATE", "DELETE")
    )


def _archived(table: str, rollups: str) -> str:
    _, _, rest = rollups.partition(f"CREATE TABLE {table} (")
    columns, _, rest = rest.partition("PRIMARY KEY (")
    keys = rest.partition(")")[0]
    return (
        f"CREATE TABLE archived_{table} (      -- the part of {table} whose rows are archived; append-only\n"
        f"  book_id INTEGER NOT NULL,          -- the tombstone, of books\n{columns.partition(chr(10))[2]}"
        f"PRIMARY KEY (book_id, {keys})\n) STRICT, WITHOUT ROWID;\n"
    )


_TABLES: Final = """
CREATE TABLE archived_ranges (       -- what may leave the store, and left: a tombstone's ranges; append-only
  what TEXT NOT NULL,                -- chain, requests or charges
  slot INTEGER NOT NULL,             -- of chain: the writer; else 0
  first INTEGER NOT NULL,            -- of chain: the first seq; else the first id
  last INTEGER NOT NULL,             -- and the last one
  former TEXT NOT NULL,              -- of chain: the hash (hex) of the entry before the first; else ''
  hash TEXT NOT NULL,                -- of chain: the hash (hex) of the last entry; else ''
  book_id INTEGER NOT NULL,          -- the tombstone, of books
  PRIMARY KEY (what, slot, first)
) STRICT, WITHOUT ROWID;
{tables}CREATE TABLE archived_months (       -- archived charges by the month in which they began; append-only
  book_id INTEGER NOT NULL,          -- the tombstone, of books
  period TEXT NOT NULL,              -- such as 2026-11
  charges INTEGER NOT NULL,          -- how many
  cost_nusd INTEGER NOT NULL,        -- of the known ones, nano-dollars
  unknown_charges INTEGER NOT NULL   -- without a known cost
) STRICT;
CREATE TABLE archived_spent (        -- archived charges by whom budgets know; append-only
  id INTEGER PRIMARY KEY,            -- order of booking
  book_id INTEGER NOT NULL,          -- the tombstone, of books
  tenant TEXT NOT NULL,              -- who paid
  key_id TEXT NOT NULL,              -- with which key
  route TEXT NOT NULL,               -- the policy rule
  feature TEXT,                      -- the request's tag "feature"
  session TEXT,                      -- the client's session
  task_id TEXT,                      -- the agent's task
  user_pseudonym TEXT,               -- the end user's
  cost_nusd INTEGER NOT NULL,        -- of the known ones, nano-dollars
  unknown_charges INTEGER NOT NULL   -- without a known cost
) STRICT;
CREATE TRIGGER archived_ranges_once BEFORE INSERT ON archived_ranges
  WHEN EXISTS (SELECT 1 FROM archived_ranges WHERE what = NEW.what AND slot = NEW.slot AND first = NEW.first)
  BEGIN SELECT RAISE(ABORT, 'archived_ranges is append-only'); END;
CREATE TRIGGER archived_ranges_booked BEFORE INSERT ON archived_ranges
  WHEN NOT EXISTS (SELECT 1 FROM books, json_each(books.about, '$.ranges') AS said
    WHERE books.id = NEW.book_id AND books.kind = 'tombstone'
      AND said.value = json_array(NEW.what, NEW.slot, NEW.first, NEW.last, NEW.former, NEW.hash))
  BEGIN SELECT RAISE(ABORT, 'no tombstone names this range'); END;
"""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an archive: its name in whatever folder it is kept, its rows, and the SHA-256 of its bytes."""

    name: str
    rows: int
    sha256: str


Range = tuple[str, int, int, int, str, str]
"""what, slot, first, last, former, hash: as in `archived_ranges`."""


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """What the books say of an archive.

    Attributes:
        before: the UTC day, such as 2026-11-01, before which the requests began.
        files: by table: requests, charges.
        cost_nusd: the sum of the archived charges' known costs.
        months: (month, charges, known cost, charges of unknown cost) by the charges' beginning.
        sums: digest of what the archived tables of the store keep of it.
        ranges: what left the store.
    """

    before: str
    files: dict[str, File]
    cost_nusd: int
    months: list[tuple[str, int, int, int]]
    sums: str
    ranges: list[Range]


def tombstones(db: sqlite3.Connection) -> dict[int, Tombstone]:
    """Return all tombstones by the id of their row in `books`, in the order of booking."""
    rows = db.execute("SELECT id, about FROM books WHERE kind = 'tombstone' ORDER BY id")
    return {row_id: msgspec.json.decode(about, type=Tombstone) for row_id, about in rows}


def sums_digest(db: sqlite3.Connection, book_id: int) -> str:
    """Return the digest of what the store keeps of a tombstone's rows."""
    digest = hashlib.blake2b(digest_size=32)
    for table in KEPT:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] not in {"id", "book_id"}]
        names = ", ".join(columns)
        digest.update(table.encode())
        for row in db.execute(
            f"SELECT {names} FROM {table} WHERE book_id = ? ORDER BY {names}",  # noqa: S608 - names of the schema
            (book_id,),
        ):
            digest.update(msgspec.json.encode(row))
    return digest.hexdigest()


def archived_note(db: sqlite3.Connection, since_us: int, until_us: int, tenant: str | None = None) -> str | None:
    """Return a line for readers of single rows when rows of a period are archived; None when none is.

    Args:
        db: the ledger.
        since_us: the period's beginning, microseconds since 1970 UTC; whole UTC days are looked at.
        until_us: its end.
        tenant: only this tenant's rows; None: all.
    """
    day_us = 86_400 * 10**6
    requests, first, last = db.execute(
        "SELECT COALESCE(SUM(requests), 0), MIN(day), MAX(day) FROM archived_daily_requests "
        "WHERE day >= ? AND day * ? < ? AND (? IS NULL OR tenant = ?)",
        (since_us // day_us, day_us, until_us, tenant, tenant),
    ).fetchone()
    if not requests:
        return None
    days = [datetime.fromtimestamp(day * 86_400, UTC).date().isoformat() for day in (first, last)]
    files = sorted({file.name for one in tombstones(db).values() for file in one.files.values()})
    return (
        f"{requests} requests of {days[0]} to {days[1]} are archived ({', '.join(files)}): sums hold them, "
        "each UTC day whole and where its noon lies; single rows, sessions, users and tasks do not"
    )
