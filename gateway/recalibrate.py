"""A threshold from a route's own verdicts: `faregate calibrate --from-ledger`.

Verdicts exist of answers that were kept only, so that a threshold can be raised by them and never lowered; to lower it,
calibrate on questions. Thresholds are tried from the strictest down on a grid that was fixed before any verdict was
seen, each at the full confidence, and the last that passes is taken (Learn-then-Test's fixed sequence).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.verdicts import Origin, PromiseId, Scored, Subject, lowest_loss
from policies.promise import fixed_sequence
from policies.sequence import Sample, Series, Stated, verdicts_needed

GRID: Final = tuple(step / 100 for step in range(100, -1, -1))
"""Thresholds on the judge's confidence or the acceptance's score, strictest first."""


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


def from_verdicts(which: PromiseId, verdicts: Sequence[Scored], stated: Stated, *, can_gain: bool) -> Found:
    """Return the loosest threshold with which a promise holds by its own verdicts."""
    lowest = lowest_loss(which, can_gain=can_gain)
    clipped = [replace(one, sample=replace(one.sample, loss=max(lowest, one.sample.loss))) for one in verdicts]
    tried: dict[float, float] = {}

    def bounds() -> Iterator[tuple[float, float]]:
        for threshold in GRID:
            samples = _at(which.subject, clipped, threshold)
            tried[threshold] = Series(samples, can_gain=lowest < 0).upper(stated.confidence)
            # Where too few are left for any outcome to pass it is no test, so the sequence has not begun.
            if which.subject is Subject.ROUTE or len(samples) >= few:
                yield threshold, tried[threshold]

    few = verdicts_needed(stated.max_loss, stated.confidence)
    threshold = fixed_sequence(bounds(), stated.max_loss)
    n = len(verdicts)
    if threshold is None:
        best = min(tried.values(), default=1.0)
        return Found(threshold=None, bound=best, kept=0, n=n, missing=max(1, few - n))
    kept = sum(one.score is not None and one.score >= threshold for one in verdicts)
    return Found(threshold=threshold, bound=tried[threshold], kept=kept, n=n, missing=0)


def _at(subject: Subject, verdicts: Sequence[Scored], threshold: float) -> list[Sample]:
    """Return what the verdicts would be had nothing below the threshold been kept."""
    if subject is Subject.SEMANTIC:
        # A share of the hits served: what is not served any more counts for neither part of it.
        return [
            Sample(loss=one.sample.loss, probability=1.0)
            for one in verdicts
            if one.score is not None and one.score >= threshold
        ]
    return [
        replace(one.sample, loss=0.0)
        if one.origin is Origin.SMALL and (one.score is None or one.score < threshold)
        else one.sample
        for one in verdicts
    ]
