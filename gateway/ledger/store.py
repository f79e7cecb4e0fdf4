"""The store: SQLite in WAL mode, append-only, written by one thread at a time.

Rules:
- every change of a batch, the journal's offset and the chains' heads included, is one transaction;
- every booked row is an entry of its writer's chain (see `chain`);
- a row that is already there is left as it is and counted;
- an error rolls the whole batch back, so that it can be tried again.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from backends.words import Provenance
from gateway.ledger.chain import BOOKS, GENESIS, Head, Root, link
from gateway.ledger.errors import FolderUnusable, PeriodInvalid, SchemaMismatch
from gateway.ledger.journal import Position, Segment
from gateway.ledger.migrate import OLDEST_MIGRATED, migrate
from gateway.ledger.rollups import add_booked
from gateway.ledger.rows import (
    CRASHED,
    CRASHED_STATUS,
    ChargeKind,
    ChargeRow,
    CostProvenance,
    EnergyRow,
    EpochRow,
    HeartbeatRow,
    HoldRow,
    ReleaseRow,
    RequestRow,
)
from gateway.ledger.schema import APPLICATION_ID, NEW_WRITER, SCHEMA, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


FILE_NAME: Final = "ledger.db"
_LOCK_WAIT_S: Final = 1.0  # then the batch is rolled back and tried again at the next tick
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MOST_LINKS: Final = 10_000  # kept in memory while a whole store is chained
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

Row = HoldRow | ReleaseRow | ChargeRow | RequestRow | EpochRow | HeartbeatRow | EnergyRow

REQUEST_COLUMNS: Final = (
    "request_id, client_request_id, tenant, key_id, surface, route, model_asked, path, status, error_code, is_stream, "
    "confidence, similarity, task, plan_reason, policy_digest, started_at_us, ttft_ms, total_ms, overhead_ms, "
    "cost_nusd, unknown_charges, baseline_model, baseline_nusd, baseline_low_nusd, baseline_high_nusd, tags, session, "
    "task_id, user_pseudonym, decision, epoch"
)
CHARGE_COLUMNS: Final = (
    "request_id, attempt, kind, tenant, key_id, route, model, pool, endpoint_label, input_tokens, cached_input_tokens, "
    "cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, image_input_tokens, output_tokens, "
    "reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, input_provenance, output_provenance, "
    "rates, price_digest, tier, cost_nusd, cost_provenance, stated_cost_nusd, started_at_us, duration_ms, "
    "finish_reason, upstream_response_id, epoch"
)
BOOKS_COLUMNS: Final = (
    "kind, period, request_id, attempt, tenant, model, amount_nusd, about, reason, made_by, made_at_us"
)


def _insert(table: str, columns: str) -> str:
    places = ", ".join("?" for _ in columns.split(","))
    return f"INSERT INTO {table} ({columns}) VALUES ({places})"  # noqa: S608 - both are the constants above


def _held(path: str) -> str:
    """Return what an open hold knows of its request, as an SQL expression."""
    hold = "FROM open_holds AS own WHERE own.request_id = charges.request_id LIMIT 1"
    return f"(SELECT json_extract(hold, '{path}') {hold})"


_INSERT_REQUEST: Final = _insert("requests", REQUEST_COLUMNS)
_INSERT_CHARGE: Final = _insert("charges", CHARGE_COLUMNS)
_INSERT_BOOKS: Final = _insert("books", BOOKS_COLUMNS)
_INSERT_CHAIN: Final = "INSERT INTO chain (slot, seq, what, row_id, hash) VALUES (?, ?, ?, ?, ?)"
_CRASHED: Final = f"""
SELECT request_id, NULL, tenant, key_id, '', route, model, '', :status, :code, 0, NULL, NULL, NULL, NULL,
       COALESCE((SELECT policy_digest FROM epochs WHERE epochs.epoch = charges.epoch), ''), MIN(started_at_us), NULL,
       MAX(duration_ms), 0.0, COALESCE(
         (SELECT SUM(cost_nusd) FROM charges AS every WHERE every.request_id = charges.request_id), 0),
       (SELECT COUNT(*) - COUNT(cost_nusd) FROM charges AS every WHERE every.request_id = charges.request_id),
       NULL, 0, 0, 0, COALESCE({_held("$.tags")}, '{{}}'), {_held("$.session")}, {_held("$.tags.task")},
       {_held("$.user_pseudonym")}, MAX(epoch)
FROM charges
WHERE id > :swept AND (:writer IS NULL OR epoch IN (SELECT epoch FROM epochs WHERE writer = :writer))
  AND NOT EXISTS (SELECT 1 FROM requests WHERE requests.request_id = charges.request_id)
GROUP BY request_id ORDER BY MIN(id)
"""  # noqa: S608 - constants


def microseconds(moment: datetime) -> int:
    """Return a timezone-aware moment as whole microseconds since 1970 UTC."""
    return (moment - _EPOCH_START) // _MICROSECOND


class Store:
    """The tables of one folder. The owner closes it; calls may come from any thread, one at a time."""

    def __init__(self, folder: Path) -> None:
        """Open the store, and create it where there is none.

        Raises:
            SchemaMismatch: the file is of another version or no ledger.
            FolderUnusable: the file cannot be opened or written.
        """
        self.path = folder / FILE_NAME
        self.duplicates = 0
        self._heads: dict[int, Head] = {}  # what the open transaction has read or changed of `writers`
        self._links: list[tuple[int, int, str, int, bytes]] = []  # and what it will add to `chain`
        self._sealed_until_us = 0
        try:
            if not self.path.exists():
                self.path.touch(mode=0o600)  # SQLite's own files beside it take its mode
            self._db = sqlite3.connect(
                self.path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        except OSError as error:
            raise FolderUnusable(
                f"cannot make {self.path}: {error.strerror}; give the gateway a data folder that it may write"
            ) from error
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise _unusable(self.path, error) from error
        except SchemaMismatch:
            self._db.close()
            raise

    def apply(self, rows: Sequence[tuple[int, Row]], *, upto: Position, last_n: int | None = None) -> None:
        """Put journal records into the tables and remember how far the journal has been folded, all or nothing.

        Args:
            rows: (epoch, row) in journal order.
            upto: where the next record begins; its slot is the rows' writer.
            last_n: the last record's number in its epoch.

        Raises:
            sqlite3.Error: nothing was changed; try again.
        """
        with self._transaction():
            # No pauses between rows: measured against the event loop on two busy cores, short sleeps here made its
            # waits above 1 ms four times as frequent.
            ended = {(row.request_id, row.attempt) for _, row in rows if isinstance(row, (ChargeRow, ReleaseRow))}
            for epoch, row in rows:
                # A hold that ends within the batch is not put: nobody would ever see it open.
                if not (isinstance(row, HoldRow) and (row.request_id, row.attempt) in ended):
                    self._put(row, epoch, upto.segment.slot)
            self._db.executemany("DELETE FROM open_holds WHERE request_id = ? AND attempt = ?", ended)
            self._remember(upto)
            if last_n is not None:
                self._db.execute(
                    "INSERT INTO writers VALUES (?3, 0, zeroblob(32), ?1, ?2) ON CONFLICT (slot) "
                    "DO UPDATE SET epoch = ?1, last_n = ?2 WHERE (epoch, last_n) < (?1, ?2)",
                    (upto.segment.epoch, last_n, upto.segment.slot),
                )

    def skip_torn(self, upto: Position) -> None:
        """Remember that what a segment holds up to here was cut off by a crash."""
        with self._transaction():
            self._count("torn", 1)
            self._remember(upto)

    def sync(self) -> None:
        """Put everything committed on the disk itself, as far as readers let the log be moved into the file."""
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def forget(self, segment: Segment) -> None:
        """Forget the offset of a segment that was folded and removed."""
        with self._transaction():
            self._db.execute("DELETE FROM journal_offsets WHERE epoch = ? AND seq = ?", (segment.epoch, segment.seq))

    def recover(self, *, slot: int | None = None, life: int | None = None) -> int:
        """Close open holds as estimated charges, and give every charge a request; return how many holds.

        Called when no writer is alive, or the one of `slot` is not: its journal is folded and not being written.

        Args:
            slot: only this writer's; None: all.
            life: the first epoch of the owner that begins; None: the owner goes on.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        holds = self._db.execute(
            "SELECT hold, open_holds.epoch, last_seen_at_us FROM open_holds LEFT JOIN epochs USING (epoch) "
            "WHERE ?1 IS NULL OR slot = ?1 ORDER BY open_holds.rowid",
            (slot,),
        ).fetchall()
        with self._transaction():
            for text, epoch, last_seen_at_us in holds:
                hold = msgspec.json.decode(text, type=HoldRow)
                self._put_charge(estimated(hold, last_seen_at_us), epoch, BOOKS)
            # The holds end last: they know the tags and session of the requests that are made up here.
            crashed = {"status": CRASHED_STATUS, "code": CRASHED, "swept": self.counter("swept"), "writer": None}
            if slot is not None:
                crashed["writer"] = self.writer_id(slot)
            for *values, known_as, epoch in self._db.execute(_CRASHED, crashed).fetchall():
                user = None if known_as is None else self._user(known_as)
                self._once("requests", _INSERT_REQUEST, (*values, user, None, epoch), BOOKS)
            self._db.execute("DELETE FROM open_holds WHERE ?1 IS NULL OR slot = ?1", (slot,))
            if slot is None:
                (last,) = self._db.execute("SELECT COALESCE(MAX(id), 0) FROM charges").fetchone()
                self._set("swept", last)
            if life is not None:
                self._set("life", life)
        return len(holds)

    @contextmanager
    def booking(self) -> Iterator[tuple[sqlite3.Connection, Callable[[Sequence[object]], None]]]:
        """Open a transaction for the books: what reads before booking, and what puts a row into `books`.

        The row's values are in the order of `BOOKS_COLUMNS`.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        with self._transaction():
            yield self._db, self._once_book

    def root(self, now: datetime) -> None:
        """Put all heads under a root, unless nothing was booked since the last one.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        with self._transaction():
            heads = {row[0]: Head(row[1], row[2]) for row in self._db.execute("SELECT slot, seq, hash FROM writers")}
            last = self.roots(after=-1)
            former = last[-1] if last else None
            root = Root.over(
                heads,
                n=former.n + 1 if former else 1,
                day=now.astimezone(UTC).date().isoformat(),
                at_us=microseconds(now),
                former=former.hash if former else GENESIS.hex(),
            )
            if former is None or former.heads != root.heads:
                self._db.execute("INSERT INTO roots (n, line) VALUES (?, ?)", (root.n, root.line().decode().rstrip()))

    def roots(self, *, after: int = 0) -> list[Root]:
        """Return the roots whose number is above `after`, or only the last one when it is negative."""
        where = "WHERE n > ?" if after >= 0 else "WHERE ? AND n = (SELECT MAX(n) FROM roots)"
        lines = self._db.execute(f"SELECT line FROM roots {where} ORDER BY n", (after,))  # noqa: S608 - from above
        return [msgspec.json.decode(line, type=Root) for (line,) in lines]

    def last_record(self, slot: int) -> tuple[int, int]:
        """Return the epoch and number of the writer's last folded journal record; (0, 0) when there is none."""
        row = self._db.execute("SELECT epoch, last_n FROM writers WHERE slot = ?", (slot,)).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def forget_user(self, known_as: str, *, now: datetime, made_by: str) -> bool:
        """Forget whose a pseudonym is, and book that it was done; False when nobody is known as that.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        with self._transaction():
            row = self._db.execute("SELECT user_pseudonym FROM end_users WHERE known_as = ?", (known_as,)).fetchone()
            if row is None:
                return False
            self._db.execute("DELETE FROM end_users WHERE known_as = ?", (known_as,))
            period, about = now.astimezone(UTC).strftime("%Y-%m"), msgspec.json.encode({"user_pseudonym": row[0]})
            values = ("forgotten", period, None, None, None, None, 0, about.decode(), "asked", made_by)
            self._once("books", _INSERT_BOOKS, (*values, microseconds(now)), BOOKS)
        return True

    def offsets(self) -> dict[Segment, int]:
        """Return how many bytes of each known segment are folded."""
        rows = self._db.execute("SELECT epoch, seq, slot, bytes_folded FROM journal_offsets")
        return {Segment(epoch, seq, slot): folded for epoch, seq, slot, folded in rows}

    def counter(self, name: str) -> int:
        """Return one of the `counters`, 0 when it was never set."""
        row = self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def last_epoch(self) -> int:
        """Return the highest epoch known, 0 when there is none."""
        return int(self._db.execute("SELECT COALESCE(MAX(epoch), 0) FROM epochs").fetchone()[0])

    def last_booking(self) -> int:
        """Return the number of the last row of `books`, 0 when there is none."""
        return int(self._db.execute("SELECT COALESCE(MAX(id), 0) FROM books").fetchone()[0])

    def epochs_of(self, slot: int, *, above: int) -> list[int]:
        """Return the epochs above one that a slot's writer began."""
        rows = self._db.execute(
            "SELECT epoch FROM epochs WHERE writer = ? AND epoch > ? ORDER BY epoch", (self.writer_id(slot), above)
        )
        return [int(epoch) for (epoch,) in rows]

    def writer_id(self, slot: int) -> str:
        """Return a writer's persistent id: the folder's, and its slot unless that is 0."""
        folder = str(self._db.execute("SELECT id FROM writer").fetchone()[0])
        return folder if slot == 0 else f"{folder}-{slot}"

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _prepare(self) -> None:
        check_schema(self._db, self.path, oldest=OLDEST_MIGRATED)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA}{NEW_WRITER}"
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
            )
        elif version < VERSION:
            migrate(self._db, finish=self._chain_former)

    def _chain_former(self) -> None:
        """Chain the rows of a store that had no chain, as the books', in the order in which they were booked."""
        if self._db.execute("SELECT 1 FROM chain LIMIT 1").fetchone():
            return
        for table, columns in (("charges", CHARGE_COLUMNS), ("requests", REQUEST_COLUMNS)):
            rows = self._db.execute(f"SELECT id, {columns} FROM {table} ORDER BY id")  # noqa: S608 - constants
            for row_id, *values in rows:
                self._chain(table, row_id, values, BOOKS)
                if len(self._links) >= _MOST_LINKS:
                    self._write_chain()
        self._write_chain()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        duplicates = self.duplicates
        self._heads.clear()
        self._links.clear()
        self._sealed_until_us = self._read_sealed_until_us()
        requests, charges = self._last_ids()
        try:
            yield
            if (requests, charges) != self._last_ids():
                add_booked(self._db, requests=requests, charges=charges)
            self._write_chain()
            self._db.execute("COMMIT")
        except BaseException:
            self.duplicates = duplicates
            if self._db.in_transaction:  # a full disk has rolled back by itself
                self._db.execute("ROLLBACK")
            raise

    def _last_ids(self) -> tuple[int, int]:
        """Return the ids of the last request and charge; they only ever grow."""
        last = "SELECT COALESCE((SELECT MAX(id) FROM requests), 0), COALESCE((SELECT MAX(id) FROM charges), 0)"
        requests, charges = self._db.execute(last).fetchone()
        return int(requests), int(charges)

    def _put(self, row: Row, epoch: int, slot: int) -> None:
        match row:
            case HoldRow():
                self._put_hold(row, epoch, slot)
            case ReleaseRow():
                pass  # its hold ends with the batch's, in `apply`
            case ChargeRow():
                self._put_charge(row, epoch, slot)
            case RequestRow():
                known_as = row.user_pseudonym
                user = None if known_as is None else self._user(known_as)
                self._once("requests", _INSERT_REQUEST, (*_request_values(row, user), epoch), slot)
            case EpochRow():
                self._put_epoch(row)
            case EnergyRow():
                self._db.execute(
                    "INSERT OR IGNORE INTO energy VALUES (?, ?, ?, ?, ?)",
                    (row.pool, row.endpoint, microseconds(row.since), microseconds(row.until), row.millijoules),
                )
            case HeartbeatRow():
                self._db.execute(
                    "UPDATE epochs SET last_seen_at_us = MAX(last_seen_at_us, ?) WHERE epoch = ?",
                    (microseconds(row.seen_at), row.epoch),
                )

    def _once(self, table: str, insert: str, values: tuple[object, ...], slot: int) -> bool:
        cursor = self._db.execute(insert, values)
        if cursor.rowcount == 0:
            self.duplicates += 1
            return False
        self._chain(table, cursor.lastrowid or 0, values, slot)
        return True

    def _once_book(self, values: Sequence[object]) -> None:
        self._once("books", _INSERT_BOOKS, tuple(values), BOOKS)

    def _chain(self, table: str, row_id: int, values: Sequence[object], slot: int) -> None:
        head = self._heads.get(slot)
        if head is None:
            found = self._db.execute("SELECT seq, hash FROM writers WHERE slot = ?", (slot,)).fetchone()
            head = Head(*found) if found else Head()
        head = Head(head.seq + 1, link(head.hash, table, values))
        self._links.append((slot, head.seq, table, row_id, head.hash))
        self._heads[slot] = head

    def _write_chain(self) -> None:
        self._db.executemany(_INSERT_CHAIN, self._links)
        self._links.clear()
        self._db.executemany(
            "INSERT INTO writers VALUES (?1, ?2, ?3, 0, 0) "
            "ON CONFLICT (slot) DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
            [(slot, head.seq, head.hash) for slot, head in self._heads.items()],
        )

    def _put_charge(self, row: ChargeRow, epoch: int, slot: int) -> None:
        values = (*_charge_values(row), epoch)
        is_new = self._once("charges", _INSERT_CHARGE, values, slot)
        started_us = microseconds(row.started_at)
        if not is_new or started_us >= self._sealed_until_us:
            return
        # Its month is sealed: it posts to the open one, so that the sealed sum stays what it was.
        period, about = _month(self._sealed_until_us), msgspec.json.encode({"started_in": _month(started_us)}).decode()
        late = ("late", period, row.request_id, row.attempt, row.tenant, row.model, row.cost_nusd or 0, about)
        ended_us = started_us + int(row.duration_ms * 1000)
        reason = "its month was sealed before it was booked"
        self._once("books", _INSERT_BOOKS, (*late, reason, "gateway", ended_us), BOOKS)

    def _read_sealed_until_us(self) -> int:
        """Return the end of the last sealed month, microseconds since 1970 UTC; 0 when none is."""
        (period,) = self._db.execute("SELECT MAX(period) FROM books WHERE kind = 'close'").fetchone()
        return 0 if period is None else microseconds(month_end(period))

    def _user(self, known_as: str) -> str:
        """Return the pseudonym that rows carry for an end user."""
        found = self._db.execute("SELECT user_pseudonym FROM end_users WHERE known_as = ?", (known_as,)).fetchone()
        if found:
            return str(found[0])
        salt = secrets.token_bytes(16)
        pseudonym = "usr-" + hashlib.blake2b(known_as.encode(), key=salt, digest_size=12).hexdigest()
        self._db.execute("INSERT INTO end_users VALUES (?, ?, ?)", (known_as, salt, pseudonym))
        return pseudonym

    def _set(self, counter: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (counter, value))

    def _put_hold(self, row: HoldRow, epoch: int, slot: int) -> None:
        # A hold folded again after its charge (offset lost with a restored file) must not be opened a second time.
        self._db.execute(
            "INSERT OR IGNORE INTO open_holds SELECT ?, ?, ?, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM charges WHERE request_id = ?1 AND attempt = ?2)",
            (row.request_id, row.attempt, epoch, slot, msgspec.json.encode(row).decode()),
        )

    def _put_epoch(self, row: EpochRow) -> None:
        started, seen = microseconds(row.started_at), microseconds(row.last_seen_at)
        self._db.execute(
            "INSERT OR IGNORE INTO epochs VALUES (?, ?, ?, ?, ?)",
            (row.epoch, row.writer, started, seen, row.policy_digest),
        )
        for pool in row.pools:
            self._db.execute(
                "INSERT OR IGNORE INTO epoch_pools VALUES (?, ?, ?, ?)",
                (row.epoch, pool.pool, str(pool.usd_per_hour), pool.replicas),
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO epoch_replicas VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (row.epoch, pool.pool, each.endpoint, str(each.usd_per_hour), each.is_spot, each.watts)
                    for each in pool.each
                ],
            )

    def _remember(self, upto: Position) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO journal_offsets VALUES (?, ?, ?, ?)",
            (upto.segment.epoch, upto.segment.seq, upto.offset, upto.segment.slot),
        )

    def _count(self, name: str, more: int) -> None:
        self._db.execute(
            "INSERT INTO counters VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + ?2", (name, more)
        )


def check_schema(db: sqlite3.Connection, path: Path, *, oldest: int = VERSION) -> None:
    """Tell whether a database is a ledger of this version; an empty one is accepted too.

    Args:
        db: the database.
        path: its file, for the message.
        oldest: the oldest version that will do; a reader needs the present one, the store's owner migrates.

    Raises:
        SchemaMismatch: it is another application's, or another version's.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    tables = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if version == 0 and tables == 0:
        return
    if application != APPLICATION_ID:
        raise SchemaMismatch(f"{path} is a database, but no ledger of Faregate; choose another data folder")
    if version > VERSION:
        raise SchemaMismatch(
            f"{path} is a ledger of version {version}, this Faregate reads version {VERSION}; "
            "install the Faregate that wrote it, or a newer one. Nothing was changed"
        )
    if version < oldest:
        raise SchemaMismatch(
            f"{path} is a ledger of version {version}, this Faregate reads version {VERSION}; "
            "start a gateway on its folder, which brings it up to date"
        )


def estimated(hold: HoldRow, last_seen_at_us: int | None) -> ChargeRow:
    """Return the charge that closes a hold whose gateway died: its upper bound, until the last sign of life."""
    held_at_us = microseconds(hold.held_at)
    alive_us = max(0, (last_seen_at_us or held_at_us) - held_at_us)
    cap = hold.output_tokens_cap
    return ChargeRow(
        request_id=hold.request_id,
        attempt=hold.attempt,
        kind=ChargeKind.AUDIT if hold.is_audit else ChargeKind.ESTIMATED,
        tenant=hold.tenant,
        key_id=hold.key_id,
        route=hold.route,
        model=hold.model,
        pool=hold.pool,
        endpoint_label=hold.endpoint_label,
        input_tokens=hold.input_tokens_estimate,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=cap or 0,
        reasoning_tokens=0,
        input_provenance=Provenance.ESTIMATED,
        output_provenance=Provenance.UNKNOWN if cap is None else Provenance.ESTIMATED,
        rates=hold.rates,
        price_digest=hold.price_digest,
        cost_nusd=hold.upper_bound_nusd,
        cost_provenance=CostProvenance.ESTIMATED,
        started_at=hold.held_at,
        duration_ms=alive_us / 1000,
    )


def _charge_values(row: ChargeRow) -> tuple[object, ...]:
    return (
        row.request_id,
        row.attempt,
        row.kind.value,
        row.tenant,
        row.key_id,
        row.route,
        row.model,
        row.pool,
        row.endpoint_label,
        row.input_tokens,
        row.cached_input_tokens,
        row.cache_write_tokens,
        row.cache_write_1h_tokens,
        row.audio_input_tokens,
        row.image_input_tokens,
        row.output_tokens,
        row.reasoning_tokens,
        row.audio_output_tokens,
        row.image_output_tokens,
        row.web_searches,
        row.input_provenance.value,
        row.output_provenance.value,
        row.rates.as_json(),
        row.price_digest,
        row.tier,
        row.cost_nusd,
        row.cost_provenance.value,
        row.stated_cost_nusd,
        microseconds(row.started_at),
        float(row.duration_ms),
        row.finish_reason,
        row.upstream_response_id,
    )


def _request_values(row: RequestRow, user: str | None) -> tuple[object, ...]:
    return (
        row.request_id,
        row.client_request_id,
        row.tenant,
        row.key_id,
        row.surface,
        row.route,
        row.model_asked,
        row.path,
        row.status,
        row.error_code,
        int(row.is_stream),
        _real(row.confidence),
        _real(row.similarity),
        row.task,
        row.plan_reason,
        row.policy_digest,
        microseconds(row.started_at),
        _real(row.ttft_ms),
        float(row.total_ms),
        float(row.overhead_ms),
        row.cost_nusd,
        row.unknown_charges,
        row.baseline_model,
        row.baseline_nusd,
        row.baseline_low_nusd,
        row.baseline_high_nusd,
        msgspec.json.encode(row.tags, order="sorted").decode(),
        row.session,
        row.task_id,
        user,
        row.decision,
    )


def _real(number: float | None) -> float | None:
    """Return what a REAL column gives back: whole numbers too are floats there, and are hashed as such."""
    return None if number is None else float(number)


def month_end(period: str) -> datetime:
    """Return the first moment after a month such as "2026-11", UTC.

    Raises:
        PeriodInvalid: it is no month.
    """
    year, dash, month = period.partition("-")
    if len(period) != 7 or not (dash and year.isdigit() and month.isdigit() and 1 <= int(month) <= 12):
        raise PeriodInvalid(f'"{period}" is no month; write it as 2026-11')
    return datetime(int(year) + int(month) // 12, int(month) % 12 + 1, 1, tzinfo=UTC)


def _month(at_us: int) -> str:
    return (_EPOCH_START + at_us * _MICROSECOND).strftime("%Y-%m")


def _unusable(path: Path, error: sqlite3.Error) -> FolderUnusable | SchemaMismatch:
    if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
        return SchemaMismatch(f"{path} is no ledger of Faregate ({error}); choose another data folder or move it away")
    if error.sqlite_errorcode in _BUSY:
        return FolderUnusable(
            f"{path} is locked by another program; end it (a backup, an open sqlite3) and start again"
        )
    return FolderUnusable(f"cannot open {path}: {error}; give the gateway a data folder that it may write")
