"""The data dictionary: what every table, column and view of the ledger means, read off the schema's own comments."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from gateway.ledger.schema import SCHEMA

_TABLE: Final = re.compile(r"CREATE TABLE (\w+) \(\s*--\s*(.+)")
_ONE_LINE: Final = re.compile(r"CREATE TABLE (\w+) \((\w+) (\w+).*\).*;\s*--\s*(.+)")
_COLUMN: Final = re.compile(r"^  (\w+) (TEXT|INTEGER|REAL|BLOB)\b(.*?)--\s*(.+)$")
_VIEW: Final = re.compile(r"((?:^--.*\n)+)CREATE VIEW (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A column of a table or of a view; `meaning` is None where the schema does not say."""

    table: str
    column: str
    kind: str
    meaning: str | None


def described() -> tuple[Described, ...]:
    """Return every column of every table, in the schema's order, with its meaning."""
    meanings = _meanings()
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")]
        return tuple(
            Described(
                table=table,
                column=column,
                kind=f"{kind}{'' if required or key else ', may be NULL'}",
                meaning=meanings.get((table, column)),
            )
            for table in tables
            for _, column, kind, required, _, key in db.execute(f"PRAGMA table_info({table})")
        )


def views() -> dict[str, str]:
    """Return every view with what it is for; "" where the schema does not say."""
    told = {name: re.sub(r"^-- ?", "", text, flags=re.MULTILINE).strip() for text, name in _VIEW.findall(SCHEMA)}
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY rowid")]
    return {name: " ".join(told.get(name, "").split()) for name in names}


def tables() -> dict[str, str]:
    """Return every table with what a row of it is."""
    return dict(_TABLE.findall(SCHEMA)) | {name: about for name, _, _, about in _ONE_LINE.findall(SCHEMA)}


def dictionary_text() -> str:
    """Return the dictionary for people, in Markdown."""
    parts = [
        "# The ledger's data dictionary",
        "",
        (
            "Money is integer nano-dollars (`…_nusd`; 1 USD = 1,000,000,000), times are microseconds since 1970 UTC "
            "(`…_us`), and NULL is unknown or not there, never 0. Open the file with `sqlite3 -readonly ledger.db`."
        ),
    ]
    about = tables()
    table = None
    for one in described():
        if one.table != table:
            table = one.table
            parts += [
                "",
                f"## {table}",
                "",
                f"{about.get(table, '')}",
                "",
                "| column | kind | meaning |",
                "|---|---|---|",
            ]
        parts.append(f"| {one.column} | {one.kind} | {(one.meaning or '').replace('|', '&#124;')} |")
    parts += ["", "## Views", ""]
    parts += [f"- `{name}`: {meaning}" for name, meaning in views().items()]
    return "\n".join(parts) + "\n"


def _meanings() -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    table = ""
    for line in SCHEMA.splitlines():
        if one := _ONE_LINE.match(line):
            found[one[1], one[2]] = one[4]
        elif start := _TABLE.match(line):
            table = start[1]
        elif column := _COLUMN.match(line):
            found[table, column[1]] = column[4]
    return found
