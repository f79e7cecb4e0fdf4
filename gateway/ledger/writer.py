"""The append side: one worker's journal, written on the caller's thread.

Rules:
- the caller only encodes and appends; it never waits for a store, which may be another process's;
- what the disk refuses is kept in memory, in order, and tried again before anything else is written; while something
  waits no money is held (`on_failure: refuse`), or what is held waits with it, up to a limit (`buffer`); request rows
  beyond a limit are dropped and counted, charges and releases never;
- a lock is held around appends only: other threads take it to beat and to sync.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.ledger.epochs import next_epoch
from gateway.ledger.errors import LedgerError, LedgerUnavailable
from gateway.ledger.journal import JOURNAL_FOLDER, Journal, RecordKind
from gateway.ledger.rows import EpochRow, HeartbeatRow, ReleaseRow
from policies.schema import Durability, OnFailure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from backends.clock import Clock
    from backends.words import RequestId
    from gateway.ledger.journal import Files, Position, Record
    from gateway.ledger.rows import ChargeRow, EnergyRow, HoldRow, RequestRow
    from gateway.ledger.seam import EpochInfo, Terms

HEARTBEAT_S: Final = 5.0
"""A killed gateway's pools are billed up to its last sign of life: at most this much too little."""
MOST_PENDING_REQUESTS: Final = 10_000
"""About 10 MB of request rows."""

_log = logging.getLogger("faregate")
_encode: Final = msgspec.json.Encoder().encode


class Writer:
    """Appends one worker's records to a folder's journal. Make it, `renew` it, `beat` it, and close it.

    Args:
        folder: the ledger's; its `journal` folder is there.
        clock: for heartbeats.
        writer_id: the worker's persistent id.
        slot: the worker's number, from 0; no two live writers of a folder share one.
        terms: how careful it is.
        files: the journal's system calls.
        segment_bytes: a new journal segment after this many.
        above: epochs up to this one are taken.
    """

    def __init__(
        self,
        *,
        folder: Path,
        clock: Clock,
        writer_id: str,
        slot: int,
        terms: Terms,
        files: Files,
        segment_bytes: int,
        above: int = 0,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._writer_id = writer_id
        self._slot = slot
        self._terms = terms
        self._files = files
        self._segment_bytes = segment_bytes
        self._above = above
        self._epoch = 0
        self._journal = Journal(folder / JOURNAL_FOLDER, epoch=0, files=files)
        self._beat_at = 0.0
        self._pending: deque[tuple[RecordKind, bytes]] = deque()
        self._pending_bytes = 0
        self._dropped = 0
        self._refusal: OSError | None = None
        self._stopped_by: LedgerError | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._sync_wanted = threading.Event()
        self._syncer: threading.Thread | None = None
        if terms.durability is Durability.POWER:
            self._syncer = threading.Thread(target=self._sync_for_ever, name=f"ledger-sync-{slot}", daemon=True)
            self._syncer.start()

    @property
    def position(self) -> Position:
        """Where the last good record ends."""
        with self._lock:
            return self._journal.position

    @property
    def pending(self) -> int:
        """How many records wait in memory."""
        return len(self._pending)

    @property
    def dropped(self) -> int:
        """How many request rows were given up."""
        return self._dropped

    @property
    def refusal(self) -> OSError | None:
        """Why the disk takes nothing at present; None when it does."""
        return self._refusal

    @property
    def is_writable(self) -> bool:
        """Whether the next `hold` is expected to succeed."""
        if self._stopped_by is not None:
            return False
        return self._has_room() if self._refusal is not None or self._pending else True

    def hold(self, row: HoldRow) -> None:
        """Reserve money for an attempt; see `seam.Ledger`."""
        record = _encode(row)
        with self._lock:
            self._refuse_if_stopped()
            try:
                if self._pending:
                    self._write_pending()
                self._journal.append(RecordKind.HOLD, record)
            except OSError as error:
                self._refuse(error)
                if not self._has_room():
                    raise self._unavailable(error) from error
                self._wait_for_room(RecordKind.HOLD, record)
            else:
                self._refusal = None

    async def secured(self) -> None:
        """Wait until every hold so far is as durable as the terms say; see `seam.Ledger`."""
        if self._syncer is None:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._is_closed:
                raise LedgerUnavailable("the ledger is closed; the gateway is shutting down")
            self._waiting.append((loop, future))
        self._sync_wanted.set()
        await future

    def release(self, request_id: RequestId, attempt: int) -> None:
        """End a hold whose attempt cost nothing; see `seam.Ledger`."""
        self._keep([(RecordKind.RELEASE, _encode(ReleaseRow(request_id=request_id, attempt=attempt)))])

    def settle(self, row: ChargeRow) -> None:
        """Book what an attempt cost; see `seam.Ledger`."""
        self._keep([(RecordKind.CHARGE, _encode(row))])

    def book(self, row: RequestRow, charges: Sequence[ChargeRow] = ()) -> None:
        """Book a request and what attempts of it cost; see `seam.Ledger`."""
        records = [(RecordKind.CHARGE, _encode(charge)) for charge in charges]
        records.append((RecordKind.REQUEST, _encode(row)))
        self._keep(records)

    def meter(self, row: EnergyRow) -> None:
        """Book what a replica's cards drew; see `seam.Ledger`."""
        self._keep([(RecordKind.ENERGY, _encode(row))])

    def renew(self, info: EpochInfo) -> None:
        """Begin a new epoch; see `seam.Ledger`."""
        now = self._clock.now()
        with self._lock:
            self._refuse_if_stopped()
            journal: Journal | None = None
            try:
                # A number is used once: a failed attempt may have left an empty segment of that name.
                epoch = self._above = next_epoch(self._folder / JOURNAL_FOLDER, above=self._above)
                journal = self._journal_of(epoch)
                self._write_pending()
                if self._journal.position.offset:
                    self._journal.append(RecordKind.HEARTBEAT, self._heartbeat(now))
                row = EpochRow(
                    writer=self._writer_id,
                    epoch=epoch,
                    started_at=now,
                    last_seen_at=now,
                    policy_digest=info.policy_digest,
                    pools=info.pools,
                )
                journal.append(RecordKind.EPOCH, _encode(row))
            except OSError as error:
                if journal is not None:
                    journal.close()
                raise self._unavailable(error) from error
            self._journal.close()
            self._journal = journal
            self._epoch = epoch
            self._beat_at = self._clock.monotonic()
            self._refusal = None

    def beat_if_due(self) -> None:
        """Write a sign of life when it is time, and what the disk has refused."""
        with self._lock:
            if self._refusal is not None or self._clock.monotonic() - self._beat_at >= HEARTBEAT_S:
                self._beat()

    def beat(self) -> Position:
        """Write what is pending and a sign of life, as far as the disk lets it; return where the journal ends."""
        with self._lock:
            self._beat()
            return self._journal.position

    def stop(self, reason: LedgerError) -> None:
        """Hold no more money; settlements are still taken."""
        self._stopped_by = reason

    def close(self) -> None:
        """Write what is pending, a last sign of life, and let the journal go.

        Raises:
            LedgerUnavailable: records the disk refused could not be written even now; their holds stay in the journal
                and are booked as estimated.
        """
        with self._lock:
            if self._is_closed:
                return
            self._beat()
            self._is_closed = True
            waiting, refusal = len(self._pending), self._refusal
        if self._syncer is not None:
            self._sync_wanted.set()
            self._syncer.join()
        self._journal.close()
        if waiting:
            raise LedgerUnavailable(
                f"{waiting} records could not be written to {self._folder} ({refusal}); the next start books "
                "their attempts as estimated. Free space on the disk before it",
                pending=waiting,
            )

    def _journal_of(self, epoch: int) -> Journal:
        if self._slot:
            (self._folder / JOURNAL_FOLDER / str(self._slot)).mkdir(exist_ok=True, mode=0o700)
        return Journal(
            self._folder / JOURNAL_FOLDER,
            epoch=epoch,
            files=self._files,
            segment_bytes=self._segment_bytes,
            slot=self._slot,
            is_synced=self._syncer is not None,
        )

    def _keep(self, records: Sequence[Record]) -> None:
        with self._lock:
            if not (self._pending or self._is_closed):
                try:
                    self._journal.append_all(records)
                except OSError as error:
                    self._refuse(error)
                else:
                    self._refusal = None
                    return
            for kind, record in records:
                if kind is RecordKind.REQUEST and len(self._pending) >= MOST_PENDING_REQUESTS:
                    self._dropped += 1
                else:
                    self._wait_for_room(kind, record)
            if self._pending:
                self._try_pending()

    def _wait_for_room(self, kind: RecordKind, record: bytes) -> None:
        self._pending.append((kind, record))
        self._pending_bytes += len(record)

    def _has_room(self) -> bool:
        return self._terms.on_failure is OnFailure.BUFFER and self._pending_bytes < self._terms.buffer_bytes

    def _try_pending(self) -> None:
        if self._is_closed:  # the folder may be another gateway's by now; the next start books the hold as estimated
            _log.error("settled_after_close", extra={"pending": len(self._pending)})
            return
        try:
            self._write_pending()
        except OSError as error:
            self._refuse(error)

    def _write_pending(self) -> None:
        while self._pending:
            kind, record = self._pending[0]
            self._journal.append(kind, record)
            self._pending.popleft()
            self._pending_bytes -= len(record)
            self._refusal = None

    def _beat(self) -> None:
        if self._is_closed:
            return
        self._beat_at = self._clock.monotonic()
        self._try_pending()
        if not self._pending:
            try:
                self._journal.append(RecordKind.HEARTBEAT, self._heartbeat(self._clock.now()))
            except OSError as error:
                self._refuse(error)
            else:
                self._refusal = None

    def _heartbeat(self, now: datetime) -> bytes:
        return _encode(HeartbeatRow(epoch=self._epoch, seen_at=now))

    def _refuse(self, error: OSError) -> None:
        if self._refusal is None:
            _log.error(
                "journal_refused",
                extra={"error": str(error), "folder": str(self._folder), "pending": len(self._pending)},
            )
        self._refusal = error

    def _refuse_if_stopped(self) -> None:
        reason = self._stopped_by
        if reason is not None:
            raise LedgerUnavailable(str(reason)) from reason

    def _unavailable(self, error: OSError) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"the ledger cannot write to {self._folder}: {error.strerror or error}; "
            "free space there or make it writable; requests are served again as soon as it works",
            pending=len(self._pending),
        )

    def _sync_for_ever(self) -> None:
        """Sync once for all that wait: while one sync runs, the next group gathers."""
        is_last = False
        while not is_last:
            self._sync_wanted.wait()
            self._sync_wanted.clear()
            with self._lock:
                is_last = self._is_closed
                waiting, self._waiting = self._waiting, []
            if waiting:
                failure = self._sync()
                for loop, future in waiting:
                    loop.call_soon_threadsafe(_resolve, future, failure)

    def _sync(self) -> LedgerUnavailable | None:
        try:
            with self._lock:
                fd = self._journal.syncing()
            if fd is not None:
                try:
                    self._files.sync(fd)
                finally:
                    self._files.close(fd)
        except OSError as error:
            return self._unavailable(error)
        return None


def _resolve(future: asyncio.Future[None], failure: LedgerUnavailable | None) -> None:
    if future.done():  # its request was cancelled
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
