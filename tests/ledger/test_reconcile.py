"""Reconciliation finds every difference, says what explains it, and refuses files that would need guessing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.ledger.errors import QuestionInvalid, StatementInvalid
from gateway.ledger.invoices import Provider, read_invoice
from gateway.ledger.reconcile import Reconciled, Why, reconcile
from gateway.ledger.reports.answer import opened
from gateway.ledger.rows import CostProvenance
from gateway.ledger.store import Row
from tests.ledger.test_report import books
from tests.ledger.world import NOON, a_charge

DAY = timedelta(days=1)
CENT = 10**7
THREE_DAYS: list[Row] = [
    a_charge(number, model="large", pool=None, cost_nusd=100 * CENT, started_at=NOON + number * DAY)
    for number in range(3)
]
NAMES = {"large": "gpt-5"}
OPENAI_COST = (
    "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,line_item,project_id"
)


def generic(folder: Path, *lines: str, header: str = "date,model,cost_usd") -> Path:
    file = folder / "invoice.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def compared(
    folder: Path, rows: Sequence[Row], file: Path, provider: Provider = Provider.GENERIC, **more: str
) -> Reconciled:
    books(folder / "ledger", rows)
    with opened(folder / "ledger") as db:
        return reconcile(db, read_invoice(file, provider), names=NAMES, tolerance=Decimal("0.005"), **more)


def whys(found: Reconciled) -> list[Why | None]:
    return [one.why for one in found.differences]


def test_a_file_that_agrees_is_not_off(tmp_path: Path):
    found = compared(
        tmp_path,
        THREE_DAYS,
        generic(tmp_path, "2026-11-02,gpt-5,1.00", "2026-11-03,GPT 5,1", "2026-11-04,gpt-5-2025-08-07,1.0"),
    )

    assert whys(found) == [None, None, None]
    assert not found.is_off


def test_rounding_to_cents_is_explained(tmp_path: Path):
    rows = [a_charge(1, model="large", cost_nusd=CENT + 4_000_000)]

    found = compared(tmp_path, rows, generic(tmp_path, "2026-11-02,gpt-5,0.01"))

    assert (whys(found), found.is_off) == ([Why.ROUNDING], False)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["2026-11-02,gpt-5,1.00", "2026-11-03,gpt-5,2.5", "2026-11-04,gpt-5,1.00"], [None, Why.NONE, None]),
        (["2026-11-02,gpt-5,1.00", "2026-11-04,gpt-5,1.00"], [None, Why.MISSING_THERE, None]),
        (["2026-11-02,gpt-5,1.00", "2026-11-03,gpt-5,0.40", "2026-11-04,gpt-5,1.60"], [None, Why.LATE, Why.LATE]),
        (["2026-11-02,gpt-5,1.10", "2026-11-03,gpt-5,1.10", "2026-11-04,gpt-5,1.10"], [Why.PRICE] * 3),
        (
            ["2026-11-02,gpt-5,1.0", "2026-11-03,gpt-5,1.0", "2026-11-04,gpt-5,1.0", "2026-11-04,o9,1.0"],
            [None, None, None, Why.MISSING_HERE],
        ),
    ],
    ids=["unexplained", "not billed", "late", "price version", "around the gateway"],
)
def test_a_difference_has_its_explanation(tmp_path: Path, lines: list[str], expected: list[Why | None]):
    found = compared(tmp_path, THREE_DAYS, generic(tmp_path, *lines))

    assert whys(found) == expected
    assert found.is_off == any(why not in {None, Why.LATE} for why in expected)


def test_requests_and_tokens_tell_more(tmp_path: Path):
    header = "date,model,cost_usd,requests,input_tokens,cached_input_tokens,output_tokens"
    file = generic(tmp_path, "2026-11-02,gpt-5,2.00,2,200,20,40", "2026-11-03,gpt-5,1.5,1,100,10,20", header=header)

    found = compared(tmp_path, THREE_DAYS[:2], file)

    assert whys(found) == [Why.MISSING_HERE, Why.PRICE]
    assert "1 requests more there" in found.differences[0].words


def test_an_unknown_cost_is_named_and_not_taken_for_0(tmp_path: Path):
    rows = [a_charge(1, model="large", cost_nusd=None, cost_provenance=CostProvenance.UNKNOWN)]

    found = compared(tmp_path, rows, generic(tmp_path, "2026-11-02,gpt-5,1.0"))

    assert whys(found) == [Why.UNKNOWN_COST]


def test_days_of_another_time_zone_are_recognised(tmp_path: Path):
    late = [
        a_charge(
            number, model="large", cost_nusd=(number + 1) * CENT, started_at=NOON + number * DAY + timedelta(hours=14)
        )
        for number in range(4)
    ]
    file = generic(tmp_path, *(f"2026-11-0{number + 2},gpt-5,0.0{number + 1}" for number in range(4)))

    found = compared(tmp_path, late, file)
    there = compared(tmp_path / "again", late, file, zone="America/New_York")

    assert found.is_off
    assert "UTC-3" in found.hints[0]
    assert not there.is_off


def test_a_time_zone_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(QuestionInvalid, match=r'no time zone "Europe/Atlantis"; give an IANA name'):
        compared(tmp_path, THREE_DAYS, generic(tmp_path, "2026-11-02,gpt-5,1"), zone="Europe/Atlantis")


def test_openais_cost_export_is_read(tmp_path: Path):
    file = generic(
        tmp_path,
        "1793577600,1793664000,2026-11-02T00:00:00+00:00,2026-11-03T00:00:00+00:00,,,,,",
        '1793577600,1793664000,2026-11-02,2026-11-03,0.25000000000000,usd,1000,"gpt-5-2025-08-07, input",p1',
        '1793577600,1793664000,2026-11-02,2026-11-03,0.75000000000000,usd,500,"gpt-5-2025-08-07, output",p1',
        header=OPENAI_COST,
    )

    found = compared(tmp_path, THREE_DAYS[:1], file, Provider.OPENAI)

    assert [(one.theirs, one.ours) for one in found.differences] == [(100 * CENT, 100 * CENT)]


def test_openais_cost_and_usage_apis_are_read(tmp_path: Path):
    bucket = {"object": "bucket", "start_time": 1793577600, "end_time": 1793664000}
    cost = {"amount": {"value": 1.0, "currency": "usd"}, "line_item": "gpt-5, output", "project_id": None}
    usage = {
        "model": "gpt-5",
        "input_tokens": 110,
        "input_cached_tokens": 10,
        "output_tokens": 20,
        "num_model_requests": 1,
    }
    file = tmp_path / "usage.json"

    found = []
    for result in (cost, usage):
        file.write_text(json.dumps({"object": "page", "data": [{**bucket, "results": [result]}]}))
        found += compared(tmp_path / str(len(found)), THREE_DAYS[:1], file, Provider.OPENAI).differences

    assert [(one.unit, one.theirs, one.ours) for one in found] == [("USD", 10**9, 10**9), ("tokens", 130, 130)]


def test_anthropics_cost_and_usage_exports_are_read(tmp_path: Path):
    usage_header = (
        "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
        "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
        "usage_output_tokens,web_search_count,inference_geo,speed"
    )
    cost_header = "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,cost_type"

    usage = read_invoice(
        generic(
            tmp_path,
            "2026-11-02,claude-x-20250514,k,Default,standard,≤ 200k,100,1,2,10,20,3,global,",
            header=usage_header,
        ),
        Provider.ANTHROPIC,
    )
    cost = read_invoice(
        generic(
            tmp_path,
            "2026-11-02,Claude X,Default,k,message,≤ 200k,input_no_cache,0.13,token",
            "2026-11-02,Claude X,Default,k,message,≤ 200k,output,0.87,token",
            header=cost_header,
        ),
        Provider.ANTHROPIC,
    )

    (billed,) = usage.values()
    assert billed.tokens["cache_write_1h_tokens"] == 2
    assert [one.cost_nusd for one in cost.values()] == [100 * CENT]


def test_anthropics_cost_report_is_in_cents(tmp_path: Path):
    file = tmp_path / "cost.json"
    result = {
        "currency": "USD",
        "amount": "123.45",
        "cost_type": "tokens",
        "model": "claude-x",
        "token_type": "output_tokens",
    }
    bucket = {"starting_at": "2026-11-02T00:00:00Z", "ending_at": "2026-11-03T00:00:00Z", "results": [result]}
    file.write_text(json.dumps({"data": [bucket], "has_more": False}))

    (billed,) = read_invoice(file, Provider.ANTHROPIC).values()

    assert billed.cost_nusd == 1_234_500_000


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("date,model,amount", ["2026-11-02,gpt-5,1"], r"no column cost_usd; it has: date, model, amount"),
        ("date;model;cost_usd", ["2026-11-02;gpt-5;1,5"], r"separate columns by commas, and decimals by a point"),
        ("date,model,cost_usd,colour", ["2026-11-02,gpt-5,1,red"], "unknown column colour"),
        (
            "date,model,cost_usd,currency",
            ["2026-11-02,gpt-5,1,EUR"],
            r'line 2: currency is "EUR"; the ledger is in USD',
        ),
        ("date,model,cost_usd", ['2026-11-02,gpt-5,"1,234.56"'], r"line 2: cost_usd .* without thousands separators"),
        ("date,model,cost_usd", ["2026-11-02,gpt-5,1,234.56"], r"line 2: 4 fields where the header has 3"),
        ("date,model,cost_usd", ["02.11.2026,gpt-5,1"], r'date is "02.11.2026"; give a date such as'),
        (
            "date,model,cost_usd",
            ["2026-11-02,gpt-5,1", "2026-11-02,gpt-5,2"],
            r"line 3: repeats line 2 .*give each day once",
        ),
        ("date,model,cost_usd", ["2026-11-02,gpt-5,"], r'cost_usd is "", which is no plain number'),
        ("date,model,cost_usd", [], "has no rows"),
    ],
)
def test_a_file_that_would_need_guessing_is_refused(tmp_path: Path, header: str, lines: list[str], message: str):
    with pytest.raises(StatementInvalid, match=message):
        read_invoice(generic(tmp_path, *lines, header=header), Provider.GENERIC)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["1793577600,1794182400"], r"covers 2026-11-02 00:00 to 2026-11-09 00:00; export it by day"),
        (["1793577600,1793664000", "1793620800,1793664000"], "the days overlap"),
    ],
)
def test_days_that_overlap_are_refused(tmp_path: Path, times: list[str], message: str):
    lines = [f'{both},,,1.0,usd,1,"gpt-5, input",p{number}' for number, both in enumerate(times)]

    with pytest.raises(StatementInvalid, match=message):
        read_invoice(generic(tmp_path, *lines, header=OPENAI_COST), Provider.OPENAI)


@pytest.mark.parametrize(("cost", "code"), [("1.00", 0), ("1.2", 1), ("1,2", 2)])
def test_the_command_tells_by_its_status(tmp_path: Path, cost: str, code: int):
    books(tmp_path / "ledger", THREE_DAYS[:1])
    file = generic(tmp_path, f'2026-11-02,large,"{cost}"')

    result = CliRunner().invoke(
        main, ["reconcile", "--provider", "generic", "--file", str(file), "--folder", str(tmp_path / "ledger")]
    )

    assert result.exit_code == code, result.output
