"""The ledger of one process: a `Writer` in front, a `FoldService` behind, beside it or in another process.

- `JournaledLedger`: both, for a gateway without workers; the service is a thread of this process, or a `StoreProcess`;
- `WorkerLedger`: the writer alone, for one of several workers of a folder whose `FoldService` runs elsewhere.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.ledger.errors import LedgerError, LedgerUnavailable
from gateway.ledger.journal import SEGMENT_BYTES, Files, OsFiles
from gateway.ledger.lock import FolderLock, slot_folder
from gateway.ledger.seam import LedgerStatus, Terms
from gateway.ledger.service import TICK_S, FoldService
from gateway.ledger.writer import MOST_PENDING_REQUESTS, Writer

if TYPE_CHECKING:
    from backends.clock import Clock
    from gateway.ledger.seam import EpochInfo
    from gateway.ledger.store_process import StoreProcess

__all__ = ["MOST_PENDING_REQUESTS", "JournaledLedger", "WorkerLedger"]

_CLOSED = "the ledger is closed; the gateway is shutting down"


class JournaledLedger:
    """Implements `seam.Ledger` on a folder of its own; make it with `open`, and close it."""

    def __init__(self, *, service: FoldService | StoreProcess, writer: Writer) -> None:
        self._service = service
        self._writer = writer
        self._closing = threading.Lock()
        self._is_closed = False
        # On the hot path: no call in between.
        self.hold = writer.hold
        self.release = writer.release
        self.settle = writer.settle
        self.book = writer.book
        self.meter = writer.meter
        self.renew = writer.renew
        self.secured = writer.secured

    @property
    def last_booking(self) -> int:
        """The number of the last row of `books`, as far as is known; people book beside the gateway."""
        return self._service.last_booking

    @classmethod
    def open(
        cls,
        folder: Path,
        clock: Clock,
        epoch_info: EpochInfo,
        *,
        terms: Terms | None = None,
        files: Files | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        tick_s: float = TICK_S,
        store: StoreProcess | None = None,
    ) -> JournaledLedger:
        """Open a folder: take its lock, fold what a former gateway left, close its open holds, begin an epoch.

        Args:
            folder: made where missing; holds the lock, the journal and the store.
            clock: for heartbeats.
            epoch_info: the policy and pools this life stands under.
            terms: durability and the like.
            files: the journal's system calls.
            segment_bytes: a new journal segment after this many.
            tick_s: how often it is folded.
            store: the process that folds, hatched; the ledger closes it. None: a thread of this one does.

        Raises:
            FolderInUse, FolderUnusable, SchemaMismatch, JournalCorrupt: the folder cannot be used; nothing changed.
            LedgerUnavailable: the journal cannot be written.
        """
        terms = terms or Terms()
        service: FoldService | StoreProcess
        if store is None:
            service = FoldService.open(folder, clock, roots=terms.roots, tick_s=tick_s)
        else:
            store.open(folder, roots=terms.roots, tick_s=tick_s)
            service = store
        writer = Writer(
            folder=folder,
            clock=clock,
            writer_id=service.writer_id(0),
            slot=0,
            terms=terms,
            files=files or OsFiles(),
            segment_bytes=segment_bytes,
            above=service.last_epoch,
        )
        try:
            writer.renew(epoch_info)
        except LedgerUnavailable:
            service.close()
            raise
        ledger = cls(service=service, writer=writer)
        service.start(ledger._before_fold)
        return ledger

    def flush(self, timeout_s: float) -> bool:
        """Wait (blocking) until all that was booked before is in the store; see `seam.Ledger`."""
        target = self._writer.beat()
        return self._service.wait(target, timeout_s) and not self._writer.pending

    def close(self) -> None:
        """Fold what is left and let the folder go; see `seam.Ledger`."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        self._writer.stop(LedgerUnavailable(_CLOSED))
        self._service.stop()
        try:
            self._writer.close()
        finally:
            self._service.close()

    def status(self) -> LedgerStatus:
        """Tell how the ledger is; see `seam.Ledger`."""
        trouble = self._service.damage or self._writer.refusal or self._service.trouble
        return LedgerStatus(
            is_writable=self._writer.is_writable and self._service.is_alive,
            pending=self._writer.pending,
            dropped=self._writer.dropped,
            unfolded_bytes=self._service.unfolded_bytes(),
            torn=self._service.torn,
            duplicates=self._service.duplicates,
            error=None if trouble is None else str(trouble),
        )

    def _before_fold(self) -> None:
        self._writer.beat_if_due()
        if self._service.damage is not None and not self._is_closed:
            self._writer.stop(self._service.damage)


class WorkerLedger:
    """Implements `seam.Ledger` for one of several workers: appends only, folded by the folder's `FoldService`.

    Make it with `open` in the worker's process, and close it there before the service is closed.
    """

    def __init__(self, *, writer: Writer, lock: FolderLock, tick_s: float) -> None:
        self._writer = writer
        self._lock = lock
        self._tick_s = tick_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-beat", daemon=True)
        self.hold = writer.hold
        self.release = writer.release
        self.settle = writer.settle
        self.book = writer.book
        self.meter = writer.meter
        self.renew = writer.renew
        self.secured = writer.secured

    @classmethod
    def open(
        cls,
        folder: Path,
        clock: Clock,
        epoch_info: EpochInfo,
        *,
        slot: int,
        writer_id: str,
        terms: Terms | None = None,
        files: Files | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        tick_s: float = TICK_S,
    ) -> WorkerLedger:
        """Begin an epoch of a worker.

        Args:
            folder: one that a `FoldService` has opened and keeps open.
            clock: for heartbeats.
            epoch_info: the policy and pools this life stands under.
            slot: the worker's number; no other live worker of the folder has it.
            writer_id: `FoldService.writer_id(slot)`.
            terms: durability and the like.
            files: the journal's system calls.
            segment_bytes: a new journal segment after this many.
            tick_s: how often heartbeats and refused records are looked after.

        Raises:
            FolderInUse: a live worker has the slot.
            FolderUnusable, LedgerUnavailable: the journal cannot be written.
        """
        lock = FolderLock(slot_folder(folder, slot))
        writer = Writer(
            folder=folder,
            clock=clock,
            writer_id=writer_id,
            slot=slot,
            terms=terms or Terms(),
            files=files or OsFiles(),
            segment_bytes=segment_bytes,
        )
        try:
            writer.renew(epoch_info)
        except LedgerUnavailable:
            lock.close()
            raise
        ledger = cls(writer=writer, lock=lock, tick_s=tick_s)
        ledger._thread.start()
        return ledger

    def stop(self, reason: LedgerError) -> None:
        """Hold nothing more, since the store of all workers is damaged; what is in flight is still booked."""
        self._writer.stop(reason)

    def flush(self, timeout_s: float) -> bool:  # noqa: ARG002 - the seam's
        """Write what is pending; True when the journal has all (the store has it a tick later)."""
        self._writer.beat()
        return not self._writer.pending

    def close(self) -> None:
        """Write what is pending and let the journal go; see `seam.Ledger`."""
        if self._stopping.is_set():
            return
        self._writer.stop(LedgerUnavailable(_CLOSED))
        self._stopping.set()
        self._thread.join()
        try:
            self._writer.close()
        finally:
            self._lock.close()

    def status(self) -> LedgerStatus:
        """Tell how this worker's side is; what concerns the store is the service's to tell (0 here)."""
        refusal = self._writer.refusal
        return LedgerStatus(
            is_writable=self._writer.is_writable and not self._stopping.is_set(),
            pending=self._writer.pending,
            dropped=self._writer.dropped,
            unfolded_bytes=0,
            torn=0,
            duplicates=0,
            error=None if refusal is None else str(refusal),
        )

    def _run(self) -> None:
        while not self._stopping.wait(self._tick_s):
            self._writer.beat_if_due()
