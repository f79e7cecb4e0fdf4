"""Whether a ledger is what was booked: its chains, its sums, its prices, its seals.

Rules:
- one pass over the chain in the order of booking, in pages, so that memory does not grow with the ledger;
- everything is read in one snapshot; a gateway may be writing meanwhile;
- what was archived is bridged by its tombstone's hashes, or walked through where its files are at hand;
- a broken entry is named once: what follows is verified against the hash that is stored;
- a request's cost is the sum of the charges booked before it: what is booked later (an audit) is not in it.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from backends.prices import PriceError, Rates
from backends.words import Usage
from gateway.ledger.archive_walk import ArchiveWalk
from gateway.ledger.archived import Range, Tombstone, sums_digest, tombstones
from gateway.ledger.chain import GENESIS, Head, Root, link
from gateway.ledger.errors import LedgerMissing
from gateway.ledger.rollups import mismatches
from gateway.ledger.roots import ROOTS_FILE, read_roots
from gateway.ledger.store import BOOKS_COLUMNS, CHARGE_COLUMNS, FILE_NAME, REQUEST_COLUMNS, check_schema, month_end
from gateway.ledger.store import microseconds as _us

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOST_PROBLEMS: Final = 100
"""After so many the rest is only counted."""
_PAGE: Final = 1_000
_COLUMNS: Final = {"requests": REQUEST_COLUMNS, "charges": CHARGE_COLUMNS, "books": BOOKS_COLUMNS}
_CLASSES: Final = tuple(
    field.name
    for field in msgspec.structs.fields(Usage)
    if field.name in CHARGE_COLUMNS.replace(",", "").split()
    and (field.name.endswith("_tokens") or field.name == "web_searches")
)

_UNEQUAL: Final = """
SELECT requests.id, request_id, cost_nusd, unknown_charges,
       COALESCE((SELECT SUM(cost_nusd) FROM charges WHERE charges.request_id = requests.request_id), 0) AS total,
       (SELECT COUNT(*) - COUNT(cost_nusd) FROM charges WHERE charges.request_id = requests.request_id) AS unknown
FROM requests WHERE total <> cost_nusd OR unknown <> unknown_charges
"""
_BEFORE: Final = """
SELECT COALESCE(SUM(charges.cost_nusd), 0), COUNT(*) - COUNT(charges.cost_nusd) FROM charges
JOIN chain ON chain.what = 'charges' AND chain.row_id = charges.id
WHERE charges.request_id = :request_id
  AND chain.entry < (SELECT entry FROM chain WHERE what = 'requests' AND row_id = :id)
"""
_ORPHANS: Final = """
SELECT request_id, attempt FROM charges WHERE id <= COALESCE((SELECT value FROM counters WHERE name = 'swept'), 0)
  AND NOT EXISTS (SELECT 1 FROM requests WHERE requests.request_id = charges.request_id)
"""
_STALE: Final = """
SELECT request_id, attempt, epoch FROM open_holds
WHERE epoch < COALESCE((SELECT value FROM counters WHERE name = 'life'), 0)
"""
_SUM: Final = """
SELECT COUNT(*), COALESCE(SUM(cost_nusd), 0), COUNT(*) - COUNT(cost_nusd) FROM charges
WHERE started_at_us >= :since AND started_at_us < :until
  AND (request_id, attempt) NOT IN (SELECT request_id, attempt FROM books WHERE kind = 'late')
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it was booked; `row` names it, such as "charges req-1/0"."""

    check: str
    row: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verification found.

    Attributes:
        entries: chain entries that were verified.
        roots: roots that were compared.
        found: how many problems there are; `problems` holds the first `MOST_PROBLEMS`.
    """

    entries: int
    requests: int
    charges: int
    roots: int
    found: int
    problems: tuple[Problem, ...]


def verify(folder: Path, *, roots_file: Path | None = None, archives: Path | None = None) -> Verdict:
    """Verify every invariant of a folder's ledger.

    Args:
        folder: with the store.
        roots_file: the roots outside the store; None: `roots.jsonl` in the folder.
        archives: where the archives' files lie, to be walked through too; None: their tombstones are believed.

    Raises:
        LedgerMissing: there is no ledger, or it cannot be read at all.
        SchemaMismatch: another version wrote it.
        RootsUnreadable: the roots file cannot be read.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise LedgerMissing(f"there is no ledger in {folder}; give the data folder of a gateway (with {FILE_NAME})")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            check_schema(db, path)
            db.execute("BEGIN")
            return _Verification(db).run(roots_file or folder / ROOTS_FILE, archives)
    except sqlite3.Error as error:
        raise LedgerMissing(f"{path} cannot be read: {error}; the file is damaged, restore it from a backup") from error


class _Verification:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._found = 0
        self._problems: list[Problem] = []
        self._heads: dict[int, Head] = {}
        self._rates: dict[str, Rates] = {}
        self._tombstones: dict[int, Tombstone] = {}
        self._gone: dict[tuple[int, int], Range] = {}  # by writer and first entry
        self._wanted: dict[tuple[int, int], tuple[str, int]] = {}  # of entries that roots name: hash, root

    def run(self, roots_file: Path, archives: Path | None) -> Verdict:
        stored = [msgspec.json.decode(line, type=Root) for (line,) in self._db.execute("SELECT line FROM roots")]
        self._tombstones = tombstones(self._db)
        entries = self._chains(stored)
        entries += self._archives(archives)
        for check in (self._integrity, self._requests, self._holds, self._periods, self._rollups):
            check()
        # Read last: a root reaches the file a moment after the store.
        roots = self._roots(stored, read_roots(roots_file), roots_file)
        requests, charges = (
            self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608 - the names stand here
            for table in ("requests", "charges")
        )
        return Verdict(
            entries=entries,
            requests=requests,
            charges=charges,
            roots=roots,
            found=self._found,
            problems=tuple(self._problems),
        )

    def _rollups(self) -> None:
        for message in mismatches(self._db):
            table, _, what = message.partition(": ")
            self._tell("rollups", table, f"{what}; they are derived: the rows are what was booked")

    def _tell(self, check: str, row: str, message: str) -> None:
        self._found += 1
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(Problem(check=check, row=row, message=message))

    # --- the chains

    def _chains(self, roots: Sequence[Root]) -> int:
        wanted = {(int(slot), seq): (hash_, root.n) for root in roots for slot, (seq, hash_) in root.heads.items()}
        for tombstone in self._tombstones.values():
            self._gone.update(((gone[1], gone[2]), gone) for gone in tombstone.ranges if gone[0] == "chain")
        seen = {table: bytearray() for table in _COLUMNS}
        entries = 0
        for slot, seq, what, row_id, stored, values in self._entries():
            entries += 1
            name = f"chain entry {seq} of writer {slot}"
            former = self._past_archives(slot)
            if seq != former.seq + 1:
                told = (
                    f"entry {former.seq + 1} is missing" if seq > former.seq else f"it comes after entry {former.seq}"
                )
                self._tell("gapless", name, f"{told}: a row was deleted, doubled or put elsewhere")
            self._heads[slot] = Head(seq, stored)
            if not _mark(seen[what], row_id):
                self._tell("chain", f"{what} id {row_id}", f"{name} names a row that has an entry already")
            if values is None:
                self._tell("chain", f"{what} id {row_id}", f"the row of {name} was deleted")
                continue
            row = _name(what, values)
            if former.seq + 1 == seq and link(former.hash, what, values) != stored:
                self._tell("chain", row, f"its content or place is not what {name} was made of: it was changed")
            if what == "charges":
                self._price(row, values)
            head = wanted.pop((slot, seq), None)
            if head is not None and head[0] != stored.hex():
                self._tell("roots", row, f"root {head[1]} has another hash for {name}: the chain was written anew")
        self._compare_roots(wanted)
        self._unchained(seen)
        self._compare_heads()
        return entries

    def _compare_roots(self, left: dict[tuple[int, int], tuple[str, int]]) -> None:
        """Say which entries that roots name are gone; archived ones are remembered for their files."""
        for slot in {slot for slot, _ in self._gone}:
            self._heads[slot] = self._past_archives(slot)
        for (slot, seq), (hash_, n) in left.items():
            if self._is_archived(slot, seq):
                self._wanted[slot, seq] = (hash_, n)
            elif seq or hash_ != GENESIS.hex():
                self._tell("roots", f"writer {slot}", f"root {n} names entry {seq}, which is gone: rows were deleted")

    def _past_archives(self, slot: int) -> Head:
        """Return a writer's last entry, behind whatever a tombstone says stood there."""
        head = self._heads.get(slot, Head())
        while gone := self._gone.get((slot, head.seq + 1)):
            _, _, first, last, former, hash_ = gone
            if former != head.hash.hex():
                name = f"chain entry {first} of writer {slot}"
                self._tell("chain", name, "its tombstone names another entry before it: what stood there was changed")
            head = Head(last, bytes.fromhex(hash_))
        return head

    def _is_archived(self, slot: int, seq: int) -> bool:
        return any(of == slot and first <= seq <= gone[3] for (of, first), gone in self._gone.items())

    def _archives(self, folder: Path | None) -> int:
        """Hold what archives left in the store against their tombstones, and walk through their files."""
        ranges = {
            (book_id, *each) for book_id, tombstone in self._tombstones.items() for each in map(tuple, tombstone.ranges)
        }
        stored = set(
            self._db.execute("SELECT book_id, what, slot, first, last, former, hash FROM archived_ranges").fetchall()
        )
        for book_id, what, slot, first, *_ in sorted(stored ^ ranges):
            message = f"{what} {first} of {slot} stands in one of them alone"
            self._tell("archives", f"books id {book_id}", f"archived_ranges is not what the tombstone names: {message}")
        entries = 0
        for book_id, tombstone in self._tombstones.items():
            if sums_digest(self._db, book_id) != tombstone.sums:
                self._tell("archives", f"books id {book_id}", "the sums kept of its archive were changed")
            if folder is not None:
                walk = ArchiveWalk(folder, tombstone, self._wanted)
                entries += walk.run()
                for what, message in walk.problems:
                    self._tell("archives", what, message)
        return entries

    def _entries(self) -> Iterator[tuple[int, int, str, int, bytes, tuple[object, ...] | None]]:
        last = 0
        while page := self._db.execute(
            "SELECT entry, slot, seq, what, row_id, hash FROM chain WHERE entry > ? ORDER BY entry LIMIT ?",
            (last, _PAGE),
        ).fetchall():
            last = page[-1][0]
            rows: dict[tuple[str, int], tuple[object, ...]] = {}
            for what, columns in _COLUMNS.items():
                ids = [row_id for _, _, _, table, row_id, _ in page if table == what]
                if ids:
                    found = self._db.execute(
                        f"SELECT id, {columns} FROM {what} WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608
                        (msgspec.json.encode(ids).decode(),),
                    )
                    rows.update(((what, row_id), tuple(values)) for row_id, *values in found)
            for _, slot, seq, what, row_id, hash_ in page:
                if what in _COLUMNS:
                    yield slot, seq, what, row_id, hash_, rows.get((what, row_id))
                else:
                    self._tell("chain", f"chain entry {seq} of writer {slot}", f'it names a table "{what}"')

    def _unchained(self, seen: dict[str, bytearray]) -> None:
        for what, columns in _COLUMNS.items():
            marks = seen[what]
            for (row_id,) in self._db.execute(f"SELECT id FROM {what}"):  # noqa: S608 - the names stand above
                if not _is_marked(marks, row_id):
                    found = self._db.execute(f"SELECT {columns} FROM {what} WHERE id = ?", (row_id,))  # noqa: S608
                    self._tell("chain", _name(what, found.fetchone()), "no chain entry names it: it was put in by hand")

    def _compare_heads(self) -> None:
        for slot, seq, hash_ in self._db.execute("SELECT slot, seq, hash FROM writers"):
            head = self._heads.get(slot, Head())
            if (head.seq, head.hash) != (seq, hash_):
                self._tell(
                    "chain",
                    f"writer {slot}",
                    f"its last entry was {seq}, the chain ends at {head.seq}: rows were deleted",
                )

    def _roots(self, stored: list[Root], written: list[Root], file: Path) -> int:
        former = GENESIS.hex()
        for root in stored:
            if not root.is_whole or root.former != former:
                self._tell("roots", f"root {root.n}", "it does not follow from the root before it: it was changed")
            former = root.hash
        by_number = {root.n: root for root in stored}
        for root in written:
            known = by_number.get(root.n)
            if known is None:
                self._outside(root)
            elif known != root:
                self._tell("roots", f"root {root.n}", f"{file} has another one: one of them was changed")
        missing = sorted(set(by_number) - {root.n for root in written})
        if missing:
            self._tell("roots", f"root {missing[0]}", f"{file} lacks it; restore the file from a copy")
        return len(stored)

    def _outside(self, root: Root) -> None:
        """Hold a root that only the file has against the chains' ends: the store was cut back, or put back."""
        for slot, (seq, _) in root.heads.items():
            end = self._heads.get(int(slot), Head()).seq
            if end < seq:
                message = f"root {root.n} of {root.day} names entry {seq}, the chain ends at {end}: rows were deleted"
                self._tell("roots", f"writer {slot}", message)
                return
        self._tell("roots", f"root {root.n}", "only the file has it: the store was put back to an earlier state")

    # --- rows

    def _price(self, row: str, values: tuple[object, ...]) -> None:
        charge = dict(zip((name.strip() for name in CHARGE_COLUMNS.split(",")), values, strict=True))
        if charge["cost_provenance"] != "priced":
            return
        try:
            text = str(charge["rates"])
            rates = self._rates.get(text)
            if rates is None:
                rates = self._rates[text] = Rates.from_json(text)
            counts = {name: charge[name] for name in _CLASSES}
            cost = rates.cost_nusd(msgspec.convert(counts, Usage))
        except (PriceError, msgspec.ValidationError) as error:
            self._tell("prices", row, f"its cost cannot be computed again: {error}")
            return
        if cost != charge["cost_nusd"]:
            self._tell(
                "prices", row, f"its cost is {charge['cost_nusd']}, its tokens at its rates cost {cost} nano-dollars"
            )

    def _integrity(self) -> None:
        for (message,) in self._db.execute("PRAGMA quick_check(20)"):
            if message != "ok":
                self._tell("file", "ledger.db", str(message))

    def _requests(self) -> None:
        for row_id, request_id, cost, unknown, total, unknowns in self._db.execute(_UNEQUAL).fetchall():
            before = self._db.execute(_BEFORE, {"request_id": request_id, "id": row_id}).fetchone()
            if tuple(before) != (cost, unknown):
                self._tell(
                    "sums",
                    f"requests {request_id}",
                    f"its cost is {cost} with {unknown} unknown, its charges sum to {total} with {unknowns} unknown",
                )
        for request_id, attempt in self._db.execute(_ORPHANS):
            self._tell("sums", f"charges {request_id}/{attempt}", "it has no request")

    def _holds(self) -> None:
        for request_id, attempt, epoch in self._db.execute(_STALE):
            message = f"it is open since epoch {epoch}, whose gateway is gone; start a gateway on the folder"
            self._tell("holds", f"open_holds {request_id}/{attempt}", message)

    def _periods(self) -> None:
        for row_id, period, about in self._db.execute("SELECT id, period, about FROM books WHERE kind = 'close'"):
            sealed = msgspec.json.decode(about, type=dict[str, int | str])
            until = month_end(period)
            since = until.replace(year=until.year - (until.month == 1), month=(until.month - 2) % 12 + 1)
            present = self._db.execute(_SUM, {"since": _us(since), "until": _us(until)}).fetchone()
            away = [month[1:] for each in self._tombstones.values() for month in each.months if month[0] == period]
            charges, cost, unknown = (sum(column) for column in zip(present, *away, strict=True))
            if (charges, cost, unknown) != (sealed["charges"], sealed["cost_nusd"], sealed["unknown_charges"]):
                self._tell(
                    "periods",
                    f"books id {row_id}",
                    f"{period} was sealed with {sealed['charges']} charges and {sealed['cost_nusd']} nano-dollars, "
                    f"it has {charges} and {cost}",
                )


def _name(what: str, values: Sequence[object]) -> str:
    match what:
        case "charges":
            return f"charges {values[0]}/{values[1]}"
        case "requests":
            return f"requests {values[0]}"
        case _:
            return f"books {values[0]} of {values[1]}"


def _mark(marks: bytearray, number: int) -> bool:
    """Set a bit; False when it was set."""
    place, bit = number >> 3, 1 << (number & 7)
    if place >= len(marks):
        marks.extend(bytes(place + 1 - len(marks) + 1024))
    if marks[place] & bit:
        return False
    marks[place] |= bit
    return True


def _is_marked(marks: bytearray, number: int) -> bool:
    return number >> 3 < len(marks) and bool(marks[number >> 3] & 1 << (number & 7))
