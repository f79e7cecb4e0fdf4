"""Where the month is heading: what is spent, what the rest of it will cost, and how that stands to the budget.

Months are those of the question's time zone; the days that the rest is learnt from are UTC's, for which there are
rollups. The rest is the mean of the last 28 whole days, by weekday once two weeks are known; its interval is 1.96
standard deviations of what those means got wrong, growing with the square root of the days left (independent days).
The trend is the least-squares slope of the same days.

Source: seasonal means with normal prediction intervals; Hyndman & Athanasopoulos, "Forecasting: Principles and
Practice", 3rd ed., 5.2 and 5.5.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from gateway.ledger.reports.answer import ask, sums
from gateway.ledger.reports.question import Dimension, Question, zone_named

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

_WINDOW_DAYS: Final = 28
_SEASONAL_DAYS: Final = 14
_FEWEST_DAYS: Final = 3
_NORMAL_95: Final = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """One tenant's month, or everybody's.

    Attributes:
        tenant: None for all together.
        month: such as 2026-11, in the question's time zone.
        spent_nusd: from the month's beginning to the question's end.
        forecast_nusd: at the month's end; None while fewer than three whole days are known.
        low_nusd: with `high_nusd` its 95 % interval.
        trend_nusd_per_day: how much more each day costs than the one before.
        budget_nusd: what may be spent in the month; None without a budget.
    """

    tenant: str | None
    month: str
    spent_nusd: int
    forecast_nusd: int | None = None
    low_nusd: int | None = None
    high_nusd: int | None = None
    trend_nusd_per_day: int | None = None
    budget_nusd: int | None = None

    @property
    def over_nusd(self) -> int | None:
        """How far the forecast is above the budget; negative when below."""
        if self.budget_nusd is None or self.forecast_nusd is None:
            return None
        return self.forecast_nusd - self.budget_nusd


def forecasts(db: sqlite3.Connection, question: Question, budgets_nusd: Mapping[str, int]) -> tuple[Forecast, ...]:
    """Return the forecast of the month in which the question ends: all together first, then by tenant, dearest first.

    Args:
        db: the ledger.
        question: its end is "now"; its tenant, if any, is the only one.
        budgets_nusd: the monthly budget of each tenant that has one.
    """
    now = question.until.astimezone(zone_named(question.zone))
    start = datetime(now.year, now.month, 1, tzinfo=now.tzinfo)
    this_month = replace(question, since=start.astimezone(UTC), by=(Dimension.TENANT,))
    lately = replace(
        question,
        since=datetime.combine(question.until.date() - timedelta(days=_WINDOW_DAYS), datetime.min.time(), tzinfo=UTC),
        by=(Dimension.TENANT, Dimension.DAY),
        zone="UTC",
    )
    daily: dict[str | None, dict[date, int]] = defaultdict(lambda: defaultdict(int))
    for line in sums(db, lately):
        tenant, day = line.keys
        for whose in (tenant, None):
            daily[whose][date.fromisoformat(day)] += line.cost_nusd
    answer = ask(db, this_month)
    found = [
        _forecast(line.keys[0], line.cost_nusd, daily[line.keys[0]], now, budgets_nusd.get(line.keys[0]))
        for line in answer.lines
    ]
    if question.tenant is not None:
        return tuple(found)
    # Of all together only where each has one: the others' spending is under no budget.
    has_all = all(line.keys[0] in budgets_nusd for line in answer.lines)
    together = sum(budgets_nusd.values()) if budgets_nusd and has_all else None
    return (_forecast(None, answer.total.cost_nusd, daily[None], now, together), *found)


def _forecast(
    tenant: str | None, spent_nusd: int, days: Mapping[date, int], now: datetime, budget_nusd: int | None
) -> Forecast:
    month = Forecast(tenant=tenant, month=f"{now:%Y-%m}", spent_nusd=spent_nusd, budget_nusd=budget_nusd)
    next_month = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=now.tzinfo)
    rest = expected(days, now, next_month)
    if rest is None:
        return month
    return replace(
        month,
        forecast_nusd=spent_nusd + round(rest.nusd),
        low_nusd=spent_nusd + max(0, round(rest.nusd - rest.margin_nusd)),
        high_nusd=spent_nusd + round(rest.nusd + rest.margin_nusd),
        trend_nusd_per_day=_slope(rest.learnt_from),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the time up to a moment will cost.

    Attributes:
        by_day: each local day that is left, with its expected cost in nano-dollars, today's rest first.
        margin_nusd: half of the sum's 95 % interval.
        learnt_from: the costs of the whole days before, oldest first.
    """

    by_day: tuple[tuple[date, float], ...]
    margin_nusd: float
    learnt_from: tuple[int, ...]

    @property
    def nusd(self) -> float:
        """The sum of the days."""
        return sum(nusd for _, nusd in self.by_day)


def expected(days: Mapping[date, int], now: datetime, end: datetime) -> Expected | None:
    """Return what is expected from now up to a local midnight; None while fewer than three whole days are known.

    Args:
        days: what each UTC day cost, in nano-dollars; days without a cost may be left out after the first.
        now: the present, in the zone whose days are counted.
        end: in the same zone.
    """
    today = now.astimezone(UTC).date()
    first = min(days, default=today)
    whole = [first + timedelta(days=number) for number in range((today - first).days)]
    known = [(day, days.get(day, 0)) for day in whole[-_WINDOW_DAYS:]]
    if len(known) < _FEWEST_DAYS:
        return None
    means = _means(known)
    left = _left(now, end.date())
    errors = [nusd - means[day.weekday()] for day, nusd in known]
    spread = math.sqrt(sum(error * error for error in errors) / (len(errors) - 1))
    return Expected(
        by_day=tuple((day, means[day.weekday()] * share) for day, share in left),
        margin_nusd=_NORMAL_95 * spread * math.sqrt(sum(share for _, share in left)),
        learnt_from=tuple(nusd for _, nusd in known),
    )


def _means(known: Sequence[tuple[date, int]]) -> list[float]:
    """Return the expected cost of each weekday, Monday first."""
    overall = sum(nusd for _, nusd in known) / len(known)
    if len(known) < _SEASONAL_DAYS:
        return [overall] * 7
    by_weekday: list[list[int]] = [[] for _ in range(7)]
    for day, nusd in known:
        by_weekday[day.weekday()].append(nusd)
    return [sum(costs) / len(costs) if costs else overall for costs in by_weekday]


def _left(now: datetime, end: date) -> list[tuple[date, float]]:
    """Return the days left before a day, each with the share of it that is still to come."""
    midnight = datetime.combine(now.date(), datetime.min.time(), tzinfo=now.tzinfo)
    left = [(now.date(), 1 - (now - midnight) / timedelta(days=1))]
    later = range(1, (end - now.date()).days)
    return left + [(now.date() + timedelta(days=number), 1.0) for number in later]


def _slope(costs: Sequence[int]) -> int:
    """Return the least-squares slope over equally spaced days, rounded."""
    number = len(costs)
    middle, mean = (number - 1) / 2, sum(costs) / number
    return round(
        sum((at - middle) * (nusd - mean) for at, nusd in enumerate(costs))
        / sum((at - middle) ** 2 for at in range(number))
    )
