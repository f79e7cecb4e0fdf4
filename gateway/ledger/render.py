"""The bill on paper: a table for people, CSV for spreadsheets, JSON for programs; money is exact in all three.

JSON and CSV carry every amount twice: `…_nusd` is the integer, `…_usd` the same in dollars with nine decimals.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from backends.prices import usd
from backends.words import JsonValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from gateway.ledger.pools import ReplicaLine
    from gateway.ledger.report import Bill, GroupLine

_SECTIONS: Final = ("by_kind", "by_model", "by_tenant", "by_route", "by_path", "by_day", "pools", "baselines")
_KEYS: Final = ("kind", "model", "pool", "key")
_AMOUNTS: Final = (
    "requests",
    "served",
    "refused",
    "attempts",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "unknown_charges",
    "up_us",
    "busy_us",
    "energy_j",
    "energy",
    "rate_factor",
    "is_spot",
    "is_imported",
)
_MONEY: Final = (
    "cost_nusd",
    "rejected_nusd",
    "baseline_nusd",
    "baseline_low_nusd",
    "baseline_high_nusd",
    "savings_nusd",
    "savings_low_nusd",
    "savings_high_nusd",
    "posted_nusd",
    "bill_nusd",
    "charged_nusd",
    "idle_nusd",
    "variance_nusd",
    "cached_nusd",
    "low_nusd",
    "high_nusd",
    "saved_nusd",
)
_TEXT_WIDTH: Final = 100
_TABLE_WIDTH: Final = 400  # as wide as its numbers need: a terminal may wrap lines, nothing may cut them
_NAME_WIDTH: Final = 40


class BillFormat(StrEnum):
    """How a bill is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def render_bill(bill: Bill, form: BillFormat) -> str:
    """Return the bill as text that ends with a line break."""
    match form:
        case BillFormat.TABLE:
            return _table(bill)
        case BillFormat.CSV:
            return _csv(bill)
        case BillFormat.JSON:
            return msgspec.json.format(msgspec.json.encode(bill_json(bill)), indent=2).decode() + "\n"
        case _:
            assert_never(form)


def bill_json(bill: Bill) -> dict[str, JsonValue]:
    """Return the bill as what JSON can hold: amounts as integers of nano-dollars and as exact decimal strings."""
    plain = asdict(bill)
    plain["since"] = bill.since.isoformat() if bill.since else None
    plain["until"] = bill.until.isoformat() if bill.until else None
    plain["savings"]["total_nusd"] = bill.savings.total_nusd
    named: dict[str, JsonValue] = _with_dollars(plain)
    return named


def _with_dollars(value: JsonValue) -> JsonValue:
    if isinstance(value, (list, tuple)):
        return [_with_dollars(item) for item in value]
    if not isinstance(value, dict):
        return value
    doubled: dict[str, JsonValue] = {}
    for name, item in value.items():
        doubled[name] = _with_dollars(item)
        if name.endswith("_nusd"):
            doubled[name.removesuffix("_nusd") + "_usd"] = _dollars(item)
    return doubled


def _csv(bill: Bill) -> str:
    columns = ["section", "key", *_AMOUNTS, *_MONEY, *(name.removesuffix("_nusd") + "_usd" for name in _MONEY)]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    plain = bill_json(bill)
    writer.writerow({"section": "totals", "key": "", **plain["totals"]})
    for section in _SECTIONS:
        for line in plain[section]:
            key = next(line.pop(name) for name in _KEYS if name in line)
            replicas = line.pop("replicas", ())
            writer.writerow({"section": section, "key": key, **line})
            for replica in replicas:
                writer.writerow({"section": "replicas", "key": f"{key}/{replica.pop('endpoint')}", **replica})
    for name, amount in asdict(bill.savings).items():
        cause = name.removesuffix("_nusd")
        writer.writerow({"section": "savings", "key": cause, "savings_nusd": amount, "savings_usd": _dollars(amount)})
    return out.getvalue()


def _table(bill: Bill) -> str:
    from rich.console import Console  # here: a gateway that only serves never draws

    console = Console(file=io.StringIO(), width=_TABLE_WIDTH, no_color=True, highlight=False)
    for part in _parts(bill):
        console.print(part, width=_TEXT_WIDTH if isinstance(part, str) else None)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]  # rich types its StringIO as IO
    return "\n".join(line.rstrip() for line in written.splitlines()) + "\n"


def _parts(bill: Bill) -> list[RenderableType]:
    since = bill.since.isoformat() if bill.since else "the beginning"
    until = bill.until.isoformat() if bill.until else "now"
    whose = f", tenant {bill.tenant}" if bill.tenant else ""
    totals = bill.totals
    parts: list[RenderableType] = [
        f"Bill from {since} to {until}{whose} ({bill.zone}, USD)",
        *(f"Note: {note}" for note in bill.notes),
        f"{totals.requests} requests, {totals.served} served, {totals.refused} refused; {totals.attempts} attempts",
        _totals_grid(bill),
        _savings_grid(bill),
        *([_baselines_grid(bill)] if bill.baselines else []),
        _kinds_grid(bill),
        _models_grid(bill),
        _group_grid("tenant", bill.by_tenant),
        _group_grid("route", bill.by_route),
        _group_grid("path", bill.by_path),
        _group_grid("day", bill.by_day),
    ]
    return [*parts, _pools_grid(bill), _replicas_grid(bill)] if bill.pools else parts


def _totals_grid(bill: Bill) -> RenderableType:
    totals = bill.totals
    rows = [
        ("cost of all attempts", totals.cost_nusd),
        ("  of it rejected by the judge", totals.rejected_nusd),
        ("the baseline would have cost", totals.baseline_nusd),
        ("  at least", totals.baseline_low_nusd),
        ("  at most", totals.baseline_high_nusd),
        ("saved", totals.savings_nusd),
        ("  at least", totals.savings_low_nusd),
        ("  at most", totals.savings_high_nusd),
        ("posted by the books (corrections, adjustments)", totals.posted_nusd),
    ]
    return _grid("Total", ("", "USD"), [(words, _short(amount)) for words, amount in rows])


def _savings_grid(bill: Bill) -> RenderableType:
    rows = [(name.removesuffix("_nusd"), _short(amount)) for name, amount in asdict(bill.savings).items()]
    return _grid("Savings by cause", ("cause", "USD"), [*rows, ("total", _short(bill.savings.total_nusd))])


def _kinds_grid(bill: Bill) -> RenderableType:
    rows = [(line.kind, str(line.attempts), _short(line.cost_nusd)) for line in bill.by_kind]
    return _grid("Attempts by outcome", ("outcome", "attempts", "USD"), rows)


def _models_grid(bill: Bill) -> RenderableType:
    columns = ("model", "attempts", "input", "cached", "written", "output", "reasoning", "USD")
    rows = [
        (
            line.model,
            str(line.attempts),
            str(line.input_tokens),
            str(line.cached_input_tokens),
            str(line.cache_write_tokens),
            str(line.output_tokens),
            str(line.reasoning_tokens),
            _short(line.cost_nusd),
        )
        for line in bill.by_model
    ]
    return _grid("By model", columns, rows)


def _baselines_grid(bill: Bill) -> RenderableType:
    columns = ("model", "cost", "at least", "at most", "saved against it")
    rows = [
        (one.model, *(_short(nusd) for nusd in (one.cost_nusd, one.low_nusd, one.high_nusd, one.saved_nusd)))
        for one in bill.baselines
    ]
    return _grid("If one model had answered everything", columns, rows)


def _pools_grid(bill: Bill) -> RenderableType:
    columns = ("pool", "hours", "busy hours", "bill", "charged", "idle", "variance")
    rows = [
        (
            f"{line.pool}{' (spot)' if line.is_spot else ''}{' (imported)' if line.is_imported else ''}",
            _hours(line.up_us),
            _hours(line.busy_us),
            _short(line.bill_nusd),
            _short(line.charged_nusd),
            _short(line.idle_nusd),
            _short(line.variance_nusd),
        )
        for line in bill.pools
    ]
    return _grid("Pools (bill = charged + idle + variance)", columns, rows)


def _replicas_grid(bill: Bill) -> RenderableType:
    columns = ("replica", "hours", "busy", "bill", "charged", "idle", "variance", "energy")
    rows = [
        (
            f"{line.pool} {one.endpoint or '(never reached)'}{' (spot)' if one.is_spot else ''}",
            _hours(one.up_us),
            _hours(one.busy_us),
            _short(one.bill_nusd),
            _short(one.charged_nusd),
            _short(one.idle_nusd),
            _short(one.variance_nusd),
            _joules(one),
        )
        for line in bill.pools
        for one in line.replicas
    ]
    return _grid("Replicas (estimated joules are the stated watts x the seconds of work)", columns, rows)


def _joules(one: ReplicaLine) -> str:
    return "-" if one.energy_j is None else f"{one.energy_j:,} J {one.energy}"


def _group_grid(name: str, lines: Sequence[GroupLine]) -> RenderableType:
    return _grid(
        f"By {name}",
        (name, "requests", "attempts", "USD", "baseline", "saved"),
        [
            (
                line.key or "(none)",
                str(line.requests),
                str(line.attempts),
                _short(line.cost_nusd),
                _short(line.baseline_nusd),
                _short(line.savings_nusd),
            )
            for line in lines
        ],
    )


def _grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich.box import SIMPLE_HEAD  # here: see _table
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        is_name = number == 0  # a long name is folded, a number never: half a number is another one
        grid.add_column(
            column,
            justify="left" if is_name else "right",
            overflow="fold",
            no_wrap=not is_name,
            max_width=_NAME_WIDTH if is_name else None,
        )
    for row in rows:
        grid.add_row(*row)
    return grid


def _dollars(nusd: int) -> str:
    return f"{usd(nusd):f}"


def _short(nusd: int) -> str:
    """Return exact dollars without the zeros that say nothing, but with cents."""
    whole, _, decimals = _dollars(nusd).partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _hours(us: int) -> str:
    return f"{us / 3_600_000_000:.4f}"
