"""Counts how often a promise breaks, on populations whose true loss is known: `python -m router.train_promise`.

Two kinds of population: made-up ones, whose loss at every setting is a number in this file; and a real set taken as
the whole world (--outcomes), from which calibration rows are drawn with replacement and on all of which the chosen
threshold is judged. One finite split tells nothing here: its own error is four tenths of a point.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from policies.promise import fixed_sequence, loss_bound
from router.estimators import Mode
from router.train_metrics import Floats
from router.train_outcomes import TrainingError
from router.train_records import check_trainable, read_records
from router.train_replay import Replay, cross_fit, reference
from router.train_vectors import embed_all


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """A made-up one: at each setting, strictest first, the chance that a question loses 1 and that it gains 1."""

    name: str
    losing: Floats
    gaining: Floats

    def draw(self, n: int, random: np.random.Generator) -> Floats:
        """Return float64[settings, n]: a question that loses at a setting also loses at all looser ones."""
        place = random.random(n)
        lost = (place < self.losing[:, None]).astype(np.float64)
        return np.asarray(lost - (place > 1 - self.gaining[:, None]))

    @property
    def truth(self) -> Floats:
        """float64[settings]: the expected loss."""
        return np.asarray(self.losing - self.gaining)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What came of many calibrations.

    Attributes:
        share: of the draws whose chosen setting truly loses more than was promised.
        none: of the draws in which no setting passed.
        worth: mean of what the chosen settings are worth (share kept or dollars saved).
    """

    share: float
    none: float
    worth: float


POPULATIONS = (
    Population(name="losses only", losing=np.linspace(0, 0.03, 31), gaining=np.zeros(31)),
    Population(name="losses and gains", losing=np.linspace(0, 0.08, 33), gaining=np.linspace(0, 0.06, 33)),
    Population(name="a jump", losing=np.where(np.arange(12) < 6, 0.001, 0.0105), gaining=np.zeros(12)),
    Population(name="many gains", losing=np.linspace(0, 0.16, 33), gaining=np.linspace(0, 0.145, 33)),
)


def try_made_up(population: Population, *, n: int, draws: int, max_loss: float, confidence: float) -> Broken:
    """Calibrate on `draws` samples of n questions and compare with the truth."""
    random = np.random.default_rng(n)
    samples = (population.draw(n, random) for _ in range(draws))
    worth = np.arange(len(population.truth)) / (len(population.truth) - 1)
    return _count(samples, population.truth, worth, draws=draws, max_loss=max_loss, confidence=confidence)


def try_real(
    losses: Floats, worth: Floats, *, n: int, draws: int, max_loss: float, confidence: float, seed: int = 0
) -> Broken:
    """Calibrate on `draws` samples of n rows with replacement, and judge on all rows.

    Args:
        losses: float64[settings, rows], strictest first.
        worth: float64[settings], what each is worth on all rows.
        n: rows a sample.
        draws: how many samples.
        max_loss: the promise.
        confidence: its confidence.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    rows = losses.shape[1]
    samples = (losses[:, random.integers(rows, size=n)] for _ in range(draws))
    return _count(samples, losses.mean(axis=1), worth, draws=draws, max_loss=max_loss, confidence=confidence)


def _count(
    samples: Iterable[Floats], truth: Floats, worth: Floats, *, draws: int, max_loss: float, confidence: float
) -> Broken:
    broken = none = 0
    gained = 0.0
    for sample in samples:
        bounds = ((setting, loss_bound(losses, confidence)) for setting, losses in enumerate(sample))
        chosen = fixed_sequence(bounds, max_loss)
        if chosen is None:
            none += 1
            continue
        broken += bool(truth[chosen] > max_loss)
        gained += float(worth[chosen])
    return Broken(share=broken / draws, none=none / draws, worth=gained / draws)


def worth_of(done: Replay, strong_usd: Floats | None) -> Floats:
    """Return float64[settings]: dollars saved against always-strong, or the share kept small without costs."""
    if strong_usd is None:
        return np.asarray(done.small.mean(axis=1))
    return np.asarray(np.maximum(1 - done.usd.mean(axis=1) / strong_usd.mean(), 0.0))


@click.command()
@click.option("--outcomes", type=click.Path(path_type=Path, exists=True), multiple=True, help="A real set.")
@click.option("--ladder", help="Its models, cheapest first: a,b.")
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), default="cascade", show_default=True)
@click.option("--vectors", type=click.Path(path_type=Path), help="Its prompts' embeddings are kept here.")
@click.option("--draws", type=int, default=2_000, show_default=True)
@click.option("--max-loss", type=float, default=0.01, show_default=True)
@click.option("--confidence", type=float, default=0.9, show_default=True)
def main(
    *,
    outcomes: tuple[Path, ...],
    ladder: str | None,
    mode: str,
    vectors: Path | None,
    draws: int,
    max_loss: float,
    confidence: float,
) -> None:
    """Print a row a population: how often the promise breaks (at most 1 - confidence), and what it is worth."""
    console = Console()
    table = Table(title=f"a loss of {max_loss} at a confidence of {confidence}, {draws} calibrations")
    for heading in ("population", "rows", "broken", "no threshold", "worth"):
        table.add_column(heading, justify="left" if heading == "population" else "right")

    def add(name: str, n: int, found: Broken) -> None:
        table.add_row(name, str(n), f"{found.share:.1%}", f"{found.none:.1%}", f"{found.worth:.1%}")

    if outcomes and ladder:
        losses, worth = _real(outcomes, tuple(ladder.split(",")), Mode(mode), vectors, console)
        for n in (1_000, losses.shape[1]):
            found = try_real(losses, worth, n=n, draws=draws, max_loss=max_loss, confidence=confidence)
            add(f"{ladder}, {mode}", n, found)
    else:
        for population in track(POPULATIONS, console=console):
            for n in (500, 2_000, 4_000):
                found = try_made_up(population, n=n, draws=draws, max_loss=max_loss, confidence=confidence)
                add(population.name, n, found)
    console.print(table)


def _real(
    files: Sequence[Path], ladder: tuple[str, ...], mode: Mode, vectors: Path | None, console: Console
) -> tuple[Floats, Floats]:
    from backends.embedder import EMBEDDER_ID, MiniLM

    try:
        read = read_records(files, ladder)
        check_trainable(read, needs_signal=mode is not Mode.ROUTE)
        embedded = embed_all(read.prompts, MiniLM.load, embedder=EMBEDDER_ID, file=vectors)
    except TrainingError as error:
        console.print(f"{error}", markup=False)
        sys.exit(1)
    done = cross_fit(read, embedded, mode, show=lambda folds: track(folds, console=console, total=5))
    ends = reference(read)
    losses = np.where(done.is_outside, 0.0, ends.strong - done.quality)
    return losses, worth_of(done, ends.strong_usd)


if __name__ == "__main__":
    main()
