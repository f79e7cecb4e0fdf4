"""An answer on paper: a table for people, CSV for spreadsheets, JSON for programs; money is exact in all three.

JSON and CSV carry amounts twice: `…_nusd` is the integer of nano-dollars, `…_usd` the same in dollars with nine
decimals. CSV has the lines only, so that a column adds up; JSON has everything.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from backends.prices import usd
from backends.words import JsonValue
from gateway.ledger.rows import TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.table import Table

    from gateway.ledger.reports.answer import Answer, Line
    from gateway.ledger.reports.baselines import Baseline
    from gateway.ledger.reports.forecast import Forecast
    from gateway.ledger.reports.listing import Cell

_TEXT_WIDTH: Final = 100
_TABLE_WIDTH: Final = 400  # as wide as its numbers need: a terminal may wrap lines, nothing may cut them
_NAME_WIDTH: Final = 40
_ROWS_A_PAGE: Final = 500
_COUNTS: Final = ("requests", "served", "answered", "refused", "sessions", "attempts", "unknown_charges")
_MONEY: Final = (
    "cost_nusd",
    "posted_nusd",
    "billed_nusd",
    "baseline_nusd",
    "baseline_low_nusd",
    "baseline_high_nusd",
    "saved_nusd",
    "saved_low_nusd",
    "saved_high_nusd",
    "per_request_nusd",
    "per_thousand_nusd",
    "per_answer_nusd",
    "per_session_nusd",
    "revenue_nusd",
    "margin_nusd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is put on paper: an answer and what belongs beside it.

    Attributes:
        top: the most lines to show; None: all. The total is always of all.
        notes: what a reader should know.
    """

    answer: Answer
    forecasts: tuple[Forecast, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    top: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> Sequence[Line]:
        """The lines that are shown."""
        return self.answer.lines[: self.top]


def notes_of(answer: Answer, posted_nusd: int = 0) -> tuple[str, ...]:
    """Return what a reader of an answer's sums should know; `posted_nusd` is what the books post to its period."""
    notes = []
    if posted_nusd:
        notes.append(
            f"the books post {short(posted_nusd)} USD to this period (corrections, adjustments, late charges); "
            "they stand apart from the cost, on the lines they belong to"
        )
    if answer.total.unknown_charges:
        notes.append(
            f"{answer.total.unknown_charges} charges of unknown cost are in no sum; "
            "list them with --by attempt (cost_nano_usd is empty there)"
        )
    if not answer.total.attempts and not answer.total.requests:
        notes.append("nothing was booked in this period; look at another with --since and --until")
    return tuple(notes)


def as_json(report: Report) -> str:
    """Return everything as JSON, indented."""
    question = report.answer.question
    plain: dict[str, JsonValue] = {
        "by": [dimension.value for dimension in question.by],
        "since": question.since.isoformat(),
        "until": question.until.isoformat(),
        "zone": question.zone,
        "tenant": question.tenant,
        "lines": [_line_json(line, question.by) for line in report.lines],
        "total": _line_json(report.answer.total, ()),
        "forecasts": [_with_dollars({**asdict(one), "over_nusd": one.over_nusd}) for one in report.forecasts],
        "baselines": [_with_dollars(asdict(one)) for one in report.baselines],
        "notes": list(report.notes),
    }
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n"


def as_csv(report: Report) -> str:
    """Return the lines as CSV."""
    question = report.answer.question
    out = io.StringIO()
    money = [column for name in _MONEY for column in (name, name.removesuffix("_nusd") + "_usd")]
    keys = [dimension.value for dimension in question.by]
    writer = csv.DictWriter(out, [*keys, *_COUNTS, *TOKENS, *money], restval="", lineterminator="\n")
    writer.writeheader()
    for line in report.lines:
        writer.writerow(_line_json(line, question.by))
    return out.getvalue()


def as_table(report: Report) -> str:
    """Return the answer as tables, each as wide as its numbers need."""
    from rich.console import Console  # here: a gateway that only serves never draws

    console = Console(file=io.StringIO(), width=_TABLE_WIDTH, no_color=True, highlight=False)
    question = report.answer.question
    zone = f" ({question.zone})"
    console.print(
        f"Report from {question.since.isoformat()} to {question.until.isoformat()}{zone}, USD", width=_TEXT_WIDTH
    )
    for note in report.notes:
        console.print(f"Note: {note}", width=_TEXT_WIDTH)
    for table in _tables(report):
        console.print(table)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]  # rich types its StringIO as IO
    return "\n".join(line.rstrip() for line in written.splitlines()) + "\n"


def listed(columns: Sequence[str], rows: Iterable[Sequence[Cell]], form: str) -> Iterator[str]:
    """Yield single rows as CSV or JSON, some hundred at a time."""
    if form == "json":
        yield "["
        for number, row in enumerate(rows):
            text = msgspec.json.encode(dict(zip(columns, row, strict=True))).decode()
            yield f"{',' if number else ''}\n{text}"
        yield "\n]\n"
        return
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for number, row in enumerate(rows):
        writer.writerow(row)
        if number % _ROWS_A_PAGE == 0:
            yield out.getvalue()
            out.seek(0)
            out.truncate()
    yield out.getvalue()


def listed_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """Yield single rows for people: what identifies each, and what it cost, one line each."""
    shown = [name for name in _SHOWN if name in columns]
    places = [columns.index(name) for name in shown]
    tokens = [columns.index(name) for name in TOKENS[:-1]]
    widths = [_SHOWN[name] for name in shown]
    head = "  ".join(f"{name:<{width}}" for name, width in zip(shown, widths, strict=True))
    yield f"{head}  {'tokens':>8}  {'USD':>14}\n"
    cost_at = columns.index("cost_nano_usd")
    for row in rows:
        cells = "  ".join(
            f"{'-' if row[place] is None else row[place]!s:<{width}}"
            for place, width in zip(places, widths, strict=True)
        )
        count = sum(int(row[place] or 0) for place in tokens)
        cost = row[cost_at]
        money = "unknown" if cost is None else short(int(cost))
        yield f"{cells}  {count:>8}  {money:>14}\n"


_SHOWN: Final = {
    "started_at": 27,
    "request_id": 30,
    "attempt": 7,
    "tenant": 12,
    "model": 14,
    "kind": 9,
    "path": 14,
    "status": 6,
}


def short(nusd: int) -> str:
    """Return exact dollars without the zeros that say nothing, but with cents."""
    whole, _, decimals = f"{usd(nusd):f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _line_json(line: Line, by: Sequence[str]) -> dict[str, JsonValue]:
    plain: dict[str, JsonValue] = {str(name): key for name, key in zip(by, line.keys, strict=True)}
    plain |= {name: getattr(line, name) for name in _COUNTS}
    plain |= dict(line.tokens)
    plain |= {name: getattr(line, name) for name in _MONEY}
    return _with_dollars(plain)


def _with_dollars(plain: dict[str, JsonValue]) -> dict[str, JsonValue]:
    doubled: dict[str, JsonValue] = {}
    for name, value in plain.items():
        doubled[name] = value
        if "_nusd" in name:
            doubled[name.replace("_nusd", "_usd")] = None if value is None else f"{usd(value):f}"
    return doubled


def _tables(report: Report) -> Iterator[Table]:
    answer = report.answer
    optional = [column for column in _COLUMNS if any(column.read(line) is not None for line in (answer.total,))]
    names = [dimension.value for dimension in answer.question.by]
    rows = [
        [*(key or "(none)" for key in line.keys), *(column.text(line) for column in optional)] for line in report.lines
    ]
    left = len(answer.lines) - len(report.lines)
    if left:
        rows.append([f"… {left} more", *([""] * (len(names) - 1 + len(optional)))])
    total = ["total", *([""] * (len(names) - 1)), *(column.text(answer.total) for column in optional)]
    if not names:
        names = [""]
        rows = []
    yield _grid(f"By {', '.join(names)}", [*names, *(column.name for column in optional)], [*rows, total], len(names))
    if report.baselines:
        yield _grid(
            "If one model had answered everything",
            ("model", "cost", "at least", "at most", "saved against it"),
            [
                (one.model, *(short(value) for value in (one.cost_nusd, one.low_nusd, one.high_nusd, one.saved_nusd)))
                for one in report.baselines
            ],
            1,
        )
    if report.forecasts:
        yield _grid(
            f"Forecast to the end of {report.forecasts[0].month}",
            ("tenant", "spent", "forecast", "at least", "at most", "trend a day", "budget", "over"),
            [(_whose(one), *_forecast_cells(one)) for one in report.forecasts],
            1,
        )


def _whose(one: Forecast) -> str:
    if one.tenant is None:
        return "(all)"
    return one.tenant or "(none)"


def _forecast_cells(one: Forecast) -> list[str]:
    amounts = (
        one.spent_nusd,
        one.forecast_nusd,
        one.low_nusd,
        one.high_nusd,
        one.trend_nusd_per_day,
        one.budget_nusd,
        one.over_nusd,
    )
    return [_cents(amount) for amount in amounts]


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    read: Callable[[Line], int | None]
    is_money: bool = True
    is_mean: bool = False

    def text(self, line: Line) -> str:
        value = self.read(line)
        if value is None:
            return "-"
        if self.is_mean:  # a quotient, rounded already
            return f"{usd(value):.6f}"
        return short(value) if self.is_money else str(value)


_COLUMNS: Final = (
    _Column("requests", lambda line: line.requests, is_money=False),
    _Column("attempts", lambda line: line.attempts, is_money=False),
    _Column("unknown", lambda line: line.unknown_charges or None, is_money=False),
    _Column("USD", lambda line: line.cost_nusd),
    _Column("posted", lambda line: line.posted_nusd or None),
    _Column("billed", lambda line: line.billed_nusd if line.posted_nusd else None),
    _Column("per 1,000 req.", lambda line: line.per_thousand_nusd, is_mean=True),
    _Column("per answer", lambda line: line.per_answer_nusd, is_mean=True),
    _Column("per session", lambda line: line.per_session_nusd, is_mean=True),
    _Column("baseline", lambda line: line.baseline_nusd),
    _Column("saved", lambda line: line.saved_nusd),
    _Column("revenue", lambda line: line.revenue_nusd),
    _Column("margin", lambda line: line.margin_nusd),
)


_CENT_NUSD: Final = 10_000_000


def _cents(nusd: int | None) -> str:
    if nusd is None:
        return "-"
    # What is less than a cent is something, and not nothing.
    return short(nusd) if 0 < abs(nusd) < _CENT_NUSD else f"{usd(nusd):.2f}"


def _grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> Table:
    from rich.box import SIMPLE_HEAD  # here: see as_table
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        is_name = number < left  # a long name is folded, a number never: half a number is another one
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
