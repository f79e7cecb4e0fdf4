"""The verdicts of audits and what follows from them: one append-only SQLite file in the storage folder.

- Several workers and gateways' lives write to it; commands read it meanwhile (WAL). What a crash loses is an audit that
  had no verdict yet, together with the units counted for it: the rest stays a fair sample.
- `before` counts units since the same worker's sample before. A series starts after the latest `recalibrated` event.
- A day's audit money is reserved here before it is spent, so that all workers together keep the cap; what a killed
  gateway had reserved stays spent.
- Requests are of kinds (`Kind`), each of which is held to the route's promise by verdicts of its own: what is kept of
  questions says nothing of conversations.
- Verdicts hold no text of questions or answers. Labels are people's own losses for audited requests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np

from backends.wal import enter_wal
from backends.words import ModelId, RequestId, TenantId
from gateway.ledger.errors import LedgerError
from policies.sequence import ProxyError, Sample, Series, State, proxy_error

FILE_NAME: Final = "verdicts.db"

_OPENING_S: Final = 5.0
"""How long it waits for another process's lock, and for others that make the file at the same time."""

_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE verdicts (              -- one row for every audit that came to a verdict; append-only
  id INTEGER PRIMARY KEY,            -- order of judging
  route TEXT NOT NULL,               -- the policy rule
  setup TEXT NOT NULL,               -- digest of what answers there: models and the judge's threshold
  cache_setup TEXT NOT NULL,         -- likewise of the semantic cache
  origin TEXT NOT NULL,              -- small | exact | semantic: what was served; grey, trial, unseen: what was not
  request_id TEXT NOT NULL,          -- the audited request
  tenant TEXT NOT NULL,              -- its tenant
  served TEXT NOT NULL,              -- the catalog's name of the model whose answer was served
  baseline TEXT NOT NULL,            -- and of the one that was asked afterwards
  probability REAL NOT NULL,         -- with which it was sampled
  route_before INTEGER NOT NULL,     -- the route's answers since its sample before, this one not included
  hits_before INTEGER NOT NULL,      -- the route's semantic hits likewise
  loss REAL NOT NULL,                -- in [-1, 1]: 0 as good, 1 lost, below 0 better than the baseline's
  how TEXT NOT NULL,                 -- exact | normalised | json | embedding | judge
  confidence REAL,                   -- the judge's of a small answer, the acceptance's score of a pair
  similarity REAL,                   -- of a pair, in [-1, 1]
  policy_digest TEXT NOT NULL,       -- of the policy in force
  judged_at_us INTEGER NOT NULL,     -- microseconds since 1970 UTC
  kind TEXT NOT NULL DEFAULT '',     -- single | conversation | tools | other; '' of verdicts older than kinds
  kind_before INTEGER NOT NULL DEFAULT 0,  -- the route's answers of this kind since the kind's sample before
  turns INTEGER NOT NULL DEFAULT 1   -- messages beside instructions
) STRICT;
CREATE INDEX verdicts_by_setup ON verdicts (setup, id);
CREATE INDEX verdicts_by_cache ON verdicts (cache_setup, id);
CREATE TABLE events (                -- what became of promises; append-only
  id INTEGER PRIMARY KEY,            -- order of happening
  route TEXT NOT NULL,               -- the policy rule
  subject TEXT NOT NULL,             -- route: its max_loss; conversation, tools: of these; semantic: the cache's error
  setup TEXT NOT NULL,               -- of the promise: another setup is another promise
  event TEXT NOT NULL,               -- prior | certified | breached | recalibrated
  after_verdict INTEGER NOT NULL,    -- the last verdict that was known
  threshold REAL,                    -- of recalibrated: nothing below it is kept
  detail TEXT NOT NULL,              -- a sentence for people
  at_us INTEGER NOT NULL             -- microseconds since 1970 UTC
) STRICT;
CREATE TABLE labels (                -- what people say of audited answers; the latest counts
  id INTEGER PRIMARY KEY,            -- order of labelling
  request_id TEXT NOT NULL,          -- the audited request
  loss REAL NOT NULL                 -- the true one, in [-1, 1]
) STRICT;
CREATE TABLE spent (                 -- audit money by day; reserved before it is spent
  day TEXT NOT NULL,                 -- in UTC
  route TEXT NOT NULL,               -- the policy rule
  subject TEXT NOT NULL,             -- route | semantic: whose audits; verifier: its questions
  nusd INTEGER NOT NULL,             -- nano-dollars
  PRIMARY KEY (day, route, subject)
) STRICT;
"""


_ADDED: Final = (
    "ALTER TABLE verdicts ADD COLUMN kind TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE verdicts ADD COLUMN kind_before INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE verdicts ADD COLUMN turns INTEGER NOT NULL DEFAULT 1",
)
"""What version 2 has beside version 1."""


class Kind(StrEnum):
    """What form a request has, as far as calibrations tell forms apart."""

    SINGLE = "single"
    CONVERSATION = "conversation"
    TOOLS = "tools"
    """One question, with tools to answer it by."""
    OTHER = "other"


class Subject(StrEnum):
    """Which promise of a route is meant."""

    ROUTE = "route"
    """`quality.max_loss`: what its answers lose, those of its caches included."""
    SEMANTIC = "semantic"
    """`cache.semantic.max_error`: wrong answers as a share of the semantic hits served."""
    CONVERSATION = "conversation"
    """`quality.max_loss` of conversations alone: below the baseline only while it is kept."""
    TOOLS = "tools"
    """Likewise of questions that offer tools."""

    @property
    def kind(self) -> Kind | None:
        """Return the kind of request that it is about; None for all."""
        return Kind(self.value) if self in _KINDS else None


_KINDS: Final = (Subject.CONVERSATION, Subject.TOOLS)


class Origin(StrEnum):
    """What was audited."""

    SMALL = "small"
    EXACT = "exact"
    SEMANTIC = "semantic"
    GREY = "grey"
    """A stored answer that was not served, compared with the fresh one that was."""
    TRIAL = "trial"
    """A small answer that was not served, compared with the baseline's, while its route is breached."""
    UNSEEN = "unseen"
    """Likewise, to a request of a kind that is not kept below the baseline."""


NOT_SERVED: Final = (Origin.GREY, Origin.TRIAL, Origin.UNSEEN)
"""Of these nobody's answer was: they say nothing of what a promise did, only of what a threshold would do."""


class VerdictsUnusable(LedgerError):
    """The file of verdicts cannot be read or written; the message says why and how to fix it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRow:
    """One verdict; see the table's comments."""

    route: str
    setup: str
    cache_setup: str
    origin: Origin
    request_id: RequestId
    tenant: TenantId
    served: ModelId
    baseline: ModelId
    probability: float
    route_before: int
    hits_before: int
    loss: float
    how: str
    confidence: float | None
    similarity: float | None
    policy_digest: str
    judged_at_us: int
    kind: str = ""
    kind_before: int = 0
    turns: int = 1


@dataclass(frozen=True, slots=True)
class PromiseId:
    """Which promise: a route's or its cache's, under one setup. Another model or threshold is another promise.

    `space` is the tenant whose cache it is; "" for a route's promise, and for a cache that tenants share.
    """

    route: str
    subject: Subject
    setup: str
    space: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What became of a promise; see the table's comments."""

    promise: PromiseId
    event: str
    detail: str
    at: datetime
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A verdict with what the decider had thought of the answer: the judge's confidence, or the acceptance's score.

    `floor` is the threshold in force when it was judged, as far as verdicts had set one: of what lies below nothing was
    seen. What was not served is seen at any score.
    """

    origin: Origin
    score: float | None
    sample: Sample
    floor: float = 0.0


def lowest_loss(which: PromiseId, *, can_gain: bool) -> float:
    """Return the least loss a promise's verdicts can have."""
    return -1.0 if can_gain and which.subject is not Subject.SEMANTIC else 0.0


RECALIBRATED: Final = "recalibrated"
_COLUMNS: Final = ", ".join(field.name for field in fields(VerdictRow))
_MARKS: Final = ", ".join("?" * len(fields(VerdictRow)))


class Verdicts:
    """The verdicts of a folder. Calls block for a disk's time: make them from a thread, one at a time."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    def open(cls, folder: Path) -> Verdicts:
        """Open a folder's verdicts, making the file where it is missing.

        Raises:
            VerdictsUnusable: it cannot be opened, or another version made it.
        """
        path = folder / FILE_NAME
        try:
            if not path.exists():
                path.touch(mode=0o600)  # SQLite's own files beside it take its mode
            db = sqlite3.connect(path, timeout=_OPENING_S, check_same_thread=False, isolation_level=None)
            try:
                _prepare(db, path)
            except BaseException:
                db.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise VerdictsUnusable(f"{path} cannot be used ({error}); make it readable and writable") from error
        return cls(db)

    @classmethod
    def read(cls, folder: Path) -> Verdicts:
        """Open a folder's verdicts for a report; none where nothing was audited yet, and no file is made.

        Raises:
            VerdictsUnusable: as `open`.
        """
        if (folder / FILE_NAME).exists():
            return cls.open(folder)
        db = sqlite3.connect(":memory:", isolation_level=None)
        _prepare(db, folder / FILE_NAME)
        return cls(db)

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()

    def add(self, row: VerdictRow) -> None:
        """Append a verdict."""
        self._db.execute(f"INSERT INTO verdicts ({_COLUMNS}) VALUES ({_MARKS})", astuple(row))  # noqa: S608 - constants

    def note(self, event: Event, *, after: int | None = None) -> None:
        """Append what became of a promise, by default after the last verdict."""
        which = event.promise
        self._db.execute(
            "INSERT INTO events (route, subject, setup, event, after_verdict, threshold, detail, at_us) "
            "VALUES (?, ?, ?, ?, COALESCE(?, (SELECT COALESCE(MAX(id), 0) FROM verdicts)), ?, ?, ?)",
            (
                which.route,
                which.subject,
                which.setup,
                event.event,
                after,
                event.threshold,
                event.detail,
                microseconds(event.at),
            ),
        )

    def state(self, which: PromiseId) -> State:
        """Return the state a promise was left in."""
        row = self._db.execute(
            "SELECT event FROM events WHERE subject = ? AND setup = ? ORDER BY id DESC LIMIT 1",
            (which.subject, which.setup),
        ).fetchone()
        return State.PRIOR if row is None or row[0] == RECALIBRATED else State(row[0])

    def threshold(self, which: PromiseId) -> float | None:
        """Return what the latest recalibration set: nothing below it is kept; None when there was none."""
        row = self._db.execute(
            "SELECT threshold FROM events WHERE subject = ? AND setup = ? AND event = ? ORDER BY id DESC LIMIT 1",
            (which.subject, which.setup, RECALIBRATED),
        ).fetchone()
        return None if row is None else row[0]

    def series(self, which: PromiseId, *, can_gain: bool = False) -> Series:
        """Return a promise's verdicts since it was last calibrated.

        Args:
            which: the promise.
            can_gain: whether a judge may have found served answers better; a cache's promise counts wrong hits, and an
                answer better than the baseline's is no less than right.
        """
        lowest = lowest_loss(which, can_gain=can_gain)
        scored = [one for one in self.scored(which) if one.origin not in NOT_SERVED]
        return Series([replace(one.sample, loss=max(lowest, one.sample.loss)) for one in scored], can_gain=lowest < 0)

    def scored(self, which: PromiseId) -> list[Scored]:
        """Return the verdicts on a setup's answers since it was last calibrated, also on answers not served.

        Those before say nothing of the models as they are: a promise that broke twice would be kept by its old days.
        """
        return self._scored(which, after=self._calibrated(which), floor=self.threshold(which) or 0.0)

    def series_of(
        self,
        which: PromiseId,
        kind: Kind,
        *,
        threshold: float = 0.0,
        can_gain: bool = False,
        is_served: bool = False,
        after: int = 0,
    ) -> Series:
        """Return the verdicts on a route's requests of one kind, as if no answer below a threshold had been kept.

        Args:
            which: the route's promise, or the kind's.
            kind: the requests'.
            threshold: on the judge's confidence.
            can_gain: as of `series`.
            is_served: leave out what was not served.
            after: only later verdicts than this one.
        """
        lowest = lowest_loss(which, can_gain=can_gain)
        left_out = NOT_SERVED if is_served else (Origin.GREY, Origin.TRIAL)
        rows = self._db.execute(
            "SELECT origin, confidence, loss, probability, kind_before FROM verdicts WHERE setup = ? AND kind = ? "
            "AND id > ? ORDER BY id",
            (which.setup, kind, max(after, self._calibrated(which))),
        )
        judged = (Origin.SMALL, Origin.UNSEEN)
        samples = [
            Sample(
                loss=0.0 if origin in judged and (score is None or score < threshold) else max(lowest, loss),
                probability=p,
                before=n,
            )
            for origin, score, loss, p, n in rows
            if origin not in left_out
        ]
        return Series(samples, can_gain=lowest < 0)

    def broke_after(self, which: PromiseId) -> int:
        """Return the last verdict that was known when a promise broke; 0 when it never did."""
        (broke,) = self._db.execute(
            "SELECT COALESCE(MAX(after_verdict), 0) FROM events WHERE subject = ? AND setup = ? AND event = ?",
            (which.subject, which.setup, State.BREACHED),
        ).fetchone()
        return int(broke)

    def longest(self, which: PromiseId, kind: Kind) -> int:
        """Return the messages of the longest request of a kind that verdicts speak of; 0 without a verdict."""
        row = self._db.execute(
            "SELECT MAX(turns) FROM verdicts WHERE setup = ? AND kind = ? AND id > ?",
            (which.setup, kind, self._calibrated(which)),
        ).fetchone()
        return row[0] or 0

    def rows(self) -> Iterator[dict[str, str | int | float | None]]:
        """Yield every verdict with its columns' names, oldest first."""
        cursor = self._db.execute("SELECT * FROM verdicts ORDER BY id")
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def how(self, which: PromiseId) -> dict[str, int]:
        """Return how many of a promise's verdicts since its last calibration rest on what."""
        _, kept = _READ[which.subject]
        rows = self._db.execute(
            f"SELECT how, COUNT(*) FROM verdicts WHERE {kept} AND {_SERVED} AND id > ? GROUP BY how ORDER BY how",  # noqa: S608 - constants
            (which.setup, self._calibrated(which)),
        )
        return dict(rows.fetchall())

    def _scored(self, which: PromiseId, *, after: int, floor: float) -> list[Scored]:
        before, kept = _READ[which.subject]
        found = self._db.execute(
            f"SELECT origin, confidence, loss, probability, {before} FROM verdicts WHERE {kept} AND id > ? ORDER BY id",  # noqa: S608 - constants
            (which.setup, after),
        )
        return [
            Scored(
                origin=Origin(origin),
                score=score,
                sample=Sample(loss=loss, probability=p, before=n),
                floor=0.0 if origin in NOT_SERVED else floor,
            )
            for origin, score, loss, p, n in found
        ]

    def label(self, labels: Iterable[tuple[RequestId, float]]) -> tuple[int, int]:
        """Append people's labels; return how many are of audited requests, and how many of unknown ones."""
        known, unknown = 0, 0
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            for request_id, loss in labels:
                if cursor.execute("SELECT 1 FROM verdicts WHERE request_id = ?", (request_id,)).fetchone() is None:
                    unknown += 1
                    continue
                cursor.execute("INSERT INTO labels (request_id, loss) VALUES (?, ?)", (request_id, loss))
                known += 1
            cursor.execute("COMMIT")
        return known, unknown

    def proxy(self, which: PromiseId, confidence: float) -> ProxyError | None:
        """Return the verdicts' own error, by the labelled ones among a promise's; None when none is labelled."""
        _, kept = _READ[which.subject]
        rows = self._db.execute(
            "SELECT verdicts.loss, labels.loss FROM verdicts JOIN labels USING (request_id) "  # noqa: S608 - constants
            f"WHERE {kept} AND {_SERVED} "
            "AND labels.id = (SELECT MAX(id) FROM labels AS later WHERE later.request_id = labels.request_id)",
            (which.setup,),
        ).fetchall()
        if not rows:
            return None
        verdicts, truths = np.array(rows, dtype=np.float64).T
        return proxy_error(verdicts, truths, confidence)

    def reserve(self, day: str, route: str, subject: str, nusd: int, *, cap_nusd: int) -> bool:
        """Take money of a day's cap; False when there is not so much left."""
        self._db.execute("INSERT OR IGNORE INTO spent VALUES (?, ?, ?, 0)", (day, route, subject))
        taken = self._db.execute(
            "UPDATE spent SET nusd = nusd + ?1 WHERE day = ?2 AND route = ?3 AND subject = ?4 AND nusd + ?1 <= ?5",
            (nusd, day, route, subject, cap_nusd),
        )
        return taken.rowcount == 1

    def give_back(self, day: str, route: str, subject: str, nusd: int) -> None:
        """Return what was reserved and not spent; negative: it cost more than was thought."""
        self._db.execute(
            "UPDATE spent SET nusd = MAX(0, nusd - ?) WHERE day = ? AND route = ? AND subject = ?",
            (nusd, day, route, subject),
        )

    def spent_nusd(self, day: str, route: str, subject: Subject) -> int:
        """Return what a day's audits cost, with what is reserved for those that run."""
        row = self._db.execute(
            "SELECT nusd FROM spent WHERE day = ? AND route = ? AND subject = ?", (day, route, subject)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def _calibrated(self, which: PromiseId) -> int:
        # With the route's threshold a kind's begins anew, too: what lay below a former one was not seen.
        row = self._db.execute(
            "SELECT MAX(after_verdict) FROM events WHERE (subject = ? OR (subject = 'route' AND ?)) AND setup = ? "
            "AND event = ?",
            (which.subject, which.subject.kind is not None, which.setup, RECALIBRATED),
        ).fetchone()
        return row[0] or 0


_READ: Final = {
    Subject.ROUTE: ("route_before", "setup = ? AND origin NOT IN ('grey', 'unseen')"),
    Subject.CONVERSATION: ("kind_before", "setup = ? AND kind = 'conversation' AND origin <> 'grey'"),
    Subject.TOOLS: ("kind_before", "setup = ? AND kind = 'tools' AND origin <> 'grey'"),
    Subject.SEMANTIC: ("hits_before", "cache_setup = ? AND origin IN ('semantic', 'grey')"),
}
"""From a promise to the column that counts its units, and to which verdicts are its."""
_SERVED: Final = "origin NOT IN ('grey', 'trial', 'unseen')"


def microseconds(moment: datetime) -> int:
    """Return microseconds since 1970 UTC."""
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    enter_wal(db, wait_s=_OPENING_S)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("BEGIN IMMEDIATE")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in {0, 1, _VERSION}:
        db.execute("ROLLBACK")
        raise VerdictsUnusable(
            f"{path} is of version {version}, this Faregate reads version {_VERSION}; install its own"
        )
    statements = {0: _SCHEMA.split(";\n"), 1: _ADDED}.get(version, ())
    for statement in statements:
        if statement.strip():
            db.execute(statement)
    if version < _VERSION:
        db.execute(f"PRAGMA user_version = {_VERSION}")
    db.execute("COMMIT")
