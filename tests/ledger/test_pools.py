"""A pool's bill by replica, with the cloud's own bill, energy, and a proposal when the rates are wrong."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ledger.errors import StatementInvalid
from gateway.ledger.pools import UNUSED, PoolFacts
from gateway.ledger.render import BillFormat, render_bill
from gateway.ledger.reports.hours import read_hours
from gateway.ledger.reports.question import Question
from gateway.ledger.rows import EnergyRow, ReplicaPrice
from gateway.ledger.store import Row
from tests.ledger.test_report import an_epoch, books
from tests.ledger.world import NOON, a_charge

DAY = Question(since=NOON.replace(hour=0), until=NOON.replace(hour=0) + timedelta(days=1))
SECOND = 10**6
TWO_REPLICAS: list[Row] = [
    an_epoch(1, 0, 100, replicas=3),  # each costs 10,000,000 nano-dollars in its 100 seconds
    a_charge(1, started_at=NOON, duration_ms=50_000, endpoint_label="cpu-0", cost_nusd=5_000_000),
    a_charge(2, started_at=NOON, duration_ms=20_000, endpoint_label="cpu-1", cost_nusd=1_000_000),
]


def test_each_replica_has_its_own_line_and_they_add_up(folder: Path):
    (pool,) = books(folder, TWO_REPLICAS).bill().pools

    lines = {one.endpoint: one for one in pool.replicas}
    assert (lines["cpu-0"].bill_nusd, lines["cpu-0"].idle_nusd, lines["cpu-0"].variance_nusd) == (10**7, 5 * 10**6, 0)
    assert (lines["cpu-1"].busy_us, lines["cpu-1"].variance_nusd) == (20 * SECOND, 10**6)
    assert lines[UNUSED].idle_nusd == lines[UNUSED].bill_nusd == 10**7
    assert sum(one.bill_nusd for one in pool.replicas) == pool.bill_nusd


def test_the_clouds_own_bill_replaces_hours_times_price(folder: Path):
    facts = {"cpu": PoolFacts(billed_nusd=3 * 10**7 + 1, is_spot=True)}

    bill = books(folder, TWO_REPLICAS).bill(pools=facts)

    (pool,) = bill.pools
    assert pool.bill_nusd == pool.charged_nusd + pool.idle_nusd + pool.variance_nusd == 3 * 10**7 + 1
    assert "cpu (spot) (imported)" in render_bill(bill, BillFormat.TABLE)


def test_a_bill_for_a_pool_that_never_ran_is_idle(folder: Path):
    (pool,) = books(folder, []).bill(pools={"gpu": PoolFacts(billed_nusd=77)}).pools

    assert (pool.bill_nusd, pool.idle_nusd, pool.variance_nusd) == (77, 77, 0)


def test_a_variance_above_5_percent_proposes_a_rate(folder: Path):
    rows = [an_epoch(1, 0, 100), a_charge(duration_ms=80_000, cost_nusd=4_000_000)]

    bill = books(folder, rows).bill()

    assert bill.pools[0].rate_factor == Decimal(2)
    assert any("multiply its rates by 2.000" in note for note in bill.notes)


def test_energy_is_watts_times_the_seconds_of_work(folder: Path):
    (pool,) = books(folder, TWO_REPLICAS).bill(pools={"cpu": PoolFacts(watts=350)}).pools

    assert pool.energy_j == 350 * 70


def a_replica(endpoint: str, usd: str, *, is_spot: bool = False, watts: int | None = None) -> ReplicaPrice:
    return ReplicaPrice(endpoint=endpoint, usd_per_hour=Decimal(usd), is_spot=is_spot, watts=watts)


MIXED: list[Row] = [  # cpu-1 is a spot machine that comes when 40 of the 100 seconds are over
    an_epoch(1, 0, 40, each=[a_replica("cpu-0", "0.36", watts=100)]),
    an_epoch(2, 40, 100, each=[a_replica("cpu-0", "0.36", watts=100), a_replica("cpu-1", "0.12", is_spot=True)]),
    *TWO_REPLICAS[1:2],
    a_charge(2, started_at=NOON + timedelta(seconds=50), duration_ms=20_000, endpoint_label="cpu-1", cost_nusd=900_000),
]


def test_a_replica_is_billed_at_its_own_price_for_the_time_it_was_there(folder: Path):
    (pool,) = books(folder, MIXED).bill().pools

    first, second = pool.replicas
    assert (first.up_us, first.bill_nusd, first.idle_nusd, first.is_spot) == (100 * SECOND, 10**7, 5 * 10**6, False)
    assert (second.up_us, second.bill_nusd, second.is_spot) == (60 * SECOND, 2 * 10**6, True)
    assert (second.idle_nusd, second.variance_nusd) == (1_333_333, 2 * 10**6 - 900_000 - 1_333_333)
    assert (pool.bill_nusd, pool.is_spot) == (12 * 10**6, False)


def test_a_named_replica_that_nothing_reached_is_idle_under_its_name(folder: Path):
    (pool,) = books(folder, [an_epoch(1, 0, 100, each=[a_replica("cpu-7", "0.36")])]).bill().pools

    assert [(one.endpoint, one.idle_nusd) for one in pool.replicas] == [("cpu-7", 10**7)]


def test_the_clouds_own_hours_of_a_replica_are_its_bill_and_its_time(folder: Path, tmp_path: Path):
    lines = [
        "cpu,cpu-0,2026-11-02T12:00:00,2026-11-02T12:01:40,0.02",
        "cpu,cpu-1,2026-11-02T12:00:50,2026-11-02T12:01:00,0.001",
    ]
    billed = read_hours(hours(tmp_path, *lines, header="pool,replica,start,end,usd"), DAY)["cpu"]

    facts = {"cpu": PoolFacts(billed_nusd=sum(line.nusd for line in billed), billed=billed)}
    (pool,) = books(folder, MIXED).bill(pools=facts).pools

    first, second = pool.replicas
    assert (first.bill_nusd, first.idle_nusd) == (20_000_000, 10_000_000)
    assert (second.up_us, second.bill_nusd, second.idle_nusd) == (10 * SECOND, 1_000_000, 0)


def test_energy_is_measured_where_it_was_metered_and_estimated_elsewhere(folder: Path):
    def look(endpoint: str, start_s: int, end_s: int, joules: int) -> EnergyRow:
        since, until = (NOON + timedelta(seconds=at) for at in (start_s, end_s))
        return EnergyRow(pool="cpu", endpoint=endpoint, since=since, until=until, millijoules=joules * 1000)

    rows = [*MIXED, look("cpu-1", 40, 70, 600), look("cpu-1", 70, 100, 300), look("cpu-0", 50, 150, 2_000)]
    whole = books(folder, rows)
    (pool,) = whole.bill().pools
    (part,) = whole.bill(until=NOON + timedelta(seconds=100)).pools

    assert [(one.energy_j, one.energy) for one in pool.replicas] == [(2_000, "measured"), (900, "measured")]
    assert [(one.energy_j, one.energy) for one in part.replicas] == [
        (1_000 + 2_500, "partly measured"),
        (900, "measured"),
    ]
    assert (part.energy_j, part.energy) == (4_400, "partly measured")


@given(
    spans=st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 40), st.integers(0, 3), st.integers(0, 10**8)), max_size=6
    ),
    replicas=st.integers(1, 4),
    billed=st.none() | st.integers(0, 10**9),
)
@settings(max_examples=15, deadline=None)
def test_the_bill_is_always_charges_idle_and_variance(
    spans: list[tuple[int, int, int, int]], replicas: int, billed: int | None, tmp_path_factory: pytest.TempPathFactory
):
    rows: list[Row] = [an_epoch(1, 0, 100, replicas=replicas)]
    for number, (start, length, endpoint, cost) in enumerate(spans):
        moment = NOON + timedelta(seconds=start)
        label = f"cpu-{endpoint}"
        rows.append(a_charge(number, started_at=moment, duration_ms=length * 1e3, endpoint_label=label, cost_nusd=cost))

    (pool,) = books(tmp_path_factory.mktemp("ledger"), rows).bill(pools={"cpu": PoolFacts(billed_nusd=billed)}).pools

    for line in (pool, *pool.replicas):
        assert line.bill_nusd == line.charged_nusd + line.idle_nusd + line.variance_nusd
        assert 0 <= line.idle_nusd <= line.bill_nusd
    assert pool.charged_nusd == sum(cost for *_, cost in spans)
    assert billed in {None, pool.bill_nusd}
    assert pool.up_us == replicas * 100 * SECOND


def hours(tmp_path: Path, *lines: str, header: str = "pool,start,end,usd") -> Path:
    file = tmp_path / "hours.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def test_imported_hours_count_as_far_as_they_lie_in_the_period(tmp_path: Path):
    file = hours(
        tmp_path, "gpu,2026-11-01T12:00:00Z,2026-11-02T12:00:00Z,24", "gpu,2026-11-02T12:00:00Z,2026-11-03,12.5"
    )

    (first, second) = read_hours(file, DAY)["gpu"]
    assert (first.nusd, second.nusd) == (12_000_000_000, 12_500_000_000)
    assert first.end_us == second.start_us


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["gpu,2026-11-02,2026-11-03,5", "gpu,2026-11-02T05:00:00,2026-11-04,5"], "line 3: overlaps line 2"),
        (["gpu,2026-11-03,2026-11-02,5"], "ends before it begins"),
        (["gpu,2026-11-02,2026-11-03,$5"], r'usd is "\$5", which is no plain number'),
        (["gpu,yesterday,2026-11-03,5"], 'start is "yesterday"; give a moment'),
        (["gpu,2025-11-02,2025-11-03,5"], "bills nothing in this period"),
    ],
)
def test_hours_that_would_need_guessing_are_refused(tmp_path: Path, lines: list[str], message: str):
    with pytest.raises(StatementInvalid, match=message):
        read_hours(hours(tmp_path, *lines), DAY)
