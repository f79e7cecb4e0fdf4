"""`faregate calibrate --outcomes`: judges from outcome records, for a ladder of any length; nobody is asked.

Where no calibration judges and the route's artefact decides, that artefact is certified instead (`certify`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.commands.certify import certify_route
from gateway.commands.records import Given, need_training, route_records, stated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from router.judge import Calibration, Kept, Promise

_MARGIN = 1.3
"""Wider than the plain estimate of how many records would do: the means are seen, not known."""


def calibrate_by_outcomes(given: Given) -> int:
    """Certify what decides on a route by outcome records, write it, and print what it promises.

    Returns:
        The exit status: 1 when the records cannot be used or no threshold keeps the promise; then nothing is written.
    """
    need_training()
    quality = given.route.quality
    file = given.policy.artefact_file(given.route)
    if file is None or (quality is not None and quality.artefacts):
        return _fit_judges(given)
    if given.temperature > 0:
        raise click.UsageError("--temperature is for judges; on this route an artefact decides")
    return certify_route(given, file)


def _fit_judges(given: Given) -> int:
    """Fit the judges of a route's ladder, write them, and print what they promise; return the exit status."""
    from rich.console import Console

    from gateway.prepare import PolicyUnusable
    from router.judge import CalibrationError, NoThreshold
    from router.train_outcomes import TrainingError

    console = Console(stderr=True)
    try:
        max_loss, confidence = stated(given)
        made = _fitted(given, console)
        judge = made[0].judge(max_loss=max_loss, confidence=confidence)
        written = [] if isinstance(judge, NoThreshold) else _write(given, made)
    except (TrainingError, CalibrationError, PolicyUnusable, OSError) as error:
        click.echo(f"faregate: {error}", err=True)
        return 1
    if isinstance(judge, NoThreshold):
        advice = _advice(made[0], max_loss=max_loss, confidence=confidence)
        click.echo(f"faregate: no threshold keeps the promise: {judge.reason}; {advice}", err=True)
        return 1
    _tell(console, judge.promise)
    if not written:
        console.print("not written (--out)")
        return 0
    key = "calibration" if len(written) == 1 else "calibrations"
    names = str(written[0]) if len(written) == 1 else f"[{', '.join(map(str, written))}]"
    console.print(f"wrote {', '.join(map(str, written))}", markup=False, highlight=False)
    console.print(f"routes.{given.route.name}.quality: {{{key}: {names}}}", markup=False, highlight=False)
    return 0


def _fitted(given: Given, console: Console) -> list[Calibration]:
    from rich.progress import track

    from backends.clock import SystemClock
    from backends.embedder import EMBEDDER_ID, MiniLM
    from gateway.calibrate import core_seconds
    from gateway.prepare import price_book
    from router.judge import Signal
    from router.train_artefact import sources
    from router.train_joint import Judging, align, fit_joint, from_records
    from router.train_vectors import embed_all

    _check(given)
    now = SystemClock().now()
    book = price_book(given.policy, now)
    ladder = given.route.ladder
    rows = align(from_records(route_records(given)))
    *below, top = [core_seconds(given.policy, book, model, ladder[-1]) for model in ladder]
    return fit_joint(
        rows,
        [Judging(signal=Signal.LOGPROBS, rates=rates) for rates in below],
        large_rates=top,
        embed=lambda texts: embed_all(
            texts,
            MiniLM.load,
            embedder=EMBEDDER_ID,
            file=given.vectors,
            show=lambda batches: track(batches, description="embedding", console=console),
        ),
        embedder=EMBEDDER_ID,
        made=now.date().isoformat(),
        source=given.source or sources(given.files),
        temperature=given.temperature,
        show=lambda grid: track(grid, description="thresholds", console=console),
    )


def _check(given: Given) -> None:
    from backends.words import Capability
    from policies.signals import Signal
    from router.train_outcomes import TrainingError

    route, quality = given.route, given.route.quality
    if len(route.ladder) < 2:
        raise TrainingError(f"route {route.name} has one model; a judge needs a rung below the baseline")
    for model in route.ladder[:-1]:
        signal = quality.signals.get(model, Signal.LOGPROBS) if quality is not None else Signal.LOGPROBS
        has_logprobs = Capability.LOGPROBS in given.policy.models[model].capabilities
        if signal is not Signal.LOGPROBS or not has_logprobs:
            raise TrainingError(
                f"outcome records hold the answers' log-probabilities, and {model}'s answers are weighed by {signal}"
                f"{'' if has_logprobs else ', since it has none'}: calibrate it by questions (without --outcomes)"
            )


def _write(given: Given, made: Sequence[Calibration]) -> list[Path]:
    out = given.out
    if out is None:
        return []
    if len(made) == 1:
        files = [out]
    else:
        rungs = [model.replace("/", "_") for model in given.route.ladder[:-1]]
        files = [out.with_name(f"{out.stem}-{rung}.json") for rung in rungs]
    for file, calibration in zip(files, made, strict=True):
        file.write_text(calibration.dump(), encoding="utf-8")
    return files


def _tell(console: Console, promise: Promise) -> None:
    console.print(
        f"promise: expected loss at most {promise.max_loss:g} at {promise.confidence:.0%}; its bound is "
        f"{promise.bound:.4f} on {promise.n} questions (seen: {promise.mean_loss:.4f})",
        highlight=False,
    )
    console.print(
        f"answered below the baseline: {promise.share_kept:.1%}; saved at present prices: {promise.savings:.1%} "
        f"(90 %: {promise.savings_low:.1%} to {promise.savings_high:.1%})",
        highlight=False,
    )


def _advice(calibration: Calibration, *, max_loss: float, confidence: float) -> str:
    """Return how many records would do: a bound comes nearer to its mean with the root of their number."""
    level = next((name for name in sorted(_worst(calibration)[0].bounds, key=float) if float(name) >= confidence), None)
    factors = [
        (kept.bounds[level] - kept.mean_loss) / (max_loss - kept.mean_loss)
        for kept in _worst(calibration)
        if level is not None and kept.share > 0.01 and kept.mean_loss < max_loss
    ]
    if not factors:
        return "more records would not help: every threshold that keeps the small models loses more than that"
    needed = math.ceil(_MARGIN * calibration.questions * max(1.0, min(factors)) ** 2)
    return f"about {needed - calibration.questions} more records of the same kind would do"


def _worst(calibration: Calibration) -> list[Kept]:
    """Return the window with the highest mean loss of each step."""
    return [max(step.windows.values(), key=lambda kept: kept.mean_loss) for step in calibration.steps]
