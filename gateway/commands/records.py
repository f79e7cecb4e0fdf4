"""What `train`, `evaluate` and `calibrate --outcomes` share: options and records, and their prompts' embeddings."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from policies.schema import Policy, Route
    from router.estimators import Vectors
    from router.train_records import Outcomes

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _rungs(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    if len(names) < 2 or not all(names):
        raise click.BadParameter(f'"{value}" is not two or more models, cheapest first, like small,large')
    return names


def outcome_files(*, required: bool) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return the option that names the records."""
    return click.option(
        "--outcomes",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        multiple=True,
        required=required,
        help="Outcome records: .parquet, .csv or .jsonl; may be given several times.",
    )


def ladder(*, required: bool) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return the option that names the models."""
    return click.option(
        "--ladder",
        callback=_rungs,
        required=required,
        metavar="A,B[,C]",
        help="The models as column `model` names them, cheapest first; the last is the baseline.",
    )


mode = click.option(
    "--mode",
    type=click.Choice(["route", "cascade", "combined"]),
    help="Choose before the call, judge answers and climb, or both.  [default: cascade where there are signals and"
    " costs, else route]",
)
vectors_file = click.option(
    "--vectors",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep the prompts' embeddings in this .npz between runs.",
)


signal = click.option(
    "--signal",
    type=click.Choice(["mean_logprob", "other"]),
    help="What column signal holds, for artefacts that judge answers: the mean log-probability of the answer's tokens,"
    " which a gateway can take of its own answers, or something else, so that the artefact can be evaluated and not"
    " served.  [default: mean_logprob where no value is above 0]",
)


def embedded(prompts: Sequence[str], file: Path | None, console: Console) -> Vectors:
    """Return the prompts' embeddings, with a progress bar.

    Raises:
        TrainingError: the file cannot be used.
    """
    from rich.progress import track

    from backends.embedder import EMBEDDER_ID, MiniLM
    from router.train_vectors import embed_all

    return embed_all(
        prompts,
        MiniLM.load,
        embedder=EMBEDDER_ID,
        file=file,
        show=lambda batches: track(batches, description="embedding", console=console),
    )


def need_training() -> None:
    """End the command with the way to install what it needs, where that is missing."""
    if any(importlib.util.find_spec(module) is None for module in ("sklearn", "pyarrow", "matplotlib")):
        fail("this command needs more packages; install them with `pip install 'faregate[train]'`")


def fail(message: str) -> NoReturn:
    """End the command with a message."""
    click.echo(f"faregate: {message}", err=True)
    sys.exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What `faregate calibrate --outcomes` was given.

    Attributes:
        files: outcome records; `signal` is the mean log-probability of each answer's tokens.
        out: the artefact, or the beginning of the artefacts' names where several rungs are judged; None to say only
            what could be promised.
        max_loss: what is to be promised; None: what the route states.
        confidence: likewise.
        temperature: at which the answers were sampled.
        source: where they come from, with their licence; None: their names and digests.
        vectors: keeps the questions' embeddings between runs.
    """

    policy: Policy
    route: Route
    files: tuple[Path, ...]
    out: Path | None
    max_loss: float | None
    confidence: float | None
    temperature: float
    source: str | None
    vectors: Path | None = None


def stated(given: Given) -> tuple[float, float]:
    """Return what is to be promised, loss and confidence: as the command was told, else as the route states.

    Raises:
        TrainingError: neither says it.
    """
    from policies.schema import DEFAULT_CONFIDENCE
    from router.train_outcomes import TrainingError

    quality = given.route.quality
    max_loss = given.max_loss if given.max_loss is not None or quality is None else quality.max_loss
    confidence = given.confidence if given.confidence is not None or quality is None else quality.confidence
    if max_loss is None:
        raise TrainingError(
            f"route {given.route.name} promises nothing; say what with --max-loss, or give it `quality`"
        )
    return max_loss, DEFAULT_CONFIDENCE if confidence is None else confidence


def route_records(given: Given) -> Outcomes:
    """Return the records of the route's models, under the names sent upstream or those of the catalog.

    Raises:
        TrainingError: they are not there under either, or cannot be used.
    """
    from router.train_outcomes import TrainingError
    from router.train_records import read_records

    policy, route, files = given.policy, given.route, given.files
    variants = tuple(policy.models[model].variant for model in route.ladder)
    try:
        return read_records(files, variants)
    except TrainingError as error:
        try:
            read = read_records(files, tuple(route.ladder))
        except TrainingError:
            raise error from None
        return replace(read, models=variants)
