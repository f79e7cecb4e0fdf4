"""The ledger of one machine: a journal in front, SQLite behind, a thread that folds the one into the other.

Rules:
- the caller's thread only encodes and appends; it never waits for SQLite;
- what the disk refuses is kept in memory, in order, and tried again before anything else is written; while something
  waits no money is held, so no more than the attempts in flight can pile up; request rows beyond a limit are dropped
  and counted, charges and releases never;
- a lock is held around appends only: the folding thread takes it to try pending records and to write heartbeats.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.ledger.errors import FolderUnusable, JournalCorrupt, LedgerUnavailable
from gateway.ledger.fold import Fold
from gateway.ledger.journal import JOURNAL_FOLDER, SEGMENT_BYTES, Files, Journal, OsFiles, RecordKind
from gateway.ledger.lock import FolderLock
from gateway.ledger.rows import EpochRow, HeartbeatRow, ReleaseRow
from gateway.ledger.seam import LedgerStatus
from gateway.ledger.store import Store

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from backends.clock import Clock
    from backends.words import RequestId
    from gateway.ledger.journal import Position, Segment
    from gateway.ledger.rows import ChargeRow, HoldRow, RequestRow
    from gateway.ledger.seam import EpochInfo

TICK_S: Final = 0.2
"""How long a row may wait before it is in the store; also how soon a full disk is tried again."""
HEARTBEAT_S: Final = 5.0
"""A killed gateway's pools are billed up to its last sign of life: at most this much too little."""
MOST_PENDING_REQUESTS: Final = 10_000
"""About 10 MB of request rows."""

_log = logging.getLogger("faregate")
_encode: Final = msgspec.json.Encoder().encode


class JournaledLedger:
    """Implements `seam.Ledger` on a folder of its own; make it with `open`, and close it."""

    def __init__(
        self, *, folder: Path, clock: Clock, store: Store, fold: Fold, files: Files, segment_bytes: int, tick_s: float
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._store = store
        self._fold = fold
        self._files = files
        self._segment_bytes = segment_bytes
        self._tick_s = tick_s
        self._journal = Journal(folder / JOURNAL_FOLDER, epoch=0, files=files)
        self._writer = store.writer()
        self._epoch = self._last_epoch = store.last_epoch()
        self._beat_at = 0.0
        self._pending: deque[tuple[RecordKind, bytes]] = deque()
        self._dropped = 0
        self._refusal: OSError | None = None
        self._damage: JournalCorrupt | None = None
        self._retrying: sqlite3.Error | OSError | None = None
        self._is_closed = False
        self._stopping = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._folded = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ledger-fold", daemon=True)
        self._owned = ExitStack()

    @classmethod
    def open(
        cls,
        folder: Path,
        clock: Clock,
        epoch_info: EpochInfo,
        *,
        files: Files | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        tick_s: float = TICK_S,
    ) -> JournaledLedger:
        """Open a folder: take its lock, fold what a former gateway left, close its open holds, begin an epoch.

        Args:
            folder: made where missing; holds the lock, the journal and the store.
            clock: for heartbeats.
            epoch_info: the policy and pools this life stands under.
            files: the journal's system calls.
            segment_bytes: a new journal segment after this many.
            tick_s: how often the thread folds.

        Raises:
            FolderInUse, FolderUnusable, SchemaMismatch, JournalCorrupt: the folder cannot be used; nothing changed.
            LedgerUnavailable: the journal cannot be written.
        """
        with ExitStack() as owned:
            try:
                (folder / JOURNAL_FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = FolderLock(folder)
                owned.callback(lock.close)
                store = Store(folder)
                owned.callback(store.close)
                fold = Fold(folder / JOURNAL_FOLDER, store)
                fold.drain(live=None)
                estimated = store.recover()
            except (OSError, sqlite3.Error) as error:
                raise FolderUnusable(
                    f"the ledger in {folder} cannot be opened: {error}; "
                    "give the gateway a data folder with free space that it may write"
                ) from error
            ledger = cls(
                folder=folder,
                clock=clock,
                store=store,
                fold=fold,
                files=files or OsFiles(),
                segment_bytes=segment_bytes,
                tick_s=tick_s,
            )
            ledger.renew(epoch_info)
            ledger._owned = owned.pop_all()
        ledger._thread.start()
        if estimated:
            _log.warning("holds_estimated", extra={"holds": estimated, "folder": str(folder)})
        return ledger

    def hold(self, row: HoldRow) -> None:
        """Reserve money for an attempt; see `seam.Ledger`."""
        record = _encode(row)
        with self._lock:
            self._refuse_if_unfit()
            try:
                self._write_pending()
                self._journal.append(RecordKind.HOLD, record)
            except OSError as error:
                self._refuse(error)
                raise self._unavailable(error) from error
            self._refusal = None

    def release(self, request_id: RequestId, attempt: int) -> None:
        """End a hold whose attempt cost nothing; see `seam.Ledger`."""
        self._keep(RecordKind.RELEASE, _encode(ReleaseRow(request_id=request_id, attempt=attempt)))

    def settle(self, row: ChargeRow) -> None:
        """Book what an attempt cost; see `seam.Ledger`."""
        self._keep(RecordKind.CHARGE, _encode(row))

    def book(self, row: RequestRow) -> None:
        """Book a request; see `seam.Ledger`."""
        self._keep(RecordKind.REQUEST, _encode(row))

    def renew(self, info: EpochInfo) -> None:
        """Begin a new epoch; see `seam.Ledger`."""
        now = self._clock.now()
        with self._lock:
            self._refuse_if_unfit()
            # A number is used once: a failed attempt may have left an empty segment of that name.
            self._last_epoch += 1
            journal = Journal(
                self._folder / JOURNAL_FOLDER,
                epoch=self._last_epoch,
                files=self._files,
                segment_bytes=self._segment_bytes,
            )
            try:
                self._write_pending()
                if self._journal.position.offset:
                    self._journal.append(RecordKind.HEARTBEAT, self._heartbeat(now))
                row = EpochRow(
                    writer=self._writer,
                    epoch=self._last_epoch,
                    started_at=now,
                    last_seen_at=now,
                    policy_digest=info.policy_digest,
                    pools=info.pools,
                )
                journal.append(RecordKind.EPOCH, _encode(row))
            except OSError as error:
                journal.close()
                raise self._unavailable(error) from error
            self._journal.close()
            self._journal = journal
            self._epoch = self._last_epoch
            self._beat_at = self._clock.monotonic()
            self._refusal = None

    def flush(self, timeout_s: float) -> bool:
        """Wait (blocking) until all that was booked before is in the store; see `seam.Ledger`."""
        with self._lock:
            self._beat()
            target = self._journal.position
        self._wake.set()
        with self._folded:
            return self._folded.wait_for(lambda: self._is_folded(target), timeout_s)

    def close(self) -> None:
        """Fold what is left and let the folder go; see `seam.Ledger`."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        self._wake.set()
        self._thread.join()
        with self._lock:
            self._beat()
            self._journal.close()
            self._fold_all(live=None)
            self._is_closed = True
            self._owned.close()
            with self._folded:
                self._folded.notify_all()
            if self._pending:
                waiting = len(self._pending)
                raise LedgerUnavailable(
                    f"{waiting} records could not be written to {self._folder} ({self._refusal}); the next start books "
                    "their attempts as estimated. Free space on the disk before it",
                    pending=waiting,
                )

    def status(self) -> LedgerStatus:
        """Tell how the ledger is; see `seam.Ledger`."""
        trouble = self._trouble()
        is_unfit = self._stopping or self._damage is not None or self._refusal is not None or bool(self._pending)
        return LedgerStatus(
            is_writable=not is_unfit and self._thread.is_alive(),
            pending=len(self._pending),
            dropped=self._dropped,
            unfolded_bytes=self._fold.unfolded_bytes(),
            torn=self._fold.torn,
            duplicates=self._store.duplicates,
            error=None if trouble is None else str(trouble),
        )

    def _keep(self, kind: RecordKind, record: bytes) -> None:
        with self._lock:
            if kind is RecordKind.REQUEST and len(self._pending) >= MOST_PENDING_REQUESTS:
                self._dropped += 1
                return
            self._pending.append((kind, record))
            self._try_pending()

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
            self._refusal = None

    def _beat(self) -> None:
        """Write what is pending and a sign of life, as far as the disk lets it."""
        self._beat_at = self._clock.monotonic()
        self._try_pending()
        if not self._pending:
            try:
                self._journal.append(RecordKind.HEARTBEAT, self._heartbeat(self._clock.now()))
            except OSError as error:
                self._refuse(error)
            else:
                self._refusal = None

    def _refuse(self, error: OSError) -> None:
        if self._refusal is None:
            _log.error(
                "journal_refused",
                extra={"error": str(error), "folder": str(self._folder), "pending": len(self._pending)},
            )
        self._refusal = error

    def _heartbeat(self, now: datetime) -> bytes:
        return _encode(HeartbeatRow(epoch=self._epoch, seen_at=now))

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._tick_s)
            self._wake.clear()
            with self._lock:
                is_due = self._clock.monotonic() - self._beat_at >= HEARTBEAT_S
                if is_due or self._refusal is not None:
                    self._beat()
                live = self._journal.position.segment
            self._fold_all(live=live)
            with self._folded:
                self._folded.notify_all()

    def _fold_all(self, *, live: Segment | None) -> None:
        try:
            self._fold.drain(live=live)
        except JournalCorrupt as error:
            if self._damage is None:
                _log.error("journal_corrupt", extra={"error": str(error)})
            self._damage = error
        except (sqlite3.Error, OSError) as error:
            if self._retrying is None:
                _log.warning("fold_retried", extra={"error": str(error), "folder": str(self._folder)})
            self._retrying = error
        else:
            self._retrying = None

    def _is_folded(self, target: Position) -> bool:
        return self._fold.position >= target and not self._pending

    def _refuse_if_unfit(self) -> None:
        if self._stopping:
            raise LedgerUnavailable("the ledger is closed; the gateway is shutting down")
        if self._damage is not None:
            raise LedgerUnavailable(str(self._damage)) from self._damage

    def _unavailable(self, error: OSError) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"the ledger cannot write to {self._folder}: {error.strerror or error}; "
            "free space there or make it writable; requests are served again as soon as it works",
            pending=len(self._pending),
        )

    def _trouble(self) -> Exception | None:
        return self._damage or self._refusal or self._retrying
