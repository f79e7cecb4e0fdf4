"""Fit and calibrate a verifier: from what a model said of labelled pairs to the thresholds that keep a route's error.

How: the guard comes first, then the acceptance above the traps that it would serve (`alone_from`); what both leave
open is decided by a logistic score of the model's log-odds and the acceptance's (`VerifierCalibration.score`). Served
is what either of the two serves, and the bound is about all of it. Thresholds are tested one after another from the
strictest down (see `semantic_cache.acceptance`) on out-of-fold scores; the score that is stored is fitted on all pairs.

The acceptance's scores must not come from a fit on the same pairs either: where its artefact names one of the files,
they are crossed as well (`train_acceptance.out_of_fold`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from semantic_cache.evaluate import measure as count
from semantic_cache.evaluate_verified import ALONE
from semantic_cache.train_acceptance import (
    CONFIDENCE,
    FOLDS,
    SPLITS,
    TRAP_SHARE,
    measure,
    out_of_fold,
    read_pairs,
    source_of,
    upper_bound,
    wrong_among_served,
)
from semantic_cache.verifier import FORMAT, Point, VerifierCalibration, VerifierError, log_odds, wording_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from rich.console import Console

    from backends.embedder import MiniLM
    from semantic_cache.acceptance import Acceptance
    from semantic_cache.evaluate import Case, Looked, Report

MAX_ERRORS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.08, 0.10, 0.15)
"""For which errors thresholds are stored; a route between two of them gets the stricter one's."""

RIDGE = 1.0
"""The penalty's usual strength: two weights and some hundred pairs leave little to choose."""

ALONE_MARGIN = 0.5
"""How far above the highest trap, in log-odds, the acceptance serves alone: with 0.2 the best trap of each fold was
served when it was left out, and pairs above cost only questions."""

_NOTHING = 2.0  # above any score

_TINY = 1e-6  # so that pairs of one kind alone have a fit, too
_MOST_STEPS = 50
_LONGEST_STEP = 3.0  # far from the optimum Newton's step may overshoot
_CLOSE = 1e-8

GRID = 2
"""Thresholds are tested after every second pair that would be served more: fixed before any label is seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Labelled pairs, what the acceptance thinks of them and what the model said; rows of all arrays are the pairs'.

    Attributes:
        accepted: float64[n] in [0, 1], the acceptance's scores, of fits that did not see the pair.
        said: float64[n], the model's log-odds; NaN where it was not asked or did not say.
        passed: bool[n], that the guard lets pass, so that the acceptance may serve alone.
        is_right: bool[n], that one answer serves both.
        groups: int64[n], the same number for pairs that share a question.
    """

    accepted: NDArray[np.float64]
    said: NDArray[np.float64]
    passed: NDArray[np.bool_]
    is_right: NDArray[np.bool_]
    groups: NDArray[np.int64]

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """bool[n]: the model was asked and said something."""
        return ~np.isnan(self.said)

    @property
    def columns(self) -> NDArray[np.float64]:
        """float64[n, 2]: the model's log-odds and the acceptance's."""
        return np.column_stack([np.nan_to_num(self.said), [log_odds(float(score)) for score in self.accepted]])


@dataclass(frozen=True, slots=True)
class Fit:
    """A logistic score: its two weights and intercept."""

    said: float
    accepted: float
    intercept: float

    def of(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return float64[n] in [0, 1] for the rows of `Told.columns`."""
        scores: NDArray[np.float64] = 1 / (1 + np.exp(-(columns @ [self.said, self.accepted] + self.intercept)))
        return scores


def alone_from(told: Told, acceptance: Acceptance) -> float:
    """Return from which score on the acceptance serves without a question: none where it can keep no error by itself.

    It is never looser than the acceptance's own threshold at the strictest error that it keeps.

    Args:
        told: the pairs; what was said of them is not looked at.
        acceptance: whose scores are in `told`.
    """
    own = next((found for error in MAX_ERRORS if (found := acceptance.threshold(error)) is not None), None)
    if own is None:
        return _NOTHING
    traps = told.accepted[told.passed & ~told.is_right]
    if not len(traps):
        return own
    return max(own, 1 / (1 + math.exp(-log_odds(float(traps.max())) - ALONE_MARGIN)))


def fit(columns: NDArray[np.float64], is_right: NDArray[np.bool_]) -> Fit:
    """Return the ridge-penalised logistic fit whose weights are not negative: neither voice counts backwards."""
    padded = np.hstack([columns, np.ones((len(columns), 1))])
    weights, kept = np.zeros(3), [0, 1, 2]
    while True:
        found = _newton(padded[:, kept], is_right)
        lowest = int(np.argmin(found[:-1])) if len(kept) > 1 else 0
        if len(kept) == 1 or found[lowest] >= 0:
            weights[kept] = found
            return Fit(*map(float, weights))
        del kept[lowest]


def _newton(rows: NDArray[np.float64], is_right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weights of a logistic fit, the last of them unpenalised; a hundred times faster here than L-BFGS.

    Source: iteratively reweighted least squares (Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning",
    section 4.4.1), with the ridge in its Hessian.
    """
    weights: NDArray[np.float64] = np.zeros(rows.shape[1])
    penalty = np.append(np.full(rows.shape[1] - 1, 1 / RIDGE), _TINY)
    for _ in range(_MOST_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(rows @ weights, -50, 50)))
        slope = rows.T @ (chances - is_right) + penalty * weights
        curvature = rows.T @ (rows * (chances * (1 - chances))[:, None]) + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        weights -= np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if np.abs(step).max() < _CLOSE:
            break
    return weights


def crossed(told: Told, splits: int = SPLITS) -> NDArray[np.float64]:
    """Return float64[n], every open pair's score from fits that saw none of its group; 0 for the others.

    Args:
        told: the pairs.
        splits: over how many random divisions into folds scores are averaged.
    """
    columns, total = told.columns, np.zeros(len(told.said))
    for seed in range(splits):
        for train, test in _folds(told, seed):
            rows = train[told.is_open[train]]
            total[test] += fit(columns[rows], told.is_right[rows]).of(columns[test])
    return np.where(told.is_open, total / splits, 0.0)


def _folds(told: Told, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield rows to fit on and rows to score, FOLDS times where there are enough pairs of either kind.

    Raises:
        VerifierError: there are not even two.
    """
    fewest = min(int(told.is_right.sum()), int((~told.is_right).sum()))
    if fewest < 2:
        raise VerifierError(f"{fewest} pairs of one kind cannot fix a threshold; give some hundred repeats and traps")
    folds = StratifiedGroupKFold(n_splits=min(FOLDS, fewest), shuffle=True, random_state=seed)
    yield from folds.split(told.columns, told.is_right, told.groups)


def point_of(told: Told, scores: NDArray[np.float64], accepted_from: float, max_error: float) -> Point:
    """Return the loosest threshold that keeps `max_error` together with what the acceptance serves alone.

    Args:
        told: the pairs.
        scores: float64[n], verified scores, out of fold.
        accepted_from: from which of the acceptance's scores on it serves alone.
        max_error: what is to be kept.
    """
    repeats, traps = int(told.is_right.sum()), int((~told.is_right).sum())
    alone = told.passed & (told.accepted >= accepted_from)
    more = np.sort(scores[told.is_open & ~alone])[::-1]
    chosen: Point | None = None
    for threshold in dict.fromkeys(float(value) for value in more[GRID - 1 :: GRID]):
        is_served = alone | (told.is_open & (scores >= threshold))
        served, wrong = int(is_served.sum()), int((is_served & ~told.is_right).sum())
        hit_rate = (served - wrong) / repeats
        bound = wrong_among_served(upper_bound(wrong, traps), hit_rate)
        if wrong_among_served(upper_bound(0, traps), hit_rate) > max_error:
            continue  # too few pairs for any outcome to pass: not a test, so the sequence has not begun
        if bound > max_error:
            break
        chosen = Point(
            max_error=max_error,
            threshold=threshold,
            served=served,
            wrong=wrong,
            upper_bound=bound,
            repeats_served=hit_rate,
        )
    return chosen or Point(
        max_error=max_error, threshold=None, served=0, wrong=0, upper_bound=1.0, repeats_served=0.0
    )  # fmt: skip


def calibrated(
    told: Told, acceptance: Acceptance, paths: Sequence[Path], *, model: str, weights: str
) -> VerifierCalibration:
    """Fit on all pairs, calibrate out of fold, and return the artefact.

    Args:
        told: the pairs of `paths`.
        acceptance: whose scores are in `told`.
        paths: where the pairs come from.
        model: the upstream name that was asked.
        weights: what else tells its weights apart, "" where the name says it all.
    """
    scores, rows, accepted_from = crossed(told), told.is_open, alone_from(told, acceptance)
    fitted = fit(told.columns[rows], told.is_right[rows])
    return VerifierCalibration(
        format=FORMAT,
        model=model,
        weights=weights,
        wording=wording_id(),
        acceptance=acceptance.digest,
        made=datetime.now(UTC).date().isoformat(),
        confidence=CONFIDENCE,
        repeats=int(told.is_right.sum()),
        traps=int((~told.is_right).sum()),
        assumption=f"{TRAP_SHARE:.0%} of the near neighbours are traps, of the calibration's kinds",
        sources=tuple(source_of(path) for path in paths),
        said_weight=fitted.said,
        accepted_weight=fitted.accepted,
        intercept=fitted.intercept,
        alone_from=accepted_from,
        most=float(told.said[rows].max()),
        points=tuple(point_of(told, scores, accepted_from, error) for error in MAX_ERRORS),
    )


def fixed_out_of_fold(told: Told, acceptance: Acceptance, max_error: float) -> NDArray[np.bool_]:
    """Return bool[n], which pairs thresholds serve that were fixed on the other folds: what a fixed threshold is worth.

    Scores are fitted and both thresholds are chosen without the pair's fold.
    """
    served = np.zeros(len(told.said), dtype=np.bool_)
    for train, test in _folds(told, 0):
        part = Told(
            accepted=told.accepted[train],
            said=told.said[train],
            passed=told.passed[train],
            is_right=told.is_right[train],
            groups=told.groups[train],
        )
        accepted_from = alone_from(part, acceptance)
        threshold = point_of(part, crossed(part, splits=1), accepted_from, max_error).threshold
        fitted = fit(part.columns[part.is_open], part.is_right[part.is_open])
        served[test] = told.passed[test] & (told.accepted[test] >= accepted_from)
        if threshold is not None:
            served[test] |= told.is_open[test] & (fitted.of(told.columns[test]) >= threshold)
    return served


def accepted_of(
    paths: Sequence[Path], acceptance: Acceptance, embedder: MiniLM, console: Console
) -> dict[tuple[str, str], float] | None:
    """Return the acceptance's out-of-fold scores by pair; None where its artefact was fitted on none of the files."""
    fitted_on = {source.sha256 for source in acceptance.calibration.sources}
    if not any(hashlib.sha256(path.read_bytes()).hexdigest() in fitted_on for path in paths):
        return None
    pairs = [pair for path in paths for pair in read_pairs(path)]
    scores = out_of_fold(measure(pairs, embedder, console), console)
    return {(pair.a, pair.b): float(score) for pair, score in zip(pairs, scores, strict=True)}


def told_of(seen: Looked, said: NDArray[np.float64]) -> Told:
    """Return labelled pairs as this module wants them.

    Args:
        seen: what guard and acceptance say of them, out of fold (`crossed_look`).
        said: float64[n], what the model says, see `evaluate_verified.said_of`.
    """
    return Told(
        accepted=np.maximum(seen.doubtful, 0.0),
        said=said,
        passed=seen.scores >= 0,
        is_right=seen.is_same,
        groups=seen.groups,
    )


def crossed_look(cases: Sequence[Case], seen: Looked, accepted: Mapping[tuple[str, str], float] | None) -> Looked:
    """Return the pairs with the acceptance's out-of-fold scores where they are known.

    Args:
        cases: the pairs.
        seen: what guard and acceptance say of them.
        accepted: what `accepted_of` returned.
    """
    if accepted is None:
        return seen
    known = np.array(
        [accepted.get((case.asked, case.stored), score) for case, score in zip(cases, seen.doubtful, strict=True)]
    )
    return replace(
        seen,
        scores=np.where(seen.scores < 0, seen.scores, known),
        doubtful=np.where(seen.doubtful < 0, seen.doubtful, known),
    )


def evaluate_crossed(told: Told, acceptance: Acceptance, *, max_error: float, seed: int = 0) -> Report:
    """Count hits and traps by cross-validation: every pair is judged by scores and thresholds made without its fold.

    Args:
        told: the pairs.
        acceptance: whose scores are in `told`.
        max_error: the route's promise.
        seed: of the bootstrap.
    """
    alone = told.passed & (told.accepted >= alone_from(told, acceptance))
    scores = np.where(alone, ALONE + told.accepted, np.where(told.is_open, crossed(told), -1.0))
    report = count(scores, told.is_right, told.groups, threshold=None, max_error=max_error, seed=seed)
    is_served = fixed_out_of_fold(told, acceptance, max_error)
    fixed = count(
        np.where(is_served, 1.0, -1.0),
        told.is_right,
        told.groups,
        threshold=1.0,
        max_error=max_error,
        reasons=[None if served else "verifier, or before it" for served in is_served],
        seed=seed,
    )
    return replace(report, operating_point=replace(fixed.operating_point, threshold=None), reasons=fixed.reasons)
