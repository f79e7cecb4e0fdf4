"""`faregate evaluate cache`: hits against wrong hits of the semantic cache, on labelled pairs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_FILE = click.Path(path_type=Path, dir_okay=False)
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
@click.option(
    "--verifier",
    metavar="MODEL",
    help="Ask this model of --policy about what guard and score leave open (demo: the demo's larger, started here).",
)
@click.option("--policy", type=_FILE, help="With --verifier: the policy whose catalog has the model.")
@click.option(
    "--calibration",
    type=_FILE,
    help="With --verifier: its thresholds. Else shipped ones that fit, or cross-validation.",
)
@click.option("--weights", default="", help="With --verifier: what tells the model's weights apart beside its name.")
@click.option("--answers", type=_FILE, help="With --verifier: the file of its answers, to go on after an interruption.")
@click.option("--save", type=_FILE, help="With --verifier: fix its thresholds on these pairs, and write them here.")
def cache(  # noqa: PLR0917 - click passes options by name
    pairs: tuple[Path, ...],
    max_error: float,
    artefact: Path | None,
    as_json: bool,
    plot: Path | None,
    verifier: str | None,
    policy: Path | None,
    calibration: Path | None,
    weights: str,
    answers: Path | None,
    save: Path | None,
) -> None:
    """Measure the semantic cache on labelled pairs: how many repeats it serves, and how many traps.

    A repeat is a pair with same = 1, a trap one with same = 0. The operating point is what a route with that
    --max-error serves today; the other figures choose their threshold in hindsight. Conversations are compared as they
    are when serving: system prompt and earlier turns must be equal, only the last user text is compared by meaning.
    Policy switches that keep a request from the semantic tier (time-sensitive wording, earlier turns) are not applied.

    With --verifier the model is asked as when serving, about the pairs that guard and score leave open; its answers are
    kept without any text, so that an interrupted run goes on.
    """
    from rich.console import Console

    from backends.embedder import EmbedderError, MiniLM
    from gateway.commands.evaluate_verifier import Asked, Bench, measured
    from gateway.prepare import PolicyUnusable
    from policies.errors import PolicyError
    from semantic_cache.acceptance import Acceptance, AcceptanceError
    from semantic_cache.evaluate import EvaluationError, evaluate, read_cases
    from semantic_cache.evaluate_report import draw, show, to_json
    from semantic_cache.verifier import VerifierError

    if verifier is None and (policy or calibration or weights or answers or save):
        raise click.UsageError("--policy, --calibration, --weights, --answers and --save go with --verifier MODEL")
    console = Console(stderr=True)
    try:
        embedder, story = MiniLM.load(), None
        acceptance = Acceptance.load(artefact, states=embedder.states)
        if verifier is None:
            report = evaluate(read_cases(pairs), acceptance, embedder, max_error=max_error, console=console)
        else:
            asked = Asked(
                pairs=pairs,
                max_error=max_error,
                model=verifier,
                policy=policy,
                calibration=calibration,
                weights=weights,
                answers=answers,
                save=save,
            )
            report, story = measured(asked, Bench(acceptance=acceptance, embedder=embedder, console=console))
        if plot is not None:
            draw(report, plot)
    except (EvaluationError, AcceptanceError, EmbedderError, VerifierError, PolicyError, PolicyUnusable) as error:
        click.echo(f"faregate: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(to_json(report, verifier=story))
    else:
        show(report, Console())
        for name, value in (story or {}).items():
            Console().print(f"verifier, {name}: {value}", markup=False, highlight=False)
