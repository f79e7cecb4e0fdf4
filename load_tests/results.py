"""What a benchmark found: runs, the books' comparison, medians, and how they are shown."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

DISTURBED_SHARE = 0.10
"""Above this share of the gateway's core used by others, a run is reported as disturbed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One kind of load: closed loop on `connections` connections."""

    name: str
    what: str
    connections: int
    is_stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement. Times are microseconds; `cpu_us` is user + system time a request, warm-up included."""

    target: str
    cell: str
    requests_per_s: float
    p50_us: float
    p99_us: float
    first_byte_p50_us: float
    cpu_us: float | None
    foreign_share: float
    sent: int
    events_a_request: float
    faults: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Books:
    """What must agree in the end: sent through the gateway = booked, reached the upstream = attempts."""

    sent: int = 0
    booked: int = 0
    reached_upstream: int = 0
    attempts: int = 0
    faults: list[str] = field(default_factory=list)


CELLS = (
    Cell(name="json-64", what="JSON, 64 connections", connections=64),
    Cell(name="json-1", what="JSON, 1 connection", connections=1),
    Cell(name="sse-64", what="SSE, 64 connections", connections=64, is_stream=True),
)


def uneven(runs: list[Run]) -> list[str]:
    """Tell where a stream through a target has fewer or more events than one from the upstream itself."""
    direct = {run.cell: run.events_a_request for run in runs if run.target == "direct"}
    return [
        f"{run.cell} {run.target}: {run.events_a_request} events a request, the upstream sent {direct[run.cell]}"
        for run in runs
        if run.events_a_request != direct[run.cell]
    ]


def _medians(runs: list[Run], target: str, cell: str) -> dict[str, float | None]:
    chosen = [run for run in runs if (run.target, run.cell) == (target, cell)]
    cpu = [run.cpu_us for run in chosen if run.cpu_us is not None]
    names = ("requests_per_s", "p50_us", "p99_us", "first_byte_p50_us", "foreign_share")
    return {
        **{name: statistics.median(getattr(run, name) for run in chosen) for name in names},
        "cpu_us": statistics.median(cpu) if cpu else None,
    }


def _rows(runs: list[Run]) -> list[dict[str, object]]:
    """Return one row for every cell and target: medians, and the ratio of its rate to the upstream's own."""
    rows: list[dict[str, object]] = []
    for cell in CELLS:
        direct = _medians(runs, "direct", cell.name)["requests_per_s"] or 1.0
        for target in dict.fromkeys(run.target for run in runs if run.cell == cell.name):
            found = _medians(runs, target, cell.name)
            ratio = round((found["requests_per_s"] or 0.0) / direct, 4)
            rows.append({"cell": cell.name, "what": cell.what, "target": target, **found, "of_direct": ratio})
    return rows


def facts(runs: list[Run], books: Books, faults: list[str], *, rounds: int, seconds: float) -> dict[str, object]:
    """Return everything as what JSON can hold."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "rounds": rounds,
        "seconds": seconds,
        "rows": _rows(runs),
        "runs": [asdict(run) for run in runs],
        "ledger": asdict(books),
        "faults": faults,
    }


def _machine() -> str:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = cpu[0].partition(":")[2].strip() if cpu else platform.machine()
    return f"{os.cpu_count()} cores, {name}, Linux {platform.release()}, Python {platform.python_version()}"


def show(runs: list[Run], books: Books, *, rounds: int, seconds: float) -> None:
    """Print the medians as a table, and whether the books agree."""
    console = Console(width=118, highlight=False)
    title = f"{_machine()}; {rounds} x {seconds:g} s, medians"
    table = Table("load", "target", title=title)
    for name in ("req/s", "of direct", "p50 µs", "p99 µs", "first byte µs", "CPU µs/req"):
        table.add_column(name, justify="right")
    last = None
    for row in _rows(runs):
        if last not in {None, row["cell"]}:
            table.add_section()
        numbers = (row["requests_per_s"], row["p50_us"], row["p99_us"], row["first_byte_p50_us"], row["cpu_us"])
        rate, p50, p99, first, cpu = ("-" if number is None else f"{number:,.0f}" for number in numbers)
        what = str(row["what"]) if row["cell"] != last else ""
        table.add_row(what, str(row["target"]), rate, f"{row['of_direct']:.1%}", p50, p99, first, cpu)
        last = row["cell"]
    console.print(table)
    console.print(
        f"ledger: {books.booked:,} requests booked of {books.sent:,} sent, {books.attempts:,} attempts of "
        f"{books.reached_upstream:,} that reached the upstream"
    )
    disturbed = [run for run in runs if run.foreign_share > DISTURBED_SHARE]
    if disturbed:
        console.print(f"disturbed: other programs used the gateway's core in {len(disturbed)} of {len(runs)} runs")
