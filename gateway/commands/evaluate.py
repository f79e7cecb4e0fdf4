"""`faregate evaluate`: hold a router against outcomes, the semantic cache against labelled pairs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import click

from gateway.commands.evaluate_cache import cache
from gateway.commands.records import fail, ladder, mode, need_training, outcome_files, vectors_file


@click.group(invoke_without_command=True)
@outcome_files(required=False)
@ladder(required=False)
@click.option(
    "--artefact",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Measure this artefact, on rows it was not trained on; without it, by cross-validation.",
)
@mode
@vectors_file
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@click.option("--plot", "picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw quality over cost here.")
@click.pass_context
def evaluate(  # noqa: PLR0917 - click passes options by name
    context: click.Context,
    outcomes: tuple[Path, ...],
    ladder: tuple[str, ...] | None,
    artefact: Path | None,
    mode: str | None,
    vectors: Path | None,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Measure a router on outcome records, beside always-weak, always-strong, a random mix and the oracle.

    Records are Parquet, CSV or JSON lines, one row per question and model: key, prompt, model, quality (0 to 1), then
    cost_usd, signal, input_tokens, output_tokens, task, answer, which may be empty. Intervals are 95 % bootstrap.
    """
    if context.invoked_subcommand is not None:
        return
    if not outcomes or ladder is None:
        raise click.UsageError("give --outcomes FILE and --ladder small,large (or a sub-command)")
    need_training()
    from rich.console import Console

    from router.artefact import ArtefactError
    from router.train_outcomes import TrainingError

    console = Console(stderr=True)
    try:
        _run(console, outcomes, ladder, artefact=artefact, mode=mode, vectors=vectors, as_json=as_json, picture=picture)
    except (TrainingError, ArtefactError) as error:
        fail(str(error))


def _run(
    console: object,
    files: tuple[Path, ...],
    rungs: tuple[str, ...],
    *,
    artefact: Path | None,
    mode: str | None,
    vectors: Path | None,
    as_json: bool,
    picture: Path | None,
) -> None:
    from rich.console import Console
    from rich.progress import track

    from backends.embedder import EMBEDDER_ID
    from gateway.commands.records import embedded
    from router.artefact import Artefact
    from router.estimators import Mode
    from router.train_records import read_records
    from router.train_report import evaluate as measure
    from router.train_report import plot, tables, usual_mode

    if not isinstance(console, Console):
        raise TypeError("console is rich's")
    read = read_records(files, rungs)
    loaded = None
    chosen = Mode(mode) if mode is not None else usual_mode(read)
    if artefact is not None:
        loaded = Artefact.load(artefact)
        loaded.check(ladder=rungs, embedder=EMBEDDER_ID)
        if mode is not None and loaded.estimators.mode is not chosen:
            _wrong_mode(loaded.estimators.mode.value, chosen.value)
        chosen = loaded.estimators.mode
    found = embedded(read.prompts, vectors, console)
    report = measure(
        read,
        found,
        mode=chosen,
        artefact=loaded,
        show=lambda folds: track(folds, description="fitting", console=console, total=5),
    )
    if picture is not None:
        plot(report, read, picture)
    if as_json:
        click.echo(json.dumps(report.json()))
        return
    plain = Console(file=sys.stdout)
    for table in tables(report, read):
        plain.print(table)


def _wrong_mode(made: str, asked: str) -> NoReturn:
    fail(f"the artefact was trained for --mode {made}, not {asked}; leave --mode out, or train another")


evaluate.add_command(cache)
