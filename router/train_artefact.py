"""Makes an artefact of outcome records: estimators of all rows, and a threshold chosen on out-of-fold scores.

The promise is strictly that of the five fold models, whose mean the shipped one is in all but name: the grid of
settings is the shipped one's in every fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from backends.embedder import EMBEDDER_ID
from router.artefact import FORMAT, Artefact
from router.estimators import Mode, Vectors
from router.train_certify import Uncertified, certify
from router.train_estimators import fit
from router.train_outcomes import TrainingError
from router.train_records import Outcomes, check_trainable
from router.train_replay import Show, cross_fit, reference


def make(
    outcomes: Outcomes,
    vectors: Vectors,
    *,
    mode: Mode,
    max_loss: float | None,
    confidence: float,
    made: str,
    source: str,
    show: Show = iter,
) -> Artefact:
    """Fit and certify.

    Args:
        outcomes: one ladder's.
        vectors: the prompts' embeddings, in the rows' order.
        mode: when the rung is decided.
        max_loss: what the promise allows to be lost; None for no promise.
        confidence: of the promise, in (0, 1).
        made: ISO date.
        source: what was trained on, see `sources`.
        show: wraps the fits (one of all rows, then one a fold), for a progress bar.

    Raises:
        TrainingError: the rows cannot be learned from, or no threshold keeps the promise.
    """
    check_trainable(outcomes, needs_signal=mode is not Mode.ROUTE)
    steps = iter(show(range(6 if max_loss is not None else 1)))
    next(steps)
    estimators = fit(outcomes, vectors, mode)
    promise = None
    if max_loss is not None:
        done = cross_fit(
            outcomes, vectors, mode, settings=estimators.settings, show=lambda folds: _paired(steps, folds)
        )
        chosen = certify(done, reference(outcomes), max_loss=max_loss, confidence=confidence)
        if isinstance(chosen, Uncertified):
            raise TrainingError(chosen.reason)
        promise = chosen
    for _ in steps:
        pass  # the bar is drawn to its end
    return Artefact(
        format=FORMAT,
        ladder=outcomes.models,
        embedder=EMBEDDER_ID,
        made=made,
        source=source,
        questions=len(outcomes),
        qualities=tuple(round(float(one), 4) for one in outcomes.quality.mean(axis=0)),
        estimators=estimators,
        promise=promise,
    )


def sources(files: Sequence[Path]) -> str:
    """Return the files' names with the beginning of their digests."""
    return ", ".join(f"{file.name} (sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]})" for file in files)


def _paired(steps: Iterable[int], folds: Iterable[int]) -> Iterable[int]:
    for fold, _ in zip(folds, steps, strict=False):
        yield fold
