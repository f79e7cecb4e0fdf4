"""Hold a calibration against outcomes it has not seen: what its promise is worth on fresh questions.

The judge does here what it does when serving (place the question, weigh the whole small answer), so the figures are of
the thing that ships, not of out-of-fold copies of it. Nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from policies.promise import upper_bound
from router.judge import Evidence, Judge, Outside, Rates
from router.train_outcomes import Outcome, is_json

_RESAMPLES = 4_000
_SEED = 20261121


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a judge did on fresh questions.

    Attributes:
        n: questions.
        straight: how many went to the large model at once, `outside` of them for being like none of the calibration's.
        kept: how many small answers were kept.
        climbed: how many were rejected.
        loss: mean of q_large - q_served.
        bound: upper bound of the expected loss on such questions, from these alone, at the promise's confidence.
        savings: share of the large model's core time saved, rejected attempts paid.
    """

    n: int
    straight: int
    outside: int
    kept: int
    climbed: int
    loss: Estimate
    bound: float
    savings: Estimate


def hold_against(
    judge: Judge,
    small: Sequence[Outcome],
    large: Sequence[Outcome],
    vectors: NDArray[np.float32],
    *,
    small_rates: Rates,
    large_rates: Rates,
) -> Held:
    """Return what a judge does on questions that it was not calibrated with.

    Args:
        judge: of one promise.
        small: the small model's outcomes.
        large: the large model's, of the same questions in the same order.
        vectors: float32[n, 384], the questions' embeddings.
        small_rates: core-seconds per token; see `large_rates`.
        large_rates: the large model's.
    """
    large_s = np.array([_seconds(outcome, large_rates) for outcome in large])
    losses, costs_s = np.zeros(len(small)), large_s.copy()
    outside = kept = climbed = 0
    for row, (outcome, best) in enumerate(zip(small, large, strict=True)):
        place = judge.place(vectors[row])
        outside += isinstance(place, Outside)
        if isinstance(place, Outside) or not place.start_small:
            continue
        small_s = _seconds(outcome, small_rates)
        if judge.weigh(_evidence(outcome), task=place.name).is_kept:
            kept += 1
            losses[row], costs_s[row] = best.quality - outcome.quality, small_s
        else:
            climbed += 1
            costs_s[row] += small_s
    draws = np.random.default_rng(_SEED).integers(0, len(small), size=(_RESAMPLES, len(small)))
    return Held(
        n=len(small),
        straight=len(small) - kept - climbed,
        outside=outside,
        kept=kept,
        climbed=climbed,
        loss=_estimate(float(losses.mean()), losses[draws].mean(axis=1)),
        bound=upper_bound(losses, judge.promise.confidence),
        savings=_estimate(
            1 - float(costs_s.sum() / large_s.sum()), 1 - costs_s[draws].sum(axis=1) / large_s[draws].sum(axis=1)
        ),
    )


def held_table(judge: Judge, held: Held) -> Table:
    """Return the figures for people."""
    promise = judge.promise
    table = Table(title=f"{held.n} fresh questions, promised: loss ≤ {promise.max_loss:g} at {promise.confidence:.0%}")
    table.add_column("what")
    table.add_column("seen", justify="right")
    table.add_column("calibration said", justify="right")
    loss, savings = held.loss, held.savings
    table.add_row("loss", f"{loss.value:.4f} ({loss.low:.4f} to {loss.high:.4f})", f"{promise.mean_loss:.4f}")
    table.add_row(f"its bound at {promise.confidence:.0%}", f"{held.bound:.4f}", f"{promise.bound:.4f}")
    table.add_row("kept small", f"{held.kept / held.n:.1%}", f"{promise.share_kept:.1%}")
    table.add_row("rejected", f"{held.climbed / held.n:.1%}", "")
    table.add_row("straight to the large model", f"{held.straight / held.n:.1%} (outside: {held.outside})", "")
    table.add_row(
        "core time saved", f"{savings.value:.1%} ({savings.low:.1%} to {savings.high:.1%})", f"{promise.savings:.1%}"
    )
    return table


def _evidence(outcome: Outcome) -> Evidence:
    return Evidence(
        tokens=outcome.tokens,
        is_finished=True,
        finish_reason=outcome.finish_reason,
        is_json=outcome.is_json,
        is_valid=outcome.is_valid and (not outcome.is_json or is_json(outcome.text)),
        text=outcome.text,
        has_tools=outcome.has_tools,
        probe=outcome.probe,
    )


def _seconds(outcome: Outcome, rates: Rates) -> float:
    read = outcome.input_tokens + outcome.again_input_tokens
    return read * rates.uncached_input_s + (outcome.output_tokens + outcome.again_output_tokens) * rates.output_s


def _estimate(value: float, resampled: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(value=value, low=float(low), high=float(high))
