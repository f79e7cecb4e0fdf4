"""The pools' side of the bill: hours up = charges + idle + variance, each its own line.

A pool is up while an epoch that names it lives. A replica (told apart by a charge's endpoint) is busy while at least
one attempt runs on it; the rest of its paid time is idle. Variance is what the standard rates got wrong; above 5 % of
the bill the line proposes by what to multiply them. Where the cloud's own bill is given (`PoolFacts.billed_nusd`), it
replaces hours x price. Energy is estimated: the stated watts of a replica x the seconds it was busy.

Source: standard costing (bill = standard cost of the work + cost of idle capacity + variance).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from backends.prices import NANO_PER_USD
from gateway.ledger.derived import DAY_US

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

_US_PER_HOUR: Final = 3600 * 10**6
_UPTIME: Final = """
SELECT pool, usd_per_hour, replicas, started_at_us, last_seen_at_us FROM epoch_pools JOIN epochs USING (epoch)
WHERE started_at_us < :until AND last_seen_at_us > :since ORDER BY pool, started_at_us, epoch
"""
# A span that began before the uptime may run into it: the last one that begins at or before its start.
_BUSY: Final = """
SELECT COALESCE(SUM(MIN(end_us, :end) - MAX(start_us, :start)), 0) FROM busy_spans
WHERE pool = :pool AND endpoint = :endpoint AND start_us < :end AND end_us > :start AND start_us >= COALESCE(
  (SELECT MAX(start_us) FROM busy_spans WHERE pool = :pool AND endpoint = :endpoint AND start_us <= :start), :start)
"""
_REPLICAS: Final = "SELECT DISTINCT endpoint FROM daily_pools WHERE pool = :pool ORDER BY endpoint"
_CHARGED: Final = f"""
SELECT pool, endpoint, SUM(cost_nusd) FROM (
  SELECT pool, endpoint, cost_nusd FROM daily_pools WHERE day >= :first_day AND day < :last_day
  UNION ALL
  SELECT pool, endpoint_label, COALESCE(cost_nusd, 0) FROM charges
  WHERE pool IS NOT NULL AND started_at_us >= :since AND started_at_us < MIN(:first_day * {DAY_US}, :until)
  UNION ALL
  SELECT pool, endpoint_label, COALESCE(cost_nusd, 0) FROM charges
  WHERE pool IS NOT NULL AND started_at_us >= MAX(:last_day * {DAY_US}, :since) AND started_at_us < :until
    AND :last_day >= :first_day
) GROUP BY pool, endpoint
"""  # noqa: S608 - constants
_ALARMING: Final = Fraction(5, 100)  # of the bill, in variance: the design's bound
UNUSED: Final = ""
"""The label of replicas that no attempt ever reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What is known of a pool beside the ledger.

    Attributes:
        watts: what one busy replica draws, on average.
        is_spot: its replicas are spot ones, which the cloud may take back.
        billed_nusd: the cloud's own bill for the period; None: hours up x price.
    """

    watts: int | None = None
    is_spot: bool = False
    billed_nusd: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLine:
    """One replica's part of its pool's line; `endpoint` "" stands for those that were never reached."""

    endpoint: str
    up_us: int
    busy_us: int
    bill_nusd: int
    charged_nusd: int
    idle_nusd: int
    variance_nusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLine:
    """One pool's period: the sums of its replicas.

    Attributes:
        up_us: microseconds the pool was up, times its replicas.
        busy_us: of these, microseconds in which a replica had something in flight.
        bill_nusd: hours up x price of an hour, or the cloud's own bill.
        charged_nusd: the charges of attempts that began in the period.
        idle_nusd: idle hours x price of an hour.
        variance_nusd: bill - charged - idle; may be negative.
        rate_factor: what to multiply the published rates by, when the variance is above 5 % of the bill; else None.
        energy_j: joules, estimated; None where the watts are not stated.
        is_imported: the bill is the cloud's own.
    """

    pool: str
    up_us: int
    busy_us: int
    bill_nusd: int
    charged_nusd: int
    idle_nusd: int
    variance_nusd: int
    rate_factor: Decimal | None = None
    energy_j: int | None = None
    is_spot: bool = False
    is_imported: bool = False
    replicas: tuple[ReplicaLine, ...] = ()


@dataclass(frozen=True, slots=True)
class _Uptime:
    start_us: int
    end_us: int
    usd_per_hour: Decimal
    replicas: int


@dataclass(slots=True)
class _Replica:
    up_us: int = 0
    busy_us: int = 0
    bill: Fraction = Fraction(0)
    idle: Fraction = Fraction(0)


def pool_lines(
    db: sqlite3.Connection, *, since_us: int, until_us: int, facts: Mapping[str, PoolFacts] | None = None
) -> tuple[PoolLine, ...]:
    """Return a line for every pool that was up, charged or billed in the period, by name."""
    days = {"first_day": -(-since_us // DAY_US), "last_day": until_us // DAY_US}
    window = {"since": since_us, "until": until_us, **days}
    known_facts = facts or {}
    charged: dict[str, dict[str, int]] = defaultdict(dict)
    for pool, endpoint, nusd in db.execute(_CHARGED, window):
        charged[pool][endpoint] = nusd
    billed = {pool for pool, fact in known_facts.items() if fact.billed_nusd is not None}
    uptimes: dict[str, list[_Uptime]] = {pool: [] for pool in {*charged, *billed}}
    for pool, price, replicas, started, seen in db.execute(_UPTIME, window):
        known = uptimes.setdefault(pool, [])
        # Epochs of one folder never overlap unless the clock went back; then no moment is billed twice.
        start = max(started, since_us, known[-1].end_us if known else since_us)
        end = min(seen, until_us)
        if end > start:
            known.append(_Uptime(start, end, Decimal(price), replicas))
    return tuple(
        _line(db, pool, uptimes[pool], charged[pool], known_facts.get(pool, PoolFacts())) for pool in sorted(uptimes)
    )


def _line(
    db: sqlite3.Connection, pool: str, uptimes: list[_Uptime], charged: dict[str, int], facts: PoolFacts
) -> PoolLine:
    labels = [label for (label,) in db.execute(_REPLICAS, {"pool": pool})]
    found: dict[str, _Replica] = {label: _Replica() for label in charged}
    for uptime in uptimes:
        where = {"pool": pool, "start": uptime.start_us, "end": uptime.end_us}
        _share(
            uptime, {label: db.execute(_BUSY, {**where, "endpoint": label}).fetchone()[0] for label in labels}, found
        )
    up_us = sum(replica.up_us for replica in found.values())
    if facts.billed_nusd is not None:
        _import(found, facts.billed_nusd, up_us)
    replicas = tuple(_replica_line(label, found[label], charged.get(label, 0)) for label in sorted(found))
    bill, charges, idle = (
        sum(getattr(one, name) for one in replicas) for name in ("bill_nusd", "charged_nusd", "idle_nusd")
    )
    busy_us = sum(one.busy_us for one in replicas)
    return PoolLine(
        pool=pool,
        up_us=up_us,
        busy_us=busy_us,
        bill_nusd=bill,
        charged_nusd=charges,
        idle_nusd=idle,
        variance_nusd=bill - charges - idle,
        rate_factor=_factor(bill, charges, idle),
        energy_j=None if facts.watts is None else round(Fraction(facts.watts * busy_us, 10**6)),
        is_spot=facts.is_spot,
        is_imported=facts.billed_nusd is not None,
        replicas=replicas,
    )


def _share(uptime: _Uptime, worked: Mapping[str, int], found: dict[str, _Replica]) -> None:
    """Give an uptime's paid time to its replicas: those that worked in it first, the rest to the unused.

    Args:
        uptime: of the pool.
        worked: by replica, microseconds of it with something in flight.
        found: what the replicas have so far.
    """
    length = uptime.end_us - uptime.start_us
    labels = sorted((label for label, us in worked.items() if us), key=lambda label: -worked[label])[: uptime.replicas]
    price = Fraction(uptime.usd_per_hour) * NANO_PER_USD / _US_PER_HOUR
    for label, copies in (*((label, 1) for label in labels), (UNUSED, uptime.replicas - len(labels))):
        if not copies:
            continue
        replica = found.setdefault(label, _Replica())
        busy_us = min(length, worked.get(label, 0)) if label != UNUSED else 0
        replica.up_us += length * copies
        replica.busy_us += busy_us
        replica.bill += length * copies * price
        replica.idle += (length * copies - busy_us) * price


def _import(found: dict[str, _Replica], billed_nusd: int, up_us: int) -> None:
    """Put the cloud's own bill in the place of hours x price, by time; without any uptime it is idle as a whole."""
    if not up_us:
        found[UNUSED] = _Replica(bill=Fraction(billed_nusd), idle=Fraction(billed_nusd))
        return
    given = weight = 0
    for label in sorted(found):
        replica = found[label]
        weight += replica.up_us
        upto = billed_nusd * weight // up_us
        replica.bill = Fraction(upto - given)
        replica.idle = (
            replica.bill * (replica.up_us - replica.busy_us) / replica.up_us if replica.up_us else Fraction(0)
        )
        given = upto


def _replica_line(label: str, replica: _Replica, charged_nusd: int) -> ReplicaLine:
    bill, idle = round(replica.bill), round(replica.idle)
    return ReplicaLine(
        endpoint=label,
        up_us=replica.up_us,
        busy_us=replica.busy_us,
        bill_nusd=bill,
        charged_nusd=charged_nusd,
        idle_nusd=idle,
        variance_nusd=bill - charged_nusd - idle,
    )


def _factor(bill: int, charged: int, idle: int) -> Decimal | None:
    """Return by what the rates should be multiplied so that charges and idle make the bill; None when they do."""
    if not charged or abs(bill - charged - idle) <= _ALARMING * bill or bill <= idle:
        return None
    return Decimal(bill - idle) / Decimal(charged)
