"""Questions to the ledger: rollups and rows say the same, every number adds up, and what is unknown stays unknown."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.prices import Rates, Tier
from backends.words import Usage
from gateway.cli import main
from gateway.ledger.dictionary import described, tables, views
from gateway.ledger.errors import PeriodInvalid, QuestionInvalid, StatementInvalid
from gateway.ledger.journal import Position, Segment
from gateway.ledger.reports.answer import Answer, ask, condense, opened
from gateway.ledger.reports.baselines import baseline, femto_sql, rounded_sql
from gateway.ledger.reports.forecast import Forecast, forecasts
from gateway.ledger.reports.margin import Revenue, Rule, read_revenue, with_revenue
from gateway.ledger.reports.question import Question, dimensions
from gateway.ledger.rollups import mismatches, rebuild
from gateway.ledger.rows import TOKENS, ChargeKind, CostProvenance
from gateway.ledger.store import Row, Store
from gateway.ledger.verify import verify
from tests.ledger.test_report import LARGE, an_epoch, books, ledgers
from tests.ledger.world import NOON, a_charge, a_request

MONTH = Question(since=NOON.replace(day=1, hour=0), until=NOON.replace(month=12, day=1, hour=0))
UNKNOWN = {"cost_nusd": None, "cost_provenance": CostProvenance.UNKNOWN}


def answered(folder: Path, rows: Sequence[Row], question: Question) -> Answer:
    books(folder, rows)
    with opened(folder) as db:
        return ask(db, question)


def by(names: str) -> Question:
    return replace(MONTH, by=dimensions(names))


questions = st.builds(
    Question,
    since=st.integers(-72, 0).map(lambda hours: NOON + timedelta(hours=hours)),
    until=st.integers(1, 72).map(lambda hours: NOON + timedelta(hours=hours)),
    by=st.sampled_from(
        ["tenant,model", "day", "pool,kind", "route,feature,path", "month,key", "week", "model,path,day", "day,month"]
    ).map(dimensions),
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Pacific/Kiritimati", "Etc/GMT+12"]
    ),
)


@given(rows=ledgers(), question=questions)
@settings(max_examples=20, deadline=None)
def test_rollups_and_rows_give_the_same_answer(
    rows: list[Row], question: Question, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("ledger")
    books(folder, rows)

    with opened(folder) as db:
        rolled_up, from_rows = ask(db, question), ask(db, replace(question, from_rows=True))
        condense(db, question)
        condensed = ask(db, question)

        assert (rolled_up.lines, rolled_up.total) == (from_rows.lines, from_rows.total)
        assert condensed == rolled_up
        assert sum(line.cost_nusd for line in rolled_up.lines) == rolled_up.total.cost_nusd
        assert mismatches(db) == []


@given(rows=ledgers().flatmap(st.permutations), at_once=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_rollups_are_kept_in_whatever_order_and_transactions_rows_come(
    rows: list[Row], at_once: int, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("ledger")
    store = Store(folder)

    for start in range(0, len(rows), at_once):
        chunk = [(1, row) for row in rows[start : start + at_once]]
        store.apply(chunk, upto=Position(Segment(1, 1), start + 1))

    store.close()
    with opened(folder) as db:
        assert mismatches(db) == []


@given(
    spans=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 90), st.sampled_from("ab")), min_size=1, max_size=12)
)
@settings(max_examples=25, deadline=None)
def test_spans_in_any_order_join_to_the_same_busy_time(
    spans: list[tuple[int, int, str]], tmp_path_factory: pytest.TempPathFactory
):
    rows: list[Row] = [
        a_charge(number, started_at=NOON + timedelta(seconds=start), duration_ms=length * 1000, endpoint_label=label)
        for number, (start, length, label) in enumerate(spans)
    ]
    folder = tmp_path_factory.mktemp("ledger")
    busy = {(label, at) for start, length, label in spans for at in range(start, start + length)}

    (pool,) = books(folder, [*rows, an_epoch(1, 0, 500, replicas=2)]).bill().pools

    assert pool.busy_us == len(busy) * 10**6
    with opened(folder) as db:
        assert mismatches(db) == []


@pytest.mark.parametrize("kind", [ChargeKind.FAILED, ChargeKind.ANSWER, ChargeKind.CANCELLED])
def test_a_charge_that_comes_after_its_request_moves_its_savings(folder: Path, kind: ChargeKind):
    rows = [a_charge(1, kind=ChargeKind.REJECTED, cost_nusd=7), a_request(1), a_charge(1, 1, kind=kind, model=LARGE)]

    bill = books(folder, rows).bill()

    assert bill.savings.total_nusd == bill.totals.savings_nusd == 20_000 - 5_007
    with opened(folder) as db:
        assert mismatches(db) == []


def test_a_rollup_that_was_tampered_with_is_found_and_can_be_made_anew(folder: Path):
    books(folder, [a_request(), a_charge()])
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        db.execute("UPDATE daily_charges SET cost_nusd = cost_nusd + 1")
        db.commit()

        assert mismatches(db) == ["daily_charges: 1 sums that no row bears out, 1 that the rows demand and it lacks"]
        assert "rollups" in {problem.check for problem in verify(folder).problems}
        rebuild(db)
        assert mismatches(db) == []


def test_a_request_stands_on_the_line_of_the_model_that_answered(folder: Path):
    rows = [
        a_charge(1, kind=ChargeKind.REJECTED, cost_nusd=7),
        a_charge(1, 1, model=LARGE, cost_nusd=50),
        a_request(1, path="small>large"),
        a_request(2, path="cache:exact"),
    ]

    lines = {line.keys[0]: line for line in answered(folder, rows, by("model")).lines}

    assert {name: (line.requests, line.cost_nusd) for name, line in lines.items()} == {
        "large": (1, 50),
        "small": (0, 7),
        "": (1, 0),
    }


def test_unit_costs_are_of_everything_spent(folder: Path):
    rows = [
        a_charge(1, cost_nusd=100),
        a_request(1, session="s", cost_nusd=100),
        a_charge(2, cost_nusd=51),
        a_request(2, session="s", cost_nusd=51),
        a_request(3, path="", status=502, baseline_nusd=0, baseline_low_nusd=0, baseline_high_nusd=0),
    ]

    total = answered(folder, rows, MONTH).total

    assert (total.per_request_nusd, total.per_thousand_nusd) == (50, 50_333)
    assert (total.per_answer_nusd, total.per_session_nusd, total.sessions) == (76, 151, 1)
    assert (total.saved_low_nusd, total.saved_nusd, total.saved_high_nusd) == (29_849, 39_849, 59_849)


def test_an_unknown_cost_is_counted_and_never_0(folder: Path):
    answer = answered(folder, [a_charge(1), a_charge(1, 1, **UNKNOWN), a_request(1)], by("tenant"))

    assert (answer.total.cost_nusd, answer.total.unknown_charges) == (5_000, 1)


def test_attempts_alone_have_pools_so_no_requests_are_told(folder: Path):
    (line,) = answered(folder, [a_charge(), a_request()], by("pool")).lines

    assert (line.requests, line.saved_nusd, line.attempts) == (None, None, 1)


@pytest.mark.parametrize(
    ("zone", "expected"), [("UTC", "2026-11-02"), ("Asia/Kolkata", "2026-11-03"), ("America/New_York", "2026-11-02")]
)
def test_a_day_is_that_of_the_zone(folder: Path, zone: str, expected: str):
    late = NOON.replace(hour=20)

    answer = answered(folder, [a_charge(started_at=late), a_request(started_at=late)], replace(by("day"), zone=zone))

    assert [line.keys for line in answer.lines] == [(expected,)]


def test_the_printed_query_gives_the_same_numbers(folder: Path):
    answer = answered(folder, [a_charge(), a_request()], replace(by("tenant,day"), tenant="support"))

    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        row = db.execute(answer.sql).fetchone()

    assert (row[:2], row[-1]) == (("support", "2026-11-02"), answer.lines[0].cost_nusd)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dimensions("tenant,colour"), 'cannot report by "colour"; the dimensions are: tenant, model'),
        (lambda: replace(MONTH, by=dimensions("day,day")), "stands twice"),
        (lambda: replace(MONTH, zone="Mars/Base"), 'no time zone "Mars/Base"'),
        (lambda: replace(MONTH, since=MONTH.until, until=MONTH.since), "before it begins"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(make: object, message: str):
    with pytest.raises((QuestionInvalid, PeriodInvalid), match=message):
        make()  # type: ignore[operator]


def test_revenue_by_rule_is_spread_without_loss(folder: Path):
    rows = [a_request(number, tenant="a" if number < 3 else "b", route=f"r{number % 3}") for number in range(7)]
    revenue = Revenue(rules=(Rule(tenant="a", usd=Decimal("0.1")), Rule(usd_per_request=Decimal("0.01"))))
    books(folder, rows)

    with opened(folder) as db:
        answer = with_revenue(db, ask(db, by("tenant,route")), revenue)

    assert sum(line.revenue_nusd or 0 for line in answer.lines) == answer.total.revenue_nusd == 170_000_000
    assert answer.total.margin_nusd == 170_000_000 - answer.total.cost_nusd


def test_a_monthly_revenue_counts_as_far_as_the_period_covers_the_month(folder: Path):
    books(folder, [a_request()])
    half = replace(MONTH, until=MONTH.since + timedelta(days=15))

    with opened(folder) as db:
        answer = with_revenue(db, ask(db, half), Revenue(rules=(Rule(usd_per_month=Decimal(30)),)))

    assert answer.total.revenue_nusd == 15 * 10**9


def test_revenue_of_single_requests_goes_where_they_stand(folder: Path, tmp_path: Path):
    file = tmp_path / "revenue.csv"
    file.write_text("request_id,revenue_usd\nreq_1,0.5\nreq_9,7\n")
    books(folder, [a_request(1), a_request(2, tenant="b")])

    with opened(folder) as db:
        answer = with_revenue(db, ask(db, by("tenant")), read_revenue(file, MONTH))

    assert {line.keys[0]: line.revenue_nusd for line in answer.lines} == {"support": 5 * 10**8, "b": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tenant,revenue\na,1\n", "no column revenue_usd"),
        ('tenant,revenue_usd\na,"1,000"\n', "without thousands separators"),
        ("revenue_usd\n5\n", "neither request_id nor tenant nor feature"),
        ("tenant,revenue_usd,date\na,5,2020-01-01\n", "states no revenue for this period"),
    ],
)
def test_a_revenue_file_that_would_need_guessing_is_refused(tmp_path: Path, text: str, message: str):
    file = tmp_path / "revenue.csv"
    file.write_text(text)

    with pytest.raises(StatementInvalid, match=message):
        read_revenue(file, MONTH)


def spent_daily(costs: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    for number, cost in enumerate(costs):
        moment = NOON.replace(day=1) + timedelta(days=number)
        rows += [a_charge(number, cost_nusd=cost, started_at=moment), a_request(number, started_at=moment)]
    return rows


def test_a_steady_month_ends_at_its_daily_cost_times_its_days(folder: Path):
    books(folder, spent_daily([100] * 20))
    question = replace(MONTH, until=MONTH.since + timedelta(days=20))

    with opened(folder) as db:
        everybody, one = forecasts(db, question, {"support": 2_500})

    assert everybody.forecast_nusd == one.forecast_nusd == 3_000
    assert (one.low_nusd, one.high_nusd, one.trend_nusd_per_day, one.over_nusd) == (3_000, 3_000, 0, 500)


def test_a_budget_of_all_together_is_told_where_every_tenant_has_one(folder: Path):
    books(folder, [*spent_daily([100] * 5), a_request(9, tenant="search")])

    question = replace(MONTH, until=MONTH.since + timedelta(days=20))

    with opened(folder) as db:
        some = forecasts(db, question, {"support": 2_500})[0].budget_nusd
        every = forecasts(db, question, {"support": 2_500, "search": 7})[0].budget_nusd

    assert (some, every) == (None, 2_507)


def test_a_growing_month_shows_its_trend_and_its_doubt(folder: Path):
    books(folder, spent_daily([100 * number for number in range(10)]))
    question = replace(MONTH, until=MONTH.since + timedelta(days=10))

    with opened(folder) as db:
        forecast = forecasts(db, question, {})[0]

    assert forecast.trend_nusd_per_day == 100
    assert (forecast.low_nusd or 0) < (forecast.forecast_nusd or 0) < (forecast.high_nusd or 0)


def test_two_days_are_too_few_for_a_forecast(folder: Path):
    books(folder, spent_daily([100, 100]))

    with opened(folder) as db:
        found = forecasts(db, replace(MONTH, until=MONTH.since + timedelta(days=2)), {})

    assert found[0] == Forecast(tenant=None, month="2026-11", spent_nusd=200)


counts = st.integers(0, 10**6)
rates = st.builds(
    Rates,
    input=st.integers(0, 10**11),
    cached_input=st.integers(0, 10**11),
    cache_write=st.integers(0, 10**11),
    output=st.integers(0, 10**11),
    reasoning=st.integers(0, 10**11),
    per_request=st.integers(0, 10**14),
    tiers=st.sampled_from(
        [(), (Tier(start_tokens=500_000, input=3, cached_input=500_000, cache_write=1, output=7, reasoning=0),)]
    ),
)


@given(rates=rates, used=st.tuples(counts, counts, counts, counts, counts))
def test_the_database_prices_tokens_as_the_price_book_does(rates: Rates, used: tuple[int, int, int, int, int]):
    names = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    usage = dict(zip(names, used, strict=True))
    with closing(sqlite3.connect(":memory:")) as db:
        columns = ", ".join(f"{usage.get(name, 0)} AS {name}" for name in TOKENS)

        (priced,) = db.execute(f"SELECT {rounded_sql(femto_sql(rates))} FROM (SELECT {columns})").fetchone()  # noqa: S608

    assert priced == rates.cost_nusd(Usage(**usage))


def test_another_baseline_prices_what_was_served_and_keeps_cached_answers(folder: Path):
    rows = [a_charge(1), a_request(1), a_request(2, path="cache:exact"), a_charge(1, 1, kind=ChargeKind.REJECTED)]
    books(folder, rows)
    dear = Rates(input=10**9, cached_input=10**9, cache_write=10**9, output=10**9, reasoning=10**9)

    with opened(folder) as db:
        found = baseline(db, MONTH, "dear", dear, spent_nusd=10_000)

    assert (found.cost_nusd, found.cached_nusd, found.saved_nusd) == (130_000 + 20_000, 20_000, 140_000)
    assert found.low_nusd < found.cost_nusd < found.high_nusd


# --- the command -------------------------------------------------------------------------------------------------

WINDOW = ["--since", "2026-11-01", "--until", "2026-12-01"]
ROWS: list[Row] = [
    a_charge(1, upstream_response_id="chatcmpl-9", cache_write_1h_tokens=3),
    a_request(1, client_request_id="mine", session="<script>"),
    a_charge(2, **UNKNOWN),
    a_request(2, tenant="</svg>"),
    a_charge(3, kind=ChargeKind.REJECTED),
    a_charge(3, 1, model=LARGE),
    a_request(3, path="small>large"),
]


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", "--folder", str(folder), *WINDOW, *arguments])


def test_single_attempts_are_listed_with_what_identifies_and_prices_them(folder: Path):
    books(folder, ROWS)

    rows = list(csv.DictReader(io.StringIO(run(folder, "--by", "attempt", "--format", "csv").output)))

    assert len(rows) == 4
    first = next(row for row in rows if row["request_id"] == "req_1")
    assert (first["attempt"], first["client_request_id"], first["upstream_response_id"]) == ("0", "mine", "chatcmpl-9")
    assert (first["cost_nano_usd"], first["cache_write_1h_tokens"], first["status"]) == ("5000", "3", "200")
    assert [row["cost_nano_usd"] for row in rows if row["request_id"] == "req_2"] == [""]


def test_a_forecast_tells_nobodys_requests_from_everybodys_and_a_little_from_nothing(folder: Path):
    books(folder, [*ROWS, a_request(4, tenant="", key_id="")])

    table = run(folder, "--by", "tenant", "--until", "2026-11-25").output.partition("Forecast to the end")[2]

    spent = dict(line.split()[:2] for line in table.splitlines() if line.startswith(("  (", "  support")))
    assert spent.keys() == {"(all)", "support", "(none)"}
    assert (Decimal(spent["(all)"]) > 0, Decimal(spent["(none)"])) == (True, 0)


def test_single_requests_are_listed_with_their_sums(folder: Path):
    books(folder, ROWS)

    rows = {row["request_id"]: row for row in json.loads(run(folder, "--by", "request", "--format", "json").output)}

    assert (rows["req_3"]["attempts"], rows["req_3"]["cost_nano_usd"], rows["req_3"]["model"]) == (2, 10_000, "large")
    assert (rows["req_2"]["cost_nano_usd"], rows["req_2"]["known_cost_nano_usd"]) == (None, 0)


@pytest.mark.parametrize("form", ["table", "csv", "json", "html"])
def test_every_format_has_the_sum_and_escapes_what_clients_wrote(folder: Path, form: str):
    books(folder, ROWS)

    result = run(folder, "--by", "tenant,session", "--format", form)

    assert result.exit_code == 0, result.output
    assert "0.000005" in result.output or "0.0000" in result.output
    assert "<script>" not in result.output or form != "html"


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(folder: Path):
    books(folder, ROWS)

    text = run(folder, "--format", "html").output

    assert not re.search(r"<script|src=|href=|url\(|@import|https?:", text)
    assert text.count("<svg") == text.count("</svg>") >= 4
    assert "charges of unknown cost are in no sum" in text


def test_a_single_days_baseline_is_a_line_on_the_page(folder: Path):
    books(folder, ROWS)

    line = re.search(r'<polyline class="baseline" points="([^"]*)"', run(folder, "--format", "html").output)

    assert line is not None
    assert len(set(line[1].split())) == 2


BASELINES = """
version: 1
models:
  dear: {backend: openai, base_url: http://x, name: a, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
  free: {backend: openai, base_url: http://x, name: b, price: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}}
routes: [{name: all, ladder: [dear]}]
"""


def test_the_plain_bill_has_several_baselines_at_once_in_the_days_of_a_zone(folder: Path, tmp_path: Path):
    books(folder, [a_charge(started_at=NOON.replace(hour=20)), a_request(started_at=NOON.replace(hour=20))])
    (tmp_path / "p.yaml").write_text(BASELINES)
    asked = ["--policy", str(tmp_path / "p.yaml"), "--baseline", "dear", "--baseline", "free", "--zone", "Asia/Kolkata"]

    told = json.loads(run(folder, *asked, "--json").output)
    table, lines = run(folder, *asked).output, run(folder, *asked, "--format", "csv").output

    costs = {one["model"]: one["cost_nusd"] for one in told["baselines"]}
    assert costs == {"dear": 130_000, "free": 0}
    assert [day["key"] for day in told["by_day"]] == ["2026-11-03"]
    assert "(Asia/Kolkata, USD)" in table
    assert "If one model had answered everything" in table
    assert [row["key"] for row in csv.DictReader(io.StringIO(lines)) if row["section"] == "baselines"] == list(costs)


def test_a_table_shows_every_number_whole(folder: Path):
    dear = 123_456_789_012_345_678
    books(
        folder,
        [a_charge(cost_nusd=dear, cost_provenance=CostProvenance.PROVIDER), a_request(tenant="t" * 60, cost_nusd=dear)],
    )

    shown = run(folder, "--by", "tenant,model,route,feature,path").output + run(folder).output

    assert shown.count("123456789.012345678") >= 3
    assert "…" not in shown


def test_csv_lines_add_up_to_the_bill(folder: Path):
    ledger = books(folder, ROWS)

    rows = csv.DictReader(io.StringIO(run(folder, "--by", "tenant,model", "--format", "csv").output))

    assert sum(int(row["cost_nusd"]) for row in rows) == ledger.bill().totals.cost_nusd


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "colour"], 'cannot report by "colour"'),
        (["--by", "tenant", "--zone", "Mars/Base"], 'no time zone "Mars/Base"'),
        (["--by", "attempt", "--format", "html"], "single rows are listed as table, csv or json"),
        (["--by", "pool", "--revenue", "REVENUE"], "revenue is of requests"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(folder: Path, tmp_path: Path, arguments: list[str], message: str):
    books(folder, ROWS)
    file = tmp_path / "revenue.csv"
    file.write_text("tenant,revenue_usd\nsupport,1\n")

    result = run(folder, *(argument.replace("REVENUE", str(file)) for argument in arguments))

    assert (result.exit_code, message in result.output) == (1, True), result.output


def test_the_dictionary_explains_every_table_column_and_view():
    columns = described()

    assert {one.table for one in columns} <= set(tables())
    assert [f"{one.table}.{one.column}" for one in columns if not one.meaning] == []
    assert [name for name, meaning in views().items() if not meaning] == []
