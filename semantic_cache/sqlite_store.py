"""The embedded store: bodies and vectors in SQLite, a partition's vectors as one numpy matrix while it is in use.

Two threads may use it: `get` belongs to the event loop (tens of µs), `put` and `neighbours` to the one worker thread
that also embeds. Each has a connection of its own; WAL lets the reader go on while the writer commits.

Several processes may share the file: each finds the others' entries at once, and takes their vectors into the matrices
it has before it looks for neighbours.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from backends.words import ModelId, TenantId, Usage
from semantic_cache.seam import Entry, Neighbour, Selector, Stock, Vector

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  key BLOB PRIMARY KEY,        -- exact key
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
  size INTEGER NOT NULL        -- bytes of payload, text and vector
) WITHOUT ROWID;
DROP INDEX IF EXISTS by_partition;
CREATE INDEX IF NOT EXISTS by_partition_and_age ON entries (partition, created_at) WHERE partition != x'';
CREATE INDEX IF NOT EXISTS by_age ON entries (created_at);
CREATE INDEX IF NOT EXISTS by_expiry ON entries (expires_at);
"""
_VERSION = 2
"""Of the tables; a file with others holds nothing but cached answers, and is begun anew."""

_COLUMNS = (
    "key, partition, tenant, namespace, tags, asked, vector, payload, model, usage, "
    "baseline_nusd, baseline_low_nusd, baseline_high_nusd, "
    "created_at, expires_at"
)
_READ = _COLUMNS.replace("vector", "NULL")
"""Nobody reads a vector again but its shelf, and it is most of an entry."""

_SHELVED_ROWS = 200_000
"""Vectors kept in memory over all partitions: 300 MB at 384 dimensions."""
_FEW = 32
"""Candidates put in order at first."""

_STORED_WITHIN_S = 2.0
"""How long after its creation an entry may come into the file and still be seen by a process that follows."""
_LOOKED_AT = 1_024
"""Candidates read at most, expired and dropped ones included: they are forgotten as they are met."""


class SqliteStore:
    """Implements `Store` on one file.

    Args:
        path: the file; its folder exists.
        max_entries: entries kept.
        max_bytes: bytes of bodies, texts and vectors kept.
    """

    is_local = True
    is_resting = False

    def __init__(self, path: Path, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._writes = _connect(path)
        _begin(self._writes)
        self._reads = _connect(path)
        self._shelves: OrderedDict[bytes, _Shelf] = OrderedDict()
        self._count = self._size = self._dropped = 0
        self._seen_version = -1
        self._recount()

    def get(self, key: bytes, now: datetime) -> Entry | None:
        """Return the entry under `key` that has not expired."""
        return _find(self._reads, key, now)

    def put(self, entry: Entry) -> None:
        """Keep an entry, in place of one under the same key."""
        size = len(entry.payload) + len(entry.asked) * 4 + (0 if entry.vector is None else entry.vector.nbytes)
        self._recount()
        with self._writes as connection:
            old = connection.execute("SELECT size FROM entries WHERE key = ?", (entry.key,)).fetchone()
            connection.execute(
                f"INSERT OR REPLACE INTO entries ({_COLUMNS}, size) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - a constant
                (*_row(entry), size),
            )
            self._count += 0 if old else 1
            self._size += size - (old[0] if old else 0)
            self._make_room(connection, entry.created_at)
        shelf = self._shelves.get(entry.partition)
        if shelf is not None and entry.vector is not None:
            shelf.add(entry.key, entry.vector)

    def neighbours(self, partition: bytes, vector: Vector, *, limit: int, now: datetime) -> Sequence[Neighbour]:
        """Return the nearest entries of a partition that have not expired, nearest first."""
        shelf = self._shelf(partition)
        found: list[Neighbour] = []
        gone: list[bytes] = []
        for key, similarity in shelf.nearest(vector):
            entry = _find(self._writes, key, now)
            if entry is None or entry.partition != partition:
                gone.append(key)
                continue
            found.append(Neighbour(entry=entry, similarity=similarity))
            if len(found) == limit:
                break
        for key in gone:
            shelf.drop(key)
        return found

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
            statement = f"DELETE FROM entries WHERE {where} RETURNING size"  # noqa: S608 - of constants
            dropped = connection.execute(statement, tuple(stated.values())).fetchall()
            self._forget(dropped)
        return len(dropped)

    def stock(self) -> Stock:
        """Count what is there."""
        counts = "SELECT count(*), coalesce(sum(size), 0), count(vector) FROM entries"
        count, size, vectors = self._writes.execute(counts).fetchone()
        return Stock(entries=count, bytes=size, with_vectors=vectors, dropped=self._dropped)

    def close(self) -> None:
        """Close both connections; idempotent."""
        self._reads.close()
        self._writes.close()

    def _recount(self) -> None:
        """Count again what is there if anybody else, a command for instance, has written to the file."""
        version = self._writes.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen_version:
            self._seen_version = version
            count, size = self._writes.execute("SELECT count(*), coalesce(sum(size), 0) FROM entries").fetchone()
            self._count, self._size = int(count), int(size)

    def _make_room(self, connection: sqlite3.Connection, now: datetime) -> None:
        """Drop expired entries, then the oldest, until the limits hold."""
        if self._count <= self._max_entries and self._size <= self._max_bytes:
            return
        before = self._count
        victims = "DELETE FROM entries WHERE expires_at <= ? RETURNING size"
        self._forget(connection.execute(victims, (now.timestamp(),)).fetchall())
        while self._count > self._max_entries or self._size > self._max_bytes:
            oldest = (
                "DELETE FROM entries WHERE key IN (SELECT key FROM entries ORDER BY created_at, key LIMIT 32) "
                "RETURNING size"
            )
            dropped = connection.execute(oldest).fetchall()
            if not dropped:
                break
            self._forget(dropped)
        self._dropped += before - self._count

    def _forget(self, dropped: list[tuple[int]]) -> None:
        self._count -= len(dropped)
        self._size -= sum(size for (size,) in dropped)

    def _shelf(self, partition: bytes) -> _Shelf:
        version = int(self._writes.execute("PRAGMA data_version").fetchone()[0])
        shelf = self._shelves.get(partition)
        if shelf is None:
            shelf = self._shelves[partition] = _Shelf(self._vectors(partition, since=0.0), version)
        elif shelf.version != version:  # another process has written to the file
            shelf.take_in(self._vectors(partition, since=shelf.newest - _STORED_WITHIN_S), version)
        self._shelves.move_to_end(partition)
        while len(self._shelves) > 1 and sum(len(s) for s in self._shelves.values()) > _SHELVED_ROWS:
            self._shelves.popitem(last=False)
        return shelf

    def _vectors(self, partition: bytes, *, since: float) -> list[tuple[bytes, bytes, float]]:
        """Return key, vector and time of a partition's entries that were created since a time."""
        return self._writes.execute(
            "SELECT key, vector, created_at FROM entries WHERE partition = ? AND partition != x'' "
            "AND created_at >= ? AND vector IS NOT NULL",
            (partition, since),
        ).fetchall()


class _Shelf:
    """One partition's vectors: float32[n, d] in a matrix that doubles when it is full.

    Attributes:
        version: of the file, as it was when other processes' entries were last looked for.
        newest: when the youngest of the entries read from it was created.
    """

    def __init__(self, rows: list[tuple[bytes, bytes, float]], version: int) -> None:
        self.version = version
        self.newest = max((created_at for _, _, created_at in rows), default=0.0)
        self._keys: list[bytes] = [key for key, _, _ in rows]
        self._places = {key: place for place, key in enumerate(self._keys)}
        self._matrix: Vector = (
            np.stack([np.frombuffer(blob, dtype="<f4") for _, blob, _ in rows]).astype(np.float32)
            if rows
            else np.zeros((0, 0), dtype=np.float32)
        )

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, vector: Vector) -> None:
        place = self._places.get(key)
        if place is None:
            place = len(self._keys)
            self._keys.append(key)
            self._places[key] = place
            if place >= self._matrix.shape[0]:
                grown = np.zeros((max(16, 2 * place), vector.shape[0]), dtype=np.float32)
                grown[:place] = self._matrix[:place] if place else 0
                self._matrix = grown
        self._matrix[place] = vector

    def take_in(self, rows: list[tuple[bytes, bytes, float]], version: int) -> None:
        """Add what another process has stored; what is known already stays as it is."""
        self.version = version
        for key, blob, created_at in rows:
            self.add(key, np.frombuffer(blob, dtype="<f4"))
            self.newest = max(self.newest, created_at)

    def drop(self, key: bytes) -> None:
        place = self._places.pop(key)
        last = self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._places[last] = place
            self._matrix[place] = self._matrix[len(self._keys)]

    def nearest(self, vector: Vector) -> Iterator[tuple[bytes, float]]:
        """Yield keys and cosines, nearest first; nothing may be added or dropped meanwhile."""
        count = len(self._keys)
        if count == 0:
            return
        similarities = self._matrix[:count] @ vector
        # Most searches end among the first few: those are found without putting all the others in order.
        few = np.argpartition(-similarities, _FEW)[:_FEW] if count > _FEW else np.arange(count)
        few = few[np.lexsort((few, -similarities[few]))]
        for place in few:
            yield self._keys[place], float(similarities[place])
        if count > _FEW:
            met = set(few.tolist())
            for place in np.argsort(-similarities, kind="stable")[:_LOOKED_AT]:
                if int(place) not in met:
                    yield self._keys[place], float(similarities[place])


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0.02, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # A cache may lose its last entries in a power cut; it may not stall a request for an fsync.
    connection.execute("PRAGMA synchronous = OFF")
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


def _find(connection: sqlite3.Connection, key: bytes, now: datetime) -> Entry | None:
    row = connection.execute(
        f"SELECT {_READ} FROM entries WHERE key = ? AND expires_at > ?",  # noqa: S608 - a constant
        (key, now.timestamp()),
    ).fetchone()
    if row is None:
        return None
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
        usage=msgspec.json.decode(row[9], type=Usage),
        baseline_nusd=row[10],
        baseline_low_nusd=row[11],
        baseline_high_nusd=row[12],
        created_at=datetime.fromtimestamp(row[13], UTC),
        expires_at=datetime.fromtimestamp(row[14], UTC),
    )


def _begin(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
        connection.execute("DROP TABLE IF EXISTS entries")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.executescript(_SCHEMA)


def _tagged(tags: Sequence[str]) -> str:
    return "".join(f"\n{tag}" for tag in tags) + "\n" if tags else ""
