"""Chooses the threshold that keeps a promise, from a replay of rows that no estimator had seen.

Rules: settings are tested from "keep none" upwards, each at the full confidence, until the first that fails (fixed
sequence of Learn-then-Test); the bound is `policies.promise.loss_bound`; where nothing passes, or what passes saves
nothing, it says how many rows would do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from policies.promise import fixed_sequence, loss_bound
from router.artefact import Stored
from router.train_metrics import Floats, Reference, measure
from router.train_replay import Replay, at, sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertified:
    """No threshold keeps the promise and saves something.

    Attributes:
        reason: a sentence for people.
        rows_needed: an estimate of how many would do; None when no number would.
    """

    reason: str
    rows_needed: int | None


def certify(done: Replay, ends: Reference, *, max_loss: float, confidence: float) -> Stored | Uncertified:
    """Return the loosest setting that keeps the promise.

    Args:
        done: from `cross_fit`, or of rows apart from the training ones.
        ends: always-weak and always-strong on the same rows.
        max_loss: expected quality that may be lost against the last rung, in (0, 1).
        confidence: 1 - delta, in (0, 1).
    """
    losses = _losses(done, ends)
    n = losses.shape[1]
    # Rows come in the file's order, which may follow the tasks; the betting bound wants one that means nothing.
    losses = losses[:, np.random.default_rng(0).permutation(n)]
    bounds = ((setting, loss_bound(losses[setting], confidence)) for setting in range(len(losses)))
    chosen = fixed_sequence(bounds, max_loss)
    if chosen is None or done.small[chosen].mean() == 0:
        return _uncertified(losses, done, max_loss=max_loss, confidence=confidence)
    fixed = at(done, ends, chosen)
    saved = measure(sweep(done, ends), ends, fixed)["savings_fixed"]
    if saved is not None and saved.value <= 0:
        return Uncertified(
            reason=f"the loosest threshold that keeps a loss of {max_loss} saves nothing: answers of the small model"
            " that are thrown away cost as much as those that are kept save; use --mode combined, or allow more loss",
            rows_needed=None,
        )
    is_small = np.where(done.is_outside, 0.0, done.small[chosen])
    return Stored(
        setting=chosen,
        max_loss=max_loss,
        confidence=confidence,
        bound=loss_bound(losses[chosen], confidence),
        mean_loss=float(losses[chosen].mean()),
        n=n,
        share_small=float(is_small.mean()),
        savings=saved.value if saved else None,
        savings_low=saved.low if saved else None,
        savings_high=saved.high if saved else None,
    )


def _losses(done: Replay, ends: Reference) -> Floats:
    return np.asarray(np.where(done.is_outside, 0.0, ends.strong - done.quality))


def _uncertified(losses: Floats, done: Replay, *, max_loss: float, confidence: float) -> Uncertified:
    keeps = done.small.mean(axis=1) > 0.01
    n = losses.shape[1]
    z = NormalDist().inv_cdf(confidence)
    means, spreads = losses.mean(axis=1), losses.std(axis=1)
    possible = keeps & (means < max_loss)
    needed = None
    if possible.any():
        rows = ((z * spreads[possible] + 1e-9) / (max_loss - means[possible])) ** 2
        # Wider than the plain estimate says: the means are seen, not known.
        needed = max(n + 1, math.ceil(1.3 * float(rows.min())), math.ceil(3 / max_loss))
    advice = (
        f"about {needed} rows of the same kind would do"
        if needed is not None
        else "more rows would not help: every threshold that keeps the small model loses more than that"
    )
    return Uncertified(
        reason=f"no threshold keeps a loss of {max_loss} at a confidence of {confidence} on {n} rows; {advice}",
        rows_needed=needed,
    )
