"""A partition's vectors in memory: int8 in cells of alike ones, so that a search reads few of them.

Rules:
- A shelf is one cell until it has more than `CELL_ROWS` vectors; then the cell is split in two along the direction in
  which its vectors differ most, and so on: a vector is moved some log2(n / CELL_ROWS) times in its life, no step takes
  longer than a few milliseconds, and nothing is ever built anew.
- A search reads the cells whose centres are nearest, until it has seen `READ_ROWS` vectors. Up to that size it is
  exact; beyond it is not, and what it finds of near vectors is measured (`load_tests/README.md`).
- Cosines here are of int8 vectors (within 0.002 of the real ones): they say what to look at, not what is served.

Source of the cells: inverted lists of an inverted file (Jégou, Douze, Schmid, "Product Quantization for Nearest
Neighbor Search", IEEE TPAMI 33(1), 2011, section IV), grown by splits as in SPFresh (arXiv:2410.14452, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from semantic_cache.seam import Vector

INDEX_KIND: Final = "int8 cells"
CELL_ROWS: Final = 256
"""Most vectors of a cell."""
READ_ROWS: Final = 2_048
"""Vectors looked at in a search, at least, where there are as many."""

_FEW: Final = 32
"""Candidates put in order at first: most searches end among them."""

_TIDIED: Final = 2
"""Cells that are tidied for each that is new: each is some three times until its shelf has 100,000 vectors."""
_SPLIT_ROUNDS: Final = 4
_LEAST_SHARE: Final = 0.25
"""Of a cell, for either part of it: parts of one vector each would make a shelf of nothing but centres."""

Ids: TypeAlias = NDArray[np.int64]
Vectors: TypeAlias = NDArray[np.float32]
_Parts: TypeAlias = tuple[Ids, NDArray[np.int8], Vectors]

_SCALE_BYTES: Final = 4


def packed(vector: Vector) -> bytes:
    """Return a vector as int8 with its scale before it: a quarter of its size."""
    largest = float(np.abs(vector).max()) or 1.0
    scale = np.array([largest / 127], dtype="<f4")
    codes: NDArray[np.int8] = np.rint(vector / scale).astype(np.int8)
    return scale.tobytes() + codes.tobytes()


class Shelf:
    """The vectors of one partition; not for several threads at once.

    Attributes:
        newest: the highest id that was looked for.
        oldest: the lowest id that was looked for.
        verified: how many vectors there were when all were last known to be in the store.
    """

    __slots__ = ("_cells", "_centres", "_count", "_turn", "newest", "oldest", "verified")

    def __init__(self) -> None:
        self._cells: list[_Cell] = []
        self._centres: Vectors = np.zeros((0, 0), dtype=np.float32)
        self._count = 0
        self._turn = -1
        self.newest = 0
        self.oldest = 0
        self.verified = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """What the vectors take of memory."""
        return self._centres.nbytes + sum(cell.nbytes for cell in self._cells)

    def add(self, ids: Ids, blobs: list[bytes]) -> None:
        """Take vectors in, as `packed` made them."""
        rows = np.frombuffer(b"".join(blobs), dtype=np.int8).reshape(len(blobs), -1)
        scales = rows[:, :_SCALE_BYTES].copy().view("<f4")[:, 0].astype(np.float32)
        codes = rows[:, _SCALE_BYTES:]
        self._count += len(ids)
        if not self._cells:
            self._cells = [_Cell(ids, codes, scales)]
            self._settle()
            return
        homes = (_unpacked(codes, scales) @ self._centres.T).argmax(axis=1) if len(self._cells) > 1 else None
        for place in [0] if homes is None else np.unique(homes).tolist():
            chosen = slice(None) if homes is None else homes == place
            self._cells[place].extend(ids[chosen], codes[chosen], scales[chosen])
        self._settle()

    def keep(self, living: Ids) -> None:
        """Forget all vectors but those of the given ids."""
        living = np.sort(living)
        for cell in self._cells:
            cell.keep(_are_among(cell.ids, living))
        self._drop_empty()
        self.verified = self._count

    def forget(self, gone: Ids) -> None:
        """Forget the vectors of some ids."""
        gone = np.sort(gone)
        for cell in self._cells:
            is_gone = _are_among(cell.ids, gone)
            if is_gone.any():
                cell.keep(~is_gone)
        self._drop_empty()

    def nearest(self, vector: Vector) -> Iterator[list[int]]:
        """Yield the ids of the vectors that are looked at, nearest first: a few, and then all others.

        Nothing may be added or forgotten meanwhile.
        """
        if not self._cells:
            return
        order = [0] if len(self._cells) == 1 else np.argsort(-(self._centres @ vector)).tolist()
        parts: list[tuple[Ids, Vectors]] = []
        seen = 0
        for place in order:
            cell = self._cells[place]
            parts.append((cell.ids, cell.cosines(vector)))
            seen += len(cell)
            if seen >= READ_ROWS:
                break
        ids, distances = np.concatenate([part[0] for part in parts]), -np.concatenate([part[1] for part in parts])
        few = np.argpartition(distances, _FEW)[:_FEW] if seen > _FEW else np.arange(seen)
        few = few[np.argsort(distances[few], kind="stable")]
        yield ids[few].tolist()
        if seen > _FEW:
            distances[few] = np.inf
            yield ids[np.argsort(distances, kind="stable")[: seen - _FEW]].tolist()

    def _settle(self) -> None:
        """Split what has grown too large."""
        before, cells, too_large = len(self._cells), [], list(reversed(self._cells))
        while too_large:
            cell = too_large.pop()
            if len(cell) > CELL_ROWS:
                too_large.extend(cell.split())
            else:
                cells.append(cell)
        if len(cells) == before and self._centres.shape[0]:
            return
        self._cells = cells
        self._centres = np.stack([cell.centre for cell in cells])
        for _ in range(_TIDIED * (len(cells) - before)):
            self._tidy()

    def _tidy(self) -> None:
        """Send the vectors of one cell, each in its turn, to the cells they are nearest to by now."""
        self._turn = place = (self._turn + 1) % len(self._cells)
        cell = self._cells[place]
        ids, codes, scales = cell.parts
        homes = (_unpacked(codes, scales) @ self._centres.T).argmax(axis=1)
        leaving = homes != place
        for home in np.unique(homes[leaving]).tolist():
            if len(self._cells[home]) < CELL_ROWS:
                chosen = homes == home
                self._cells[home].extend(ids[chosen], codes[chosen], scales[chosen])
            else:
                leaving[homes == home] = False
        if not leaving.any():
            return
        cell.keep(~leaving)
        if len(cell):
            cell.centre = self._centres[place] = _middle(_unpacked(*cell.parts[1:]))
        else:
            self._drop_empty()

    def _drop_empty(self) -> None:
        self._cells = [cell for cell in self._cells if len(cell)]
        self._count = sum(map(len, self._cells))
        self._centres = np.stack([c.centre for c in self._cells]) if self._cells else np.zeros((0, 0), np.float32)


class _Cell:
    """Some alike vectors: ids int64[n], codes int8[n, d], scales float32[n]; and their centre, float32[d], unit."""

    __slots__ = ("_codes", "_count", "_ids", "_scales", "centre")

    def __init__(self, ids: Ids, codes: NDArray[np.int8], scales: Vectors, centre: Vector | None = None) -> None:
        self._ids, self._codes, self._scales = ids.copy(), codes.copy(), scales.copy()
        self._count = len(ids)
        self.centre: Vector = _middle(_unpacked(codes[:CELL_ROWS], scales[:CELL_ROWS])) if centre is None else centre

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._ids.nbytes + self._codes.nbytes + self._scales.nbytes

    @property
    def parts(self) -> _Parts:
        return self._ids[: self._count], self._codes[: self._count], self._scales[: self._count]

    @property
    def ids(self) -> Ids:
        return self._ids[: self._count]

    def cosines(self, vector: Vector) -> Vectors:
        found: Vectors = (self._codes[: self._count].astype(np.float32) @ vector) * self._scales[: self._count]
        return found

    def extend(self, ids: Ids, codes: NDArray[np.int8], scales: Vectors) -> None:
        count = self._count + len(ids)
        if count > len(self._ids):
            old = self.parts
            room = max(16, count, min(2 * self._count, CELL_ROWS + 1))
            self._ids = np.zeros(room, np.int64)
            self._codes = np.zeros((room, codes.shape[1]), np.int8)
            self._scales = np.zeros(room, np.float32)
            self._ids[: self._count], self._codes[: self._count], self._scales[: self._count] = old
        self._ids[self._count : count] = ids
        self._codes[self._count : count] = codes
        self._scales[self._count : count] = scales
        self._count = count

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        ids, codes, scales = self.parts
        self._ids, self._codes, self._scales = ids[chosen], codes[chosen], scales[chosen]
        self._count = len(self._ids)

    def split(self) -> tuple[_Cell, _Cell]:
        """Return two cells with all of its vectors, neither small: 2-means from a vector far from the centre."""
        ids, codes, scales = self.parts
        rows = _unpacked(codes, scales)
        one = rows[int(np.argmin(rows @ self.centre))]
        other = rows[int(np.argmin(rows @ one))]
        is_one = np.zeros(len(rows), dtype=bool)
        for _ in range(_SPLIT_ROUNDS):
            leaning = rows @ (one - other)
            is_one = leaning > 0
            share = float(is_one.mean())
            if not _LEAST_SHARE <= share <= 1 - _LEAST_SHARE:
                is_one = np.zeros(len(rows), dtype=bool)
                is_one[np.argsort(leaning, kind="stable")[len(rows) // 2 :]] = True
            one, other = _middle(rows[is_one]), _middle(rows[~is_one])
        return (
            _Cell(ids[is_one], codes[is_one], scales[is_one], centre=one),
            _Cell(ids[~is_one], codes[~is_one], scales[~is_one], centre=other),
        )


def _are_among(ids: Ids, known: Ids) -> NDArray[np.bool_]:
    """Return bool[n]: which ids are among the known ones, which are in order."""
    if not len(known):
        return np.zeros(len(ids), dtype=bool)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    among: NDArray[np.bool_] = known[places] == ids
    return among


def _unpacked(codes: NDArray[np.int8], scales: Vectors) -> Vectors:
    rows: Vectors = codes.astype(np.float32) * scales[:, None]
    return rows


def _middle(rows: Vectors) -> Vector:
    middle = rows.mean(axis=0)
    length = float(np.linalg.norm(middle))
    centre: Vector = (middle / length if length > 0 else middle).astype(np.float32)
    return centre
