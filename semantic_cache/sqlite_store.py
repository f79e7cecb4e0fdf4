"""The embedded store: answers in SQLite, and beside them their vectors as int8, a partition's together on disk.

Two threads may use it: `get` belongs to the event loop (tens of µs), `put` and `neighbours` to the one worker thread
that also embeds. Each has a connection of its own; WAL lets the reader go on while the writer commits.

Several processes may share the file: each finds the others' entries at once. What the file holds is counted in it, by
triggers, so that the limits hold whoever puts and nobody counts anew.

SQLite is the truth: an answer and its vector are one transaction, and what is in memory (`semantic_cache.shelf`) is
read from it when a partition is first asked, newest first, and what is much of it between searches (`read_on`).
What a search finds in memory is looked up in the file before it is served, and its cosine is of the whole vector.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from backends.wal import enter_wal
from backends.words import ModelId, TenantId, Usage
from semantic_cache.seam import Entry, Neighbour, Selector, Stock, Vector
from semantic_cache.shelf import INDEX_KIND, Shelf, packed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- rises with every entry, and is never used again
  key BLOB NOT NULL UNIQUE,    -- exact key
  partition BLOB NOT NULL,     -- empty: exact tier only
  tenant TEXT NOT NULL,        -- who paid
  namespace TEXT NOT NULL,     -- where it is shared; empty: nowhere
  tags TEXT NOT NULL,          -- name=value, each after and before a line break
  asked TEXT NOT NULL,         -- last user text, for the guard
  vector BLOB,                 -- float32[d], little endian
  payload BLOB NOT NULL,       -- the answer's JSON body
  model TEXT NOT NULL,
  usage BLOB NOT NULL,         -- JSON of words.Usage
  baseline_nusd INTEGER NOT NULL,
  baseline_low_nusd INTEGER NOT NULL,
  baseline_high_nusd INTEGER NOT NULL,
  created_at REAL NOT NULL,    -- seconds since 1970, UTC
  expires_at REAL NOT NULL,
  size INTEGER NOT NULL        -- bytes of payload, text and vectors
);
CREATE INDEX IF NOT EXISTS by_age ON entries (created_at);
CREATE INDEX IF NOT EXISTS by_expiry ON entries (expires_at);
-- What a search reads: without rowid, so that a partition's vectors lie together.
CREATE TABLE IF NOT EXISTS vectors (
  partition BLOB NOT NULL,
  id INTEGER NOT NULL,         -- of the entry
  packed BLOB NOT NULL,        -- a scale as float32, and int8[d]
  PRIMARY KEY (partition, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL, vectors INTEGER NOT NULL);
INSERT INTO totals SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT * FROM totals);
CREATE TRIGGER IF NOT EXISTS counted AFTER INSERT ON entries BEGIN
  UPDATE totals SET entries = entries + 1, bytes = bytes + NEW.size, vectors = vectors + (NEW.vector IS NOT NULL);
END;
CREATE TRIGGER IF NOT EXISTS uncounted AFTER DELETE ON entries BEGIN
  UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.size, vectors = vectors - (OLD.vector IS NOT NULL);
  DELETE FROM vectors WHERE partition = OLD.partition AND id = OLD.id;
END;
"""
_VERSION = 3
"""Of the tables; a file with others holds nothing but cached answers, and is begun anew."""

_COLUMNS = (
    "key, partition, tenant, namespace, tags, asked, vector, payload, model, usage, "
    "baseline_nusd, baseline_low_nusd, baseline_high_nusd, "
    "created_at, expires_at"
)
_EXACT = _COLUMNS.replace("vector", "NULL")
"""An exact hit has no use for its vector, which is most of a short entry."""

SHELVED_ROWS: Final = 400_000
"""Vectors kept in memory over all partitions: some 220 MB at 384 dimensions, in each worker."""
_TAKEN_ROWS: Final = 1_024
"""Vectors that a search reads in at most; what a partition has more of is read between searches."""
_TAKEN_ROWS_LATER: Final = 128
"""The same between searches: some 25 µs for each, and a search that comes then waits."""
_SPARE: Final = 3
"""Candidates looked up beyond those wanted, before more are: some may be gone, and int8 may order them wrongly."""

_Row: TypeAlias = Sequence[Any]  # what SQLite returns: the columns' types are the schema's

_BUSY_S: Final = 0.02
"""How long a write waits for another process's: a cache is not worth more."""
_OPENING_S: Final = 5.0
"""The same when the file is opened, by several workers at once, one of which makes the tables."""


class SqliteStore:
    """Implements `Store` on one file.

    Args:
        path: the file; its folder exists.
        max_entries: entries kept.
        max_bytes: bytes of bodies, texts and vectors kept.
        shelved_rows: vectors kept in memory over all partitions; the partitions asked for last stay.
    """

    is_local = True
    is_resting = False

    def __init__(self, path: Path, *, max_entries: int, max_bytes: int, shelved_rows: int = SHELVED_ROWS) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._shelved_rows = shelved_rows
        self._writes = _connect(path)
        _begin(self._writes)
        self._reads = _connect(path)
        self._shelves: OrderedDict[bytes, Shelf] = OrderedDict()
        self._shelved = self._dropped = 0

    def get(self, key: bytes, now: datetime) -> Entry | None:
        """Return the entry under `key` that has not expired."""
        row = self._reads.execute(
            f"SELECT {_EXACT} FROM entries WHERE key = ? AND expires_at > ?",  # noqa: S608 - a constant
            (key, now.timestamp()),
        ).fetchone()
        return None if row is None else _entry(row)

    def version(self) -> int:
        """Return SQLite's count of changes by any other connection, of which `put` and `drop` use one."""
        return int(self._reads.execute("PRAGMA data_version").fetchone()[0])

    def put(self, entry: Entry) -> None:
        """Keep an entry, in place of one under the same key."""
        code = None if entry.vector is None else packed(entry.vector)
        size = len(entry.payload) + len(entry.asked) * 4
        if entry.vector is not None and code is not None:
            size += entry.vector.nbytes + len(code)
        with self._writes as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM entries WHERE key = ?", (entry.key,))
            identity = connection.execute(
                f"INSERT INTO entries ({_COLUMNS}, size) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - a constant
                (*_row(entry), size),
            ).lastrowid
            if code is not None:
                connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (entry.partition, identity, code))
            dropped = self._make_room(connection, entry.created_at)
        self._dropped += dropped

    def neighbours(self, partition: bytes, vector: Vector, *, limit: int, now: datetime) -> Sequence[Neighbour]:
        """Return the nearest entries of a partition that have not expired, nearest first."""
        shelf = self._shelf(partition)
        found: list[tuple[float, _Row]] = []
        gone: list[int] = []
        for candidates in shelf.nearest(vector):
            first, count = 0, limit + _SPARE
            while first < len(candidates) and len(found) < limit:
                looked_at = candidates[first : first + count]
                rows = self._rows(partition, looked_at, now)
                gone += [each for each in looked_at if each not in rows]
                found += [(float(np.frombuffer(row[6], dtype="<f4") @ vector), row) for row in rows.values()]
                first, count = first + count, min(4 * count, 512)
            if len(found) >= limit:
                break
        if gone:
            shelf.forget(np.array(gone))
            self._shelved -= len(gone)
        found.sort(key=lambda each: -each[0])
        return [Neighbour(entry=_entry(row), similarity=similarity) for similarity, row in found[:limit]]

    def is_partial(self, partition: bytes) -> bool:
        """Whether vectors of a partition that was searched are not in memory yet."""
        shelf = self._shelves.get(partition)
        return shelf is not None and shelf.oldest > 0

    def read_on(self, partition: bytes) -> None:
        """Read some more of a partial partition in."""
        shelf = self._shelves.get(partition)
        if shelf is not None and shelf.oldest > 0:
            before = len(shelf)
            self._take_older(partition, shelf, _TAKEN_ROWS_LATER)
            self._shelved += len(shelf) - before

    def drop(self, selector: Selector) -> int:
        """Forget the entries that are meant; vectors of theirs that are in memory go when they are next met."""
        wanted: dict[str, object] = {
            "key = ?": selector.key,
            "instr(tags, ?)": None if selector.tag is None else _tagged([selector.tag]),
            "model = ?": selector.model,
            "tenant = ?": selector.tenant,
            "namespace = ?": selector.namespace,
        }
        stated = {where: value for where, value in wanted.items() if value is not None}
        where = " AND ".join(stated) or "TRUE"
        with self._writes as connection:
            return connection.execute(
                f"DELETE FROM entries WHERE {where}",  # noqa: S608 - of constants
                tuple(stated.values()),
            ).rowcount

    def stock(self) -> Stock:
        """Count what is there."""
        count, size, vectors = self._totals()
        code_bytes = self._writes.execute("SELECT length(packed) FROM vectors LIMIT 1").fetchone()
        return Stock(
            entries=count,
            bytes=size,
            with_vectors=vectors,
            dropped=self._dropped,
            index=INDEX_KIND,
            index_bytes=vectors * code_bytes[0] if code_bytes else 0,
        )

    def close(self) -> None:
        """Close both connections; idempotent."""
        self._reads.close()
        self._writes.close()

    def _totals(self) -> tuple[int, int, int]:
        count, size, vectors = self._writes.execute("SELECT entries, bytes, vectors FROM totals").fetchone()
        return count, size, vectors

    def _make_room(self, connection: sqlite3.Connection, now: datetime) -> int:
        """Drop expired entries, then the oldest, until the limits hold; return how many."""
        dropped = 0
        for select, values in (
            ("SELECT id FROM entries WHERE expires_at <= ? ORDER BY expires_at LIMIT 256", (now.timestamp(),)),
            ("SELECT id FROM entries ORDER BY created_at, key LIMIT 32", ()),
        ):
            while True:
                count, size, _ = self._totals()
                if count <= self._max_entries and size <= self._max_bytes:
                    return dropped
                gone = connection.execute(f"DELETE FROM entries WHERE id IN ({select})", values).rowcount  # noqa: S608 - constants
                dropped += gone
                if not gone:
                    break
        return dropped

    def _rows(self, partition: bytes, ids: Sequence[int], now: datetime) -> dict[int, _Row]:
        """Return the entries of a partition that are still there, by their ids, in no order."""
        marks = ",".join("?" * len(ids))
        rows = self._writes.execute(
            f"SELECT id, {_COLUMNS} FROM entries "  # noqa: S608 - constants
            f"WHERE id IN ({marks}) AND partition = ? AND expires_at > ? AND vector IS NOT NULL",
            (*ids, partition, now.timestamp()),
        )
        return {row[0]: row[1:] for row in rows}

    def _shelf(self, partition: bytes) -> Shelf:
        """Return a partition's vectors, with what has come into the file since they were last asked for."""
        shelf = self._shelves.get(partition)
        before = 0 if shelf is None else len(shelf)
        if shelf is None:
            shelf = self._shelves[partition] = Shelf()
            top = self._writes.execute("SELECT max(id) FROM vectors WHERE partition = ?", (partition,)).fetchone()[0]
            shelf.newest, shelf.oldest = top or 0, (top or 0) + 1
            self._take_older(partition, shelf, _TAKEN_ROWS)
        self._shelves.move_to_end(partition)
        newer = "SELECT id, packed FROM vectors WHERE partition = ? AND id > ? ORDER BY id LIMIT ?"
        if rows := self._writes.execute(newer, (partition, shelf.newest, _TAKEN_ROWS)).fetchall():
            shelf.newest = rows[-1][0]
            shelf.add(np.array([row[0] for row in rows]), [row[1] for row in rows])
        if not shelf.oldest and len(shelf) > 2 * shelf.verified + _TAKEN_ROWS:
            # What is dropped, here or by another process, leaves the shelf when it is met; what nobody asks for would
            # stay for ever.
            ids = self._writes.execute("SELECT id FROM vectors WHERE partition = ?", (partition,)).fetchall()
            shelf.keep(np.array([row[0] for row in ids], dtype=np.int64))
        self._shelved += len(shelf) - before
        while len(self._shelves) > 1 and self._shelved > self._shelved_rows:
            _, unused = self._shelves.popitem(last=False)
            self._shelved -= len(unused)
        return shelf

    def _take_older(self, partition: bytes, shelf: Shelf, count: int) -> None:
        older = "SELECT id, packed FROM vectors WHERE partition = ? AND id < ? ORDER BY id DESC LIMIT ?"
        rows = self._writes.execute(older, (partition, shelf.oldest, count)).fetchall()
        if rows:
            shelf.add(np.array([row[0] for row in rows]), [row[1] for row in rows])
        is_whole = len(rows) < count
        shelf.oldest = 0 if is_whole else rows[-1][0]
        shelf.verified = len(shelf) if is_whole else 0


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # it holds prompts and answers; SQLite's own files beside it take its mode
    connection = sqlite3.connect(path, timeout=_OPENING_S, check_same_thread=False)
    enter_wal(connection, wait_s=_OPENING_S)
    # A cache may lose its last entries in a power cut; it may not stall a request for an fsync.
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA busy_timeout = {round(_BUSY_S * 1e3)}")
    return connection


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        entry.key,
        entry.partition,
        entry.tenant,
        entry.namespace,
        _tagged(entry.tags),
        entry.asked,
        None if entry.vector is None else entry.vector.astype("<f4").tobytes(),
        entry.payload,
        entry.model,
        msgspec.json.encode(entry.usage),
        entry.baseline_nusd,
        entry.baseline_low_nusd,
        entry.baseline_high_nusd,
        entry.created_at.timestamp(),
        entry.expires_at.timestamp(),
    )


def _entry(row: _Row) -> Entry:
    return Entry(
        key=row[0],
        partition=row[1],
        tenant=TenantId(row[2]),
        namespace=row[3],
        tags=tuple(filter(None, row[4].split("\n"))),
        asked=row[5],
        vector=None,
        payload=row[7],
        model=ModelId(row[8]),
        usage=_usage(row[9]),
        baseline_nusd=row[10],
        baseline_low_nusd=row[11],
        baseline_high_nusd=row[12],
        created_at=datetime.fromtimestamp(row[13], UTC),
        expires_at=datetime.fromtimestamp(row[14], UTC),
    )


_usage = msgspec.json.Decoder(Usage).decode


def _begin(connection: sqlite3.Connection) -> None:
    """Make the tables, where they are not there or are another version's."""
    connection.execute(f"PRAGMA busy_timeout = {round(_OPENING_S * 1e3)}")
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            for table in ("entries", "vectors", "totals"):
                connection.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute(f"PRAGMA busy_timeout = {round(_BUSY_S * 1e3)}")


def _statements(script: str) -> Iterator[str]:
    """Yield a script's statements one by one: `executescript` would end the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _tagged(tags: Sequence[str]) -> str:
    return "".join(f"\n{tag}" for tag in tags) + "\n" if tags else ""
