"""What providers say they were owed: their usage and cost exports, and a plain table of anybody's.

Shapes that are read (a file is told by its columns or keys):
- openai, CSV of the cost page: start_time, end_time, amount_value, amount_currency, line_item (`gpt-5, input_tokens`);
- openai, CSV or JSON of the usage API: start_time, end_time, model, input_tokens, input_cached_tokens, output_tokens,
  num_model_requests; JSON of the costs API: data[].results[].amount.{value, currency}, line_item;
- anthropic, CSV of the cost page: usage_date_utc, model, token_type, cost_usd; CSV of the usage page: usage_date_utc,
  model_version, usage_input_tokens_no_cache, …; JSON of usage_report and cost_report (amount in cents);
- generic, CSV or JSON (a list of objects): date, model, cost_usd, and maybe currency, requests, input_tokens,
  cached_input_tokens, cache_write_tokens, output_tokens. `input_tokens` is uncached input.

Rules: a day is one the provider names; a row that stands twice, a time that two rows cover, another currency or a
number with separators is an error, and nothing is guessed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from backends.prices import NANO_PER_USD
from gateway.ledger.errors import StatementInvalid
from gateway.ledger.reports.statement import Entry, read_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from backends.words import JsonValue

_DAY: Final = timedelta(days=1)
_CENTS_PER_USD: Final = 100


class Provider(StrEnum):
    """Whose file it is."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GENERIC = "generic"


@dataclass(slots=True, kw_only=True)
class Billed:
    """What a provider says of one day and model.

    Attributes:
        cost_usd: None when the file speaks of tokens only.
        slack_usd: how much of a difference its rounding can explain: half a unit of the last place, per row.
        requests: None when the file does not say.
        tokens: by our classes; empty when the file speaks of money only.
    """

    cost_usd: Decimal | None = None
    slack_usd: Decimal = Decimal(0)
    requests: int | None = None
    tokens: dict[str, int] = field(default_factory=dict)

    @property
    def cost_nusd(self) -> int | None:
        """The cost in nano-dollars, half rounded to even."""
        return None if self.cost_usd is None else round(self.cost_usd * NANO_PER_USD)

    def add_cost(self, usd: Decimal) -> None:
        """Add a row's dollars."""
        self.cost_usd = (self.cost_usd or Decimal(0)) + usd
        exponent = usd.as_tuple().exponent
        places = exponent if isinstance(exponent, int) else 0
        self.slack_usd += Decimal(1).scaleb(places) / 2

    def add(self, other: Billed) -> None:
        """Add another model's, where two of the file's names are one of ours."""
        if other.cost_usd is not None:
            self.cost_usd = (self.cost_usd or Decimal(0)) + other.cost_usd
            self.slack_usd += other.slack_usd
        if other.requests is not None:
            self.requests = (self.requests or 0) + other.requests
        self.add_tokens(other.tokens)

    def add_tokens(self, counts: Mapping[str, int]) -> None:
        """Add a row's tokens."""
        for name, count in counts.items():
            self.tokens[name] = self.tokens.get(name, 0) + count


Invoice = dict[tuple[date, str], Billed]
"""By day and the provider's name of the model."""


def read_invoice(file: Path, provider: Provider) -> Invoice:
    """Read a provider's file.

    Raises:
        StatementInvalid: it is none of the provider's shapes, or says something that cannot be; see the module.
    """
    readers: dict[Provider, Callable[[Path], Iterator[tuple[Entry, _Row]]]] = {
        Provider.OPENAI: _openai,
        Provider.ANTHROPIC: _anthropic,
        Provider.GENERIC: _generic,
    }
    invoice: Invoice = {}
    seen: dict[tuple[str, ...], int] = {}
    spans = _Spans(file)
    for entry, row in readers[provider](file):
        identity = tuple(f"{name}={value}" for name, value in sorted(row.identity.items()))
        if identity in seen:
            raise entry.wrong(
                f"repeats line {seen[identity]} ({', '.join(identity)}): two exports that overlap? give each day once"
            )
        seen[identity] = entry.line
        spans.add(entry, row)
        billed = invoice.setdefault((row.start.date(), row.model), Billed())
        if row.cost_usd is not None:
            billed.add_cost(row.cost_usd)
        if row.requests is not None:
            billed.requests = (billed.requests or 0) + row.requests
        billed.add_tokens(row.tokens)
    if not invoice:
        raise StatementInvalid(f"{file} has no rows; export a period in which something was used")
    return invoice


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    start: datetime
    end: datetime
    model: str
    identity: Mapping[str, str]
    cost_usd: Decimal | None = None
    requests: int | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)


class _Spans:
    """The times that rows cover: equal or apart, never one inside another; at most a day each."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lengths: dict[date, tuple[timedelta, int]] = {}

    def add(self, entry: Entry, row: _Row) -> None:
        length = row.end - row.start
        if not timedelta(0) < length <= _DAY:
            raise entry.wrong(f"covers {row.start:%Y-%m-%d %H:%M} to {row.end:%Y-%m-%d %H:%M}; export it by day")
        known, line = self._lengths.setdefault(row.start.date(), (length, entry.line))
        if known != length:
            raise entry.wrong(
                f"covers {length} of {row.start:%Y-%m-%d}, which line {line} covers by {known}: "
                "the days overlap; export them with one width"
            )


# --- OpenAI ------------------------------------------------------------------------------------------------------

_OPENAI_COST: Final = ("start_time", "end_time", "amount_value", "amount_currency", "line_item")
_OPENAI_USAGE: Final = ("start_time", "end_time", "model", "input_tokens", "output_tokens")


def _openai(file: Path) -> Iterator[tuple[Entry, _Row]]:
    entries = list(
        _bucketed(file) if file.suffix == ".json" else read_csv(file, required=_OPENAI_COST[:2], optional=None)
    )
    for entry in entries:
        fields = entry.fields
        if "amount_value" in fields:
            if not fields["amount_value"]:
                continue  # a day on which nothing was spent: the page exports it empty
            yield entry, _openai_cost(entry)
        elif "input_tokens" in fields:
            yield entry, _openai_usage(entry)
        else:
            raise StatementInvalid(
                f"{file} is neither OpenAI's cost nor its usage export; it has: {', '.join(fields)}; "
                f"cost has {', '.join(_OPENAI_COST)}; usage has {', '.join(_OPENAI_USAGE)}"
            )


def _openai_cost(entry: Entry) -> _Row:
    _require(entry, _OPENAI_COST)
    _dollars_only(entry, "amount_currency")
    model = entry.fields["line_item"].partition(",")[0].strip()
    return _Row(
        start=_unix(entry, "start_time"),
        end=_unix(entry, "end_time"),
        model=model,
        identity=_identity(entry, drop={"amount_value", "quantity"}),
        cost_usd=entry.amount("amount_value"),
    )


def _openai_usage(entry: Entry) -> _Row:
    _require(entry, _OPENAI_USAGE)
    cached = entry.count("input_cached_tokens")
    read = entry.count("input_tokens")
    if cached > read:
        raise entry.wrong(f"input_cached_tokens is {cached}, more than input_tokens ({read}), which include them")
    tokens = {
        "input_tokens": read - cached,
        "cached_input_tokens": cached,
        "output_tokens": entry.count("output_tokens"),
    }
    return _Row(
        start=_unix(entry, "start_time"),
        end=_unix(entry, "end_time"),
        model=entry.fields["model"],
        identity=_identity(
            entry, keep=("start_time", "model", "project_id", "user_id", "api_key_id", "batch", "service_tier")
        ),
        requests=entry.count("num_model_requests") if "num_model_requests" in entry.fields else None,
        tokens=tokens,
    )


# --- Anthropic ---------------------------------------------------------------------------------------------------

_ANTHROPIC_COST: Final = ("usage_date_utc", "model", "token_type", "cost_usd")
_ANTHROPIC_USAGE: Final = ("usage_date_utc", "model_version", "usage_input_tokens_no_cache", "usage_output_tokens")
_ANTHROPIC_TOKENS: Final = {
    "usage_input_tokens_no_cache": "input_tokens",
    "usage_input_tokens_cache_write_5m": "cache_write_tokens",
    "usage_input_tokens_cache_write_1h": "cache_write_1h_tokens",
    "usage_input_tokens_cache_read": "cached_input_tokens",
    "usage_output_tokens": "output_tokens",
    "web_search_count": "web_searches",
}
_ANTHROPIC_API_TOKENS: Final = {
    "uncached_input_tokens": "input_tokens",
    "ephemeral_5m_input_tokens": "cache_write_tokens",
    "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
    "cache_read_input_tokens": "cached_input_tokens",
    "output_tokens": "output_tokens",
    "web_search_requests": "web_searches",
}


def _anthropic(file: Path) -> Iterator[tuple[Entry, _Row]]:
    if file.suffix == ".json":
        for entry in _bucketed(file):
            yield entry, _anthropic_api(entry)
        return
    for entry in read_csv(file, required=["usage_date_utc"], optional=None):
        fields = entry.fields
        start = datetime.combine(entry.day("usage_date_utc"), datetime.min.time(), tzinfo=UTC)
        if "cost_usd" in fields:
            _require(entry, _ANTHROPIC_COST)
            identity = _identity(entry, drop={"cost_usd", "list_price_usd"})
            cost = entry.amount("cost_usd")
            yield entry, _Row(start=start, end=start + _DAY, model=fields["model"], identity=identity, cost_usd=cost)
        elif "usage_output_tokens" in fields:
            _require(entry, _ANTHROPIC_USAGE)
            tokens = {ours: entry.count(theirs) for theirs, ours in _ANTHROPIC_TOKENS.items()}
            identity = _identity(entry, drop=set(_ANTHROPIC_TOKENS))
            model = fields["model_version"]
            yield entry, _Row(start=start, end=start + _DAY, model=model, identity=identity, tokens=tokens)
        else:
            raise StatementInvalid(
                f"{file} is neither Anthropic's cost nor its usage export; it has: {', '.join(fields)}; "
                f"cost has {', '.join(_ANTHROPIC_COST)}; usage has {', '.join(_ANTHROPIC_USAGE)}"
            )


def _anthropic_api(entry: Entry) -> _Row:
    start, end = entry.moment("starting_at"), entry.moment("ending_at")
    model = entry.fields.get("model", "")
    if "amount" in entry.fields:
        _dollars_only(entry, "currency")
        cost = entry.amount("amount") / _CENTS_PER_USD
        return _Row(start=start, end=end, model=model, identity=_identity(entry, drop={"amount"}), cost_usd=cost)
    if "uncached_input_tokens" not in entry.fields:
        raise entry.wrong(
            f"is neither a cost_report nor a usage_report of Anthropic; it has: {', '.join(entry.fields)}"
        )
    tokens = {ours: entry.count(theirs) for theirs, ours in _ANTHROPIC_API_TOKENS.items()}
    identity = _identity(entry, drop=set(_ANTHROPIC_API_TOKENS))
    return _Row(start=start, end=end, model=model, identity=identity, tokens=tokens)


# --- anybody's ---------------------------------------------------------------------------------------------------

_GENERIC: Final = ("date", "model", "cost_usd")
_GENERIC_TOKENS: Final = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")


def _generic(file: Path) -> Iterator[tuple[Entry, _Row]]:
    optional = ("currency", "requests", *_GENERIC_TOKENS)
    entries = _listed(file) if file.suffix == ".json" else read_csv(file, required=_GENERIC, optional=optional)
    for entry in entries:
        _require(entry, _GENERIC)
        if "currency" in entry.fields:
            _dollars_only(entry, "currency")
        start = datetime.combine(entry.day("date"), datetime.min.time(), tzinfo=UTC)
        yield (
            entry,
            _Row(
                start=start,
                end=start + _DAY,
                model=entry.fields["model"],
                identity={"date": f"{start:%Y-%m-%d}", "model": entry.fields["model"]},
                cost_usd=entry.amount("cost_usd"),
                requests=entry.count("requests") if "requests" in entry.fields else None,
                tokens={name: entry.count(name) for name in _GENERIC_TOKENS if name in entry.fields},
            ),
        )


# --- shared ------------------------------------------------------------------------------------------------------


def _json(file: Path) -> JsonValue:
    try:
        text = file.read_text(encoding="utf-8-sig")
        # Money stays exact: no float ever holds it.
        found: JsonValue = json.loads(text, parse_float=Decimal)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, InvalidOperation) as error:
        raise StatementInvalid(f"cannot read {file}: {error}; give JSON as the provider's API returns it") from error
    return found


def _listed(file: Path) -> Iterator[Entry]:
    found = _json(file)
    if not isinstance(found, list):
        raise StatementInvalid(f"{file} holds no list; give a JSON list of objects with {', '.join(_GENERIC)}")
    for number, item in enumerate(found, start=1):
        yield Entry(file=file, line=number, fields=_flat(item))


def _bucketed(file: Path) -> Iterator[Entry]:
    """Yield the results of an API's pages of time buckets; their times are put beside each result."""
    found = _json(file)
    pages = found if isinstance(found, list) else [found]
    number = 0
    for page in pages:
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise StatementInvalid(
                f'{file} has no "data" with buckets; give the JSON of the provider\'s usage or cost API'
            )
        for bucket in page["data"]:
            times = {name: value for name, value in bucket.items() if name not in {"results", "object"}}
            for result in bucket.get("results", []):
                number += 1
                yield Entry(file=file, line=number, fields=_flat({**times, **result}))


def _flat(item: JsonValue) -> dict[str, str]:
    """Return an object's scalars as text; an amount's value and currency get CSV's names, other objects their keys."""
    flat: dict[str, str] = {}
    for name, value in item.items() if isinstance(item, dict) else ():
        if name == "amount" and isinstance(value, dict):
            flat["amount_value"] = _scalar(value.get("value"))
            flat["amount_currency"] = _scalar(value.get("currency"))
        elif isinstance(value, dict):
            flat |= _flat(value)
        elif not isinstance(value, list):
            flat[name] = _scalar(value)
    return flat


def _scalar(value: JsonValue) -> str:
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _require(entry: Entry, columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in entry.fields]
    if missing:
        raise entry.wrong(f"lacks {', '.join(missing)}; it has: {', '.join(entry.fields)}")


def _dollars_only(entry: Entry, column: str) -> None:
    currency = entry.fields.get(column, "")
    if currency.upper() != "USD":
        raise entry.wrong(f'{column} is "{currency}"; the ledger is in USD: convert the file, or export it in USD')


def _unix(entry: Entry, column: str) -> datetime:
    text = entry.fields.get(column, "")
    if re.fullmatch(r"\d{9,11}", text) is None:
        raise entry.wrong(f'{column} is "{text}"; give seconds since 1970, as the export does')
    return datetime.fromtimestamp(int(text), UTC)


def _identity(entry: Entry, *, drop: set[str] | None = None, keep: tuple[str, ...] | None = None) -> dict[str, str]:
    """Return what tells a row from every other: its fields but for the amounts."""
    fields = entry.fields
    return {name: fields[name] for name in keep or fields if name in fields and name not in (drop or ())}
