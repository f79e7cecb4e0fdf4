"""What `faregate evaluate` says: the figures of a router on outcome records, beside what needs no router.

Rules: without an artefact every row is decided by estimators fitted on the other folds; with one, the rows must be none
that it was trained on (nobody can check that here). `oracle` and `random` are mean qualities, like `weak_quality`:
of the best model for each question, and of strong and weak half and half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from backends.words import JsonValue
from router.artefact import Artefact
from router.estimators import Floats, Mode, Vectors
from router.foresight import STEPS_ASIDE
from router.train_metrics import Estimate, Fixed, Reference, Sweep, measure
from router.train_outcomes import TrainingError
from router.train_records import Outcomes, check_trainable
from router.train_replay import Replay, Show, at, cross_fit, reference, replay, sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A way to answer that looks at no prompt, or at the outcome itself (the oracle); dollars a question."""

    name: str
    quality: float
    usd: float | None
    savings: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures by name (`router.train_metrics.measure`), the baselines, and the curve for a plot.

    Attributes:
        share_outside: prompts that the artefact does not speak for.
        curve: x (dollars a question, or share of calls of the last rung) and mean quality, cheapest first.
        fixed: the stored threshold's point on it.
    """

    mode: Mode
    n: int
    weak_quality: float
    strong_quality: float
    oracle: float
    random: float
    figures: Mapping[str, Estimate | None]
    baselines: tuple[Baseline, ...]
    share_outside: float
    curve: tuple[Floats, Floats]
    fixed: tuple[float, float] | None

    def json(self) -> JsonValue:
        """Return what `--json` prints."""
        return {
            **{name: None if figure is None else asdict(figure) for name, figure in self.figures.items()},
            "n": self.n,
            "weak_quality": self.weak_quality,
            "strong_quality": self.strong_quality,
            "oracle": self.oracle,
            "random": self.random,
            "mode": self.mode.value,
            "share_outside": self.share_outside,
            "baselines": {
                one.name: {"quality": one.quality, "usd": one.usd, "savings": one.savings} for one in self.baselines
            },
        }


def usual_mode(outcomes: Outcomes) -> Mode:
    """Return the mode for rows when none is asked for: a cascade where answers can be judged, else a choice before."""
    return Mode.CASCADE if outcomes.has_signal and outcomes.has_usd else Mode.ROUTE


def evaluate(
    outcomes: Outcomes,
    vectors: Vectors,
    *,
    mode: Mode,
    artefact: Artefact | None,
    show: Show = iter,
) -> Report:
    """Measure a router.

    Args:
        outcomes: the rows to measure on.
        vectors: their prompts' embeddings.
        mode: when the rung is decided; an artefact's is its own.
        artefact: what decides; None for estimators that are fitted here by cross-validation.
        show: wraps the folds, for a progress bar.

    Raises:
        TrainingError: the rows do not allow it.
    """
    ends = reference(outcomes)
    if artefact is None:
        check_trainable(outcomes, needs_signal=mode is not Mode.ROUTE)
        done = cross_fit(outcomes, vectors, mode, show=show)
    else:
        _check_usable(outcomes, artefact)
        done = replay(artefact.estimators, outcomes, vectors)
    promise = None if artefact is None else artefact.promise
    fixed = None if promise is None else at(done, ends, promise.setting)
    drawn = sweep(done, ends)
    xs = drawn.calls if drawn.usd is None else drawn.usd
    return Report(
        mode=mode,
        n=len(outcomes),
        weak_quality=float(ends.weak.mean()),
        strong_quality=float(ends.strong.mean()),
        oracle=float(outcomes.quality.max(axis=1).mean()),
        random=float((ends.weak.mean() + ends.strong.mean()) / 2),
        figures=measure(drawn, ends, fixed),
        baselines=_baselines(outcomes),
        share_outside=float(done.is_outside.mean()),
        curve=(xs.mean(axis=1), drawn.quality.mean(axis=1)),
        fixed=None if fixed is None else _point(done, fixed, drawn, promise.setting if promise else 0),
    )


def tables(report: Report, outcomes: Outcomes) -> tuple[Table, Table]:
    """Return the report for people."""
    figures = Table(title=f"{' > '.join(outcomes.models)}, {report.mode.value}, {report.n} questions")
    for heading in ("figure", "value", "95 % low", "high"):
        figures.add_column(heading, justify="left" if heading == "figure" else "right")
    for name, one in report.figures.items():
        cells = ("-", "-", "-") if one is None else (f"{one.value:.4f}", f"{one.low:.4f}", f"{one.high:.4f}")
        figures.add_row(_WORDS[name], *cells)
    figures.caption = f"{report.share_outside:.1%} of the prompts are outside the training data"
    if report.share_outside > STEPS_ASIDE:
        figures.caption += ": the learned plan steps aside, all figures are those of a constant score"
    beside = Table(title="without a router")
    for heading in ("", "quality", "USD per 1,000", "saved"):
        beside.add_column(heading, justify="right" if heading else "left")
    for line in report.baselines:
        usd = "-" if line.usd is None else f"{1000 * line.usd:.4f}"
        beside.add_row(line.name, f"{line.quality:.4f}", usd, "-" if line.savings is None else f"{line.savings:.1%}")
    return figures, beside


def plot(report: Report, outcomes: Outcomes, file: Path) -> None:
    """Draw quality over cost: the router, the random mix between the ends, every model, the oracle, the threshold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    xs, ys = report.curve
    scale = 1000.0 if outcomes.has_usd else 1.0
    order = np.argsort(xs, kind="stable")
    axes.plot(xs[order] * scale, np.maximum.accumulate(ys[order]), label=f"faregate, {report.mode.value}")
    axes.plot([xs[0] * scale, xs[-1] * scale], [ys[0], ys[-1]], linestyle=":", label="random mix")
    if outcomes.has_usd:
        for one in report.baselines:
            if one.usd is not None and one.name != "random mix":
                axes.scatter([one.usd * scale], [one.quality], marker="x")
                axes.annotate(one.name, (one.usd * scale, one.quality), textcoords="offset points", xytext=(5, -10))
    if report.fixed is not None:
        axes.scatter([report.fixed[0] * scale], [report.fixed[1]], label="stored threshold", zorder=3)
    axes.set_xlabel("USD per 1,000 questions" if outcomes.has_usd else f"share of calls of {outcomes.models[-1]}")
    axes.set_ylabel("mean quality")
    axes.legend(loc="lower right")
    try:
        figure.savefig(file, dpi=140)
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot draw to {file}: {error}; name a .png, .svg or .pdf that can be written") from error


_WORDS = {
    "apgr": "area under PGR, by calls (random .5)",
    "apgr_dollars": "area under PGR, by dollars (random .5)",
    "cpt50": "strong calls for half of the gap",
    "cpt80": "strong calls for 80 % of the gap",
    "savings_at_1pt_loss": "saved at 1 point lost (in hindsight)",
    "savings_fixed": "saved at the stored threshold",
    "loss_fixed": "lost there",
    "harm_fixed": "harm there (losses without gains)",
}


def _check_usable(outcomes: Outcomes, artefact: Artefact) -> None:
    if not len(outcomes):
        raise TrainingError("the files hold no question of this ladder")
    if artefact.estimators.judges and not outcomes.has_signal:
        raise TrainingError(
            f"column signal is empty in some rows, but the artefact's mode is {artefact.estimators.mode.value}:"
            " it judges answers by it; fill it, or use an artefact of --mode route"
        )
    if outcomes.quality[:, 0].mean() >= outcomes.quality[:, -1].mean():
        raise TrainingError(
            f'"{outcomes.models[-1]}" is not better than "{outcomes.models[0]}" on these rows: there is no gap to'
            " recover; name the ladder weakest first"
        )


def _point(done: Replay, fixed: Fixed, drawn: Sweep, setting: int) -> tuple[float, float]:
    x = float(done.calls[setting].mean()) if drawn.usd is None or fixed.usd is None else float(fixed.usd.mean())
    return x, float(fixed.quality.mean())


def _baselines(outcomes: Outcomes) -> tuple[Baseline, ...]:
    quality, usd = outcomes.quality, outcomes.usd
    strong_usd = float(usd[:, -1].mean()) if outcomes.has_usd else None

    def line(name: str, reached: Floats, paid: Floats) -> Baseline:
        cost = float(paid.mean()) if strong_usd is not None else None
        saved = 1 - cost / strong_usd if cost is not None and strong_usd else None
        return Baseline(name=name, quality=float(reached.mean()), usd=cost, savings=saved)

    best = int(quality.mean(axis=0).argmax())
    order = np.argsort(np.where(quality == quality.max(axis=1, keepdims=True), np.nan_to_num(usd), np.inf), axis=1)[
        :, 0
    ]
    rows = np.arange(len(outcomes))
    return (
        line("always weak", quality[:, 0], usd[:, 0]),
        line("always strong", quality[:, -1], usd[:, -1]),
        line("random mix", (quality[:, 0] + quality[:, -1]) / 2, (usd[:, 0] + usd[:, -1]) / 2),
        line(f"best single ({outcomes.models[best]})", quality[:, best], usd[:, best]),
        line("oracle", quality[rows, order], usd[rows, order]),
    )


__all__ = ["Baseline", "Reference", "Report", "evaluate", "plot", "tables", "usual_mode"]
