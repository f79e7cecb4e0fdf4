"""Margin: what requests brought in, as the policy or a file states it, beside what they cost.

Rules:
- an amount per request or per answer counts where those requests stand;
- an amount for a time (per month, or a file's line for a tenant or a feature) is spread over the lines it covers in
  proportion to their requests, so that the lines add up to it to the nano-dollar; a month counts as far as the period
  covers it;
- a line that nothing is stated for has no revenue, which is not a revenue of 0.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from backends.prices import NANO_PER_USD
from gateway.ledger.errors import QuestionInvalid, StatementInvalid
from gateway.ledger.reports.answer import Answer, ask
from gateway.ledger.reports.question import Dimension, Question, zone_named
from gateway.ledger.reports.statement import read_csv

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from gateway.ledger.reports.answer import Line

_SCOPE: Final = (Dimension.TENANT, Dimension.FEATURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What some requests bring in.

    Attributes:
        tenant: only this tenant's requests; None: anybody's.
        feature: only those with this feature tag.
        usd_per_request: for each request.
        usd_per_answer: for each successful answer.
        usd_per_month: for a whole calendar month.
        usd: for the whole period.
    """

    tenant: str | None = None
    feature: str | None = None
    usd_per_request: Decimal = Decimal(0)
    usd_per_answer: Decimal = Decimal(0)
    usd_per_month: Decimal = Decimal(0)
    usd: Decimal = Decimal(0)

    def covers(self, tenant: str, feature: str) -> bool:
        """Tell whether requests of this tenant and feature fall under the rule."""
        return self.tenant in {None, tenant} and self.feature in {None, feature}


@dataclass(frozen=True, slots=True, kw_only=True)
class Revenue:
    """All that is stated: rules, and dollars (as nano-dollars) for single requests."""

    rules: tuple[Rule, ...] = ()
    by_request: Mapping[str, int] = field(default_factory=dict)


def read_revenue(file: Path, question: Question) -> Revenue:
    """Read a revenue file: `revenue_usd` with `request_id`, or with `tenant`, `feature` or both, and maybe `date`.

    Lines whose date lies outside the question's period are left out.

    Raises:
        StatementInvalid: the columns are not these, or a value is none; nothing is guessed.
    """
    rules: list[Rule] = []
    by_request: dict[str, int] = defaultdict(int)
    zone = zone_named(question.zone)
    first, last = question.since.astimezone(zone), question.until.astimezone(zone)
    for entry in read_csv(file, required=["revenue_usd"], optional=["request_id", "tenant", "feature", "date"]):
        if "date" in entry.fields:
            start = datetime.combine(entry.day("date"), datetime.min.time(), tzinfo=zone)
            if not first <= start < last:
                continue
        if request_id := entry.fields.get("request_id"):
            by_request[request_id] += entry.nusd("revenue_usd")
            continue
        tenant, feature = entry.fields.get("tenant") or None, entry.fields.get("feature") or None
        if tenant is None and feature is None:
            raise entry.wrong("says neither request_id nor tenant nor feature; say whose revenue it is")
        rules.append(Rule(tenant=tenant, feature=feature, usd=entry.amount("revenue_usd")))
    if not rules and not by_request:
        raise StatementInvalid(f"{file} states no revenue for this period; check its dates against --since and --until")
    return Revenue(rules=tuple(rules), by_request=by_request)


def with_revenue(db: sqlite3.Connection, answer: Answer, revenue: Revenue) -> Answer:
    """Return the answer with what its lines brought in.

    Raises:
        QuestionInvalid: the lines are of attempts, which bring nothing in.
    """
    question = answer.question
    if not question.has_requests:
        raise QuestionInvalid(
            "revenue is of requests, pools and kinds are of attempts: leave pool and kind out of --by"
        )
    earned: dict[tuple[str, ...], int] = defaultdict(int)
    whole = None
    # Asked of all tenants: what is spread over several must be, also when one alone is looked at.
    fine = replace(question, by=(*question.by, *(d for d in _SCOPE if d not in question.by)), tenant=None)
    lines = ask(db, fine).lines if revenue.rules else ()
    where = {dimension: fine.by.index(dimension) for dimension in _SCOPE} if revenue.rules else {}
    for rule in revenue.rules:
        covered = [line for line in lines if rule.covers(*(line.keys[where[dimension]] for dimension in _SCOPE))]
        for line, nusd in zip(covered, _amounts(rule, covered, question), strict=True):
            if question.tenant in {None, line.keys[where[Dimension.TENANT]]}:
                earned[line.keys[: len(question.by)]] += nusd
                whole = (whole or 0) + nusd
    for keys, nusd in _by_request(db, question, revenue.by_request):
        earned[keys] += nusd
        whole = (whole or 0) + nusd
    return replace(
        answer,
        lines=tuple(replace(line, revenue_nusd=earned.get(line.keys)) for line in answer.lines),
        total=replace(answer.total, revenue_nusd=whole),
    )


def _amounts(rule: Rule, lines: Sequence[Line], question: Question) -> list[int]:
    """Return what each line gets, in nano-dollars."""
    each = [
        Fraction(rule.usd_per_request) * (line.requests or 0) + Fraction(rule.usd_per_answer) * (line.answered or 0)
        for line in lines
    ]
    spread = Fraction(rule.usd) + Fraction(rule.usd_per_month) * _months(question)
    shares = _spread(round(spread * NANO_PER_USD), [line.requests or 0 for line in lines])
    return [round(amount * NANO_PER_USD) + share for amount, share in zip(each, shares, strict=True)]


def _spread(nusd: int, weights: Sequence[int]) -> list[int]:
    """Split an amount in proportion to weights, without losing a nano-dollar: what rounding leaves goes in order."""
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    shares, given, weight = [], 0, 0
    for part in weights:
        weight += part
        upto = nusd * weight // whole
        shares.append(upto - given)
        given = upto
    return shares


def _months(question: Question) -> Fraction:
    """Return how many calendar months the period covers, each by its own length."""
    zone = zone_named(question.zone)
    moment = question.since.astimezone(zone)
    total = Fraction(0)
    while moment < question.until:
        start = datetime(moment.year, moment.month, 1, tzinfo=zone)
        following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=zone)
        upto = min(following.astimezone(UTC), question.until.astimezone(UTC))
        total += Fraction(_seconds(moment, upto), _seconds(start, following))
        moment = upto.astimezone(zone)
    return total


def _seconds(start: datetime, end: datetime) -> int:
    return round((end.astimezone(UTC) - start.astimezone(UTC)).total_seconds())


def _by_request(
    db: sqlite3.Connection, question: Question, earned: Mapping[str, int]
) -> Iterable[tuple[tuple[str, ...], int]]:
    if not earned:
        return
    db.execute("CREATE TEMP TABLE revenue (request_id TEXT PRIMARY KEY, nusd INTEGER NOT NULL)")
    db.executemany("INSERT INTO revenue VALUES (?, ?)", earned.items())
    keys = "".join(f"{key}, " for key in question.request_keys())
    query = (
        f"SELECT {keys}SUM(nusd) FROM revenue CROSS JOIN requests USING (request_id) WHERE started_at_us >= :since"
        " AND started_at_us < :until AND (:tenant IS NULL OR tenant = :tenant)"
        f"{' GROUP BY ' if keys else ''}{', '.join(str(number + 1) for number in range(len(question.by)))}"
    )
    for row in db.execute(query, question.parameters).fetchall():
        if row[-1] is not None:
            yield tuple(str(key) for key in row[:-1]), int(row[-1])
    db.execute("DROP TABLE revenue")
