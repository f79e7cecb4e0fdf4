r"""The journal: append-only JSON lines in segments `<epoch>-<seq>.jsonl`; what belongs together is one `write(2)`.

Slot 0 (a gateway that is one process, or its first worker) writes into the journal's folder itself, slot N into `N/`.

Rules:
- a line is `{"n": …, "kind": …, "row": …}\n`; `n` counts from 1 without gaps within an epoch;
- a failed or short write is cut off again; where even that fails the segment is abandoned with its torn end and the
  next record opens a new one, so that a torn line is always the last of its segment (whole lines before it that were of
  the same write are written again with the same numbers: booking twice is booking once);
- nothing is synced here: what a killed process has written survives it (`durability: process`); for `power` the
  writer calls `sync` before the upstream is called.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

JOURNAL_FOLDER: Final = "journal"
"""The segments' place in the ledger's folder."""
SEGMENT_BYTES: Final = 16 * 2**20
"""A new segment after this many bytes: small enough that a folded one is soon removed."""


class RecordKind(StrEnum):
    """What a journal line holds; the row's type follows from it."""

    EPOCH = "epoch"
    HEARTBEAT = "heartbeat"
    HOLD = "hold"
    RELEASE = "release"
    CHARGE = "charge"
    REQUEST = "request"
    ENERGY = "energy"
    VOID = "void"
    """In the place of a record that was damaged beyond reading: an operator's word that it is lost."""


Record: TypeAlias = tuple[RecordKind, bytes]
"""What a row is, and its JSON without a line break."""

_KINDS: Final = {kind: b',"kind":"%b","row":' % kind.value.encode() for kind in RecordKind}


class Files(Protocol):
    """The system calls of the journal, so that a test can fill the disk."""

    def open(self, path: Path) -> int:
        """Create a file that must not exist, for appending; return its descriptor."""
        ...

    def write(self, fd: int, line: bytes) -> int:
        """Append; return how many bytes went out."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        ...

    def sync(self, fd: int) -> None:
        """Wait until all that was written is on the disk itself."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names of the folder's files are on the disk itself."""
        ...

    def duplicate(self, fd: int) -> int:
        """Return a second descriptor of the same file."""
        ...

    def close(self, fd: int) -> None:
        """Close the descriptor."""
        ...


class OsFiles:
    """The real system calls."""

    def open(self, path: Path) -> int:
        """Create a file that must not exist, for appending; return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, line: bytes) -> int:
        """Append; return how many bytes went out."""
        return os.write(fd, line)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Wait until all that was written is on the disk itself."""
        os.fdatasync(fd)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names of the folder's files are on the disk itself."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def duplicate(self, fd: int) -> int:
        """Return a second descriptor of the same file."""
        return os.dup(fd)

    def close(self, fd: int) -> None:
        """Close the descriptor."""
        os.close(fd)


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of the journal, in the order in which they were written; an epoch is one slot's alone."""

    epoch: int
    seq: int
    slot: int = 0

    @property
    def name(self) -> str:
        """The file's name, with its slot's folder."""
        name = f"{self.epoch:08d}-{self.seq:08d}.jsonl"
        return f"{self.slot}/{name}" if self.slot else name

    @classmethod
    def parse(cls, name: str, *, slot: int = 0) -> Segment | None:
        """Read a file's name (without a folder); None when it is not a segment's."""
        stem, dot, suffix = name.partition(".")
        epoch, dash, seq = stem.partition("-")
        if (dot + suffix, dash) != (".jsonl", "-") or not (epoch.isdigit() and seq.isdigit()):
            return None
        return cls(int(epoch), int(seq), slot)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the journal: a segment and how many of its bytes lie before."""

    segment: Segment
    offset: int


def segments(folder: Path) -> list[Segment]:
    """Return the segments of all slots, oldest first; none where there is no folder."""
    if not folder.is_dir():
        return []
    found: list[Segment | None] = []
    for entry in os.scandir(folder):
        if entry.name.isdigit() and entry.is_dir():
            found += (Segment.parse(inner.name, slot=int(entry.name)) for inner in os.scandir(entry))
        else:
            found.append(Segment.parse(entry.name))
    return sorted(segment for segment in found if segment is not None)


class Journal:
    """One epoch's writer. Not thread-safe: the owner holds a lock around `append`; the owner closes it."""

    def __init__(
        self,
        folder: Path,
        *,
        epoch: int,
        files: Files,
        segment_bytes: int = SEGMENT_BYTES,
        slot: int = 0,
        is_synced: bool = False,
    ) -> None:
        self._folder = folder
        self._files = files
        self._segment_bytes = segment_bytes
        self._is_synced = is_synced
        self._segment = Segment(epoch, 0, slot)
        self._fd: int | None = None
        self._end = 0
        self._next_n = 1

    @property
    def position(self) -> Position:
        """Where the last good record ends."""
        return Position(self._segment, self._end)

    def append(self, kind: RecordKind, row: bytes) -> None:
        """Append one record: a row's JSON, without a line break.

        Raises:
            OSError: the record is not in the journal; what of it was written has been cut off or abandoned.
        """
        # Half the time of one `%`.
        self._write(b"".join((b'{"n":%d' % self._next_n, _KINDS[kind], row, b"}\n")), 1)

    def append_all(self, records: Sequence[Record]) -> None:
        """Append records with one write, all or none.

        Raises:
            OSError: as by `append`.
        """
        parts: list[bytes] = []
        for number, (kind, row) in enumerate(records, self._next_n):
            parts += (b'{"n":%d' % number, _KINDS[kind], row, b"}\n")
        self._write(b"".join(parts), len(records))

    def _write(self, lines: bytes, count: int) -> None:
        fd = self._fd
        if fd is None or self._end >= self._segment_bytes:
            fd = self._open_next()
        try:
            written = self._files.write(fd, lines)
        except OSError:
            self._cut(fd)
            raise
        if written != len(lines):
            self._cut(fd)
            raise OSError(errno.ENOSPC, f"only {written} of {len(lines)} bytes could be written")
        self._end += written
        self._next_n += count

    def syncing(self) -> int | None:
        """Return a descriptor whose `sync` puts every record so far on the disk; the caller's to close; None: nothing.

        What lies in earlier segments was synced when they were left.

        Raises:
            OSError: there is no descriptor left.
        """
        return None if self._fd is None else self._files.duplicate(self._fd)

    def close(self) -> None:
        """Close the segment; a later `append` would open a new one."""
        if self._fd is not None:
            self._files.close(self._fd)
            self._fd = None

    def _open_next(self) -> int:
        following = Segment(self._segment.epoch, self._segment.seq + 1, self._segment.slot)
        if self._is_synced and self._fd is not None:
            self._files.sync(self._fd)
        path = self._folder / following.name
        fd = self._files.open(path)
        if self._is_synced:
            self._files.sync_folder(path.parent)
        self.close()
        self._fd, self._segment, self._end = fd, following, 0
        return fd

    def _cut(self, fd: int) -> None:
        try:
            self._files.truncate(fd, self._end)
        except OSError:
            with suppress(OSError):
                self._files.close(fd)
            self._fd = None
