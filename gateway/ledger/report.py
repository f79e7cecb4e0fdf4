"""The bill: what was spent, on what, what the baseline would have cost, and what the pools cost while they idled.

Rules:
- every number is summed from the rows in integers; Σ charges = the report, to the nano-dollar;
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
from gateway.ledger.errors import LedgerMissing, PeriodInvalid
from gateway.ledger.journal import JOURNAL_FOLDER, segments
from gateway.ledger.pools import PoolFacts, PoolLine, pool_lines
from gateway.ledger.store import FILE_NAME, check_schema, microseconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.ledger.reports.question import Question

_FOR_EVER: Final = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))
_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)

# The period is copied once into temporary tables, which every section then adds up.
# `asked`: its requests. `paid`: their charges, and those whose request is not booked yet (path ''; `is_running`).
_ASKED: Final = """
CREATE TEMP TABLE asked AS
SELECT request_id, tenant, COALESCE(route, '') AS route, path, status, started_at_us, baseline_model, baseline_nusd,
       baseline_low_nusd, baseline_high_nusd
FROM requests
WHERE started_at_us >= :since AND started_at_us < :until AND (:tenant IS NULL OR tenant = :tenant)
"""
_PAID: Final = """
CREATE TEMP TABLE paid AS
SELECT 0 AS is_running, asked.path, asked.route, asked.started_at_us AS asked_at_us, charges.request_id, attempt, kind,
       charges.tenant, model, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
       cost_nusd
FROM asked CROSS JOIN charges ON charges.request_id = asked.request_id
UNION ALL
SELECT 1, '', route, started_at_us, request_id, attempt, kind,
       tenant, model, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
       cost_nusd
FROM waiting_charges CROSS JOIN charges USING (request_id, attempt)
WHERE started_at_us >= :since AND started_at_us < :until AND (:tenant IS NULL OR tenant = :tenant)
"""
_TOTALS: Final = """
SELECT COUNT(*), COALESCE(SUM(path <> ''), 0), COALESCE(SUM(status >= 400), 0), COALESCE(SUM(baseline_nusd), 0),
       COALESCE(SUM(baseline_low_nusd), 0), COALESCE(SUM(baseline_high_nusd), 0) FROM asked
"""
_BY_KIND: Final = """
SELECT kind, COUNT(*), COALESCE(SUM(cost_nusd), 0), COUNT(*) - COUNT(cost_nusd) FROM paid GROUP BY kind ORDER BY kind
"""
_BY_MODEL: Final = """
SELECT model, COUNT(*), SUM(input_tokens), SUM(cached_input_tokens), SUM(cache_write_tokens), SUM(output_tokens),
       SUM(reasoning_tokens), COALESCE(SUM(cost_nusd), 0) FROM paid GROUP BY model ORDER BY SUM(cost_nusd) DESC, model
"""
_GROUPED: Final = """
SELECT key, SUM(requests), SUM(attempts), SUM(cost_nusd), SUM(baseline_nusd) FROM (
  SELECT {asked} AS key, 1 AS requests, 0 AS attempts, 0 AS cost_nusd, baseline_nusd FROM asked
  UNION ALL
  SELECT {paid}, 0, 1, COALESCE(cost_nusd, 0), 0 FROM paid
) GROUP BY key ORDER BY key
"""
_DAY: Final = "strftime('%Y-%m-%d', {} / 1000000, 'unixepoch')"
_BY: Final = {
    "tenant": _GROUPED.format(asked="tenant", paid="tenant"),
    "route": _GROUPED.format(asked="route", paid="route"),
    "path": _GROUPED.format(asked="path", paid="path"),
    "day": _GROUPED.format(asked=_DAY.format("started_at_us"), paid=_DAY.format("asked_at_us")),
}
# What each request cost, by its committed attempt (the answer, or what was streamed of it before a hang-up) and by the
# others (waste).
_SAVINGS: Final = """
WITH ends AS (
  SELECT request_id, COALESCE(SUM(cost_nusd), 0) AS spent_nusd,
         COALESCE(SUM(cost_nusd) FILTER (WHERE kind IN ('audit')), 0) AS audit_nusd,
         COALESCE(SUM(cost_nusd) FILTER (WHERE kind IN ('embedding', 'judge', 'verifier')), 0) AS router_nusd,
         MAX(attempt) FILTER (WHERE kind = 'answer') AS answered,
         MAX(attempt) FILTER (WHERE kind = 'cancelled') AS cancelled
  FROM paid GROUP BY request_id
), served AS (
  SELECT asked.path, asked.baseline_model, asked.baseline_nusd, COALESCE(ends.spent_nusd, 0) AS spent_nusd,
         COALESCE(ends.audit_nusd, 0) AS audit_nusd, COALESCE(ends.router_nusd, 0) AS router_nusd,
         COALESCE(committed.cost_nusd, 0) AS committed_nusd, committed.model AS committed_model
  FROM asked LEFT JOIN ends ON ends.request_id = asked.request_id
  LEFT JOIN charges AS committed ON committed.request_id = asked.request_id AND committed.attempt =
    COALESCE(ends.answered, CASE WHEN asked.baseline_nusd > 0 THEN ends.cancelled END)
)
SELECT CASE WHEN path IN ('cache:exact', 'cache:flight') THEN 'exact' WHEN path = 'cache:semantic' THEN 'semantic'
            WHEN path <> '' AND committed_model <> baseline_model THEN 'small' ELSE 'other' END,
       SUM(baseline_nusd - CASE WHEN path = '' THEN spent_nusd - audit_nusd - router_nusd ELSE committed_nusd END),
       SUM(CASE WHEN path = '' THEN 0 ELSE committed_nusd - (spent_nusd - audit_nusd - router_nusd) END),
       SUM(-audit_nusd), SUM(-router_nusd)
FROM served GROUP BY 1
"""
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
_RUNNING: Final = "SELECT COALESCE(SUM(cost_nusd), 0) FROM paid WHERE is_running"


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
    """One period's report; `since` is inside, `until` outside, both UTC.

    Attributes:
        pools: empty when the bill is one tenant's, for a pool's hours belong to nobody alone.
        notes: what a reader should know, such as that nothing was booked.
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

    def savings_by_cause(self) -> tuple[tuple[str, int], ...]:
        """Return (cause in words, nano-dollars); they sum to baseline - actual."""
        savings = self.savings
        return (
            ("exact cache", savings.exact_nusd),
            ("semantic cache", savings.semantic_nusd),
            ("smaller models", savings.small_nusd),
            ("waste of the cascade", savings.waste_nusd),
            ("audits", savings.audit_nusd),
            ("deciding (embeddings, judges)", savings.router_nusd),
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
    ) -> Bill:
        """Add a period up.

        Args:
            since: timezone-aware beginning, inside the period; None: from the first row.
            until: timezone-aware end, outside the period; None: to the last row.
            tenant: only this tenant's.
            pools: what is known of pools beside the ledger.

        Raises:
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
                bill = _add_up(db, window, since=since, until=until, tenant=tenant, pools=pools or {})
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
) -> Bill:
    db.execute(_ASKED, window)
    db.execute(_PAID, window)
    kinds = tuple(
        KindLine(kind=kind, attempts=attempts, cost_nusd=cost, unknown_charges=unknown)
        for kind, attempts, cost, unknown in db.execute(_BY_KIND)
    )
    totals = _totals(db, kinds, window)
    since_us, until_us = int(window["since"] or 0), int(window["until"] or 0)
    lines = () if tenant else pool_lines(db, since_us=since_us, until_us=until_us, facts=pools)
    return Bill(
        since=since,
        until=until,
        tenant=tenant,
        totals=totals,
        by_kind=kinds,
        by_model=tuple(_model_line(row) for row in db.execute(_BY_MODEL)),
        by_tenant=_grouped(db, "tenant"),
        by_route=_grouped(db, "route"),
        by_path=_grouped(db, "path"),
        by_day=_grouped(db, "day"),
        savings=_savings(db),
        pools=lines,
        notes=(*_archived(db, window), *_notes(db, totals, tenant=tenant), *_pool_notes(lines)),
    )


def _totals(db: sqlite3.Connection, kinds: tuple[KindLine, ...], window: dict[str, int | str | None]) -> Totals:
    requests, served, refused, baseline, low, high = db.execute(_TOTALS).fetchone()
    cost = sum(line.cost_nusd for line in kinds)
    return Totals(
        requests=requests,
        served=served,
        refused=refused,
        attempts=sum(line.attempts for line in kinds),
        cost_nusd=cost,
        rejected_nusd=sum(line.cost_nusd for line in kinds if line.kind == "rejected"),
        baseline_nusd=baseline,
        baseline_low_nusd=low,
        baseline_high_nusd=high,
        savings_nusd=baseline - cost,
        savings_low_nusd=low - cost,
        savings_high_nusd=high - cost,
        unknown_charges=sum(line.unknown_charges for line in kinds),
        posted_nusd=int(db.execute(_POSTED, window).fetchone()[0]),
    )


def posted_nusd(db: sqlite3.Connection, question: Question) -> int:
    """Return what the books post to a question's period and tenant, in nano-dollars."""
    window = {name: question.parameters[name] for name in ("since", "until", "tenant")}
    return int(db.execute(_POSTED, window).fetchone()[0])


def _model_line(row: tuple[str, int, int, int, int, int, int, int]) -> ModelLine:
    model, attempts, read, cached, written, output, reasoning, cost = row
    return ModelLine(
        model=model,
        attempts=attempts,
        input_tokens=read,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=reasoning,
        cost_nusd=cost,
    )


def _grouped(db: sqlite3.Connection, by: str) -> tuple[GroupLine, ...]:
    return tuple(
        GroupLine(
            key=key,
            requests=requests,
            attempts=attempts,
            cost_nusd=cost,
            baseline_nusd=baseline,
            savings_nusd=baseline - cost,
        )
        for key, requests, attempts, cost, baseline in db.execute(_BY[by])
    )


def _savings(db: sqlite3.Connection) -> Savings:
    gained = dict.fromkeys(("exact", "semantic", "small", "other"), 0)
    waste = audit = router = 0
    for cause, gain_nusd, waste_nusd, audit_nusd, router_nusd in db.execute(_SAVINGS):
        gained[cause] += gain_nusd
        waste += waste_nusd
        audit += audit_nusd
        router += router_nusd
    gained["other"] -= db.execute(_RUNNING).fetchone()[0]
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
