"""`faregate evaluate cache`: hits against wrong hits of the semantic cache, on labelled pairs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_BETWEEN_0_AND_1 = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.option(
    "--pairs",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    help="JSON lines with a, b (a text, or a list of messages) and same (1: one answer serves both); several are one.",
)
@click.option(
    "--max-error",
    type=_BETWEEN_0_AND_1,
    default=0.01,
    show_default=True,
    help="The route's promise: wrong answers as a share of the semantic hits served.",
)
@click.option(
    "--acceptance",
    "artefact",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Measure this artefact of `python -m semantic_cache.train_acceptance` instead of the shipped one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw hit rate against trap rate into this PNG."
)
def cache(pairs: tuple[Path, ...], max_error: float, artefact: Path | None, as_json: bool, plot: Path | None) -> None:
    """Measure the semantic cache on labelled pairs: how many repeats it serves, and how many traps.

    A repeat is a pair with same = 1, a trap one with same = 0. The operating point is what a route with that
    --max-error serves today; the other figures choose their threshold in hindsight. Conversations are compared as they
    are when serving: system prompt and earlier turns must be equal, only the last user text is compared by meaning.
    Policy switches that keep a request from the semantic tier (time-sensitive wording, earlier turns) are not applied.
    """
    from rich.console import Console

    from backends.embedder import EmbedderError, MiniLM
    from semantic_cache.acceptance import Acceptance, AcceptanceError
    from semantic_cache.evaluate import EvaluationError, evaluate, read_cases
    from semantic_cache.evaluate_report import draw, show, to_json

    console = Console(stderr=True)
    try:
        cases = read_cases(pairs)
        embedder = MiniLM.load()
        acceptance = Acceptance.load(artefact, states=embedder.states)
        report = evaluate(cases, acceptance, embedder, max_error=max_error, console=console)
        if plot is not None:
            draw(report, plot)
    except (EvaluationError, AcceptanceError, EmbedderError) as error:
        click.echo(f"faregate: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(to_json(report))
    else:
        show(report, Console())
