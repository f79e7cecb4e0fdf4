"""The figures of an evaluation as a table, as JSON, and as a drawing."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import msgspec
from rich.table import Table

from semantic_cache.evaluate import Estimate, EvaluationError, Point, Report, Step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from backends.words import JsonValue

SHOWN_PRECISIONS = (0.99, 0.98, 0.95, 0.90, 0.80, 0.70, 0.60, 0.50)
"""Where the precision-recall table has its rows."""


def to_json(report: Report, *, verifier: dict[str, JsonValue] | None = None) -> str:
    """Return the figures for machines; shares in [0, 1], null where nothing was served.

    `intervals` has the 95 % intervals of the figures above it, under the same names; `verifier` what is known of the
    model that was asked, where one was.
    """
    point = report.operating_point
    rates = {f"{rate:.2f}": found.hit_rate for rate, found in report.in_hindsight.items()}
    named = {"hit_rate": point.hit_rate, "trap_rate": point.trap_rate, "served_wrong_share": point.served_wrong_share}
    figures: dict[str, JsonValue] = {
        "n_same": report.n_same,
        "n_different": report.n_different,
        "max_error": report.max_error,
        "threshold": point.threshold,
        "operating_point": {name: estimate.value for name, estimate in named.items()},
        "hits_at_trap_rate": {rate: estimate.value for rate, estimate in rates.items()},
        "intervals": {
            "operating_point": {name: [estimate.low, estimate.high] for name, estimate in named.items()},
            "hits_at_trap_rate": {rate: [estimate.low, estimate.high] for rate, estimate in rates.items()},
        },
        "not_served": {
            reason: {"same": same, "different": different} for reason, (same, different) in report.reasons.items()
        },
    }
    if verifier is not None:
        figures["verifier"] = verifier
    return msgspec.json.format(msgspec.json.encode(figures), indent=2).decode()


def show(report: Report, console: Console) -> None:
    """Print the figures as tables."""
    console.print(f"{report.n_same} repeats, {report.n_different} traps; in brackets 95 % intervals")
    console.print(_points(report))
    console.print(_precision_table(report.curve))
    if report.reasons:
        console.print(_reasons(report))


def _points(report: Report) -> Table:
    table = Table(title="what is served")
    for column in ("threshold", "at", "repeats served", "traps served", "wrong among served"):
        table.add_column(column, justify="right")
    table.add_row(*_row(report.operating_point, f"max_error {report.max_error:g}, as shipped"))
    for rate, point in report.in_hindsight.items():
        table.add_row(*_row(point, f"at most {rate:.0%} of traps, hindsight"))
    return table


def _row(point: Point, name: str) -> tuple[str, ...]:
    threshold = "none" if point.threshold is None else f"{point.threshold:.4f}"
    return threshold, name, *(_shown(share) for share in (point.hit_rate, point.trap_rate, point.served_wrong_share))


def _shown(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"


def _precision_table(curve: Sequence[Step]) -> Table:
    """Show the most repeats served at each precision, and the traps served with them."""
    table = Table(title="precision and recall, thresholds in hindsight")
    for column in ("precision at least", "repeats served", "traps served", "threshold"):
        table.add_column(column, justify="right")
    for precision in SHOWN_PRECISIONS:
        precise = [step for step in curve if step.precision >= precision]
        if precise:
            step = max(precise, key=lambda one: one.hit_rate)
            table.add_row(f"{precision:.0%}", f"{step.hit_rate:.1%}", f"{step.trap_rate:.1%}", f"{step.threshold:.4f}")
        else:
            table.add_row(f"{precision:.0%}", "0 %", "", "none")
    return table


def _reasons(report: Report) -> Table:
    table = Table(title="why the others were not served")
    for column in ("reason", "repeats", "traps"):
        table.add_column(column, justify="left" if column == "reason" else "right")
    for reason, (same, different) in report.reasons.items():
        table.add_row(reason, str(same), str(different))
    return table


def draw(report: Report, path: Path) -> None:
    """Draw hit rate against trap rate, and precision against hit rate, into a PNG.

    Raises:
        EvaluationError: matplotlib is not installed, or the file cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise EvaluationError("drawing needs matplotlib; install it with `pip install 'faregate[train]'`")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    hits, traps = [step.hit_rate for step in report.curve], [step.trap_rate for step in report.curve]
    left.plot(traps, hits, drawstyle="steps-post")
    left.set(xlabel="traps served", ylabel="repeats served", xlim=(0, 1), ylim=(0, 1))
    right.plot(hits, [step.precision for step in report.curve])
    right.set(xlabel="repeats served (recall)", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    point = report.operating_point
    if point.hit_rate.value is not None and point.trap_rate.value is not None:
        left.plot(point.trap_rate.value, point.hit_rate.value, "o", label=f"max_error {report.max_error:g}")
        left.legend(loc="lower right")
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}") from error
