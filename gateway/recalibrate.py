"""A threshold from a promise's own verdicts: what the gateway does by itself, and `calibrate --from-ledger` by hand.

Why choosing and proving may rest on the same verdicts: thresholds are tried from the strictest down on a grid that was
fixed before any verdict was seen, and the first that fails ends the sequence (Learn-then-Test's fixed sequence). To
accept a threshold whose expected loss is above the promise, the strictest such one must pass, and its bound is below
its expected loss only with probability 1 - confidence, at all times together: so one may look after every verdict, as
often as one likes, and that is the chance of ever taking a threshold that breaks the promise in one series.

What a threshold is tested on:
- verdicts since the last calibration only. Each new series has the chance of error once more; older ones would let a
  promise that broke be kept by its better days;
- of answers that were served, those judged while no stricter threshold was in force: what lies below that was never
  kept, and would count as lossless. So served answers raise a threshold and never lower it;
- of answers that were not served (trials while the route is breached, grey pairs of a cache), all: they were sampled
  whatever their score, and can lower a threshold. A route's is lowered down to its calibration's own and no further; a
  cache's as far as grey pairs alone keep the promise, each part of what it would serve being below `max_error`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np

from gateway.verdicts import NOT_SERVED, Origin, PromiseId, Scored, Subject, lowest_loss
from policies.promise import fixed_sequence
from policies.sequence import Sample, Series, Standing, State, Stated, verdicts_needed

GRID: Final = tuple(step / 100 for step in range(100, -1, -1))
"""Thresholds on the judge's confidence or the acceptance's score, strictest first."""
_PATIENCE: Final = 2
"""A promise that looks broken is given so many times the verdicts that could certify it before its threshold moves."""
_MORE: Final = 1.1
"""What was tried in vain is tried again when there are so many times the verdicts: it takes seconds of a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a recalibration comes to.

    Attributes:
        threshold: the loosest that keeps the promise; None when none does.
        bound: of the expected loss at it, or the lowest that any threshold has.
        kept: audited answers at or above it, of `n`.
        missing: verdicts without loss that would be needed at least, beyond those there are; 0 with a threshold.
    """

    threshold: float | None
    bound: float
    kept: int
    n: int
    missing: int


def from_verdicts(
    which: PromiseId, verdicts: Sequence[Scored], stated: Stated, *, can_gain: bool, base: float = 0.0
) -> Found:
    """Return the loosest threshold with which a promise holds by its own verdicts.

    Args:
        which: the promise.
        verdicts: since it was last calibrated.
        stated: what it promises.
        can_gain: whether a judge may have found served answers better.
        base: the threshold of what serves, before any verdict: below it nothing was ever served. 0 where thresholds
            are never taken below that.
    """
    lowest = lowest_loss(which, can_gain=can_gain)
    clipped = [
        replace(
            one,
            sample=replace(one.sample, loss=max(lowest, one.sample.loss)),
            floor=one.floor if one.origin in NOT_SERVED else max(one.floor, base),
        )
        for one in verdicts
    ]
    scores = np.array([-1.0 if one.score is None else one.score for one in clipped])
    floors = np.array([one.floor for one in clipped])
    tried: dict[float, float] = {}
    known: dict[tuple[int, int], tuple[int, float]] = {}

    def looked(threshold: float) -> tuple[int, float]:
        """Return how many verdicts tell of a threshold, and what they say; between two scores thresholds are one."""
        key = (int((scores >= threshold).sum()), int((floors <= threshold).sum()))
        if key not in known:
            samples = _at(which.subject, clipped, threshold)
            known[key] = (len(samples), Series(samples, can_gain=lowest < 0).upper(stated.confidence))
        return known[key]

    def bounds() -> Iterator[tuple[float, float]]:
        for threshold in GRID:
            count, tried[threshold] = looked(threshold)
            # Where too few are left for any outcome to pass it is no test, so the sequence has not begun.
            if which.subject is Subject.ROUTE or count >= few:
                yield threshold, tried[threshold]

    few = needed(stated)
    threshold = fixed_sequence(bounds(), stated.max_loss)
    n = len(verdicts)
    if threshold is None:
        best = min(tried.values(), default=1.0)
        return Found(threshold=None, bound=best, kept=0, n=n, missing=max(1, few - n))
    kept = sum(one.score is not None and one.score >= threshold for one in verdicts)
    return Found(threshold=threshold, bound=tried[threshold], kept=kept, n=n, missing=0)


@cache
def needed(stated: Stated) -> int:
    """Return how many verdicts without any loss would certify a promise."""
    return verdicts_needed(stated.max_loss, stated.confidence)


def is_due(standing: Standing, stated: Stated, *, verdicts: int, tried_at: int, grey: int = 0) -> bool:
    """Tell whether a promise's threshold should be chosen anew by its verdicts.

    Args:
        standing: how it stands.
        stated: what it promises.
        verdicts: how many there are, trials and grey pairs included.
        tried_at: how many there were when that was last tried in vain; 0: not yet.
        grey: how many of them are grey pairs: with enough of those a threshold may turn out to be needlessly strict.
    """
    if tried_at and verdicts < _MORE * tried_at:
        return False
    if standing.state is State.BREACHED or grey >= needed(stated):
        return True
    looks_broken = standing.mean is not None and standing.mean > stated.max_loss
    return looks_broken and standing.n >= _PATIENCE * needed(stated)


def _at(subject: Subject, verdicts: Sequence[Scored], threshold: float) -> list[Sample]:
    """Return what the verdicts would be had nothing below the threshold been kept, as far as they can tell."""
    seen = [one for one in verdicts if one.floor <= threshold]
    if subject is Subject.SEMANTIC:
        # A share of the hits served: what is not served any more counts for neither part of it.
        return [
            Sample(loss=one.sample.loss, probability=1.0)
            for one in seen
            if one.score is not None and one.score >= threshold
        ]
    return [
        replace(one.sample, loss=0.0)
        if one.origin in _JUDGED and (one.score is None or one.score < threshold)
        else one.sample
        for one in seen
    ]


_JUDGED: Final = {Origin.SMALL, *NOT_SERVED}
