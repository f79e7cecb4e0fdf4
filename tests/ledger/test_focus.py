"""The FOCUS export conforms to the specification's own column rules, and its rows add up to the report."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings

from backends.prices import Rates, Tier
from backends.words import Usage
from gateway.ledger.bookings import BooksWriter
from gateway.ledger.errors import ExportImpossible
from gateway.ledger.focus import Account, Exported, Spec, export_focus
from gateway.ledger.report import Books
from gateway.ledger.reports.answer import opened
from gateway.ledger.reports.question import Question
from gateway.ledger.rows import ChargeKind, CostProvenance
from gateway.ledger.store import Row
from tests.ledger.test_report import books, ledgers
from tests.ledger.world import NOON, a_charge, a_request

Line = dict[str, str]
Condition = Callable[[Line], bool]

NUMBER = re.compile(r"-?\d+(\.\d+)?(E-?\d+)?")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UNITS = {"Tokens", "Requests", "Searches"}  # plural count units, as the unit format wants them


def always(_: Line) -> bool:
    return True


def never(_: Line) -> bool:
    return False


def is_priced(line: Line) -> bool:
    return line["ChargeCategory"] in {"Usage", "Purchase"} and line["ChargeClass"] != "Correction"


def has(column: str) -> Condition:
    return lambda line: bool(line[column])


def lacks(column: str) -> Condition:
    return lambda line: not line[column]


def is_usage(line: Line) -> bool:
    return line["ChargeCategory"] == "Usage"


def is_no_usage(line: Line) -> bool:
    return line["ChargeCategory"] != "Usage"


def of_pool(line: Line) -> bool:
    return bool(line["x_Pool"])


def of_no_pool(line: Line) -> bool:
    return not line["x_Pool"]


@dataclass(frozen=True)
class Rule:
    """A column's type, when it must not be null, when it must be, and what it may hold."""

    kind: str
    filled: Condition = never
    empty: Condition = never
    allowed: Sequence[str] = ()


# Feature level Mandatory, and those conditional columns whose condition a gateway meets (it measures usage, has unit
# prices, price lists, negotiated prices, sub accounts, provisioned replicas and tags).
RULES = {
    "BilledCost": Rule("Decimal", always),
    "BillingAccountId": Rule("String", always),
    "BillingAccountName": Rule("String"),
    "BillingCurrency": Rule("String", always, allowed=["USD"]),
    "BillingPeriodEnd": Rule("Date/Time", always),
    "BillingPeriodStart": Rule("Date/Time", always),
    "ChargeCategory": Rule("String", always, allowed=["Usage", "Purchase", "Tax", "Credit", "Adjustment"]),
    "ChargeClass": Rule("String", allowed=["Correction"]),
    "ChargeDescription": Rule("String", always),
    "ChargeFrequency": Rule("String", always, allowed=["One-Time", "Recurring", "Usage-Based"]),
    "ChargePeriodEnd": Rule("Date/Time", always),
    "ChargePeriodStart": Rule("Date/Time", always),
    "ConsumedQuantity": Rule("Decimal", lambda line: is_usage(line) and is_priced(line), is_no_usage),
    "ConsumedUnit": Rule("String", has("ConsumedQuantity"), lacks("ConsumedQuantity"), sorted(UNITS)),
    "ContractedCost": Rule("Decimal", always),
    "ContractedUnitPrice": Rule("Decimal", is_priced),
    "EffectiveCost": Rule("Decimal", always),
    "InvoiceIssuerName": Rule("String", always),
    "ListCost": Rule("Decimal", always),
    "ListUnitPrice": Rule("Decimal", is_priced),
    "PricingCategory": Rule("String", is_priced, allowed=["Standard", "Dynamic", "Committed", "Other"]),
    "PricingQuantity": Rule("Decimal", is_priced),
    "PricingUnit": Rule("String", has("PricingQuantity"), lacks("PricingQuantity"), sorted(UNITS)),
    "ProviderName": Rule("String", always),
    "PublisherName": Rule("String", always),
    "ResourceId": Rule("String", of_pool, of_no_pool),
    "ResourceName": Rule("String", never, lacks("ResourceId")),
    "ResourceType": Rule("String", has("ResourceId"), lacks("ResourceId")),
    "ServiceCategory": Rule("String", always, allowed=["AI and Machine Learning"]),
    "ServiceName": Rule("String", always),
    "ServiceSubcategory": Rule("String", always, allowed=["Generative AI"]),
    "SkuId": Rule("String", is_priced),
    "SkuMeter": Rule("String", has("SkuId"), lacks("SkuId")),
    "SkuPriceDetails": Rule("JSON", never, lacks("SkuPriceId")),
    "SkuPriceId": Rule("String", is_priced),
    "SubAccountId": Rule("String", always),
    "SubAccountName": Rule("String", has("SubAccountId"), lacks("SubAccountId")),
    "Tags": Rule("JSON"),
}
RULES_1_3 = RULES | {
    "AllocatedMethodDetails": Rule("Object", never, of_no_pool),
    "AllocatedMethodId": Rule("String", of_pool, of_no_pool),
    "AllocatedResourceId": Rule("String", of_pool, of_no_pool),
    "AllocatedResourceName": Rule("String", has("AllocatedResourceId"), lacks("AllocatedResourceId")),
    "AllocatedTags": Rule("JSON", never, lacks("AllocatedResourceId")),
    "HostProviderName": Rule("String", always),
    "ServiceProviderName": Rule("String", always),
}


def breaches(rules: dict[str, Rule], line: Line) -> list[str]:
    found = []
    for column, rule in rules.items():
        value = line[column]
        if not value:
            found += [f"{column} is null"] if rule.filled(line) else []
            continue
        found += [f"{column} is not null"] if rule.empty(line) else []
        found += [f"{column} is {value}"] if rule.allowed and value not in rule.allowed else []
        found += [f"{column} is no {rule.kind}: {value}"] if not is_of_kind(rule.kind, value) else []
    return found


def is_of_kind(kind: str, value: str) -> bool:
    if kind == "Decimal":
        return NUMBER.fullmatch(value) is not None
    if kind == "Date/Time":
        return MOMENT.fullmatch(value) is not None
    if kind == "JSON":  # the key-value format: no objects or arrays inside
        return all(isinstance(item, str | int | float | bool | None) for item in json.loads(value).values())
    if kind == "Object":
        return {"AllocatedRatio", "UsageUnit", "UsageQuantity"} <= set(json.loads(value)["Elements"][0])
    return value == value.strip()


TIERED = Rates(
    input=1_234_567,
    cached_input=333_333,
    cache_write=0,
    output=7_654_321,
    reasoning=5,
    per_request=77,
    source="genai-prices 0.2.3 openai/gpt-5",
    tiers=(Tier(start_tokens=105, input=9, cached_input=8, cache_write=7, output=6, reasoning=5),),
)
USED = Usage(input_tokens=95, cached_input_tokens=10, output_tokens=20)
USAGE = {"input_tokens": 95, "cached_input_tokens": 10, "output_tokens": 20}
ROWS: list[Row] = [
    a_request(1, tags={"feature": "chat", "team": 'a "quoted", one'}, session="s"),
    a_charge(1, rates=TIERED, pool=None, **USAGE, cost_nusd=TIERED.cost_nusd(USED)),
    a_request(2, tags={}),
    a_charge(2, cost_nusd=123_456_789_012_345, kind=ChargeKind.ESTIMATED, cost_provenance=CostProvenance.ESTIMATED),
    a_charge(2, 1, kind=ChargeKind.FAILED, cost_nusd=None, cost_provenance=CostProvenance.UNKNOWN),
    a_request(3),
    a_charge(3, rates=TIERED, pool=None, cost_nusd=0, input_tokens=1_000, tier="batch"),
    a_charge(4, cost_nusd=0, input_tokens=0, cached_input_tokens=0, output_tokens=0),
]
ALWAYS = Question(since=NOON - timedelta(days=60), until=NOON + timedelta(days=60))


def exported(
    folder: Path, rows: Sequence[Row], spec: Spec = Spec.V1_2, suffix: str = ".csv"
) -> tuple[Path, Exported, Books]:
    ledger, file = books(folder, rows), folder / f"focus{suffix}"
    with opened(folder) as db:
        done = export_focus(db, ALWAYS, spec=spec, file=file, account=Account(pool_bills_nusd={"cpu": 10**9}))
    return file, done, ledger


def lines(file: Path) -> list[Line]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize(("spec", "rules"), [(Spec.V1_2, RULES), (Spec.V1_3, RULES_1_3)])
def test_every_row_keeps_the_specifications_column_rules(folder: Path, spec: Spec, rules: dict[str, Rule]):
    file, done, _ = exported(folder, ROWS, spec)

    rows = lines(file)

    assert len(rows) == done.rows > 0
    assert [breach for line in rows for breach in breaches(rules, line)] == []


@pytest.mark.parametrize(("spec", "rules"), [(Spec.V1_2, RULES), (Spec.V1_3, RULES_1_3)])
def test_all_columns_are_there_in_order_and_ours_come_last(folder: Path, spec: Spec, rules: dict[str, Rule]):
    names = exported(folder, ROWS, spec)[0].read_text().splitlines()[0].split(",")

    focus = [name for name in names if not name.startswith("x_")]
    assert set(rules) <= set(focus)
    assert focus == sorted(focus) == names[: len(focus)]
    assert all(re.fullmatch(r"(x_)?[A-Z][A-Za-z]{1,48}", name) for name in names)


def test_quantity_times_unit_price_is_the_cost_exactly(folder: Path):
    for line in lines(exported(folder, ROWS)[0]):
        if line["PricingQuantity"]:
            for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
                assert Decimal(line["PricingQuantity"]) * Decimal(line[price]) == Decimal(line[cost])
        else:
            assert line["ContractedCost"] == line["ListCost"] == line["BilledCost"]


def test_one_price_has_one_sku_and_periods_hold_their_charges(folder: Path):
    parents = defaultdict(set)
    for line in lines(exported(folder, ROWS)[0]):
        parents[line["SkuPriceId"]].add(line["SkuId"])
        assert line["BillingPeriodStart"] <= line["ChargePeriodStart"] < line["ChargePeriodEnd"]
        assert line["ChargePeriodStart"] < line["BillingPeriodEnd"]
    assert all(len(skus) == 1 for skus in parents.values())


def test_the_rules_of_a_charge_show_in_its_rows(folder: Path):
    rows = [line for line in lines(exported(folder, ROWS)[0]) if line["x_RequestId"] == "req_1"]

    meters = {line["SkuMeter"]: line["ConsumedQuantity"] for line in rows if line["SkuMeter"]}
    assert meters == {"Input Tokens": "95", "Cached Input Tokens": "10", "Output Tokens": "20", "Requests": "1"}
    assert {line["ProviderName"] for line in rows} == {"openai"}
    assert [line["ChargeCategory"] for line in rows].count("Adjustment") == 1


@given(rows=ledgers())
@settings(max_examples=8, deadline=None)
def test_the_rows_add_up_to_the_report_to_the_nano_dollar(rows: list[Row], tmp_path_factory: pytest.TempPathFactory):
    file, done, ledger = exported(tmp_path_factory.mktemp("ledger"), rows)

    total = sum((Decimal(line["BilledCost"]) for line in lines(file)), Decimal(0))

    assert total * 10**9 == done.cost_nusd == ledger.bill().totals.cost_nusd


def test_what_the_books_post_is_a_row_and_in_the_bill(folder: Path):
    ledger = books(folder, ROWS)
    writer = BooksWriter(folder, now=NOON, made_by="controller")
    writer.correct("req_1", 0, cost_nusd=1_000, reason="the provider's invoice")
    writer.adjust("2026-11", amount_nusd=-5 * 10**9, tenant="support", model=None, reason="a credit")

    with opened(folder) as db:
        done = export_focus(db, ALWAYS, spec=Spec.V1_3, file=folder / "focus.csv")

    rows = lines(folder / "focus.csv")
    posted = [line for line in rows if line["x_AttemptKind"] in {"correction", "adjustment"}]
    assert [breach for line in rows for breach in breaches(RULES_1_3, line)] == []
    assert sum(Decimal(line["BilledCost"]) for line in posted) * 10**9 == done.posted_nusd
    assert done.posted_nusd == ledger.bill().totals.posted_nusd == 1_000 - TIERED.cost_nusd(USED) - 5 * 10**9


def test_a_charge_of_unknown_cost_is_left_out_and_counted(folder: Path):
    file, done, _ = exported(folder, ROWS)

    assert (done.unknown, done.charges) == (1, 4)
    assert not [line for line in lines(file) if line["x_RequestId"] == "req_2" and line["x_Attempt"] == "1"]


def test_a_file_of_another_kind_is_refused_and_nothing_is_written(folder: Path):
    with pytest.raises(ExportImpossible, match=r"end the name in \.csv or \.parquet"):
        exported(folder, ROWS, suffix=".xlsx")
    assert not list(folder.glob("focus*"))


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="shows what happens without pyarrow")
def test_parquet_without_its_package_says_what_to_install(folder: Path):
    with pytest.raises(ExportImpossible, match=r"faregate\[export\]"):
        exported(folder, ROWS, suffix=".parquet")
    assert not list(folder.glob("focus*"))


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs the extra faregate[export]")
def test_parquet_holds_what_csv_holds(folder: Path):
    from pyarrow import parquet

    file, done, _ = exported(folder, ROWS, suffix=".parquet")

    table = parquet.read_table(file)
    assert sum(table["BilledCost"].to_pylist()) * 10**9 == done.cost_nusd
    assert isinstance(table["ChargePeriodStart"][0].as_py(), datetime)
    assert table["ChargeClass"].null_count == done.rows
