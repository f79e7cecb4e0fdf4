"""Walking the chain through an archive's files: are they what the tombstone says was booked."""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import TYPE_CHECKING

from gateway.ledger.archive import COLUMNS, read_archive, sha256_of
from gateway.ledger.chain import link
from gateway.ledger.errors import ArchiveUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from gateway.ledger.archived import Range, Tombstone

_NAMES = {what: [name.strip() for name in columns.split(",")] for what, columns in COLUMNS.items()}
_COST, _STARTED = (_NAMES["charges"].index(name) for name in ("cost_nusd", "started_at_us"))


class ArchiveWalk:
    """One archive's verification; `problems` are (where, what) when it has run.

    Args:
        folder: where the files lie.
        tombstone: of the archive.
        wanted: entries that roots name, by writer and number: hash (hex) and the root's number.
    """

    def __init__(self, folder: Path, tombstone: Tombstone, wanted: Mapping[tuple[int, int], tuple[str, int]]) -> None:
        self.problems: list[tuple[str, str]] = []
        self._folder = folder
        self._tombstone = tombstone
        self._wanted = wanted
        self._cost = 0
        self._months: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def run(self) -> int:
        """Verify digests, chain, rows and sums; return how many entries were walked."""
        for file in self._tombstone.files.values():
            path = self._folder / file.name
            if not path.is_file():
                self.problems.append((file.name, f"it is not in {self._folder}; give the folder of the archives"))
            elif sha256_of(path) != file.sha256:
                self.problems.append((file.name, "its digest is not the tombstone's: the file was changed"))
        if self.problems:
            return 0
        try:
            return self._walk()
        except ArchiveUnusable as error:
            self.problems.append((f"before {self._tombstone.before}", str(error)))
            return 0

    def _walk(self) -> int:
        rows = heapq.merge(*(self._rows(what) for what in self._tombstone.files), key=lambda row: row[:2])
        counts = dict.fromkeys(self._tombstone.files, 0)
        walked = 0
        for gone in sorted(each for each in self._tombstone.ranges if each[0] == "chain"):
            walked += self._walk_range(gone, rows, counts)
        if next(rows, None) is not None:
            self.problems.append((f"before {self._tombstone.before}", "its files hold rows that no range names"))
        for what, file in self._tombstone.files.items():
            if counts[what] != file.rows:
                self.problems.append((file.name, f"it holds {counts[what]} rows, the tombstone says {file.rows}"))
        months = [(period, *sums) for period, sums in sorted(self._months.items())]
        if months != [tuple(month) for month in self._tombstone.months] or self._cost != self._tombstone.cost_nusd:
            self.problems.append((f"before {self._tombstone.before}", "its charges are not the sums of its tombstone"))
        return walked

    def _walk_range(
        self, gone: Range, rows: Iterator[tuple[int, int, str, tuple[object, ...]]], counts: dict[str, int]
    ) -> int:
        _, slot, first, last, former, end = gone
        hash_ = bytes.fromhex(former)
        for seq in range(first, last + 1):
            row = next(rows, None)
            if row is None or row[:2] != (slot, seq):
                self.problems.append((f"chain entry {seq} of writer {slot}", "the archive's files lack it"))
                return seq - first
            _, _, what, values = row
            hash_ = link(hash_, what, values)
            counts[what] += 1
            if what == "charges":
                self._add(values)
            named = self._wanted.get((slot, seq))
            if named is not None and named[0] != hash_.hex():
                self.problems.append((f"chain entry {seq} of writer {slot}", f"root {named[1]} has another hash"))
        if hash_.hex() != end:
            name = f"chain entries {first} to {last} of writer {slot}"
            self.problems.append((name, "the archive's rows are not what they were made of"))
        return last - first + 1

    def _add(self, values: tuple[object, ...]) -> None:
        from datetime import UTC, datetime

        cost, started_us = values[_COST], values[_STARTED]
        if not isinstance(started_us, int):
            return
        month = self._months[datetime.fromtimestamp(started_us // 10**6, UTC).strftime("%Y-%m")]
        known = cost if isinstance(cost, int) else None
        month[0] += 1
        month[1] += known or 0
        month[2] += known is None
        self._cost += known or 0

    def _rows(self, what: str) -> Iterator[tuple[int, int, str, tuple[object, ...]]]:
        for slot, seq, values in read_archive(self._folder / self._tombstone.files[what].name, what):
            yield slot, seq, what, values
