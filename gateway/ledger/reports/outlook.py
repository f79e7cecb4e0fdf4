"""Where budgets are heading: what each will have spent when its window ends, and when it runs out.

It is learnt from the last 28 days as a month's forecast is (`forecast`). Sessions, tasks and end users have none: they
come and go, and their days say little of the next. A budget that never ends has no end to forecast, but may run out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from gateway.ledger.derived import DAY_US
from gateway.ledger.reports.answer import opened
from gateway.ledger.reports.forecast import expected
from gateway.ledger.store import FILE_NAME, microseconds
from policies.schema import Dimension

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from gateway.ledger.budgets import Cap
    from gateway.ledger.spent import BudgetLine

_LEARNT_FROM_DAYS: Final = 28
_FURTHEST: Final = timedelta(days=366)
"""How far ahead it is told when a budget without an end runs out."""
_COLUMNS: Final = {
    Dimension.TENANT: "tenant",
    Dimension.KEY: "key_id",
    Dimension.ROUTE: "route",
    Dimension.FEATURE: "feature",
}
"""What of a budget the daily rollups know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One pot's.

    Attributes:
        forecast_nusd: what will have been spent when its window ends; None where nobody can tell, or it never ends.
        low_nusd: with `high_nusd` the forecast's 95 % interval.
        runs_out: the local day on which it is expected to reach its cap, within its window; None where it does not.
    """

    forecast_nusd: int | None = None
    low_nusd: int | None = None
    high_nusd: int | None = None
    runs_out: date | None = None


def outlooks(folder: Path, lines: Sequence[BudgetLine], now: datetime) -> tuple[Outlook, ...]:
    """Return each line's outlook, in their order.

    Args:
        folder: the ledger's; without a ledger nothing is known.
        lines: the budgets' pots (`spent.budget_lines`).
        now: the present, aware.

    Raises:
        LedgerMissing, SchemaMismatch: the ledger cannot be read.
    """
    if not (folder / FILE_NAME).exists():
        return tuple(Outlook() for _ in lines)
    known: dict[Cap, Mapping[tuple[str, ...], dict[date, int]]] = {}
    with opened(folder) as db:
        for line in lines:
            if line.cap not in known:
                known[line.cap] = _daily(db, line.cap, now)
    return tuple(_outlook(line, known[line.cap].get(tuple(line.values.values()), {}), now) for line in lines)


def _daily(db: sqlite3.Connection, cap: Cap, now: datetime) -> Mapping[tuple[str, ...], dict[date, int]]:
    """Return what the budget's pots spent on each of the last whole UTC days, by their values."""
    found: dict[tuple[str, ...], dict[date, int]] = defaultdict(dict)
    dimensions = {*cap.each, *(dimension for dimension, _ in cap.match)}
    if not dimensions <= set(_COLUMNS):
        return found
    each = [_COLUMNS[dimension] for dimension in cap.each]
    fixed = [*([(Dimension.TENANT, cap.tenant)] if cap.tenant else []), *cap.match]
    wheres = [f"{_COLUMNS[dimension]} = ?" for dimension, _ in fixed] + [f"{column} <> ''" for column in each]
    today = microseconds(now) // DAY_US
    head = "".join(f"{column}, " for column in each)
    text = (
        f"SELECT {head}day, SUM(cost_nusd) FROM daily_charges WHERE day >= ? AND day < ?"
        f"{''.join(f' AND {where}' for where in wheres)} GROUP BY {head}day"
    )
    given = (today - _LEARNT_FROM_DAYS, today, *(value for _, value in fixed))
    for *values, day, nusd in db.execute(text, given):
        found[tuple(values)][date(1970, 1, 1) + timedelta(days=day)] = nusd
    return found


def _outlook(line: BudgetLine, days: Mapping[date, int], now: datetime) -> Outlook:
    local = now.astimezone(line.cap.zone)
    end = line.window.end.astimezone(line.cap.zone) if line.window.has_end else local + _FURTHEST
    rest = expected(days, local, end)
    if rest is None:
        return Outlook()
    spent, runs_out = float(line.spent_nusd), None
    for day, nusd in rest.by_day:
        spent += nusd
        if spent >= line.cap.cap_nusd:
            runs_out = day
            break
    if not line.window.has_end:
        return Outlook(runs_out=runs_out)
    return Outlook(
        forecast_nusd=line.spent_nusd + round(rest.nusd),
        low_nusd=line.spent_nusd + max(0, round(rest.nusd - rest.margin_nusd)),
        high_nusd=line.spent_nusd + round(rest.nusd + rest.margin_nusd),
        runs_out=runs_out,
    )
