"""Folding: journal segments into the store, in order, each record once, from files alone.

Rules:
- only whole lines are read; what a live writer has half written waits for the next step;
- a segment is sealed when its writer will not come back to it: a later one of the same slot has a whole line, or the
  writer is known to be dead; a sealed segment's torn end (a crash, a full disk) is counted and skipped;
- a slot's records are numbered without gaps within an epoch; a missing one is damage;
- a sealed segment that is wholly in the store is removed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.ledger.errors import JournalCorrupt
from gateway.ledger.journal import Position, RecordKind, Segment, segments
from gateway.ledger.rows import ChargeRow, EnergyRow, EpochRow, HeartbeatRow, HoldRow, ReleaseRow, RequestRow

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.ledger.store import Row, Store

CHUNK_BYTES: Final = 32 * 1024
"""One transaction folds about this much: some thirty rows, decoded in a fraction of a millisecond. The interpreter is
not let go while they are decoded, so this bounds what folding in a gateway's own process can add to its latency."""


class _Record(msgspec.Struct, frozen=True):
    n: int
    kind: RecordKind
    row: msgspec.Raw


_RECORD: Final = msgspec.json.Decoder(_Record)
_ROWS: Final[dict[RecordKind, msgspec.json.Decoder[Row]]] = {
    RecordKind.EPOCH: msgspec.json.Decoder(EpochRow),
    RecordKind.HEARTBEAT: msgspec.json.Decoder(HeartbeatRow),
    RecordKind.HOLD: msgspec.json.Decoder(HoldRow),
    RecordKind.RELEASE: msgspec.json.Decoder(ReleaseRow),
    RecordKind.CHARGE: msgspec.json.Decoder(ChargeRow),
    RecordKind.REQUEST: msgspec.json.Decoder(RequestRow),
    RecordKind.ENERGY: msgspec.json.Decoder(EnergyRow),
}


class Fold:
    """Folds one folder's journal into its store. Steps may come from any thread, one at a time."""

    def __init__(self, journal: Path, store: Store, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._journal = journal
        self._store = store
        self._chunk_bytes = chunk_bytes
        self._offsets = store.offsets()
        self._positions: dict[int, Position] = {}
        self._last: dict[int, tuple[int, int]] = {}
        self.torn = store.counter("torn")

    def position(self, slot: int = 0) -> Position:
        """Everything of the writer before this is in the store."""
        return self._positions.get(slot, Position(Segment(0, 0, slot), 0))

    def positions(self) -> dict[int, Position]:
        """Return every slot's position."""
        return dict(self._positions)

    def drain(self, *, are_alive: bool, slot: int | None = None) -> None:
        """Fold all there is.

        Args:
            are_alive: whether writers may still be appending; False: every segment is sealed.
            slot: only this writer's journal; None: all.

        Raises:
            JournalCorrupt: a record that is not a torn end cannot be read, or one is missing.
            sqlite3.Error: the store refused; what was folded before stays, call again.
            OSError: a segment cannot be read or removed; likewise.
        """
        found = [segment for segment in segments(self._journal) if slot in {None, segment.slot}]
        newest = self._newest_begun(found) if are_alive else {}
        for segment in found:
            self._fold(segment, is_sealed=not are_alive or segment < newest.get(segment.slot, segment))

    def unfolded_bytes(self) -> int:
        """Return how many bytes of the journal are not in the store."""
        total = 0
        for segment in segments(self._journal):
            try:
                size = (self._journal / segment.name).stat().st_size
            except FileNotFoundError:  # folded and removed meanwhile
                continue
            total += max(0, size - self._offsets.get(segment, 0))
        return total

    def _newest_begun(self, found: list[Segment]) -> dict[int, Segment]:
        """Return each slot's newest segment that holds a whole line: its writer has left all those before."""
        newest: dict[int, Segment] = {}
        for segment in reversed(found):
            if segment.slot in newest:
                continue
            if self._offsets.get(segment, 0):
                newest[segment.slot] = segment
                continue
            with suppress(FileNotFoundError), (self._journal / segment.name).open("rb") as file:
                if file.readline().endswith(b"\n"):
                    newest[segment.slot] = segment
        return newest

    def _fold(self, segment: Segment, *, is_sealed: bool) -> None:
        path = self._journal / segment.name
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            offset = self._offsets.get(segment, 0)
            while lines := _whole_lines(fd, offset, self._chunk_bytes):
                end = self._put(segment, lines, offset, is_sealed=is_sealed)
                if end == offset:
                    break
                offset = end
            if is_sealed and os.fstat(fd).st_size > offset:
                offset = os.fstat(fd).st_size
                self._store.skip_torn(Position(segment, offset))
                self._offsets[segment] = offset
                self.torn += 1
        finally:
            os.close(fd)
        self._positions[segment.slot] = max(self.position(segment.slot), Position(segment, offset))
        if is_sealed:
            # Synced before its source goes; then the file before its offset: the other way round a crash between
            # would fold it all again.
            self._store.sync()
            path.unlink()
            self._store.forget(segment)
            self._offsets.pop(segment, None)

    def _put(self, segment: Segment, lines: bytes, offset: int, *, is_sealed: bool) -> int:
        rows: list[tuple[int, Row]] = []
        end, last = offset, self._last.get(segment.slot) or self._store.last_record(segment.slot)
        for line in lines.splitlines(keepends=True):
            try:
                record = _RECORD.decode(line)
                if record.kind is not RecordKind.VOID:
                    rows.append((segment.epoch, _ROWS[record.kind].decode(record.row)))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                if is_sealed and end + len(line) == (self._journal / segment.name).stat().st_size:
                    break  # the last of a segment nobody writes: torn, for the caller to skip
                raise self._damage(segment, end, str(error)) from error
            expected = last[1] + 1 if last[0] == segment.epoch else 1
            is_first_ever = last == (0, 0) and (segment.seq > 1 or offset > 0)  # a store of version 1 did not count
            if segment.epoch >= last[0] and record.n > expected and not is_first_ever:
                raise self._damage(segment, end, f"record {record.n} follows, but record {expected} is missing")
            last = max(last, (segment.epoch, record.n))
            end += len(line)
        upto = Position(segment, end)
        self._store.apply(rows, upto=upto, last_n=last[1] if last[0] == segment.epoch else None)
        self._last[segment.slot] = last
        self._offsets[segment] = end
        self._positions[segment.slot] = max(self.position(segment.slot), upto)
        return end

    def _damage(self, segment: Segment, at: int, what: str) -> JournalCorrupt:
        return JournalCorrupt(
            f"{self._journal / segment.name} is damaged at byte {at}: {what}; the records before it are booked; "
            'restore the file from a backup, or put {"n":…,"kind":"void","row":{}} in the place of each lost record '
            "(numbers go on without gaps), and start again"
        )


def _whole_lines(fd: int, offset: int, size: int) -> bytes:
    """Return about `size` bytes from `offset` up to the last line break within reach; empty when there is none."""
    while True:
        chunk = os.pread(fd, size, offset)
        end = chunk.rfind(b"\n") + 1
        if end or len(chunk) < size:
            return chunk[:end]
        size *= 2
