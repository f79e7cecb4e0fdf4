"""The pools' side of the bill: hours up = charges + idle + variance, each its own line.

A replica is up while an epoch that names it lives, at the price the epoch states for it; it is told apart by a charge's
endpoint, and busy while at least one attempt runs on it. The rest of its paid time is idle. Variance is what the
standard rates got wrong; above 5 % of the bill the line proposes by what to multiply them. Epochs of before replicas
had names (`epoch_pools` alone) share their time among those that worked, the rest among the unused.

Where the cloud's own bill is given it replaces hours x price: as a sum for the pool (`PoolFacts.billed_nusd`), or by
replica with the times each was there (`PoolFacts.billed`).

Energy is measured where the replica's cards were metered (`energy`), for as long as they were; else it is estimated:
the stated watts of a replica x the seconds it was busy.

Source: standard costing (bill = standard cost of the work + cost of idle capacity + variance).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from backends.prices import NANO_PER_USD
from gateway.ledger.derived import DAY_US

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

_US_PER_HOUR: Final = 3600 * 10**6
_UPTIME: Final = """
SELECT pool, usd_per_hour, replicas, started_at_us, last_seen_at_us, epoch FROM epoch_pools JOIN epochs USING (epoch)
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
_MACHINES: Final = """
SELECT endpoint, usd_per_hour, is_spot, watts FROM epoch_replicas WHERE epoch = :epoch AND pool = :pool
"""
_ENERGY: Final = """
SELECT endpoint, start_us, end_us, millijoules FROM energy
WHERE pool = :pool AND start_us < :until AND end_us > :since AND end_us > start_us
"""
_ALARMING: Final = Fraction(5, 100)  # of the bill, in variance: the design's bound
_NO_GAP: Final = Fraction(1, 100)  # of the time up: what lies between a start and the first look at the meters
UNUSED: Final = ""
"""The label of replicas that no attempt ever reached."""


class Energy(StrEnum):
    """Where a number of joules comes from."""

    MEASURED = "measured"
    """Off the cards' own meters."""
    ESTIMATED = "estimated"
    """Watts, as stated, x the seconds of work."""
    BOTH = "partly measured"
    """A sum of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """A line of the cloud's own bill, as far as it lies in the period: a replica, when it was there, what it cost."""

    replica: str
    start_us: int
    end_us: int
    nusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What is known of a pool beside the ledger.

    Attributes:
        watts: what one busy replica draws, on average, where its epoch does not state it.
        is_spot: its replicas are spot ones, likewise.
        billed_nusd: the cloud's own bill for the period; None: hours up x price.
        billed: the same by replica; used where all of its replicas are endpoints of the pool.
    """

    watts: int | None = None
    is_spot: bool = False
    billed_nusd: int | None = None
    billed: tuple[Billed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLine:
    """One replica's part of its pool's line; `endpoint` "" stands for those without a name that were never reached.

    Attributes:
        is_spot: the cloud may take it back; it was so in some of the period.
        energy_j: joules; None where neither a meter nor the watts tell.
    """

    endpoint: str
    up_us: int
    busy_us: int
    bill_nusd: int
    charged_nusd: int
    idle_nusd: int
    variance_nusd: int
    is_spot: bool = False
    energy_j: int | None = None
    energy: Energy | None = None


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
        energy_j: joules of its replicas; None where nothing tells of any.
        energy: where that comes from.
        is_spot: all of its replicas are spot ones.
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
    energy: Energy | None = None
    is_spot: bool = False
    is_imported: bool = False
    replicas: tuple[ReplicaLine, ...] = ()


@dataclass(frozen=True, slots=True)
class _Machine:
    """A replica of an uptime; without a name, any of them that worked."""

    usd_per_hour: Decimal
    is_spot: bool
    watts: int | None


@dataclass(frozen=True, slots=True)
class _Uptime:
    start_us: int
    end_us: int
    replicas: int
    any_one: _Machine
    named: Mapping[str, _Machine]


@dataclass(slots=True)
class _Replica:
    up_us: int = 0
    busy_us: int = 0
    bill: Fraction = Fraction(0)
    idle: Fraction = Fraction(0)
    is_spot: bool = False
    estimated_j: Fraction | None = None
    measured_j: Fraction | None = None
    metered_us: int = 0

    def run(self, machine: _Machine, *, up_us: int, busy_us: int) -> None:
        """Add a time for which it was up."""
        price = Fraction(machine.usd_per_hour) * NANO_PER_USD / _US_PER_HOUR
        self.up_us += up_us
        self.busy_us += busy_us
        self.bill += up_us * price
        self.idle += (up_us - busy_us) * price
        self.is_spot |= machine.is_spot
        if machine.watts is not None:
            self.estimated_j = (self.estimated_j or Fraction(0)) + Fraction(machine.watts * busy_us, 10**6)


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
    for pool, price, replicas, started, seen, epoch in db.execute(_UPTIME, window).fetchall():
        known = uptimes.setdefault(pool, [])
        # Epochs of one folder never overlap unless the clock went back; then no moment is billed twice.
        start = max(started, since_us, known[-1].end_us if known else since_us)
        end = min(seen, until_us)
        if end > start:
            fact = known_facts.get(pool, PoolFacts())
            any_one = _Machine(Decimal(price), fact.is_spot, fact.watts)
            known.append(_Uptime(start, end, replicas, any_one, _named(db, epoch, pool)))
    return tuple(
        _Line(db, pool, known_facts.get(pool, PoolFacts())).drawn(uptimes[pool], charged[pool], window)
        for pool in sorted(uptimes)
    )


def _named(db: sqlite3.Connection, epoch: int, pool: str) -> dict[str, _Machine]:
    return {
        endpoint: _Machine(Decimal(price), bool(is_spot), watts)
        for endpoint, price, is_spot, watts in db.execute(_MACHINES, {"epoch": epoch, "pool": pool})
    }


class _Line:
    """A pool's line in the making."""

    def __init__(self, db: sqlite3.Connection, pool: str, facts: PoolFacts) -> None:
        self._db = db
        self._pool = pool
        self._facts = facts
        self._found: dict[str, _Replica] = {}

    def drawn(self, uptimes: list[_Uptime], charged: Mapping[str, int], window: Mapping[str, int]) -> PoolLine:
        """Return the line."""
        labels = [label for (label,) in self._db.execute(_REPLICAS, {"pool": self._pool})]
        self._found = {label: _Replica() for label in charged}
        for uptime in uptimes:
            if uptime.named:
                self._run_named(uptime)
            else:
                self._share(uptime, labels)
        known = {*labels, *(name for uptime in uptimes for name in uptime.named)}
        if self._facts.billed and all(line.replica in known for line in self._facts.billed):
            self._import_each()
        elif self._facts.billed_nusd is not None:
            self._import(self._facts.billed_nusd)
        self._measure(window)
        return self._summed(tuple(_replica_line(n, self._found[n], charged.get(n, 0)) for n in sorted(self._found)))

    def _summed(self, replicas: tuple[ReplicaLine, ...]) -> PoolLine:
        bill, charges, idle = (
            sum(getattr(one, name) for one in replicas) for name in ("bill_nusd", "charged_nusd", "idle_nusd")
        )
        told = [one for one in replicas if one.energy_j is not None]
        sources = {one.energy for one in told}
        up = [one for one in replicas if one.up_us or one.bill_nusd]
        return PoolLine(
            pool=self._pool,
            up_us=sum(one.up_us for one in replicas),
            busy_us=sum(one.busy_us for one in replicas),
            bill_nusd=bill,
            charged_nusd=charges,
            idle_nusd=idle,
            variance_nusd=bill - charges - idle,
            rate_factor=_factor(bill, charges, idle),
            energy_j=sum(one.energy_j or 0 for one in told) if told else None,
            energy=(Energy.BOTH if len(sources) > 1 else next(iter(sources))) if told else None,
            is_spot=all(one.is_spot for one in up) if up else self._facts.is_spot,
            is_imported=self._facts.billed_nusd is not None,
            replicas=replicas,
        )

    def _busy_us(self, endpoint: str, start_us: int, end_us: int) -> int:
        where = {"pool": self._pool, "endpoint": endpoint, "start": start_us, "end": end_us}
        return int(self._db.execute(_BUSY, where).fetchone()[0])

    def _run_named(self, uptime: _Uptime) -> None:
        for endpoint, machine in uptime.named.items():
            busy_us = self._busy_us(endpoint, uptime.start_us, uptime.end_us)
            self._of(endpoint).run(machine, up_us=uptime.end_us - uptime.start_us, busy_us=busy_us)

    def _share(self, uptime: _Uptime, labels: Sequence[str]) -> None:
        """Give an uptime's paid time to replicas: those that worked in it first, the rest to the unused."""
        length = uptime.end_us - uptime.start_us
        worked = {label: self._busy_us(label, uptime.start_us, uptime.end_us) for label in labels}
        busy = sorted((label for label, us in worked.items() if us), key=lambda label: -worked[label])
        for label in busy[: uptime.replicas]:
            self._of(label).run(uptime.any_one, up_us=length, busy_us=min(length, worked[label]))
        if unused := uptime.replicas - len(busy[: uptime.replicas]):
            self._of(UNUSED).run(uptime.any_one, up_us=length * unused, busy_us=0)

    def _of(self, label: str) -> _Replica:
        return self._found.setdefault(label, _Replica(is_spot=self._facts.is_spot and label == UNUSED))

    def _import(self, billed_nusd: int) -> None:
        """Put the cloud's own bill in the place of hours x price, by time; without any uptime all of it is idle."""
        up_us = sum(replica.up_us for replica in self._found.values())
        if not up_us:
            nothing = Fraction(billed_nusd)
            self._found[UNUSED] = _Replica(bill=nothing, idle=nothing, is_spot=self._facts.is_spot)
            return
        given = weight = 0
        for label in sorted(self._found):
            replica = self._found[label]
            weight += replica.up_us
            upto = billed_nusd * weight // up_us
            _rebill(replica, upto - given)
            given = upto

    def _import_each(self) -> None:
        """Put the cloud's own lines in the place of hours x price: a replica was up when the cloud says so."""
        for replica in self._found.values():
            replica.up_us = replica.busy_us = 0
            replica.bill = replica.idle = Fraction(0)
        for line in self._facts.billed:
            replica = self._of(line.replica)
            replica.up_us += line.end_us - line.start_us
            replica.busy_us += self._busy_us(line.replica, line.start_us, line.end_us)
            _rebill(replica, int(replica.bill) + line.nusd)

    def _measure(self, window: Mapping[str, int]) -> None:
        """Note what meters told, in part where the period covers a look in part."""
        where = {"pool": self._pool, "since": window["since"], "until": window["until"]}
        for endpoint, start, end, millijoules in self._db.execute(_ENERGY, where):
            covered = min(end, window["until"]) - max(start, window["since"])
            replica = self._of(endpoint)
            replica.metered_us += covered
            replica.measured_j = (replica.measured_j or 0) + Fraction(millijoules * covered, 1000 * (end - start))


def _rebill(replica: _Replica, nusd: int) -> None:
    """Give a replica another bill for the same time."""
    replica.bill = Fraction(nusd)
    replica.idle = replica.bill * (replica.up_us - replica.busy_us) / replica.up_us if replica.up_us else Fraction(0)


def _replica_line(label: str, replica: _Replica, charged_nusd: int) -> ReplicaLine:
    bill, idle = round(replica.bill), round(replica.idle)
    joules, source = _energy(replica)
    return ReplicaLine(
        endpoint=label,
        up_us=replica.up_us,
        busy_us=replica.busy_us,
        bill_nusd=bill,
        charged_nusd=charged_nusd,
        idle_nusd=idle,
        variance_nusd=bill - charged_nusd - idle,
        is_spot=replica.is_spot,
        energy_j=joules,
        energy=source,
    )


def _energy(replica: _Replica) -> tuple[int | None, Energy | None]:
    """Return what a replica drew: as measured, and for the time that was not metered as estimated."""
    measured, estimated = replica.measured_j, replica.estimated_j
    if measured is None:
        return (None, None) if estimated is None else (round(estimated), Energy.ESTIMATED)
    unmetered = Fraction(max(0, replica.up_us - replica.metered_us), replica.up_us or 1)
    if not estimated or unmetered < _NO_GAP:
        return round(measured), Energy.MEASURED
    return round(measured + estimated * unmetered), Energy.BOTH


def _factor(bill: int, charged: int, idle: int) -> Decimal | None:
    """Return by what the rates should be multiplied so that charges and idle make the bill; None when they do."""
    if not charged or abs(bill - charged - idle) <= _ALARMING * bill or bill <= idle:
        return None
    return Decimal(bill - idle) / Decimal(charged)
