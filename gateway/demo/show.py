"""The demo's output for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

_COLOURS = {"small": "green", "small>large": "yellow", "large": "red", "cache:exact": "cyan", "cache:semantic": "blue"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one request of the workload came to. Times in seconds, cost in dollars as the gateway told the client."""

    kind: str
    question: str
    is_stream: bool
    path: str
    confidence: float | None
    ttft_s: float
    total_s: float
    cost_usd: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The started gateway."""

    base_url: str
    key: str
    folder: Path


def show_rows(rows: Sequence[Row]) -> None:
    """Print one line a question."""
    table = Table(title="What each question took", title_justify="left")
    for name in ("kind", "question", "path"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=52 if name == "question" else None)
    for name in ("conf.", "first token", "total", "cost µ$"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        colour = _COLOURS.get(row.path, "white")
        table.add_row(
            row.kind,
            ("≈ " if row.is_stream else "  ") + row.question.removesuffix(" Answer in one short sentence."),
            f"[{colour}]{row.path}[/{colour}]",
            "" if row.confidence is None else f"{row.confidence:.2f}",
            f"{row.ttft_s * 1e3:,.0f} ms",
            f"{row.total_s * 1e3:,.0f} ms",
            f"{float(row.cost_usd) * 1e6:,.2f}",
        )
    console = Console(width=None if Console().is_terminal else 130)
    console.print(table)
    console.print("≈ streamed; conf. is the judge's; 1 µ$ = 0.000001 dollars", style="dim")


def show_keep(running: Running, console: Console) -> None:
    """Print how to use what is left running."""
    console.print("\nModels and gateway go on until Ctrl-C.")
    console.print(f"base URL  {running.base_url}\nkey       {running.key}", highlight=False)
    question = "What is the capital of Spain? Answer in one short sentence."
    body = f'{{"model": "auto", "temperature": 0, "messages": [{{"role": "user", "content": "{question}"}}]}}'
    console.print(
        f"try       curl -i {running.base_url}/chat/completions -H 'Authorization: Bearer {running.key}' "
        f"-H 'Content-Type: application/json' -d '{body}'",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"bill      faregate report --folder {running.folder}", highlight=False, soft_wrap=True)
