"""The fold side: owns a folder's lock and store, and folds the journals of all its writers into it.

Rules:
- one a folder, whichever process it lives in (`store_process` has it in one of its own); it needs nothing from the
  writers but their files;
- folding happens on its own thread, every tick; what SQLite refuses is tried again at the next one;
- once a UTC day, and at the end, all chains' heads are put under a root, in the store and in the roots file.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from gateway.ledger.epochs import next_epoch
from gateway.ledger.errors import FolderUnusable, JournalCorrupt
from gateway.ledger.fold import CHUNK_BYTES, Fold
from gateway.ledger.journal import JOURNAL_FOLDER
from gateway.ledger.lock import FolderLock, lock_store, make_folder, refuse_live_worker, worker_slots
from gateway.ledger.roots import ROOTS_FILE, append_roots, last_number
from gateway.ledger.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from backends.clock import Clock
    from gateway.ledger.journal import Position

TICK_S: Final = 0.2
"""How long a row may wait before it is in the store; also how soon a full disk is tried again."""

_log = logging.getLogger("faregate")


class FoldService:
    """Folds one folder; make it with `open`, then `start` it, and close it when all writers are closed."""

    def __init__(
        self, *, folder: Path, clock: Clock, roots: Path | None, store: Store, fold: Fold, tick_s: float
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._roots = roots or folder / ROOTS_FILE
        self._store = store
        self._fold = fold
        self._tick_s = tick_s
        self._damage: JournalCorrupt | None = None
        self._retrying: sqlite3.Error | OSError | None = None
        self._last_booking = 0
        self._are_roots_written = False
        self._stopping = False
        self._is_closed = False
        self._before: Callable[[], None] = _nothing
        self._after: Callable[[], None] = _nothing
        self._wake = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._folded = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ledger-fold", daemon=True)
        self._owned = ExitStack()

    @classmethod
    def open(
        cls,
        folder: Path,
        clock: Clock,
        *,
        roots: Path | None = None,
        tick_s: float = TICK_S,
        chunk_bytes: int = CHUNK_BYTES,
        is_locked: bool = False,
        is_first: bool = True,
    ) -> FoldService:
        """Take a folder's lock, fold what former writers left, close their open holds as estimated.

        Args:
            folder: made where missing; holds the lock, the journals, the store and the roots.
            clock: for roots.
            roots: the file of daily roots; None: `roots.jsonl` in the folder.
            tick_s: how often the thread folds.
            chunk_bytes: how much of a journal one transaction folds.
            is_locked: the gateway's process holds the gateway's lock.
            is_first: False: writers are alive, and whoever folded for them has died; nothing is recovered.

        Raises:
            FolderInUse, FolderUnusable, SchemaMismatch, JournalCorrupt: the folder cannot be used; nothing changed.
        """
        if roots is not None and not roots.parent.is_dir():
            raise FolderUnusable(
                f"ledger.roots is {roots}, whose folder does not exist; make it, or correct the policy"
            )
        estimated = 0
        with ExitStack() as owned:
            try:
                make_folder(folder)
                if not is_locked:
                    owned.callback(FolderLock(folder).close)
                owned.callback(lock_store(folder).close)
                if is_first:
                    for slot in worker_slots(folder):
                        # Orphaned workers would go on writing what is folded and removed.
                        refuse_live_worker(folder, slot)
                store = Store(folder)
                owned.callback(store.close)
                fold = Fold(folder / JOURNAL_FOLDER, store, chunk_bytes=chunk_bytes)
                if is_first:
                    fold.drain(are_alive=False)
                    life = next_epoch(folder / JOURNAL_FOLDER, above=store.last_epoch())
                    estimated = store.recover(life=life)
            except (OSError, sqlite3.Error) as error:
                raise FolderUnusable(
                    f"the ledger in {folder} cannot be opened: {error}; "
                    "give the gateway a data folder with free space that it may write"
                ) from error
            service = cls(folder=folder, clock=clock, roots=roots, store=store, fold=fold, tick_s=tick_s)
            service._owned = owned.pop_all()
        if estimated:
            _log.warning("holds_estimated", extra={"holds": estimated, "folder": str(folder)})
        return service

    @property
    def last_epoch(self) -> int:
        """The highest epoch that is folded."""
        return self._store.last_epoch()

    @property
    def is_alive(self) -> bool:
        """Whether journals are being folded."""
        return self._thread.is_alive()

    @property
    def damage(self) -> JournalCorrupt | None:
        """Why nothing more can be folded; None when all is well."""
        return self._damage

    @property
    def trouble(self) -> Exception | None:
        """What is wrong, or being tried again."""
        return self._damage or self._retrying

    @property
    def torn(self) -> int:
        """Records cut off by crashes, seen since the folder was made."""
        return self._fold.torn

    @property
    def duplicates(self) -> int:
        """Rows booked before and therefore ignored, since the folder was opened."""
        return self._store.duplicates

    @property
    def last_booking(self) -> int:
        """The number of the last row of `books`, as it was at the last tick; people book beside the gateway."""
        return self._last_booking

    def writer_id(self, slot: int) -> str:
        """Return the persistent id of the writer of a slot."""
        return self._store.writer_id(slot)

    def epochs_of(self, slot: int, *, above: int) -> list[int]:
        """Return the folded epochs above one that a slot's writer began; complete once it is buried."""
        with self._one_at_a_time:
            return self._store.epochs_of(slot, above=above)

    def unfolded_bytes(self) -> int:
        """Return how many bytes of the journals are not in the store."""
        return self._fold.unfolded_bytes()

    def start(self, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None) -> None:
        """Begin to fold every tick.

        Args:
            before: called on the thread before each tick's fold, such as a writer's `beat_if_due`.
            after: called on it when that is done.
        """
        self._before = before or _nothing
        self._after = after or _nothing
        self._thread.start()

    def positions(self) -> Mapping[int, Position]:
        """Return how far each slot's journal is in the store, for the slots that have had one."""
        return self._fold.positions()

    def wake(self) -> None:
        """Fold now and not at the next tick; does not wait for it."""
        self._wake.set()

    def wait(self, target: Position, timeout_s: float) -> bool:
        """Wait (blocking) until a journal is folded up to a place; False when time ran out."""
        slot = target.segment.slot
        self._wake.set()
        with self._folded:
            return self._folded.wait_for(lambda: self._fold.position(slot) >= target, timeout_s)

    def bury(self, slot: int) -> int:
        """Fold what a worker that died has left, and close its open holds as estimated; return how many.

        The worker's process is gone. A new worker may take the slot afterwards.

        Raises:
            FolderInUse: it is not gone.
            JournalCorrupt, sqlite3.Error, OSError: not all could be folded; call again.
        """
        with self._one_at_a_time:
            refuse_live_worker(self._folder, slot)
            self._fold.drain(are_alive=False, slot=slot)
            return self._store.recover(slot=slot)

    def stop(self) -> None:
        """End the thread; what is left is folded by `close`."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Fold what the closed writers left, put the heads under a root, and let the folder go; twice is once."""
        if self._is_closed:
            return
        self._is_closed = True
        self.stop()
        self._fold_all(are_alive=False)
        if self.trouble is None:
            self._root(is_last=True)
        self._owned.close()
        with self._folded:
            self._folded.notify_all()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._tick_s)
            self._wake.clear()
            self._before()
            self._fold_all(are_alive=True)
            if self.trouble is None:
                self._root(is_last=False)
            self._after()
            with self._folded:
                self._folded.notify_all()

    def _fold_all(self, *, are_alive: bool) -> None:
        try:
            with self._one_at_a_time:
                self._fold.drain(are_alive=are_alive)
                self._last_booking = self._store.last_booking()
        except JournalCorrupt as error:
            if self._damage is None:
                _log.error("journal_corrupt", extra={"error": str(error)})
            self._damage = error
        except (sqlite3.Error, OSError) as error:
            self._retry(error, "fold_retried")
        else:
            self._retrying = None

    def _root(self, *, is_last: bool) -> None:
        """Make a root when a day has begun or all ends, and write to the file what it lacks."""
        now = self._clock.now()
        try:
            with self._one_at_a_time:
                last = self._store.roots(after=-1)
                # A clock that went back makes no root for a day that has one.
                if is_last or (not last or last[-1].day < now.date().isoformat()):
                    self._store.root(now)
                if self._store.roots(after=-1) != last or not self._are_roots_written:
                    append_roots(self._roots, self._store.roots(after=last_number(self._roots)))
                    self._are_roots_written = True
        except (sqlite3.Error, OSError) as error:
            self._are_roots_written = False
            self._retry(error, "root_retried")

    def _retry(self, error: sqlite3.Error | OSError, event: str) -> None:
        if self._retrying is None:
            _log.warning(event, extra={"error": str(error), "folder": str(self._folder)})
        self._retrying = error


def _nothing() -> None:
    """Do nothing before and after a tick."""
