"""The bill: what was spent, on what, what the baseline would have cost, and what the pools cost while they idled.

Rules:
- every number is summed in integers, from the daily rollups and, for hours beside whole days, from the rows;
  Σ charges = the report, to the nano-dollar;
- a charge belongs to the period in which its request began, so that a request's money is never split;
- the pools' lines go by the clock instead: a charge counts in the period in which its attempt began;
- a charge whose request is not booked yet (it is still running) counts by its own beginning;
- savings are split by cause, and the causes sum exactly to baseline - actual, whatever the sign.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from gateway.ledger.archived import archived_note
from gateway.ledger.derived import DAY_US, SAVINGS_KEYS, SAVINGS_SUMS, savings_sql
from gateway.ledger.errors import LedgerMissing, PeriodInvalid
from gateway.ledger.journal import JOURNAL_FOLDER, segments
from gateway.ledger.pools import PoolFacts, PoolLine, pool_lines
from gateway.ledger.reports.answer import Line, condense, sums
from gateway.ledger.reports.baselines import Baseline
from gateway.ledger.reports.question import Dimension, Question
from gateway.ledger.store import FILE_NAME, check_schema, microseconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FOR_EVER: Final = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)

# By cause; the hours that rollups get wrong from the rows.
_SAVINGS: Final = """
SELECT cause, SUM(gain_nusd), SUM(waste_nusd), SUM(audit_nusd), SUM(router_nusd) FROM (
  SELECT * FROM daily_savings
  WHERE day >= :first_day AND day < :last_day AND (:tenant IS NULL OR tenant = :tenant)
  {rows}
) GROUP BY cause
"""
_ROWS_SAVINGS: Final = f"""
  UNION ALL SELECT * FROM (
    WITH named({", ".join((*SAVINGS_KEYS, *SAVINGS_SUMS))}) AS ({{rows}})
    SELECT {", ".join(SAVINGS_KEYS)}, {", ".join(f"{{sign}}{name}" for name in SAVINGS_SUMS)} FROM named)"""  # noqa: S608 - constants
_OWN: Final = "(:tenant IS NULL OR requests.tenant = :tenant)"
# The first and the last day on which anything was booked, and the day after.
_SPAN: Final = f"""
SELECT MIN(day), MAX(day) + 1 FROM (
  SELECT day FROM daily_requests UNION ALL SELECT day FROM daily_charges
  UNION ALL SELECT started_at_us / {DAY_US} FROM waiting_charges CROSS JOIN charges USING (request_id, attempt))
"""  # noqa: S608 - constants
# A posting is to a whole month: it counts in the period in which that month begins. A charge that came late is posted
# to the month that was open then, and taken out of its own, which was sealed.
_POSTED: Final = """
SELECT COALESCE(SUM(nusd), 0) FROM (
  SELECT amount_nusd AS nusd, unixepoch(period || '-01') * 1000000 AS at_us, tenant FROM books
  WHERE kind IN ('correction', 'adjustment', 'late')
  UNION ALL
  SELECT -charges.cost_nusd, charges.started_at_us, charges.tenant FROM books
  CROSS JOIN charges USING (request_id, attempt) WHERE books.kind = 'late'
) WHERE at_us >= :since AND at_us < :until AND (:tenant IS NULL OR tenant = :tenant)
"""
_RUNNING: Final = """
SELECT COALESCE(SUM(cost_nusd), 0) FROM waiting_charges CROSS JOIN charges USING (request_id, attempt)
WHERE started_at_us >= :since AND started_at_us < :until AND (:tenant IS NULL OR tenant = :tenant)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The period in one line. `cost_nusd` is the sum of all charges; `savings_nusd` = baseline - cost.

    Attributes:
        served: requests that got an answer, whole or in part.
        refused: requests that ended with an error status.
        rejected_nusd: the cost of the attempts the judge rejected; part of `cost_nusd`.
        baseline_low_nusd: with `baseline_high_nusd` the interval for the length of answers nobody has seen.
        savings_low_nusd: with `savings_high_nusd` what is saved at the ends of that interval.
        unknown_charges: charges without a known cost; they are in no sum.
        posted_nusd: what the books post to the months that begin in the period: corrections, adjustments and charges
            that came after their month was sealed. Not part of `cost_nusd`.
    """

    requests: int
    served: int
    refused: int
    attempts: int
    cost_nusd: int
    rejected_nusd: int
    baseline_nusd: int
    baseline_low_nusd: int
    baseline_high_nusd: int
    savings_nusd: int
    savings_low_nusd: int
    savings_high_nusd: int
    unknown_charges: int
    posted_nusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindLine:
    """What became of attempts (`rows.ChargeKind`)."""

    kind: str
    attempts: int
    cost_nusd: int
    unknown_charges: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """One model's attempts; its token classes are disjoint."""

    model: str
    attempts: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLine:
    """The requests and charges of one tenant, route, path or day; path "" is what was not served."""

    key: str
    requests: int
    attempts: int
    cost_nusd: int
    baseline_nusd: int
    savings_nusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """Baseline - actual by cause, in nano-dollars; each may be negative.

    Attributes:
        exact_nusd: requests answered by the exact cache, or together with an equal one in flight.
        semantic_nusd: requests answered by the semantic cache.
        small_nusd: requests whose committed attempt was not the baseline's model: baseline - that attempt.
        waste_nusd: minus what served requests spent on other attempts (rejected, cancelled, failed, estimated).
        audit_nusd: minus what audits cost.
        router_nusd: minus what deciding cost: embeddings, judges and verifiers that are paid for.
        other_nusd: the rest: the baseline's own answers against their estimate, and requests that were not served.
    """

    exact_nusd: int
    semantic_nusd: int
    small_nusd: int
    waste_nusd: int
    other_nusd: int
    audit_nusd: int = 0
    router_nusd: int = 0

    @property
    def total_nusd(self) -> int:
        """Baseline - actual."""
        causes = (self.exact_nusd, self.semantic_nusd, self.small_nusd, self.waste_nusd, self.other_nusd)
        return sum(causes) + self.audit_nusd + self.router_nusd


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One period's report; `since` is inside, `until` outside.

    Attributes:
        pools: empty when the bill is one tenant's, for a pool's hours belong to nobody alone.
        notes: what a reader should know, such as that nothing was booked.
        baselines: what other models would have cost, where they were asked for.
        zone: whose days `by_day` are.
    """

    since: datetime | None
    until: datetime | None
    tenant: str | None
    totals: Totals
    by_kind: tuple[KindLine, ...]
    by_model: tuple[ModelLine, ...]
    by_tenant: tuple[GroupLine, ...]
    by_route: tuple[GroupLine, ...]
    by_path: tuple[GroupLine, ...]
    by_day: tuple[GroupLine, ...]
    savings: Savings
    pools: tuple[PoolLine, ...]
    notes: tuple[str, ...]
    baselines: tuple[Baseline, ...] = ()
    zone: str = "UTC"

    def savings_by_cause(self) -> tuple[tuple[str, int], ...]:
        """Return (cause in words, nano-dollars); they sum to baseline - actual."""
        savings = self.savings
        return (
            ("exact cache", savings.exact_nusd),
            ("semantic cache", savings.semantic_nusd),
            ("smaller models", savings.small_nusd),
            ("waste of the cascade", savings.waste_nusd),
            ("audits", savings.audit_nusd),
            ("embeddings and judges", savings.router_nusd),
            ("other", savings.other_nusd),
        )


class Books:
    """The ledger of a folder, for reading; a gateway may be writing it meanwhile."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder; nothing is kept open between bills.

        Raises:
            LedgerMissing: the folder holds no ledger.
        """
        self._path = folder / FILE_NAME
        if not self._path.is_file():
            raise LedgerMissing(
                f"there is no ledger in {folder}; give the data folder of a gateway that has served (with {FILE_NAME})"
            )

    def bill(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        tenant: str | None = None,
        *,
        pools: Mapping[str, PoolFacts] | None = None,
        zone: str = "UTC",
    ) -> Bill:
        """Add a period up.

        Args:
            since: timezone-aware beginning, inside the period; None: from the first row.
            until: timezone-aware end, outside the period; None: to the last row.
            tenant: only this tenant's.
            pools: what is known of pools beside the ledger.
            zone: whose days are shown, an IANA name.

        Raises:
            QuestionInvalid: there is no such zone.
            PeriodInvalid: `since` is after `until`, or one has no time zone.
            SchemaMismatch: another version wrote the ledger.
            LedgerMissing: the file cannot be read.
        """
        _check_period(since, until)
        first, last = since or _FOR_EVER[0], until or _FOR_EVER[1]
        window = {"since": microseconds(first), "until": microseconds(last), "tenant": tenant}
        try:
            with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as db:
                check_schema(db, self._path)
                db.execute("BEGIN")  # one snapshot, so that the sections agree while a gateway writes
                bill = _add_up(db, window, since=since, until=until, tenant=tenant, pools=pools or {}, zone=zone)
                unfolded = self._unfolded_bytes(db)
        except sqlite3.Error as error:
            raise LedgerMissing(f"cannot read {self._path}: {error}; check that it is a ledger and readable") from error
        if unfolded:
            note = (
                f"{unfolded} bytes of the journal are not in this bill yet; a running gateway adds them within a second"
            )
            bill = replace(bill, notes=(*bill.notes, f"{note}, a stopped one when it is started"))
        return bill

    def _unfolded_bytes(self, db: sqlite3.Connection) -> int:
        known = {
            (epoch, seq): folded
            for epoch, seq, folded in db.execute("SELECT epoch, seq, bytes_folded FROM journal_offsets")
        }
        journal = self._path.parent / JOURNAL_FOLDER
        total = 0
        for segment in segments(journal):
            with suppress(FileNotFoundError):  # folded and removed meanwhile
                total += max(0, (journal / segment.name).stat().st_size - known.get((segment.epoch, segment.seq), 0))
        return total


def _add_up(
    db: sqlite3.Connection,
    window: dict[str, int | str | None],
    *,
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    pools: Mapping[str, PoolFacts],
    zone: str,
) -> Bill:
    question = _question(db, window)
    condense(db, question)
    kinds = tuple(
        KindLine(
            kind=line.keys[0], attempts=line.attempts, cost_nusd=line.cost_nusd, unknown_charges=line.unknown_charges
        )
        for line in sorted(sums(db, replace(question, by=(Dimension.KIND,))), key=_key)
    )
    models = sums(db, replace(question, by=(Dimension.MODEL,)))
    totals = _totals(sums(db, question)[0], kinds, int(db.execute(_POSTED, window).fetchone()[0]))
    since_us, until_us = int(window["since"] or 0), int(window["until"] or 0)
    lines = () if tenant else pool_lines(db, since_us=since_us, until_us=until_us, facts=pools)
    return Bill(
        since=since,
        until=until,
        tenant=tenant,
        totals=totals,
        by_kind=kinds,
        by_model=tuple(_model_line(line) for line in models if line.attempts),
        by_tenant=_grouped(db, question, Dimension.TENANT),
        by_route=_grouped(db, question, Dimension.ROUTE),
        by_path=_grouped(db, question, Dimension.PATH),
        by_day=_grouped(db, replace(question, zone=zone), Dimension.DAY),
        savings=_savings(db, question),
        pools=lines,
        zone=zone,
        notes=(*_archived(db, window), *_notes(db, totals, tenant=tenant), *_pool_notes(lines)),
    )


def _question(db: sqlite3.Connection, window: Mapping[str, int | str | None]) -> Question:
    """Return the period as a question, no longer than what is booked."""
    first, last = (day * DAY_US for day in (db.execute(_SPAN).fetchone() if _is_used(db) else (0, 0)))
    since = max(first, int(window["since"] or 0))
    until = max(since, min(last, int(window["until"] or 0)))
    tenant = window["tenant"]
    moments = (_EPOCH_START + timedelta(microseconds=at_us) for at_us in (since, until))
    return Question(since=next(moments), until=next(moments), tenant=None if tenant is None else str(tenant))


def _is_used(db: sqlite3.Connection) -> bool:
    return any(
        db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()  # noqa: S608 - the names stand here
        for table in ("daily_requests", "daily_charges", "waiting_charges")
    )


def _totals(line: Line, kinds: tuple[KindLine, ...], posted: int) -> Totals:
    baseline, low, high = (line.baseline_nusd or 0, line.baseline_low_nusd or 0, line.baseline_high_nusd or 0)
    return Totals(
        requests=line.requests or 0,
        served=line.served or 0,
        refused=line.refused or 0,
        attempts=line.attempts,
        cost_nusd=line.cost_nusd,
        rejected_nusd=sum(kind.cost_nusd for kind in kinds if kind.kind == "rejected"),
        baseline_nusd=baseline,
        baseline_low_nusd=low,
        baseline_high_nusd=high,
        savings_nusd=baseline - line.cost_nusd,
        savings_low_nusd=low - line.cost_nusd,
        savings_high_nusd=high - line.cost_nusd,
        unknown_charges=line.unknown_charges,
        posted_nusd=posted,
    )


def posted_nusd(db: sqlite3.Connection, question: Question) -> int:
    """Return what the books post to a question's period and tenant, in nano-dollars."""
    window = {name: question.parameters[name] for name in ("since", "until", "tenant")}
    return int(db.execute(_POSTED, window).fetchone()[0])


def _key(line: Line) -> tuple[str, ...]:
    return line.keys


def _model_line(line: Line) -> ModelLine:
    tokens = line.tokens
    return ModelLine(
        model=line.keys[0],
        attempts=line.attempts,
        input_tokens=tokens["input_tokens"],
        cached_input_tokens=tokens["cached_input_tokens"],
        cache_write_tokens=tokens["cache_write_tokens"],
        output_tokens=tokens["output_tokens"],
        reasoning_tokens=tokens["reasoning_tokens"],
        cost_nusd=line.cost_nusd,
    )


def _grouped(db: sqlite3.Connection, question: Question, by: Dimension) -> tuple[GroupLine, ...]:
    return tuple(
        GroupLine(
            key=line.keys[0],
            requests=line.requests or 0,
            attempts=line.attempts,
            cost_nusd=line.cost_nusd,
            baseline_nusd=line.baseline_nusd or 0,
            savings_nusd=line.saved_nusd or 0,
        )
        for line in sorted(sums(db, replace(question, by=(by,))), key=_key)
    )


def _savings(db: sqlite3.Connection, question: Question) -> Savings:
    parameters = question.parameters
    rows = ""
    for hours in question.hours:
        window = f"requests.started_at_us >= {hours.from_us} AND requests.started_at_us < {hours.until_us}"
        their = f"charges.request_id IN (SELECT request_id FROM requests WHERE {window})"  # noqa: S608 - numbers
        found = savings_sql(f"{window} AND {_OWN}", their)
        # Taken from the day that its rollup counts it on, or added where no rollup has it: by cause all is one line.
        rows += _ROWS_SAVINGS.format(rows=found, sign="" if hours.is_in else "-")
    gained = dict.fromkeys(("exact", "semantic", "small", "other"), 0)
    waste = audit = router = 0
    for cause, gain_nusd, waste_nusd, audit_nusd, router_nusd in db.execute(_SAVINGS.format(rows=rows), parameters):
        gained[cause] += gain_nusd
        waste += waste_nusd
        audit += audit_nusd
        router += router_nusd
    gained["other"] -= db.execute(_RUNNING, parameters).fetchone()[0]
    return Savings(
        exact_nusd=gained["exact"],
        semantic_nusd=gained["semantic"],
        small_nusd=gained["small"],
        waste_nusd=waste,
        other_nusd=gained["other"],
        audit_nusd=audit,
        router_nusd=router,
    )


def _pool_notes(lines: tuple[PoolLine, ...]) -> tuple[str, ...]:
    return tuple(
        f"pool {line.pool}: the variance is above 5 % of its bill; multiply its rates by {line.rate_factor:.3f} "
        "(set its throughput or usd_per_hour so) and later charges will make the bill"
        for line in lines
        if line.rate_factor is not None
    )


def _archived(db: sqlite3.Connection, window: Mapping[str, int | str | None]) -> tuple[str, ...]:
    since, until, tenant = (window[name] for name in ("since", "until", "tenant"))
    note = archived_note(db, int(since or 0), int(until or 0), None if tenant is None else str(tenant))
    return () if note is None else (note,)


def _notes(db: sqlite3.Connection, totals: Totals, *, tenant: str | None) -> tuple[str, ...]:
    notes = []
    if not totals.requests and not totals.attempts:
        first, last = db.execute("SELECT MIN(started_at_us), MAX(started_at_us) FROM requests").fetchone()
        whose = f' for tenant "{tenant}"' if tenant else ""
        if first is None:
            notes.append("the ledger holds no request yet")
        else:
            notes.append(
                f"nothing was booked{whose} in this period; the ledger spans {_moment(first)} to {_moment(last)}"
            )
    waiting = db.execute("SELECT COUNT(*) FROM open_holds").fetchone()[0]
    if waiting:
        notes.append(f"{waiting} attempts are running, or were when their gateway died; they are not in this bill yet")
    if totals.unknown_charges:
        notes.append(
            f"{totals.unknown_charges} charges of unknown cost are in no sum; "
            "list them with `faregate report --by attempt`"
        )
    if totals.posted_nusd:
        notes.append(
            "the books post corrections or adjustments to this period; they are their own line, not in the cost"
        )
    if tenant:
        notes.append("pools are left out of one tenant's bill: their idle time belongs to nobody alone")
    return tuple(notes)


def _moment(at_us: int) -> str:
    return (_EPOCH_START + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_period(since: datetime | None, until: datetime | None) -> None:
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise PeriodInvalid(f"{name} is {moment.isoformat()} without a time zone; say which, such as +00:00")
    if since is not None and until is not None and since > until:
        raise PeriodInvalid(
            f"the period ends ({until.isoformat()}) before it begins ({since.isoformat()}); swap since and until"
        )
