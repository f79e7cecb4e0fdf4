"""The answer to a question: a line for every combination of its dimensions, and their total."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.prices import round_half_even
from gateway.ledger.errors import LedgerMissing
from gateway.ledger.rollups import CHARGE_SUMS, REQUEST_SUMS
from gateway.ledger.rows import TOKENS
from gateway.ledger.store import FILE_NAME, check_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.ledger.reports.question import Question

_CACHE_KIB: Final = 65_536  # of SQLite's pages; sorting and grouping go to files beyond it


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One combination of the dimensions. What only requests have is None on lines by pool or kind.

    Attributes:
        keys: a value for each dimension, "" for none.
        requests: requests that stand on this line.
        served: of them answered, whole or in part.
        answered: of them answered with a status below 400: what a successful answer is.
        refused: of them ended with a status of 400 or more.
        sessions: different sessions among them.
        sessions_nusd: what the requests that name a session cost when they were booked.
        attempts: paid attempts.
        unknown_charges: of them without a known cost; they are in no sum.
        tokens: by class, and web searches.
        cost_nusd: the sum of the known charges.
        baseline_nusd: what the baseline would have cost; with its interval for the length of answers nobody saw.
        revenue_nusd: what the requests brought in, where that was stated.
        posted_nusd: what the books post to this line: corrections, adjustments, late charges. Not part of `cost_nusd`.
    """

    keys: tuple[str, ...]
    attempts: int
    unknown_charges: int
    tokens: Mapping[str, int]
    cost_nusd: int
    requests: int | None = None
    served: int | None = None
    answered: int | None = None
    refused: int | None = None
    sessions: int | None = None
    sessions_nusd: int | None = None
    baseline_nusd: int | None = None
    baseline_low_nusd: int | None = None
    baseline_high_nusd: int | None = None
    revenue_nusd: int | None = None
    posted_nusd: int = 0

    @property
    def billed_nusd(self) -> int:
        """Cost and what the books post: what the line comes to by what is known today."""
        return self.cost_nusd + self.posted_nusd

    @property
    def saved_nusd(self) -> int | None:
        """Baseline - cost."""
        return None if self.baseline_nusd is None else self.baseline_nusd - self.cost_nusd

    @property
    def saved_low_nusd(self) -> int | None:
        """The least that was saved, if the unseen answers had been short."""
        return None if self.baseline_low_nusd is None else self.baseline_low_nusd - self.cost_nusd

    @property
    def saved_high_nusd(self) -> int | None:
        """The most that was saved, if the unseen answers had been long."""
        return None if self.baseline_high_nusd is None else self.baseline_high_nusd - self.cost_nusd

    @property
    def per_request_nusd(self) -> int | None:
        """Cost / requests."""
        return _per(self.cost_nusd, self.requests)

    @property
    def per_thousand_nusd(self) -> int | None:
        """Cost of 1,000 requests."""
        return _per(1_000 * self.cost_nusd, self.requests)

    @property
    def per_answer_nusd(self) -> int | None:
        """Cost / successful answers: what failed and what was refused is paid by those that succeeded."""
        return _per(self.cost_nusd, self.answered)

    @property
    def per_session_nusd(self) -> int | None:
        """Cost of the requests that name a session / sessions."""
        return _per(self.sessions_nusd or 0, self.sessions)

    @property
    def margin_nusd(self) -> int | None:
        """Revenue - cost; None where no revenue is stated."""
        return None if self.revenue_nusd is None else self.revenue_nusd - self.cost_nusd


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A question's lines, dearest first, and their total."""

    question: Question
    lines: tuple[Line, ...]
    total: Line
    sql: str


@contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a folder's ledger for reading, in one snapshot; a gateway may be writing it meanwhile.

    Raises:
        LedgerMissing: there is none, or it cannot be read.
        SchemaMismatch: another version wrote it.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise LedgerMissing(
            f"there is no ledger in {folder}; give the data folder of a gateway that has served (with {FILE_NAME})"
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
            check_schema(db, path)
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            db.execute("BEGIN")
            yield db
    except sqlite3.Error as error:
        raise LedgerMissing(f"cannot read {path}: {error}; check that it is a ledger and readable") from error


def ask(db: sqlite3.Connection, question: Question) -> Answer:
    """Answer a question."""
    posted: dict[tuple[str, ...], int] = {}
    for *keys, nusd in db.execute(question.postings_sql(), question.parameters) if question.by else ():
        posted[tuple(str(key) for key in keys)] = nusd
    whole = replace(question, by=())
    (amount,) = db.execute(whole.postings_sql(), whole.parameters).fetchone()
    return Answer(
        question=question,
        lines=_with_postings(_lines(db, question), posted, has_requests=question.has_requests),
        total=replace(_lines(db, whole)[0], posted_nusd=amount),
        sql=question.runnable(question.sql()),
    )


def _with_postings(
    lines: tuple[Line, ...], posted: dict[tuple[str, ...], int], *, has_requests: bool
) -> tuple[Line, ...]:
    """Return the lines with what the books post to each, and a line of its own for what stands on none."""
    if not posted:
        return lines
    known = tuple(replace(line, posted_nusd=posted.pop(line.keys, 0)) for line in lines)
    counted = dict.fromkeys((*REQUEST_SUMS, "sessions", "sessions_nusd"), 0) if has_requests else {}
    nothing = Line(keys=(), attempts=0, unknown_charges=0, cost_nusd=0, tokens=dict.fromkeys(TOKENS, 0), **counted)
    return (*known, *(replace(nothing, keys=keys, posted_nusd=nusd) for keys, nusd in sorted(posted.items()) if nusd))


def sums(db: sqlite3.Connection, question: Question) -> tuple[Line, ...]:
    """Return a question's lines without its sessions, which are never rolled up."""
    return _lines(db, question, with_sessions=False)


def condense(db: sqlite3.Connection, question: Question) -> None:
    """Sum a question's period once, for all that will be asked about it without days and keys.

    A page asks a dozen things of one month, each of which would read all of the month's sums.

    Args:
        db: open for reading; what is made is temporary, and its own.
        question: tells the period; its dimensions do not matter.
    """
    question = replace(question, by=())
    if question.condensed is not None and not _is_condensed(db, question.condensed):
        for sql in question.condensing_sql():
            db.execute(sql)


def _is_condensed(db: sqlite3.Connection, name: str) -> bool:
    return bool(db.execute("SELECT 1 FROM temp.sqlite_master WHERE name = ?", (f"{name}_daily_charges",)).fetchone())


def _lines(db: sqlite3.Connection, question: Question, *, with_sessions: bool = True) -> tuple[Line, ...]:
    width = len(question.by)
    sessions = {}
    if question.has_requests and with_sessions:
        for row in db.execute(question.sessions_sql(), question.parameters):
            sessions[row[:width]] = row[width:]
    period = question.condensed
    sql = question.sql(condensed=period if period is not None and _is_condensed(db, period) else None)
    return tuple(
        _line(row, width, sessions if question.has_requests else None) for row in db.execute(sql, question.parameters)
    )


def _line(row: tuple[int | str, ...], width: int, sessions: Mapping[tuple[str, ...], tuple[int, int]] | None) -> Line:
    keys = tuple(str(value) for value in row[:width])
    sums = [int(value) for value in row[width:]]
    asked: dict[str, int] = {}
    if sessions is not None:
        asked = dict(zip(REQUEST_SUMS, sums, strict=False))
        asked["sessions"], asked["sessions_nusd"] = sessions.get(keys, (0, 0))
        sums = sums[len(REQUEST_SUMS) :]
    charged = dict(zip(CHARGE_SUMS, sums, strict=True))
    return Line(
        keys=keys,
        attempts=charged.pop("attempts"),
        unknown_charges=charged.pop("unknown_charges"),
        cost_nusd=charged.pop("cost_nusd"),
        tokens=charged,
        **asked,
    )


def _per(nusd: int, number: int | None) -> int | None:
    return round_half_even(nusd, number) if number else None
