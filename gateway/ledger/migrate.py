"""Bringing a store of an earlier version up to date: every table is made anew and filled from the former one.

One transaction: a crash or a full disk leaves the former version as it was. It needs as much free space again as the
store has, unless tables are only added.
"""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Final

from gateway.ledger.rollups import DERIVED, rebuild
from gateway.ledger.schema import SCHEMA, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

OLDEST_MIGRATED: Final = 1
"""The oldest version that `migrate` takes."""
_TABLES_ALONE_SINCE: Final = 6
"""Since this version tables were added and none was changed: nothing has to be copied."""
_FORMER_TRIGGERS: Final = (
    "requests_roll_up",
    "charges_roll_up",
    "requests_saved",
    "charges_saved",
    "charges_of_pools",
    "charges_busy",
)
"""They kept the rollups up to version 7, row by row; the store keeps them since."""

# What columns that the former version lacks hold for its rows; every other new column is NULL.
_FILLED: Final = {
    ("requests", "unknown_charges"): "0",
    ("charges", "cache_write_1h_tokens"): "0",
    ("charges", "audio_input_tokens"): "0",
    ("charges", "image_input_tokens"): "0",
    ("charges", "audio_output_tokens"): "0",
    ("charges", "image_output_tokens"): "0",
    ("charges", "web_searches"): "0",
    ("charges", "tier"): "''",
    ("open_holds", "slot"): "0",
    ("journal_offsets", "slot"): "0",
    ("charges", "cost_provenance"): "CASE kind WHEN 'estimated' THEN 'estimated' ELSE 'priced' END",
}


def migrate(db: sqlite3.Connection, *, finish: Callable[[], None]) -> None:
    """Bring a store of version `OLDEST_MIGRATED` or later up to date, all or nothing.

    Args:
        db: in autocommit mode and with no transaction open.
        finish: called when all is copied, within the transaction; not called where nothing has to be.

    Raises:
        sqlite3.Error: nothing was changed.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version >= _TABLES_ALONE_SINCE:
        _add_tables(db)
        return
    former = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL")]
    try:
        db.execute("BEGIN IMMEDIATE")
        for kind, name in db.execute(
            "SELECT type, name FROM sqlite_master WHERE type <> 'table' AND sql IS NOT NULL ORDER BY type = 'index'"
        ).fetchall():
            db.execute(f'DROP {kind} "{name}"')
        for table in DERIVED:  # made anew from the rows that are copied
            if table in former:
                db.execute(f'DROP TABLE "{table}"')
                former.remove(table)
        for table in former:
            db.execute(f'ALTER TABLE "{table}" RENAME TO "former_{table}"')
        statements = _statements(SCHEMA)
        triggers = [statement for statement in statements if "CREATE TRIGGER" in statement]
        for statement in statements:
            if statement not in triggers:
                db.execute(statement)
        for table in former:
            _copy(db, table)
            db.execute(f'DROP TABLE "former_{table}"')
        rebuild(db)
        for statement in triggers:
            db.execute(statement)
        finish()
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _add_tables(db: sqlite3.Connection) -> None:
    known = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    try:
        db.execute("BEGIN IMMEDIATE")
        for statement in _statements(SCHEMA):
            found = _TABLE.search(statement)
            if found is not None and found[1] not in known:
                db.execute(statement)
        for name in _FORMER_TRIGGERS:
            db.execute(f"DROP TRIGGER IF EXISTS {name}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


_TABLE: Final = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)


def _copy(db: sqlite3.Connection, table: str) -> None:
    kept = {row[1] for row in db.execute(f'PRAGMA table_info("former_{table}")')}
    columns = [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]
    values = [name if name in kept else _FILLED.get((table, name), "NULL") for name in columns]
    (has_no_rowid,) = db.execute("SELECT wr FROM pragma_table_list WHERE name = ?", (f"former_{table}",)).fetchone()
    db.execute(
        f'INSERT INTO "{table}" ({", ".join(columns)}) '  # noqa: S608 - names of the schema
        f'SELECT {", ".join(values)} FROM "former_{table}"{"" if has_no_rowid else " ORDER BY rowid"}'
    )


def _statements(script: str) -> list[str]:
    """Cut a script into statements: `executescript` would commit what is open."""
    found, start = [], 0
    for end, letter in enumerate(script):
        if letter == ";" and sqlite3.complete_statement(script[start : end + 1]):
            found.append(script[start : end + 1])
            start = end + 1
    return found
