"""What a benchmark found: runs, the books' comparison, medians, and how they are shown."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

REFERENCES = ("vllm-router", "bare Python proxy")
"""Rates are compared with the first of these that was measured."""

DISTURBED_SHARE = 0.10
"""Above this share of the gateway's core used by others, a run is reported as disturbed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One kind of load: closed loop on `connections` connections.

    Attributes:
        steering: tells the mock upstream to be slow, or how to stream; see `src/mock_upstream.c`.
        prompt_bytes: what the system prompt is filled up to.
    """

    name: str
    what: str
    connections: int
    is_stream: bool = False
    steering: str = ""
    prompt_bytes: int = 0

    def body(self, model: str, *, is_numbered: bool) -> dict[str, object]:
        """Return the request; the load generator puts its number in the place of eight zeros."""
        number = " Number 00000000." if is_numbered else ""
        system = "You are a helpful assistant."
        messages = [
            {"role": "system", "content": (system + _FILLING)[: max(len(system), self.prompt_bytes)]},
            {"role": "user", "content": f"What is the capital of France?{number}{self.steering}"},
        ]
        stream = {"stream": True, "stream_options": {"include_usage": True}} if self.is_stream else {}
        return {"model": model, "messages": messages, "temperature": 0, **stream}


_FILLING = " Answer briefly, name your sources, and say so when you are not sure of something." * 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement. Times are microseconds; `cpu_us` is user + system time a request, warm-up included.

    `gap_p99_us` is between two arrivals of events on one stream; `memory_mib` is resident after the run.
    `decided_share` is of the requests of a deciding route whose text was looked at; the others found the embedder's
    queue full and went to the baseline as they were.
    """

    target: str
    cell: str
    requests_per_s: float
    events_per_s: float
    p50_us: float
    p95_us: float
    p99_us: float
    first_byte_p50_us: float
    gap_p99_us: float
    cpu_us: float | None
    cpu_event_us: float | None
    memory_mib: float
    decided_share: float | None
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


_SLOW = " mock:lat=50000"
_PACED = " mock:tok=100,itv=20000"

CELLS = (
    Cell(name="json-64", what="JSON, 64 connections", connections=64),
    Cell(name="json-64-4k", what="JSON of 4 kB, 64 connections", connections=64, prompt_bytes=4_000),
    Cell(name="json-64-32k", what="JSON of 32 kB, 64 connections", connections=64, prompt_bytes=32_000),
    Cell(name="json-1", what="JSON, 1 connection", connections=1),
    Cell(name="json-8-50ms", what="JSON, 8 connections, upstream takes 50 ms", connections=8, steering=_SLOW),
    Cell(name="json-64-50ms", what="JSON, 64 connections, upstream takes 50 ms", connections=64, steering=_SLOW),
    Cell(name="sse-64", what="SSE, 64 streams, 64 tokens back to back", connections=64, is_stream=True),
    Cell(
        name="sse-64-paced",
        what="SSE, 64 streams, 100 tokens, one every 20 ms",
        connections=64,
        is_stream=True,
        steering=_PACED,
    ),
)


def uneven(runs: list[Run]) -> list[str]:
    """Tell where a stream through a target has fewer or more events than one from the upstream itself."""
    direct = {run.cell: run.events_a_request for run in runs if run.target == "direct"}
    return [
        f"{run.cell} {run.target}: {run.events_a_request} events a request, the upstream sent {direct[run.cell]}"
        for run in runs
        # Peers write events of their own.
        if run.target.startswith("gateway") and run.events_a_request != direct[run.cell]
    ]


_NUMBERS = (
    "requests_per_s",
    "events_per_s",
    "p50_us",
    "p95_us",
    "p99_us",
    "first_byte_p50_us",
    "gap_p99_us",
    "cpu_us",
    "cpu_event_us",
    "memory_mib",
    "decided_share",
    "foreign_share",
)


def _medians(runs: list[Run], target: str, cell: str) -> dict[str, float | None]:
    chosen = [run for run in runs if (run.target, run.cell) == (target, cell)]
    found = {name: [value for run in chosen if (value := getattr(run, name)) is not None] for name in _NUMBERS}
    return {name: statistics.median(values) if values else None for name, values in found.items()}


def _rows(runs: list[Run]) -> list[dict[str, object]]:
    """Return one row for every cell and target: medians, and the ratio of its rate to the reference's."""
    names = {run.target for run in runs}
    reference = next((name for name in REFERENCES if name in names), "direct")
    rows: list[dict[str, object]] = []
    for cell in CELLS:
        base = _medians(runs, reference, cell.name)["requests_per_s"]
        for target in dict.fromkeys(run.target for run in runs if run.cell == cell.name):
            found = _medians(runs, target, cell.name)
            ratio = round((found["requests_per_s"] or 0.0) / base, 3) if base else None
            rows.append({"cell": cell.name, "what": cell.what, "target": target, **found, f"of {reference}": ratio})
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
    console = Console(width=150, highlight=False)
    title = f"{_machine()}; {rounds} x {seconds:g} s, medians"
    rows = _rows(runs)
    ratio = next(name for name in rows[0] if name.startswith("of "))
    columns = {
        "req/s": ("requests_per_s", ",.0f"),
        ratio: (ratio, ".2f"),
        "p50 ms": ("p50_us", "ms"),
        "p95 ms": ("p95_us", "ms"),
        "p99 ms": ("p99_us", "ms"),
        "first byte ms": ("first_byte_p50_us", "ms"),
        "chunks/s": ("events_per_s", ",.0f"),
        "gap p99 ms": ("gap_p99_us", "ms"),
        "CPU µs/req": ("cpu_us", ",.0f"),
        "MiB": ("memory_mib", ",.0f"),
        "decided": ("decided_share", ".2f"),
    }
    console.print(title)
    for cell in dict.fromkeys(str(row["cell"]) for row in rows):
        chosen = [row for row in rows if row["cell"] == cell]
        table = Table("target", *columns, title=str(chosen[0]["what"]), title_justify="left", box=SIMPLE_HEAD)
        for column in table.columns[1:]:
            column.justify = "right"
        table.columns[0].min_width, table.columns[0].no_wrap = 20, True
        for row in chosen:
            table.add_row(str(row["target"]), *(_shown(row[name], form) for name, form in columns.values()))
        console.print(table)
    console.print(
        f"ledger: {books.booked:,} requests booked of {books.sent:,} sent, {books.attempts:,} attempts of "
        f"{books.reached_upstream:,} that reached the upstream"
    )
    disturbed = [run for run in runs if run.foreign_share > DISTURBED_SHARE]
    if disturbed:
        console.print(f"disturbed: other programs used the gateway's core in {len(disturbed)} of {len(runs)} runs")


def _shown(value: object, form: str) -> str:
    if not isinstance(value, int | float) or not value:
        return "-"
    return f"{value / 1e3:,.2f}" if form == "ms" else f"{value:{form}}"
