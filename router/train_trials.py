"""Counts how often the promise of a ladder with several judged rungs breaks: `python -m router.train_trials`.

A real set is the world: rows are drawn from it with replacement, a threshold is certified on them, and the ladder that
would be served then is judged on all rows, whose loss is known. Two ways to certify take turns: judges fitted together
(`router.train_joint`), and judges fitted apart, which share loss and risk and are held to bounds of the harm.

Scores are out of fold and stay as they are, as do the tasks' starts. Dollars are the records' own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backends.embedder import EMBEDDER_ID, MiniLM
from policies.promise import fixed_sequence, loss_bound, shared_confidence
from router.estimators import Vectors
from router.judge import WHOLE, Rates, Signal
from router.train_joint import JOINT_GRID, Climb, align, from_records
from router.train_judge import Floats, Pairs, folds_of, place_all, rows_of
from router.train_outcomes import TrainingError
from router.train_promise import Broken
from router.train_records import Outcomes, read_records
from router.train_vectors import embed_all

_Chooser: TypeAlias = Callable[[NDArray[np.int64]], tuple[float, float] | None]
"""From a sample's rows to the true loss and savings of what is certified on them; None where nothing is."""
_NO_RATES = Rates(uncached_input_s=0.0, output_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A ladder on a set of questions that is taken as all there are.

    Attributes:
        climb: the judged rungs.
        joint: by threshold, strictest first, float64[parts, n]: what each part of the ladder loses; the whole is first.
        truth: float64[settings]: the worst part's loss on all questions.
        worth: float64[settings]: what the whole ladder saves on all.
        apart: by rung and threshold, float64[n]: the harm of a judge that was fitted alone.
    """

    climb: Climb
    joint: Sequence[Floats]
    truth: Floats
    worth: Floats
    apart: Sequence[Sequence[Floats]]


def world(climb: Climb, grid: Sequence[float] = JOINT_GRID) -> World:
    """Reckon what every threshold does on all questions."""
    whole = [WHOLE] * len(climb.rungs)
    joint, truth, worth = [], [], []
    for threshold in grid:
        parts = climb.parts(threshold, climb.starts(threshold)[0], whole)
        joint.append(np.array([part.loss for part in parts]))
        truth.append(max(float(part.loss.mean()) for part in parts))
        worth.append(1 - float(parts[0].paid.sum()) / float(climb.shared.large_s.sum()))
    apart = [
        [np.maximum(alone.parts(t, alone.starts(t)[0], [WHOLE])[0].loss, 0) for t in grid]
        for alone in (Climb(rungs=(rows,)) for rows in climb.rungs)
    ]
    return World(climb=climb, joint=joint, truth=np.array(truth), worth=np.array(worth), apart=apart)


def try_together(
    known: World, *, n: int, draws: Iterable[int], max_loss: float, confidence: float, seed: int = 0
) -> Broken:
    """Certify the whole ladder on samples of n rows: how often a part of what is served truly loses more."""

    def chosen(rows: NDArray[np.int64]) -> tuple[float, float] | None:
        def bounds() -> Iterable[tuple[int, float]]:
            for setting, losses in enumerate(known.joint):
                yield setting, max(loss_bound(one[rows], confidence) for one in losses)

        setting = fixed_sequence(bounds(), max_loss)
        return None if setting is None else (float(known.truth[setting]), float(known.worth[setting]))

    return _count(known, chosen, n=n, draws=draws, max_loss=max_loss, seed=seed)


def try_apart(
    known: World,
    *,
    n: int,
    draws: Iterable[int],
    max_loss: float,
    confidence: float,
    grid: Sequence[float] = JOINT_GRID,
    seed: int = 0,
) -> Broken:
    """Certify each rung's judge by itself, with its share of loss and risk."""
    shares = len(known.apart)
    level = shared_confidence(confidence, shares)
    served: dict[tuple[int | None, ...], tuple[float, float]] = {}

    def chosen(rows: NDArray[np.int64]) -> tuple[float, float] | None:
        settings = tuple(
            fixed_sequence(((s, loss_bound(harm[rows], level)) for s, harm in enumerate(own)), max_loss / shares)
            for own in known.apart
        )
        if all(setting is None for setting in settings):
            return None
        if settings not in served:
            served[settings] = _serve(known.climb, [None if s is None else grid[s] for s in settings])
        return served[settings]

    return _count(known, chosen, n=n, draws=draws, max_loss=max_loss, seed=seed)


def _serve(climb: Climb, thresholds: Sequence[float | None]) -> tuple[float, float]:
    """Return the true loss and savings of judges at thresholds of their own; None: the rung answers nothing."""
    nobody = np.zeros(len(climb.shared.loss), dtype=bool)
    tried = [
        nobody if threshold is None else Climb(rungs=(rows,)).starts(threshold)[0][0]
        for rows, threshold in zip(climb.rungs, thresholds, strict=True)
    ]
    part = climb.serve([1.0 if t is None else t for t in thresholds], tried, [WHOLE] * len(tried))
    return float(part.loss.mean()), 1 - float(part.paid.sum()) / float(climb.shared.large_s.sum())


def _count(known: World, chosen: _Chooser, *, n: int, draws: Iterable[int], max_loss: float, seed: int) -> Broken:
    random = np.random.default_rng(seed)
    count = broken = none = 0
    gained = 0.0
    for _ in draws:
        count += 1
        found = chosen(random.integers(len(known.climb.shared.loss), size=n))
        if found is None:
            none += 1
            continue
        loss, saved = found
        broken += loss > max_loss
        gained += saved
    return Broken(share=broken / count, none=none / count, worth=gained / count)


def climb_of(records: Outcomes, vectors: Vectors) -> Climb:
    """Return a ladder's rows from outcome records, paid in the records' own dollars.

    Raises:
        TrainingError: what is needed is missing.
    """
    if not records.has_usd:
        raise TrainingError("column cost_usd is empty in some rows; savings are told in dollars: fill it")
    rows = align(from_records(records))
    usd = dict(zip(records.prompts, records.usd, strict=True))
    placed = dict(zip(records.prompts, vectors, strict=True))
    places = place_all(np.array([placed[outcome.prompt] for outcome in rows[0]]))
    paid = np.array([usd[outcome.prompt] for outcome in rows[0]])
    rungs = []
    for rung, own in enumerate(rows[:-1]):
        pairs = Pairs(small=own, large=rows[-1])
        found, _ = rows_of(
            pairs, places, folds_of(len(own)), small_rates=_NO_RATES, large_rates=_NO_RATES, signal=Signal.LOGPROBS
        )
        rungs.append(replace(found, small_s=paid[:, rung], large_s=paid[:, -1], rejected_s={WHOLE: paid[:, rung]}))
    return Climb(rungs=tuple(rungs))


@click.command()
@click.option("--outcomes", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option("--ladder", required=True, help="Its models, cheapest first: a,b,c.")
@click.option("--vectors", type=click.Path(path_type=Path), help="Its prompts' embeddings are kept here.")
@click.option("--draws", type=click.IntRange(1), default=500, show_default=True)
@click.option("--rows", type=click.IntRange(1), multiple=True, help="Rows a draw; as many as there are when left out.")
@click.option("--max-loss", type=float, default=0.01, show_default=True)
@click.option("--confidence", type=float, default=0.9, show_default=True)
def main(
    *,
    outcomes: tuple[Path, ...],
    ladder: str,
    vectors: Path | None,
    draws: int,
    rows: tuple[int, ...],
    max_loss: float,
    confidence: float,
) -> None:
    """Print how often the promise breaks (at most 1 - confidence) and what is saved: fitted together, and apart."""
    console = Console()
    try:
        read = read_records(outcomes, ladder.split(","))
        embedded = embed_all(read.prompts, MiniLM.load, embedder=EMBEDDER_ID, file=vectors)
        known = world(climb_of(read, embedded))
    except TrainingError as error:
        console.print(f"{error}", markup=False)
        sys.exit(1)
    n = len(known.climb.shared.loss)
    table = Table(title=f"{ladder}: a loss of {max_loss} at a confidence of {confidence}, {draws} calibrations")
    for heading in ("judges", "rows", "broken", "no threshold", "dollars saved"):
        table.add_column(heading, justify="left" if heading == "judges" else "right")
    for size in rows or (n,):
        for name, trial in (("fitted together", try_together), ("fitted apart", try_apart)):
            told = track(range(draws), description=f"{name}, {size}", console=console, transient=True)
            found = trial(known, n=size, draws=told, max_loss=max_loss, confidence=confidence)
            table.add_row(name, str(size), f"{found.share:.1%}", f"{found.none:.1%}", f"{found.worth:.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
