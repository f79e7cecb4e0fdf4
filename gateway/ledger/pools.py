"""The pools' side of the bill: hours up = charges + idle + variance, each its own line.

A pool is up while an epoch that names it lives. A replica (told apart by a charge's endpoint) is busy while at least
one attempt runs on it; the rest of its paid time is idle. Variance is what the standard rates got wrong.

Source: standard costing (bill = standard cost of the work + cost of idle capacity + variance).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from backends.prices import NANO_PER_USD

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

_US_PER_HOUR: Final = 3600 * 10**6
_UPTIME: Final = """
SELECT pool, usd_per_hour, replicas, started_at_us, last_seen_at_us FROM epoch_pools JOIN epochs USING (epoch)
WHERE started_at_us < :until AND last_seen_at_us > :since ORDER BY pool, started_at_us, epoch
"""
# An attempt that began before the period may run into it, and keeps its replica busy there.
_BUSY: Final = """
SELECT endpoint_label, started_at_us, started_at_us + CAST(ROUND(duration_ms * 1000) AS INTEGER) FROM charges
WHERE pool = :pool AND started_at_us < :until AND started_at_us + duration_ms * 1000 > :since
ORDER BY endpoint_label, started_at_us
"""
_CHARGED: Final = """
SELECT pool, SUM(cost_nusd) FROM charges
WHERE pool IS NOT NULL AND started_at_us >= :since AND started_at_us < :until GROUP BY pool
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLine:
    """One pool's period.

    Attributes:
        up_us: microseconds the pool was up, times its replicas.
        busy_us: of these, microseconds in which a replica had something in flight.
        bill_nusd: hours up x price of an hour.
        charged_nusd: the charges of attempts that began in the period.
        idle_nusd: idle hours x price of an hour.
        variance_nusd: bill - charged - idle; may be negative.
    """

    pool: str
    up_us: int
    busy_us: int
    bill_nusd: int
    charged_nusd: int
    idle_nusd: int
    variance_nusd: int


@dataclass(frozen=True, slots=True)
class _Uptime:
    start_us: int
    end_us: int
    usd_per_hour: Decimal
    replicas: int


def pool_lines(db: sqlite3.Connection, *, since_us: int, until_us: int) -> tuple[PoolLine, ...]:
    """Return a line for every pool that was up or charged in the period, by name."""
    window = {"since": since_us, "until": until_us}
    charged: dict[str, int] = dict(db.execute(_CHARGED, window).fetchall())
    uptimes: dict[str, list[_Uptime]] = {pool: [] for pool in charged}
    for pool, price, replicas, started, seen in db.execute(_UPTIME, window):
        known = uptimes.setdefault(pool, [])
        # Epochs of one folder never overlap unless the clock went back; then no moment is billed twice.
        start = max(started, since_us, known[-1].end_us if known else since_us)
        end = min(seen, until_us)
        if end > start:
            known.append(_Uptime(start, end, Decimal(price), replicas))
    return tuple(_line(db, pool, uptimes[pool], charged.get(pool, 0), window) for pool in sorted(uptimes))


def _line(
    db: sqlite3.Connection, pool: str, uptimes: list[_Uptime], charged_nusd: int, window: dict[str, int]
) -> PoolLine:
    spans = db.execute(_BUSY, {**window, "pool": pool}).fetchall()
    replicas = [_union((start, end) for _, start, end in rows) for _, rows in groupby(spans, key=itemgetter(0))]
    up_us = busy_us = 0
    bill = idle = Fraction(0)
    for uptime in uptimes:
        paid_us = (uptime.end_us - uptime.start_us) * uptime.replicas
        worked_us = min(paid_us, sum(_overlap(spans, uptime) for spans in replicas))
        price = Fraction(uptime.usd_per_hour) * NANO_PER_USD / _US_PER_HOUR
        up_us += paid_us
        busy_us += worked_us
        bill += paid_us * price
        idle += (paid_us - worked_us) * price
    bill_nusd, idle_nusd = round(bill), round(idle)
    return PoolLine(
        pool=pool,
        up_us=up_us,
        busy_us=busy_us,
        bill_nusd=bill_nusd,
        charged_nusd=charged_nusd,
        idle_nusd=idle_nusd,
        variance_nusd=bill_nusd - charged_nusd - idle_nusd,
    )


def _union(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that touch; they come ordered by their start."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _overlap(spans: list[tuple[int, int]], uptime: _Uptime) -> int:
    return sum(max(0, min(end, uptime.end_us) - max(start, uptime.start_us)) for start, end in spans)
