"""Reconciliation: a provider's file against our charges, per day and model, with an explanation where there is one.

Rules:
- ours are the charges whose attempt began on the day, in the file's time zone: providers book by their own clock;
- where a file has tokens only, tokens are compared; money where it has money;
- a difference is `off` when it is above the tolerance, relative to the larger side, and neither rounding nor a shift to
  the next day explains it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from backends.prices import NANO_PER_USD, usd
from gateway.ledger.invoices import Billed, Invoice
from gateway.ledger.put_back import CHARGES
from gateway.ledger.reports.question import zone_named
from gateway.ledger.rows import TOKENS
from gateway.ledger.store import microseconds

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

_HOUR: Final = timedelta(hours=1)
_STEADY: Final = Decimal("0.002")  # a price version changes every day's cost by the same ratio, but for rounding
_OFFSETS_H: Final = range(-12, 15)
_OURS: Final = f"""
SELECT started_at_us / 3600000000, model, COUNT(*), COUNT(*) - COUNT(cost_nusd), COALESCE(SUM(cost_nusd), 0),
       COUNT(*) FILTER (WHERE input_provenance <> 'provider' OR output_provenance <> 'provider'),
       COALESCE(SUM(cost_nusd) FILTER (WHERE input_provenance <> 'provider' OR output_provenance <> 'provider'), 0),
       GROUP_CONCAT(DISTINCT price_digest), {", ".join(f"SUM({name})" for name in TOKENS)}
FROM {{charges}} WHERE started_at_us >= :since AND started_at_us < :until
GROUP BY 1, 2
"""
_READ: Final = ", ".join(
    (*TOKENS, "started_at_us", "model", "cost_nusd", "price_digest", "input_provenance", "output_provenance")
)
_WITH_ARCHIVES: Final = f"(SELECT {_READ} FROM charges UNION ALL SELECT {_READ} FROM {CHARGES})"


class Why(StrEnum):
    """What explains a difference."""

    ROUNDING = "rounding"
    LATE = "late usage"
    PRICE = "price version"
    MISSING_HERE = "missing here"
    MISSING_THERE = "missing there"
    UNKNOWN_COST = "unknown cost"
    UNCERTAIN = "counted or estimated tokens"
    NONE = "unexplained"


@dataclass(slots=True, kw_only=True)
class Ours:
    """Our charges of one hour or day and model."""

    attempts: int = 0
    unknown: int = 0
    cost_nusd: int = 0
    uncertain: int = 0
    uncertain_nusd: int = 0
    prices: set[str] = field(default_factory=set)
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))

    def add(self, other: Ours) -> None:
        """Add another hour's."""
        self.attempts += other.attempts
        self.unknown += other.unknown
        self.cost_nusd += other.cost_nusd
        self.uncertain += other.uncertain
        self.uncertain_nusd += other.uncertain_nusd
        self.prices |= other.prices
        for name, count in other.tokens.items():
            self.tokens[name] += count


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One day and model: theirs - ours.

    Attributes:
        unit: "USD" (amounts are nano-dollars) or "tokens".
        why: the explanation's kind; None where both agree within the tolerance without one.
        words: the explanation.
        is_off: above the tolerance and neither rounding nor late usage.
    """

    day: date
    model: str
    unit: str
    theirs: int
    ours: int
    why: Why | None
    words: str
    is_off: bool

    @property
    def difference(self) -> int:
        """Theirs - ours."""
        return self.theirs - self.ours

    def is_above(self, tolerance: Decimal) -> bool:
        """Tell whether the difference is more than this share of the larger side."""
        return abs(self.difference) > tolerance * max(abs(self.theirs), abs(self.ours))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """All days and models, by model and day, and hints about the whole."""

    differences: tuple[Difference, ...]
    hints: tuple[str, ...]

    @property
    def is_off(self) -> bool:
        """Tell whether anything is above the tolerance."""
        return any(one.is_off for one in self.differences)


def reconcile(
    db: sqlite3.Connection,
    invoice: Invoice,
    *,
    names: Mapping[str, str],
    zone: str = "UTC",
    tolerance: Decimal,
    has_archives: bool = False,
) -> Reconciled:
    """Compare a provider's file with our charges.

    Args:
        db: the ledger.
        invoice: as it was read.
        names: the provider's name of each of its catalog models; other models' charges are not looked at.
        zone: whose days the file's are.
        tolerance: share of the larger side that may differ, such as 0.005.
        has_archives: archived rows of the file's days were put back (`put_back`).

    Raises:
        QuestionInvalid: there is no such zone.
    """
    tz = zone_named(zone)
    billed = _merged(invoice, names)
    first, last = min(day for day, _ in billed), max(day for day, _ in billed)
    start, end = (datetime.combine(day, datetime.min.time(), tzinfo=tz) for day in (first, last + timedelta(days=1)))
    # A day around it, for the hints about zones.
    around = start.astimezone(UTC) - timedelta(days=1), end.astimezone(UTC) + timedelta(days=1)
    hourly = _hours(db, around, names, charges=_WITH_ARCHIVES if has_archives else "charges")
    ours = _by_day((moment.astimezone(tz).date(), model, one) for moment, model, one in hourly)
    keys = set(billed) | {(day, model) for day, model in ours if first <= day <= last}
    compared = [
        _compare(day, model, billed.get((day, model)), ours.get((day, model), Ours()), tolerance)
        for day, model in sorted(keys, key=lambda key: (key[1], key[0]))
    ]
    explained = _late(_prices(compared), tolerance)
    return Reconciled(differences=tuple(explained), hints=_zone_hints(explained, hourly, billed, zone))


def _merged(invoice: Invoice, names: Mapping[str, str]) -> Invoice:
    """Put the file's models under our providers' names: `gpt-5-2025-08-07` and `GPT 5` are `gpt-5` where we have it."""
    known = {_plain(name): name for name in names.values()}
    merged: Invoice = {}
    for (day, model), one in invoice.items():
        into = merged.setdefault((day, known.get(_plain(model), model)), Billed())
        into.add(one)
    return merged


def _plain(name: str) -> str:
    """Return a model's name without what its exports vary: case, blanks, points, a snapshot's date."""
    plain = re.sub(r"[\s._]+", "-", name.strip().lower().rpartition("/")[2])
    return re.sub(r"-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$", "", plain)


def _hours(
    db: sqlite3.Connection, around: tuple[datetime, datetime], names: Mapping[str, str], *, charges: str
) -> Sequence[tuple[datetime, str, Ours]]:
    found = []
    window = {"since": microseconds(around[0]), "until": microseconds(around[1])}
    for row in db.execute(_OURS.format(charges=charges), window):
        hour, model, attempts, unknown, cost, uncertain, uncertain_cost, prices, *counts = row
        if model not in names:
            continue
        one = Ours(
            attempts=attempts,
            unknown=unknown,
            cost_nusd=cost,
            uncertain=uncertain,
            uncertain_nusd=uncertain_cost,
            prices=set(prices.split(",")),
            tokens=dict(zip(TOKENS, counts, strict=True)),
        )
        found.append((datetime.fromtimestamp(hour * 3600, UTC), names[model], one))
    return found


def _by_day(hours: Iterable[tuple[date, str, Ours]]) -> dict[tuple[date, str], Ours]:
    days: dict[tuple[date, str], Ours] = defaultdict(Ours)
    for day, model, one in hours:
        days[day, model].add(one)
    return days


def _compare(day: date, model: str, billed: Billed | None, ours: Ours, tolerance: Decimal) -> Difference:
    theirs = billed or Billed(cost_usd=Decimal(0))
    in_dollars = theirs.cost_nusd is not None
    line = Difference(
        day=day,
        model=model,
        unit="USD" if in_dollars else "tokens",
        theirs=theirs.cost_nusd or 0 if in_dollars else sum(theirs.tokens.values()),
        ours=ours.cost_nusd if in_dollars else sum(ours.tokens[name] for name in _folded(theirs, ours)),
        why=None,
        words="",
        is_off=False,
    )
    if not line.difference:
        return line
    why, words = _why(line, billed, ours)
    return replace(line, why=why, words=words, is_off=why is not Why.ROUNDING and line.is_above(tolerance))


def _folded(billed: Billed, ours: Ours) -> Iterable[str]:
    """Return our classes that the file's add up to: all, since a file folds what it does not name into others."""
    return (name for name in ours.tokens if name != "web_searches" or "web_searches" in billed.tokens)


def _why(line: Difference, billed: Billed | None, ours: Ours) -> tuple[Why, str]:
    """Return the likeliest explanation that one day and model give by themselves."""
    if billed is None:
        return Why.MISSING_THERE, f"{ours.attempts} attempts here, no row there: not billed yet, or another account's"
    for explain in (_rounding, _missing, _unknown, _miscounted, _priced_otherwise, _uncertain):
        if found := explain(line, billed, ours):
            return found
    return Why.NONE, ""


def _rounding(line: Difference, billed: Billed, ours: Ours) -> tuple[Why, str] | None:
    slack = billed.slack_usd * NANO_PER_USD + Decimal(ours.attempts) / 2
    if line.unit != "USD" or abs(line.difference) > slack:
        return None
    return Why.ROUNDING, f"within the rounding of the file's amounts ({usd(round(slack)):f} USD)"


def _missing(_: Difference, __: Billed, ours: Ours) -> tuple[Why, str] | None:
    return None if ours.attempts else (Why.MISSING_HERE, "no attempt here: made around the gateway, or never booked")


def _unknown(line: Difference, _: Billed, ours: Ours) -> tuple[Why, str] | None:
    if not ours.unknown or line.difference < 0:
        return None
    return Why.UNKNOWN_COST, f"{ours.unknown} charges here have no known cost"


def _miscounted(_: Difference, billed: Billed, ours: Ours) -> tuple[Why, str] | None:
    if billed.requests is None or billed.requests == ours.attempts:
        return None
    more = billed.requests - ours.attempts
    words = f"{abs(more)} requests {'more' if more > 0 else 'fewer'} there ({billed.requests}, {ours.attempts} here)"
    return (Why.MISSING_HERE if more > 0 else Why.MISSING_THERE), words


def _priced_otherwise(line: Difference, billed: Billed, ours: Ours) -> tuple[Why, str] | None:
    if line.unit != "USD" or not billed.tokens or not _same_tokens(billed, ours):
        return None
    return Why.PRICE, f"the tokens agree: another price ({len(ours.prices)} price books used here that day)"


def _uncertain(line: Difference, _: Billed, ours: Ours) -> tuple[Why, str] | None:
    if not ours.uncertain or abs(line.difference) > ours.uncertain_nusd:
        return None
    return Why.UNCERTAIN, f"{ours.uncertain} charges here rest on counted or estimated tokens"


def _same_tokens(billed: Billed, ours: Ours) -> bool:
    return all(ours.tokens[name] == count for name, count in billed.tokens.items())


def _prices(lines: Sequence[Difference]) -> list[Difference]:
    """Explain a model whose cost is off by the same ratio on several days: another version of its price."""
    ratios: dict[str, list[Decimal]] = defaultdict(list)
    for line in lines:
        if line.unit == "USD" and line.theirs > 0 and line.ours > 0:
            ratios[line.model].append(Decimal(line.theirs) / line.ours)
    steady: dict[str, Decimal] = {}
    for model, found in ratios.items():
        mean = sum(found, Decimal(0)) / len(found)
        if len(found) > 1 and max(found) - min(found) <= _STEADY * min(found) and abs(mean - 1) > _STEADY:
            steady[model] = mean
    return [
        replace(
            line, why=Why.PRICE, words=f"every day there is {steady[line.model]:.4f} times ours: another price version"
        )
        if line.why is Why.NONE and line.model in steady
        else line
        for line in lines
    ]


def _late(lines: Sequence[Difference], tolerance: Decimal) -> list[Difference]:
    """Explain a difference that the next day gives back: usage that the provider booked a day later or earlier."""
    found = list(lines)
    for at, (line, following) in enumerate(pairwise(lines)):
        if line.model != following.model or following.day - line.day != timedelta(days=1):
            continue
        both = line.difference + following.difference
        is_swap = line.difference * following.difference < 0
        unexplained = {Why.NONE, Why.MISSING_HERE, Why.MISSING_THERE}
        if (
            is_swap
            and {line.why, following.why} <= unexplained
            and abs(both) <= tolerance * max(line.ours, line.theirs)
        ):
            words = f"{line.day:%m-%d} and {following.day:%m-%d} give and take the same: booked on the other day"
            found[at] = replace(line, why=Why.LATE, words=words, is_off=False)
            found[at + 1] = replace(following, why=Why.LATE, words=words, is_off=False)
    return found


def _zone_hints(
    lines: Sequence[Difference], hourly: Sequence[tuple[datetime, str, Ours]], billed: Invoice, zone: str
) -> tuple[str, ...]:
    """Say so when the days would agree in another time zone."""
    if not any(line.is_off or line.why is Why.LATE for line in lines):
        return ()
    theirs = {key: one.cost_nusd for key, one in billed.items() if one.cost_nusd is not None}
    if not theirs:
        return ()
    misfits = {}
    for hours in _OFFSETS_H:
        ours = _by_day(((moment + hours * _HOUR).date(), model, one) for moment, model, one in hourly)
        misfits[hours] = sum(abs(nusd - ours[key].cost_nusd if key in ours else nusd) for key, nusd in theirs.items())
    best = min(misfits, key=lambda hours: (misfits[hours], abs(hours)))
    now = sum(abs(line.difference) for line in lines if (line.day, line.model) in theirs)
    if misfits[best] * 10 > now:
        return ()
    return (f"the days agree if the file's are those of UTC{best:+d}, not of {zone}: give such a zone with --zone",)
