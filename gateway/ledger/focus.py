"""The ledger as FOCUS, the FinOps Open Cost and Usage Specification, versions 1.2 and 1.3, as CSV or Parquet.

Rules:
- a charge becomes a row for each class of tokens it paid for: quantity x unit price is the row's cost, exactly, to the
  femto-dollar; where rounding to the nano-dollar moved the charge, a row of category "Adjustment" says by how much; a
  charge that its rates do not explain (a provider's stated cost, an upper bound after a crash) is one row of one
  request; so the rows of a charge add up to it, and all rows to the report;
- a charge of unknown cost has no row, since a cost must not be null and is not 0: `Exported.unknown` counts them;
- archived charges are rows as they were where their files are at hand (`put_back`); where not, the ledger has sums: a
  row for each day, tenant, key, route, feature, path, model, pool and kind, of so many requests at their mean price,
  for whole UTC days, each where its noon lies, as in the report; an "Adjustment" has the rest of that division;
- a charge lies in the billing period (the calendar month, UTC) in which its request began, as in the report;
- what the books post (corrections, adjustments, charges that came after their month was sealed) are rows of category
  "Adjustment" in the month they post to; a late one is also taken out of its own month;
- what tenants buy from pools is a split of a shared cost: 1.3's allocation columns say so;
- rows are made one by one, so memory does not grow with them; a file appears under its name when it is whole.

Source: FOCUS 1.2 and 1.3, "Cost and Usage" columns and the attributes of formats and nulls
(https://focus.finops.org/focus-specification/). Columns about what a gateway does not have (commitments, regions,
other currencies) are conditional there and left out.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from backends.prices import FEMTO_PER_NANO
from gateway.ledger.derived import DAY_US
from gateway.ledger.errors import ExportImpossible
from gateway.ledger.put_back import CHARGES, REQUESTS
from gateway.ledger.reports.baselines import rate_of
from gateway.ledger.rows import TOKENS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from backends.words import JsonValue
    from gateway.ledger.reports.question import Question

SELF_HOSTED: Final = "Self-hosted"
"""Who provides, hosts and bills what runs in a pool."""
ALLOCATION: Final = "faregate-standard-costing"
"""`AllocatedMethodId`: a pool's cost is split by published rates per token class (see `gateway.ledger.pools`)."""

_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS: Final = 86_400_000
_BATCH: Final = 10_000  # rows of Parquet held at a time
_SCALE: Final = 15  # decimals of a dollar in a femto-dollar
_EXACT: Final = Context(prec=60)
Value = str | Decimal | datetime | None
Row = dict[str, Value]


class Spec(StrEnum):
    """The specification's versions."""

    V1_2 = "1.2"
    V1_3 = "1.3"


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "String"
    NUMBER = "Decimal"
    MOMENT = "Date/Time"
    JSON = "JSON"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the export."""

    name: str
    kind: Kind = Kind.TEXT
    since: Spec = Spec.V1_2


_COLUMNS: Final = (
    Column("AllocatedMethodDetails", Kind.JSON, Spec.V1_3),
    Column("AllocatedMethodId", since=Spec.V1_3),
    Column("AllocatedResourceId", since=Spec.V1_3),
    Column("AllocatedResourceName", since=Spec.V1_3),
    Column("AllocatedTags", Kind.JSON, Spec.V1_3),
    Column("BilledCost", Kind.NUMBER),
    Column("BillingAccountId"),
    Column("BillingAccountName"),
    Column("BillingCurrency"),
    Column("BillingPeriodEnd", Kind.MOMENT),
    Column("BillingPeriodStart", Kind.MOMENT),
    Column("ChargeCategory"),
    Column("ChargeClass"),
    Column("ChargeDescription"),
    Column("ChargeFrequency"),
    Column("ChargePeriodEnd", Kind.MOMENT),
    Column("ChargePeriodStart", Kind.MOMENT),
    Column("ConsumedQuantity", Kind.NUMBER),
    Column("ConsumedUnit"),
    Column("ContractedCost", Kind.NUMBER),
    Column("ContractedUnitPrice", Kind.NUMBER),
    Column("EffectiveCost", Kind.NUMBER),
    Column("HostProviderName", since=Spec.V1_3),
    Column("InvoiceId"),
    Column("InvoiceIssuerName"),
    Column("ListCost", Kind.NUMBER),
    Column("ListUnitPrice", Kind.NUMBER),
    Column("PricingCategory"),
    Column("PricingQuantity", Kind.NUMBER),
    Column("PricingUnit"),
    Column("ProviderName"),
    Column("PublisherName"),
    Column("ResourceId"),
    Column("ResourceName"),
    Column("ResourceType"),
    Column("ServiceCategory"),
    Column("ServiceName"),
    Column("ServiceProviderName", since=Spec.V1_3),
    Column("ServiceSubcategory"),
    Column("SkuId"),
    Column("SkuMeter"),
    Column("SkuPriceDetails", Kind.JSON),
    Column("SkuPriceId"),
    Column("SubAccountId"),
    Column("SubAccountName"),
    Column("Tags", Kind.JSON),
)
# Ours, and where each comes from in the query below.
_OURS: Final = {
    "x_RequestId": "request_id",
    "x_Attempt": "attempt",
    "x_ClientRequestId": "client_request_id",
    "x_UpstreamResponseId": "upstream_response_id",
    "x_KeyId": "key_id",
    "x_Route": "route",
    "x_Model": "model",
    "x_Pool": "pool",
    "x_Endpoint": "endpoint_label",
    "x_AttemptKind": "kind",
    "x_Path": "path",
    "x_Session": "session",
    "x_TaskId": "task_id",
    "x_CostProvenance": "cost_provenance",
    "x_InputProvenance": "input_provenance",
    "x_OutputProvenance": "output_provenance",
    "x_PriceTier": "tier",
    "x_PriceDigest": "price_digest",
}
_FACTS: Final = (
    *(column for column in _OURS.values() if column not in {"path", "session", "task_id", "client_request_id"}),
    *TOKENS,
    "tenant",
    "rates",
    "cost_nusd",
    "started_at_us",
    "duration_ms",
)
_CHARGES: Final = ", ".join(f"charges.{name} AS {name}" for name in _FACTS)
_BOOKED: Final = f"""
SELECT {_CHARGES}, requests.client_request_id AS client_request_id, requests.path AS path,
       requests.session AS session, requests.task_id AS task_id, requests.tags AS tags,
       requests.started_at_us AS asked_at_us
FROM {{requests}} AS requests CROSS JOIN {{charges}} AS charges USING (request_id)
WHERE requests.started_at_us >= :since AND requests.started_at_us < :until
  AND (:tenant IS NULL OR requests.tenant = :tenant)
"""
_QUERY: Final = f"""{_BOOKED.format(requests="requests", charges="charges")}UNION ALL
SELECT {_CHARGES}, NULL, NULL, NULL, NULL, '{{}}', charges.started_at_us
FROM waiting_charges CROSS JOIN charges USING (request_id, attempt)
WHERE charges.started_at_us >= :since AND charges.started_at_us < :until
  AND (:tenant IS NULL OR charges.tenant = :tenant)
"""
_PUT_BACK: Final = _BOOKED.format(requests=REQUESTS, charges=CHARGES)
# As in the bill: a posting is to a whole month, and a late charge leaves its own.
_POSTINGS: Final = """
SELECT kind, period, tenant, model, nusd, reason, request_id, attempt FROM (
  SELECT kind, period, tenant, model, amount_nusd AS nusd, reason, request_id, attempt,
         unixepoch(period || '-01') * 1000000 AS at_us FROM books
  WHERE kind IN ('correction', 'adjustment', 'late')
  UNION ALL
  SELECT 'late', strftime('%Y-%m', charges.started_at_us / 1000000, 'unixepoch'), charges.tenant, charges.model,
         -charges.cost_nusd, 'posted to ' || period, request_id, attempt, charges.started_at_us
  FROM books CROSS JOIN charges USING (request_id, attempt) WHERE books.kind = 'late' AND cost_nusd IS NOT NULL
) WHERE at_us >= :since AND at_us < :until AND (:tenant IS NULL OR tenant = :tenant)
"""
_ARCHIVED: Final = f"""
SELECT day * {DAY_US} AS asked_at_us, tenant, key_id, route, feature, path, model, pool, kind,
       SUM(attempts) - SUM(unknown_charges) AS known, SUM(unknown_charges) AS unknown, SUM(cost_nusd) AS cost_nusd
FROM archived_daily_charges
WHERE day >= :first_day AND day < :last_day AND (:tenant IS NULL OR tenant = :tenant)
GROUP BY day, tenant, key_id, route, feature, path, model, pool, kind
"""
_METERS: Final = {
    **{name: (name.removesuffix("_tokens").replace("_", " ").title() + " Tokens", "Tokens") for name in TOKENS},
    "web_searches": ("Web Searches", "Searches"),
    "per_request": ("Requests", "Requests"),
}
_READ: Final = tuple(name for name in TOKENS if "input" in name or "cache_write" in name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whose data it is.

    Attributes:
        account: the billing account's id and name.
        providers: who sells each catalog model; a model that is not here is its rates' source's.
        pool_bills_nusd: what each pool cost in the period, for the ratios of 1.3's allocation columns.
    """

    account: str = "faregate"
    providers: Mapping[str, str] = field(default_factory=dict)
    pool_bills_nusd: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        rows: how many.
        charges: charges they stand for.
        cost_nusd: the sum of those.
        posted_nusd: the sum of the books' postings, which are rows too.
        unknown: charges left out, since nobody knows what they cost.
        archived: of the charges those that are archived, and in rows of their days' sums.
    """

    rows: int
    charges: int
    cost_nusd: int
    posted_nusd: int
    unknown: int
    archived: int = 0


def columns(spec: Spec) -> tuple[Column, ...]:
    """Return a version's columns: FOCUS's in alphabetical order, then ours."""
    ours = (Column(name, Kind.NUMBER if name == "x_Attempt" else Kind.TEXT) for name in _OURS)
    return (*(column for column in _COLUMNS if column.since <= spec), *ours)


def export_focus(
    db: sqlite3.Connection,
    question: Question,
    *,
    spec: Spec,
    file: Path,
    account: Account | None = None,
    has_archives: bool = False,
) -> Exported:
    """Write a period as FOCUS.

    Args:
        db: the ledger.
        question: its period and tenant; its dimensions do not matter.
        spec: which version.
        file: `….csv` or `….parquet`; it is replaced when the new one is whole.
        account: whose data it is.
        has_archives: archived rows of the period were put back (`put_back`).

    Raises:
        ExportImpossible: the name ends otherwise, pyarrow is not installed, or the place cannot be written to.
    """
    tally = _Tally()
    rows = _rows(db, question, account or Account(), tally, has_archives=has_archives)
    shown = columns(spec)
    writers: dict[str, Callable[[Path, tuple[Column, ...], Iterable[Row]], None]] = {
        ".csv": _write_csv,
        ".parquet": _write_parquet,
    }
    write = writers.get(file.suffix)
    if write is None:
        raise ExportImpossible(f'cannot tell the format of "{file.name}"; end the name in .csv or .parquet')
    part = file.with_name(f"{file.name}.part")
    try:
        write(part, shown, rows)
        part.replace(file)
    except OSError as error:
        raise ExportImpossible(f"cannot write {file}: {error.strerror}; give a place that can be written") from error
    finally:
        part.unlink(missing_ok=True)
    return Exported(
        rows=tally.rows,
        charges=tally.charges,
        cost_nusd=tally.cost_nusd,
        posted_nusd=tally.posted_nusd,
        unknown=tally.unknown,
        archived=tally.archived,
    )


@dataclass(slots=True)
class _Tally:
    rows: int = 0
    charges: int = 0
    cost_nusd: int = 0
    posted_nusd: int = 0
    unknown: int = 0
    archived: int = 0


def _rows(
    db: sqlite3.Connection, question: Question, account: Account, tally: _Tally, *, has_archives: bool
) -> Iterator[Row]:
    for fact in _facts(db, question, has_archives=has_archives):
        if fact["cost_nusd"] is None:
            tally.unknown += 1
            continue
        tally.charges += 1
        tally.cost_nusd += fact["cost_nusd"]
        common = _common(fact, account)
        for own in _priced(fact):
            tally.rows += 1
            yield common | own | _allocated(fact, account, own)
    yield from _archived_rows(db, question, account, tally)
    for values in db.execute(_POSTINGS, question.parameters):
        tally.rows += 1
        tally.posted_nusd += values[4]
        yield _posting(values, account)


def _facts(db: sqlite3.Connection, question: Question, *, has_archives: bool) -> Iterator[dict[str, JsonValue]]:
    for query in (_PUT_BACK, _QUERY) if has_archives else (_QUERY,):
        cursor = db.execute(query, question.parameters)
        names = [item[0] for item in cursor.description]
        for values in cursor:
            yield dict(zip(names, values, strict=True))


def _archived_rows(db: sqlite3.Connection, question: Question, account: Account, tally: _Tally) -> Iterator[Row]:
    cursor = db.execute(_ARCHIVED, question.parameters)
    names = [item[0] for item in cursor.description]
    nothing: dict[str, JsonValue] = dict.fromkeys(_OURS.values())
    for values in cursor:
        summed = dict(zip(names, values, strict=True))
        tally.unknown += summed["unknown"]
        if not summed["known"]:
            continue
        tally.charges += summed["known"]
        tally.archived += summed["known"]
        tally.cost_nusd += summed["cost_nusd"]
        feature = summed["feature"]
        tags = msgspec.json.encode({"feature": feature}).decode() if feature else "{}"
        day = {"started_at_us": summed["asked_at_us"], "duration_ms": _DAY_MS - 1}
        fact = nothing | summed | day | {"rates": "{}", "tier": "", "tags": tags, "endpoint_label": ""}
        common = _common(fact, account)
        if fact["pool"]:
            common["ResourceId"] = fact["pool"]  # which replica it was is in the archive
        each, rest = divmod(summed["cost_nusd"] * FEMTO_PER_NANO, summed["known"])
        parts = [_usage(fact, "per_request", summed["known"], each)]
        if rest:
            about = f"{fact['model']}: rest of the division into equal archived requests"
            parts.append(_adjustment(fact, rest) | {"ChargeDescription": about})
        for own in parts:
            tally.rows += 1
            yield common | own | _allocated(fact, account, own)


def _posting(
    values: tuple[str, str, str | None, str | None, int, str, str | None, int | None], account: Account
) -> Row:
    kind, period, tenant, model, nusd, reason, request_id, attempt = values
    year, month = int(period[:4]), int(period[5:])
    start = datetime(year, month, 1, tzinfo=UTC)
    end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    provider = account.providers.get(model or "", "Unknown provider")
    cost = _dollars(nusd * FEMTO_PER_NANO)
    row: Row = dict.fromkeys(column.name for column in columns(Spec.V1_3))
    return row | {
        "BilledCost": cost,
        "BillingAccountId": account.account,
        "BillingAccountName": account.account,
        "BillingCurrency": "USD",
        "BillingPeriodStart": start,
        "BillingPeriodEnd": end,
        "ChargeCategory": "Adjustment",
        # It corrects what a month before was invoiced, or the month itself while it was open: only the first is one.
        "ChargeClass": "Correction" if kind == "late" and nusd > 0 else None,
        "ChargeDescription": f"{kind}: {' '.join(reason.split())}",
        "ChargeFrequency": "One-Time",
        "ChargePeriodStart": start,
        "ChargePeriodEnd": end,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "HostProviderName": provider,
        "InvoiceIssuerName": provider,
        "ListCost": cost,
        "ProviderName": provider,
        "PublisherName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{provider} models",
        "ServiceProviderName": provider,
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": tenant,
        "SubAccountName": tenant,
        "x_RequestId": request_id,
        "x_Attempt": None if attempt is None else Decimal(attempt),
        "x_Model": model,
        "x_AttemptKind": kind,
    }


def _common(fact: dict[str, JsonValue], account: Account) -> Row:
    asked = _EPOCH_START + timedelta(microseconds=fact["asked_at_us"])
    ended = _EPOCH_START + timedelta(microseconds=fact["started_at_us"] + round(fact["duration_ms"] * 1000))
    start = asked.replace(microsecond=0)
    month = datetime(asked.year, asked.month, 1, tzinfo=UTC)
    pool = fact["pool"]
    provider = SELF_HOSTED if pool else account.providers.get(fact["model"]) or _seller(fact["rates"])
    row: Row = {
        "BillingAccountId": account.account,
        "BillingAccountName": account.account,
        "BillingCurrency": "USD",
        "BillingPeriodStart": month,
        "BillingPeriodEnd": datetime(asked.year + asked.month // 12, asked.month % 12 + 1, 1, tzinfo=UTC),
        "ChargeClass": None,
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": start,
        # Exclusive and in whole seconds: the first that the attempt does not touch.
        "ChargePeriodEnd": max(start, ended.replace(microsecond=0)) + timedelta(seconds=1),
        "HostProviderName": provider,
        "InvoiceId": None,
        "InvoiceIssuerName": provider,
        "ProviderName": provider,
        "PublisherName": provider,
        "ResourceId": f"{pool}/{fact['endpoint_label']}" if pool else None,
        "ResourceName": None,
        "ResourceType": "Model replica" if pool else None,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{provider} models",
        "ServiceProviderName": provider,
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": fact["tenant"],
        "SubAccountName": fact["tenant"],
        "Tags": fact["tags"] if fact["tags"] != "{}" else None,
    }
    for name, source in _OURS.items():
        value = fact[source]
        row[name] = None if value in {None, ""} else Decimal(value) if name == "x_Attempt" else str(value)
    return row


def _priced(fact: dict[str, JsonValue]) -> Iterator[Row]:
    """Yield what differs between a charge's rows: meter, quantity, price and cost."""
    cost = fact["cost_nusd"] * FEMTO_PER_NANO
    rates = _rates(fact["rates"])
    read = sum(fact[name] for name in _READ)
    prices = rates
    for tier in sorted(rates.get("tiers", ()), key=lambda tier: tier["start_tokens"]):
        prices = tier if read > tier["start_tokens"] else prices
    used = [(name, fact[name], rate_of(prices, rates, name)) for name in TOKENS if fact[name]]
    if fee := rates.get("per_request", 0):
        used.append(("per_request", 1, fee))
    explained = sum(quantity * price for _, quantity, price in used)
    if not used or 2 * abs(cost - explained) > FEMTO_PER_NANO:
        used, explained = [("per_request", 1, cost)], cost
    for name, quantity, price in used:
        yield _usage(fact, name, quantity, price)
    if cost != explained:
        yield _adjustment(fact, cost - explained)


def _usage(fact: dict[str, JsonValue], name: str, quantity: int, price: int) -> Row:
    meter, unit = _METERS[name]
    amount, each, cost = Decimal(quantity), _dollars(price), _dollars(quantity * price)
    tier = fact["tier"]
    return {
        "BilledCost": cost,
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{fact['model']}: {meter} ({fact['kind']})",
        "ConsumedQuantity": amount,
        "ConsumedUnit": unit,
        "ContractedCost": cost,
        "ContractedUnitPrice": each,
        "EffectiveCost": cost,
        "ListCost": cost,
        "ListUnitPrice": each,
        "PricingCategory": "Standard",
        "PricingQuantity": amount,
        "PricingUnit": unit,
        "SkuId": fact["model"],
        "SkuMeter": meter,
        "SkuPriceDetails": json.dumps({"x_PriceTier": tier}) if tier else None,
        "SkuPriceId": "/".join(part for part in (fact["model"], name.removesuffix("_tokens"), tier) if part),
    }


_NOT_PRICED: Final = (
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
)


def _adjustment(fact: dict[str, JsonValue], femto: int) -> Row:
    cost = _dollars(femto)
    return {
        "BilledCost": cost,
        "ChargeCategory": "Adjustment",
        "ChargeDescription": f"{fact['model']}: rounding of the charge to the nano-dollar",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        **dict.fromkeys(_NOT_PRICED),
    }


def _allocated(fact: dict[str, JsonValue], account: Account, own: Row) -> Row:
    pool = fact["pool"]
    if not pool:
        return dict.fromkeys(column.name for column in _COLUMNS if column.name.startswith("Allocated"))
    bill = account.pool_bills_nusd.get(pool)
    details = None
    if bill and own["ConsumedQuantity"] is not None:
        ratio = round(float(own["BilledCost"] or 0) * 1e9 / bill, 12)  # type: ignore[arg-type]  # a cost is a Decimal
        element = {
            "AllocatedRatio": ratio,
            "UsageUnit": own["ConsumedUnit"],
            "UsageQuantity": int(own["ConsumedQuantity"]),  # type: ignore[arg-type]  # a quantity is a Decimal
        }
        details = json.dumps({"Elements": [element]})
    return {
        "AllocatedMethodDetails": details,
        "AllocatedMethodId": ALLOCATION,
        "AllocatedResourceId": fact["tenant"],
        "AllocatedResourceName": fact["tenant"],
        "AllocatedTags": fact["tags"] if fact["tags"] != "{}" else None,
    }


@lru_cache(maxsize=256)
def _rates(text: str) -> Mapping[str, JsonValue]:
    found: Mapping[str, JsonValue] = msgspec.json.decode(text)
    return found


def _seller(rates: str) -> str:
    """Return the provider that rates name as their source: `genai-prices 0.2.3 openai/gpt-5`."""
    source = str(_rates(rates).get("source", ""))
    return source.rpartition(" ")[2].partition("/")[0] if "/" in source else "Unknown provider"


def _dollars(femto: int) -> Decimal:
    return _EXACT.scaleb(Decimal(femto), -_SCALE)


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return value


def _write_csv(file: Path, shown: tuple[Column, ...], rows: Iterable[Row]) -> None:
    names = [column.name for column in shown]
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow([_text(row[name]) for name in names])


def _write_parquet(file: Path, shown: tuple[Column, ...], rows: Iterable[Row]) -> None:
    try:
        import pyarrow as pa  # here: an extra, and heavy
        from pyarrow import parquet
    except ImportError as error:
        raise ExportImpossible(
            "Parquet needs one more package; install it with `pip install 'faregate[export]'`, or export .csv"
        ) from error
    types = {
        Kind.TEXT: pa.string(),
        Kind.JSON: pa.string(),
        Kind.NUMBER: pa.decimal128(38, _SCALE),
        Kind.MOMENT: pa.timestamp("s", tz="UTC"),
    }
    schema = pa.schema([(column.name, types[column.kind]) for column in shown])
    left = iter(rows)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(left, _BATCH)):
            held = {column.name: [row[column.name] for row in batch] for column in shown}
            writer.write_table(pa.table(held, schema=schema))
