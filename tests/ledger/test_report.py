"""The bill adds up: to the nano-dollar, by cause, by group, and against the pools' hours."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.words import ModelId, RequestId, TenantId
from gateway.ledger.errors import LedgerMissing, PeriodInvalid
from gateway.ledger.journal import Position, Segment
from gateway.ledger.render import BillFormat, render_bill
from gateway.ledger.report import Bill, Books
from gateway.ledger.rows import ChargeKind, ChargeRow, EpochRow, PoolPrice, ReplicaPrice, RequestRow
from gateway.ledger.store import Row, Store
from tests.ledger.world import NOON, a_charge, a_hold, a_request

LARGE = ModelId("large")


def books(folder: Path, rows: Sequence[Row]) -> Books:
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)
    store.apply([(1, row) for row in rows], upto=Position(Segment(1, 1), 1))
    store.close()
    return Books(folder)


def an_epoch(
    number: int, start_s: float, end_s: float, *, each: Sequence[ReplicaPrice] = (), **pool: str | int
) -> EpochRow:
    price = {"pool": "cpu", "usd_per_hour": "0.36", "replicas": 1} | pool
    kept = PoolPrice(
        pool=str(price["pool"]),
        usd_per_hour=Decimal(price["usd_per_hour"]),
        replicas=len(each) or int(price["replicas"]),
        each=tuple(each),
    )
    return EpochRow(
        writer="w",
        epoch=number,
        started_at=NOON + timedelta(seconds=start_s),
        last_seen_at=NOON + timedelta(seconds=end_s),
        policy_digest="p",
        pools=(kept,),
    )


@st.composite
def ledgers(draw: st.DrawFn) -> list[Row]:
    """Any requests and charges, also charges without a request and causes with every sign."""
    money = st.integers(0, 10**12)
    rows: list[Row] = []
    for number in range(draw(st.integers(0, 8))):
        moment = NOON + timedelta(hours=draw(st.integers(-48, 48)))
        tenant = TenantId(draw(st.sampled_from(["a", "b"])))
        for attempt in range(draw(st.integers(0, 3))):
            kind, model = draw(st.sampled_from(ChargeKind)), ModelId(draw(st.sampled_from(["small", "large"])))
            cost, late = draw(money), timedelta(hours=draw(st.integers(0, 5)))
            rows.append(
                a_charge(
                    number, attempt, kind=kind, model=model, cost_nusd=cost, tenant=tenant, started_at=moment + late
                )
            )
        if draw(st.booleans()):
            path = draw(st.sampled_from(["", "small", "small>large", "large", "cache:exact", "cache:semantic"]))
            baseline = draw(st.sampled_from([None, LARGE]))
            rows.append(
                a_request(
                    number,
                    path=path,
                    tenant=tenant,
                    started_at=moment,
                    route=draw(st.sampled_from([None, "default"])),
                    baseline_model=baseline,
                    baseline_nusd=draw(money) if baseline else 0,
                )
            )
    return rows


@given(
    rows=ledgers(),
    since=st.none() | st.integers(-50, 0),
    until=st.none() | st.integers(1, 60),
    tenant=st.none() | st.sampled_from(["a", "c"]),
)
@settings(max_examples=50, deadline=None)
def test_causes_sum_to_baseline_minus_actual_and_every_grouping_to_the_total(
    rows: list[Row],
    since: int | None,
    until: int | None,
    tenant: str | None,
    tmp_path_factory: pytest.TempPathFactory,
):
    first = None if since is None else NOON + timedelta(hours=since)
    last = None if until is None else NOON + timedelta(hours=until)

    bill = books(tmp_path_factory.mktemp("ledger"), rows).bill(first, last, tenant)

    totals = bill.totals
    assert bill.savings.total_nusd == totals.savings_nusd == totals.baseline_nusd - totals.cost_nusd
    for lines in (bill.by_kind, bill.by_model, bill.by_tenant, bill.by_route, bill.by_path, bill.by_day):
        assert sum(line.cost_nusd for line in lines) == totals.cost_nusd
        assert sum(line.attempts for line in lines) == totals.attempts
    for groups in (bill.by_tenant, bill.by_route, bill.by_path, bill.by_day):
        assert sum(line.requests for line in groups) == totals.requests
        assert sum(line.savings_nusd for line in groups) == totals.savings_nusd


@given(rows=ledgers())
@settings(max_examples=25, deadline=None)
def test_the_sum_of_charges_is_the_report(rows: list[Row], tmp_path_factory: pytest.TempPathFactory):
    bill = books(tmp_path_factory.mktemp("ledger"), rows).bill()

    assert bill.totals.cost_nusd == sum(row.cost_nusd for row in rows if isinstance(row, ChargeRow))
    assert bill.totals.baseline_nusd == sum(row.baseline_nusd for row in rows if isinstance(row, RequestRow))


@given(rows=ledgers(), cut=st.integers(-60, 60))
@settings(max_examples=25, deadline=None)
def test_two_periods_that_meet_add_up_to_one(rows: list[Row], cut: int, tmp_path_factory: pytest.TempPathFactory):
    ledger = books(tmp_path_factory.mktemp("ledger"), rows)
    moment = NOON + timedelta(hours=cut)

    before, after, whole = ledger.bill(until=moment), ledger.bill(since=moment), ledger.bill()

    assert before.totals.cost_nusd + after.totals.cost_nusd == whole.totals.cost_nusd
    assert before.savings.small_nusd + after.savings.small_nusd == whole.savings.small_nusd


def causes(bill: Bill) -> tuple[int, int, int, int, int]:
    split = bill.savings
    return split.exact_nusd, split.semantic_nusd, split.small_nusd, split.waste_nusd, split.other_nusd


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([a_request(path="cache:exact", baseline_nusd=700)], (700, 0, 0, 0, 0)),
        ([a_request(path="cache:semantic", baseline_nusd=700)], (0, 700, 0, 0, 0)),
        ([a_request(baseline_nusd=700), a_charge(cost_nusd=900)], (0, 0, -200, 0, 0)),
        (
            [
                a_request(path="small>large", baseline_nusd=700),
                a_charge(attempt=0, kind=ChargeKind.REJECTED, cost_nusd=100),
                a_charge(attempt=1, model=LARGE, cost_nusd=690),
            ],
            (0, 0, 0, -100, 10),
        ),
        ([a_request(baseline_nusd=700), a_charge(kind=ChargeKind.CANCELLED, cost_nusd=50)], (0, 0, 650, 0, 0)),
        ([a_request(baseline_nusd=0), a_charge(kind=ChargeKind.CANCELLED, cost_nusd=50)], (0, 0, 0, -50, 0)),
        (
            [a_request(path="", baseline_model=None, baseline_nusd=0), a_charge(kind=ChargeKind.FAILED, cost_nusd=50)],
            (0, 0, 0, 0, -50),
        ),
        ([a_charge(cost_nusd=50)], (0, 0, 0, 0, -50)),
    ],
    ids=["exact", "semantic", "small that cost more", "escalated", "hung up", "hung up unread", "refused", "running"],
)
def test_each_saving_has_its_cause(rows: list[Row], expected: tuple[int, ...], folder: Path):
    assert causes(books(folder, rows).bill()) == expected


def test_a_model_line_keeps_the_token_classes_apart(folder: Path):
    rows = [a_charge(1), a_charge(2, reasoning_tokens=7, cache_write_tokens=3)]

    (line,) = books(folder, rows).bill().by_model

    assert (line.attempts, line.input_tokens, line.cached_input_tokens) == (2, 200, 20)
    assert (line.cache_write_tokens, line.output_tokens, line.reasoning_tokens) == (3, 40, 7)


def test_a_charge_belongs_to_the_period_of_its_request(folder: Path):
    midnight = datetime(2026, 11, 3, tzinfo=UTC)
    rows = [
        a_request(started_at=midnight - timedelta(seconds=1)),
        a_charge(started_at=midnight + timedelta(seconds=1)),
    ]
    ledger = books(folder, rows)

    before, after = ledger.bill(until=midnight), ledger.bill(since=midnight)

    assert (before.totals.attempts, after.totals.attempts) == (1, 0)
    assert [line.key for line in before.by_day] == ["2026-11-02"]


def test_a_pools_bill_is_charges_idle_and_variance(folder: Path):
    rows = [
        an_epoch(1, 0, 100),  # 100 s at 0.0001 USD a second
        a_charge(1, started_at=NOON + timedelta(seconds=10), duration_ms=10_000, cost_nusd=900_000),
        a_charge(2, started_at=NOON + timedelta(seconds=15), duration_ms=15_000, cost_nusd=900_000),
    ]

    (pool,) = books(folder, rows).bill().pools

    assert (pool.up_us, pool.busy_us) == (100_000_000, 20_000_000)
    assert (pool.bill_nusd, pool.charged_nusd, pool.idle_nusd) == (10_000_000, 1_800_000, 8_000_000)
    assert pool.variance_nusd == 200_000


def test_a_pool_is_billed_only_inside_the_period_and_while_a_gateway_lived(folder: Path):
    rows = [an_epoch(1, 0, 100), an_epoch(2, 500, 600)]

    (pool,) = books(folder, rows).bill(NOON + timedelta(seconds=50), NOON + timedelta(seconds=550)).pools

    assert (pool.up_us, pool.busy_us) == (100_000_000, 0)


def test_each_replica_idles_on_its_own(folder: Path):
    rows = [
        an_epoch(1, 0, 100, replicas=2),
        a_charge(1, started_at=NOON, duration_ms=50_000, endpoint_label="cpu-0"),
        a_charge(2, started_at=NOON, duration_ms=50_000, endpoint_label="cpu-1"),
        a_charge(3, started_at=NOON, duration_ms=40_000, endpoint_label="cpu-1"),
    ]

    (pool,) = books(folder, rows).bill().pools

    assert (pool.up_us, pool.busy_us) == (200_000_000, 100_000_000)


def test_a_clock_that_went_back_bills_no_moment_twice(folder: Path):
    (pool,) = books(folder, [an_epoch(1, 0, 100), an_epoch(2, 50, 120)]).bill().pools

    assert pool.up_us == 120_000_000


def test_a_pool_that_was_charged_but_never_up_shows_as_variance(folder: Path):
    (pool,) = books(folder, [a_charge(cost_nusd=70)]).bill().pools

    assert (pool.bill_nusd, pool.variance_nusd) == (0, -70)


def test_one_tenants_bill_has_only_its_rows_and_no_pools(folder: Path):
    other = TenantId("other")
    rows = [
        an_epoch(1, 0, 100),
        a_request(1),
        a_charge(1, cost_nusd=5),
        a_request(2, tenant=other),
        a_charge(2, tenant=other, cost_nusd=7),
    ]

    bill = books(folder, rows).bill(tenant="other")

    assert (bill.totals.cost_nusd, [line.key for line in bill.by_tenant], bill.pools) == (7, ["other"], ())


def test_json_carries_money_as_integers_and_as_exact_dollars(folder: Path):
    bill = books(folder, [a_request(), a_charge(cost_nusd=12_345_678_901), an_epoch(1, 0, 1)]).bill()

    plain = json.loads(render_bill(bill, BillFormat.JSON))

    assert plain["totals"]["cost_nusd"] == 12_345_678_901
    assert plain["totals"]["cost_usd"] == "12.345678901"
    assert plain["savings"]["total_usd"] == "-12.345658901"
    assert plain["pools"][0]["idle_usd"] == "0.000075000"


def test_csv_has_one_line_per_number_and_adds_up(folder: Path):
    bill = books(folder, [a_request(), a_charge(cost_nusd=123), a_charge(attempt=1, model=LARGE, cost_nusd=4)]).bill()

    rows = list(csv.DictReader(io.StringIO(render_bill(bill, BillFormat.CSV))))

    by_model = [int(row["cost_nusd"]) for row in rows if row["section"] == "by_model"]
    assert sorted(by_model) == [4, 123]
    assert next(row["cost_usd"] for row in rows if row["section"] == "totals") == "0.000000127"
    assert {row["key"] for row in rows if row["section"] == "savings"} == {
        "exact",
        "semantic",
        "small",
        "waste",
        "audit",
        "router",
        "other",
    }


def test_the_table_shows_every_section(folder: Path):
    text = render_bill(books(folder, [a_request(), a_charge(), an_epoch(1, 0, 9)]).bill(), BillFormat.TABLE)

    for words in ("Savings by cause", "By model", "By tenant", "By path", "Pools", "0.000005", "small"):
        assert words in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_an_empty_period_says_what_the_ledger_spans(folder: Path):
    bill = books(folder, [a_request()]).bill(since=NOON + timedelta(days=1))

    assert bill.totals.requests == 0
    assert "the ledger spans 2026-11-02T12:00:00Z" in render_bill(bill, BillFormat.TABLE)


def test_an_empty_ledger_says_so(folder: Path):
    assert books(folder, []).bill().notes == ("the ledger holds no request yet",)


def test_a_folder_without_a_ledger_is_refused(tmp_path: Path):
    with pytest.raises(LedgerMissing, match=r"no ledger in .*give the data folder"):
        Books(tmp_path / "nowhere")


def test_a_period_that_ends_before_it_begins_is_refused(folder: Path):
    with pytest.raises(PeriodInvalid, match=r"ends .* before it begins .* swap"):
        books(folder, []).bill(NOON, NOON - timedelta(days=1))


def test_a_period_without_a_time_zone_is_refused(folder: Path):
    with pytest.raises(PeriodInvalid, match="since is 2026-11-01T00:00:00 without a time zone"):
        books(folder, []).bill(datetime(2026, 11, 1))  # noqa: DTZ001 - the point


def test_a_running_attempts_hold_is_noted_and_not_billed(folder: Path):
    bill = books(folder, [a_hold(), a_request(2)]).bill()

    assert bill.totals.cost_nusd == 0
    assert RequestId("req_1") not in render_bill(bill, BillFormat.JSON)
    assert "1 attempts are running" in bill.notes[0]


def test_a_dead_gateways_unfolded_journal_is_noted(folder: Path):
    ledger = books(folder, [a_request()])
    (folder / "journal").mkdir()
    (folder / "journal" / Segment(2, 1).name).write_bytes(b"x" * 600)

    assert any("600 bytes of the journal are not in this bill yet" in note for note in ledger.bill().notes)
