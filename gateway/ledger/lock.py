"""One gateway a folder, one process that folds it, and one worker a slot: advisory locks held for as long as they live.

The lock is the kernel's (`flock`), so a killed owner frees it; the process id inside the file is for the message only.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

from gateway.ledger.errors import FolderInUse, FolderUnusable
from gateway.ledger.journal import JOURNAL_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

STORE_LOCK: Final = "store.lock"
"""Held by whoever folds: where that is a process of its own, it outlives a gateway that is killed by a moment."""
_LAST_MOMENT_S: Final = 10.0
_LOOK_S: Final = 0.01


def make_folder(folder: Path) -> None:
    """Make a ledger's folder and its journal's where they are missing; both are their owner's alone.

    Raises:
        OSError: they cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # each by itself: the mode is not the parents'
    (folder / JOURNAL_FOLDER).mkdir(exist_ok=True, mode=0o700)


def slot_folder(folder: Path, slot: int) -> Path:
    """Return the place of a worker's lock in a ledger's folder, and make it where it is missing.

    Raises:
        FolderUnusable: it cannot be made.
    """
    place = folder / "journal" / str(slot)
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise FolderUnusable(f"cannot make {place}: {error.strerror}; make the data folder writable") from error
    return place


def refuse_live_worker(folder: Path, slot: int) -> None:
    """Make sure that no worker is alive that writes a slot's journal.

    Raises:
        FolderInUse: one is.
    """
    try:
        FolderLock(slot_folder(folder, slot)).close()
    except FolderInUse as error:
        raise FolderInUse(
            f"worker {slot} of {folder} is alive (process {error.pid or 'unknown'}) and writes its journal; "
            "end it first",
            pid=error.pid,
        ) from error


def worker_slots(folder: Path) -> list[int]:
    """Return the slots of all workers that a ledger's folder has had."""
    return sorted(
        int(entry.name) for entry in (folder / "journal").iterdir() if entry.name.isdigit() and entry.is_dir()
    )


def lock_store(folder: Path) -> FolderLock:
    """Take the lock of whoever folds a folder; wait (blocking) for one whose gateway is gone, and who is just ending.

    Raises:
        FolderInUse: it does not end.
        FolderUnusable: the lock file cannot be opened.
    """
    until = time.monotonic() + _LAST_MOMENT_S
    while True:
        try:
            return FolderLock(folder, STORE_LOCK)
        except FolderInUse as error:
            if time.monotonic() > until:
                raise FolderInUse(
                    f"process {error.pid or 'unknown'} still folds {folder} for a gateway that is gone; end it",
                    pid=error.pid,
                ) from error
        time.sleep(_LOOK_S)


class FolderLock:
    """The lock on a ledger's folder, or on a worker's slot; whoever made it closes it."""

    def __init__(self, folder: Path, name: str = "lock") -> None:
        """Take the lock.

        Raises:
            FolderInUse: another process (or another ledger of this one) holds it.
            FolderUnusable: the lock file cannot be opened.
        """
        path = folder / name
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FolderUnusable(
                f"cannot open {path}: {error.strerror}; give the gateway a data folder that it may write"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _owner(self._fd)
            os.close(self._fd)
            raise FolderInUse(
                f"the data folder {folder} is in use by another gateway (process {pid or 'unknown'}); "
                "stop that one, or give this one a data folder of its own",
                pid=pid,
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the lock back; the file stays, for removing it would race with the next owner."""
        os.close(self._fd)


def _owner(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None
