"""`faregate train`: fit a router on outcome records, and choose the threshold that keeps a promise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.commands.records import embedded, fail, ladder, mode, need_training, outcome_files, signal, vectors_file

if TYPE_CHECKING:
    from rich.console import Console

    from router.artefact import Artefact


@click.command()
@outcome_files(required=True)
@ladder(required=True)
@mode
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Choose and store the threshold that keeps the expected quality lost against the last model below this.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="How sure the promise is.",
)
@signal
@vectors_file
@click.option(
    "--any-ladder",
    is_flag=True,
    help="Let the artefact speak of any small and large model, as the shipped one does; it can then promise nothing.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False, writable=True), required=True, help="The artefact."
)
def train(  # noqa: PLR0917 - click passes options by name
    outcomes: tuple[Path, ...],
    ladder: tuple[str, ...],
    mode: str | None,
    max_loss: float | None,
    confidence: float,
    signal: str | None,
    vectors: Path | None,
    any_ladder: bool,
    out: Path,
) -> None:
    """Fit the estimators of a ladder on outcome records (see `faregate evaluate --help`) and write them to an artefact.

    With --max-loss the threshold is chosen on scores of rows that their estimators had not seen, so that the loss stays
    below it in 9 of 10 calibrations (--confidence). Where no threshold can keep it, nothing is written.
    """
    if any_ladder and (max_loss is not None or len(ladder) != 2):
        raise click.UsageError("--any-ladder is for two models and without --max-loss: no promise holds for all models")
    need_training()
    from dataclasses import replace

    from rich.console import Console

    from router.artefact import ANY_LADDER
    from router.train_outcomes import TrainingError

    console = Console(stderr=True)
    try:
        promise = max_loss, confidence
        artefact = _fitted(console, outcomes, ladder, mode=mode, vectors=vectors, promise=promise, signal=signal)
        artefact = replace(artefact, ladder=ANY_LADDER, output_ratios=()) if any_ladder else artefact
        out.write_text(artefact.dump(), encoding="utf-8")
    except TrainingError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror}")
    tell(artefact, out)


def _fitted(
    console: Console,
    files: tuple[Path, ...],
    rungs: tuple[str, ...],
    *,
    mode: str | None,
    vectors: Path | None,
    promise: tuple[float | None, float],
    signal: str | None,
) -> Artefact:
    from rich.progress import track

    from backends.clock import SystemClock
    from router.estimators import Mode
    from router.train_artefact import make, sources
    from router.train_records import read_records
    from router.train_report import usual_mode

    read = read_records(files, rungs)
    chosen = Mode(mode) if mode is not None else usual_mode(read)
    return make(
        read,
        embedded(read.prompts, vectors, console),
        mode=chosen,
        max_loss=promise[0],
        confidence=promise[1],
        made=SystemClock().now().date().isoformat(),
        source=sources(files),
        is_logprob=None if signal is None else signal == "mean_logprob",
        show=lambda folds: track(folds, description="fitting", console=console, total=6),
    )


def tell(artefact: Artefact, out: Path | None) -> None:
    """Print what an artefact is and promises; `out` is where it was written, if anywhere."""
    written = "not written (--out)" if out is None else f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)"
    click.echo(f"{written}: {artefact.questions} questions, mode {artefact.estimators.mode.value}")
    if artefact.answers is not None:
        click.echo(
            "column signal counts as the answers' mean log-probability (see --signal): a gateway weighs its own by it"
            if artefact.answers.signal is not None
            else "column signal is no mean log-probability: no gateway can judge its own answers by this artefact"
        )
    kept = artefact.promise
    if kept is None:
        click.echo("no promise was asked for (--max-loss), so it holds no threshold")
        return
    click.echo(
        f"promise: expected loss below {kept.max_loss} at a confidence of {kept.confidence}; its bound is"
        f" {kept.bound:.4f} on {kept.n} questions (seen: {kept.mean_loss:.4f})"
    )
    small = f"answered below the last model: {kept.share_small:.1%}"
    if kept.savings is not None:
        small += f"; dollars saved: {kept.savings:.1%} (95 %: {kept.savings_low:.1%} to {kept.savings_high:.1%})"
    click.echo(small)
