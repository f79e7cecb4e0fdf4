"""The store: SQLite in WAL mode, append-only, written by one thread at a time.

Rules:
- every change of a batch, the journal's offset included, is one transaction;
- a row that is already there is left as it is and counted;
- an error rolls the whole batch back, so that it can be tried again.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from backends.words import Provenance
from gateway.ledger.errors import FolderUnusable, SchemaMismatch
from gateway.ledger.journal import Position, Segment
from gateway.ledger.migrate import OLDEST_MIGRATED, migrate
from gateway.ledger.rows import (
    CRASHED,
    CRASHED_STATUS,
    ChargeKind,
    ChargeRow,
    CostProvenance,
    EpochRow,
    HeartbeatRow,
    HoldRow,
    ReleaseRow,
    RequestRow,
)
from gateway.ledger.schema import APPLICATION_ID, NEW_WRITER, SCHEMA, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from backends.words import RequestId

FILE_NAME: Final = "ledger.db"
_LOCK_WAIT_S: Final = 1.0  # then the batch is rolled back and tried again at the next tick
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

Row = HoldRow | ReleaseRow | ChargeRow | RequestRow | EpochRow | HeartbeatRow

_REQUEST_COLUMNS: Final = (
    "request_id, client_request_id, tenant, key_id, surface, route, model_asked, path, status, error_code, is_stream, "
    "confidence, similarity, task, plan_reason, policy_digest, started_at_us, ttft_ms, total_ms, overhead_ms, "
    "cost_nusd, unknown_charges, baseline_model, baseline_nusd, baseline_low_nusd, baseline_high_nusd, tags, session, "
    "task_id, user_pseudonym, epoch"
)
_CHARGE_COLUMNS: Final = (
    "request_id, attempt, kind, tenant, key_id, route, model, pool, endpoint_label, input_tokens, cached_input_tokens, "
    "cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, image_input_tokens, output_tokens, "
    "reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, input_provenance, output_provenance, "
    "rates, price_digest, tier, cost_nusd, cost_provenance, stated_cost_nusd, started_at_us, duration_ms, "
    "finish_reason, upstream_response_id, epoch"
)


def _insert(table: str, columns: str) -> str:
    places = ", ".join("?" for _ in columns.split(","))
    return f"INSERT INTO {table} ({columns}) VALUES ({places})"  # noqa: S608 - both are the constants above


_INSERT_REQUEST: Final = _insert("requests", _REQUEST_COLUMNS)
_INSERT_CHARGE: Final = _insert("charges", _CHARGE_COLUMNS)
_INSERT_CRASHED: Final = f"""
INSERT INTO requests ({_REQUEST_COLUMNS})
SELECT request_id, NULL, tenant, key_id, '', route, model, '', :status, :code, 0, NULL, NULL, NULL, NULL,
       COALESCE((SELECT policy_digest FROM epochs WHERE epochs.epoch = charges.epoch), ''), MIN(started_at_us), NULL,
       MAX(duration_ms), 0.0, COALESCE(
         (SELECT SUM(cost_nusd) FROM charges AS every WHERE every.request_id = charges.request_id), 0),
       (SELECT COUNT(*) - COUNT(cost_nusd) FROM charges AS every WHERE every.request_id = charges.request_id),
       NULL, 0, 0, 0, '{{}}', NULL, NULL, NULL, MAX(epoch)
FROM charges
WHERE rowid > :swept AND NOT EXISTS (SELECT 1 FROM requests WHERE requests.request_id = charges.request_id)
GROUP BY request_id
"""  # noqa: S608 - the columns are the constant above


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
        try:
            self._db = sqlite3.connect(
                self.path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False, cached_statements=64
            )
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

    def apply(self, rows: Iterable[tuple[int, Row]], *, upto: Position) -> None:
        """Put journal records into the tables and remember how far the journal has been folded, all or nothing.

        Args:
            rows: (epoch, row) in journal order.
            upto: where the next record begins.

        Raises:
            sqlite3.Error: nothing was changed; try again.
        """
        with self._transaction():
            # No pauses between rows: measured against the event loop on two busy cores, short sleeps here made its
            # waits above 1 ms four times as frequent.
            for epoch, row in rows:
                self._put(row, epoch)
            self._remember(upto)

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

    def recover(self) -> int:
        """Close every open hold as an estimated charge, and give every charge a request; return how many holds.

        Called when no writer is alive: all journals are folded and none is being written.
        """
        holds = self._db.execute(
            "SELECT hold, open_holds.epoch, last_seen_at_us FROM open_holds LEFT JOIN epochs USING (epoch)"
        ).fetchall()
        with self._transaction():
            for text, epoch, last_seen_at_us in holds:
                hold = msgspec.json.decode(text, type=HoldRow)
                self._put(estimated(hold, last_seen_at_us), epoch)
            self._db.execute(
                _INSERT_CRASHED, {"swept": self.counter("swept"), "status": CRASHED_STATUS, "code": CRASHED}
            )
            (last,) = self._db.execute("SELECT COALESCE(MAX(rowid), 0) FROM charges").fetchone()
            self._db.execute("INSERT OR REPLACE INTO counters VALUES ('swept', ?)", (last,))
        return len(holds)

    def offsets(self) -> dict[Segment, int]:
        """Return how many bytes of each known segment are folded."""
        rows = self._db.execute("SELECT epoch, seq, bytes_folded FROM journal_offsets")
        return {Segment(epoch, seq): folded for epoch, seq, folded in rows}

    def counter(self, name: str) -> int:
        """Return one of the `counters`, 0 when it was never set."""
        row = self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def last_epoch(self) -> int:
        """Return the highest epoch known, 0 when there is none."""
        return int(self._db.execute("SELECT COALESCE(MAX(epoch), 0) FROM epochs").fetchone()[0])

    def writer(self) -> str:
        """Return the folder's writer id."""
        return str(self._db.execute("SELECT id FROM writer").fetchone()[0])

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
            migrate(self._db)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        duplicates = self.duplicates
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self.duplicates = duplicates
            if self._db.in_transaction:  # a full disk has rolled back by itself
                self._db.execute("ROLLBACK")
            raise

    def _put(self, row: Row, epoch: int) -> None:
        match row:
            case HoldRow():
                self._put_hold(row, epoch)
            case ReleaseRow():
                self._end_hold(row.request_id, row.attempt)
            case ChargeRow():
                self._once(_INSERT_CHARGE, (*_charge_values(row), epoch))
                self._end_hold(row.request_id, row.attempt)
            case RequestRow():
                self._once(_INSERT_REQUEST, (*_request_values(row), epoch))
            case EpochRow():
                self._put_epoch(row)
            case HeartbeatRow():
                self._db.execute(
                    "UPDATE epochs SET last_seen_at_us = MAX(last_seen_at_us, ?) WHERE epoch = ?",
                    (microseconds(row.seen_at), row.epoch),
                )

    def _once(self, insert: str, values: tuple[object, ...]) -> None:
        if self._db.execute(insert, values).rowcount == 0:
            self.duplicates += 1

    def _put_hold(self, row: HoldRow, epoch: int) -> None:
        # A hold folded again after its charge (offset lost with a restored file) must not be opened a second time.
        self._db.execute(
            "INSERT OR IGNORE INTO open_holds SELECT ?, ?, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM charges WHERE request_id = ?1 AND attempt = ?2)",
            (row.request_id, row.attempt, epoch, msgspec.json.encode(row).decode()),
        )

    def _end_hold(self, request_id: RequestId, attempt: int) -> None:
        self._db.execute("DELETE FROM open_holds WHERE request_id = ? AND attempt = ?", (request_id, attempt))

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

    def _remember(self, upto: Position) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO journal_offsets VALUES (?, ?, ?)",
            (upto.segment.epoch, upto.segment.seq, upto.offset),
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
        kind=ChargeKind.ESTIMATED,
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
        row.duration_ms,
        row.finish_reason,
        row.upstream_response_id,
    )


def _request_values(row: RequestRow) -> tuple[object, ...]:
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
        row.confidence,
        row.similarity,
        row.task,
        row.plan_reason,
        row.policy_digest,
        microseconds(row.started_at),
        row.ttft_ms,
        row.total_ms,
        row.overhead_ms,
        row.cost_nusd,
        row.unknown_charges,
        row.baseline_model,
        row.baseline_nusd,
        row.baseline_low_nusd,
        row.baseline_high_nusd,
        msgspec.json.encode(row.tags, order="sorted").decode(),
        row.session,
        row.task_id,
        row.user_pseudonym,
    )


def _unusable(path: Path, error: sqlite3.Error) -> FolderUnusable | SchemaMismatch:
    if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
        return SchemaMismatch(f"{path} is no ledger of Faregate ({error}); choose another data folder or move it away")
    if error.sqlite_errorcode in _BUSY:
        return FolderUnusable(
            f"{path} is locked by another program; end it (a backup, an open sqlite3) and start again"
        )
    return FolderUnusable(f"cannot open {path}: {error}; give the gateway a data folder that it may write")
