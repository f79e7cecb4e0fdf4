"""What `train` and `evaluate` share: the options about outcome records, and their prompts' embeddings."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from router.estimators import Vectors

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
