"""Promises and their statistics: what may be said about an expected loss after seeing n of them.

Rules: a plug-in mean is never a promise; a bound is one-sided and holds for any distribution on [-1, 1]; a threshold is
chosen by Learn-then-Test, so that choosing costs no confidence. numpy only: this is read when a policy is loaded.

Sources:
- Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), section 4.1 and
  appendix B: the capital process and its predictable plug-in bets (here with their one-sided level, log(1/delta));
- Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test", AoAS 19 (2025), section 3: fixed-sequence testing.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Losses: TypeAlias = NDArray[np.float64]
"""float64[n], each in [-1, 1], in an order that does not depend on their values."""

_T = TypeVar("_T")

_BET_SHARE = 0.75
"""At most this share of the capital is lost in one bet; the paper recommends 1/2 or 3/4."""
T_ROWS = 2_000
"""From here on Student's bound breaks a promise no oftener than stated (2,000 draws on known populations)."""
_PRECISION = 1e-5
"""Bisection stops when the bound is known this closely, and returns the upper end."""


def upper_bound(losses: Losses, confidence: float) -> float:
    """Return what the expected loss is below, with probability `confidence` over the sample; in [-1, 1].

    The betting bound: a gambler who bets against "the mean is at least m" and multiplies the stake by
    1 / (1 - confidence) has refuted m. Close to the normal approximation, valid at every n; 20 passes over the rows.

    Args:
        losses: independent draws in an order that is independent of their values (shuffle once, before looking).
        confidence: 1 - delta, in (0, 1).

    Raises:
        ValueError: a loss outside [-1, 1], or a confidence outside (0, 1).
    """
    _check(losses, confidence)
    if not losses.size:
        return 1.0
    shares = (losses + 1) / 2
    wager = _wagers(shares, confidence)
    needed = -np.log1p(-confidence)
    low, high = float(shares.mean()), 1.0
    while high - low > _PRECISION / 2:
        middle = (low + high) / 2
        if _log_capital(shares, wager, middle) >= needed:
            high = middle
        else:
            low = middle
    return 2 * high - 1


def t_bound(losses: Losses, confidence: float) -> float:
    """Return Student's one-sided bound of the expected loss with one pseudo-loss of 1 added; for some 2,000 rows on.

    It is not valid for every distribution: losses so rare that the sample shows none would pass a plain t-bound. The
    pseudo-loss answers for those; `python -m router.train_promise` counts how often the promise breaks.

    Raises:
        ValueError: a loss outside [-1, 1], or a confidence outside (0, 1).
    """
    _check(losses, confidence)
    padded = np.append(losses, 1.0)
    n = padded.size
    if n < 3:
        return 1.0
    spread = float(padded.std(ddof=1))
    return float(min(1.0, padded.mean() + student_quantile(confidence, n - 1) * spread / np.sqrt(n)))


def loss_bound(losses: Losses, confidence: float) -> float:
    """Return the sharper bound that may be used at this number of rows: `t_bound` from 2,000 on, else `upper_bound`.

    Raises:
        ValueError: a loss outside [-1, 1], or a confidence outside (0, 1).
    """
    return t_bound(losses, confidence) if losses.size >= T_ROWS else upper_bound(losses, confidence)


def student_quantile(confidence: float, degrees: int) -> float:
    """Return Student's quantile to four digits from 30 degrees of freedom on.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions", 26.7.5 (Cornish-Fisher expansion).
    """
    z = NormalDist().inv_cdf(confidence)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def fixed_sequence(candidates: Iterable[tuple[_T, float]], max_loss: float) -> _T | None:
    """Return the loosest setting that may be used at the bounds' confidence; None when not even the first may.

    Settings are tested one after another, each at the full level, and testing stops at the first that fails: the chance
    that any accepted one breaks `max_loss` is at most 1 - confidence, however many are tried.

    Args:
        candidates: setting and upper bound of its expected loss, strictest first. The order must be fixed before the
            losses are seen, and every bound must be at the same confidence.
        max_loss: what the expected loss may not exceed.
    """
    accepted: _T | None = None
    for setting, bound in candidates:
        if bound > max_loss:
            break
        accepted = setting
    return accepted


def shared_confidence(confidence: float, shares: int) -> float:
    """Return the confidence of each of several bounds that must all hold at `confidence` together (union bound)."""
    return round(1 - (1 - confidence) / shares, 9)  # rounded: 1 - 0.1 / 2 must not miss 0.95 by a bit


def smallest_detectable(n: int, confidence: float) -> float:
    """Return the bound that n losses of exactly 0 would give: no fewer rows can promise less."""
    return upper_bound(np.zeros(n), confidence)


def _check(losses: Losses, confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is outside (0, 1); a usual one is 0.9")
    if losses.size and not (losses.min() >= -1 and losses.max() <= 1):
        raise ValueError(f"losses span {losses.min()} to {losses.max()}; every loss must lie in [-1, 1]")


def _wagers(shares: Losses, confidence: float) -> Losses:
    """Return each round's bet, made from the rounds before it only (equations 26 and 27 of the betting paper)."""
    n = shares.size
    rounds = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(shares)) / (rounds + 1)
    variances = (0.25 + np.cumsum((shares - means) ** 2)) / (rounds + 1)
    before = np.concatenate(([0.25], variances[:-1]))
    bets: Losses = np.sqrt(-2 * np.log1p(-confidence) / (n * before))
    return bets


def _log_capital(shares: Losses, wager: Losses, mean: float) -> float:
    # A bet of 1 / (1 - mean) could lose everything on a share of 1.
    bets = np.minimum(wager, _BET_SHARE / max(1 - mean, 1e-12))
    return float(np.cumsum(np.log1p(bets * (mean - shares))).max())
