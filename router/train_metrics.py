"""How good a router is on rows whose outcomes are known: areas, thresholds, savings, with bootstrap intervals.

Rules:
- A `Sweep` is a router at every setting, from always-weak to always-strong, as what each setting does to each row.
  Between two neighbouring settings stands their random mix, so ties count in expectation: a constant score gives two
  settings and an area of exactly one half.
- PGR = (quality - weak) / (strong - weak). An area is under PGR over the share of calls of the last rung, or over the
  dollars between always-weak and always-strong; in dollars the running maximum counts, since nobody has to spend more.
- Intervals resample rows (percentile bootstrap, 95 %); the settings stay as they are.
- A threshold "in hindsight" is the best on these very rows: it tells what the scores could do, not what a user gets.

Source of PGR, APGR and CPT: Ong et al., "RouteLLM", arXiv 2406.18665, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 1_000
_SEED = 20_261_121
_DOLLARS = np.linspace(0.0, 1.0, 501)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Settings by rows, cheapest setting first; the first must be always-weak, the last always-strong.

    Attributes:
        quality: float64[settings, n], of what is served.
        calls: float64[settings, n], 1 where the last rung is called.
        usd: float64[settings, n], everything paid; None when costs are unknown.
    """

    quality: Floats
    calls: Floats
    usd: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The ladder's ends on the same rows: float64[n] each; dollars None when unknown."""

    weak: Floats
    strong: Floats
    weak_usd: Floats | None
    strong_usd: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What one stored setting does to each row: float64[n] each."""

    quality: Floats
    usd: Floats | None


def measure(
    sweep: Sweep, reference: Reference, fixed: Fixed | None, *, resamples: int = RESAMPLES
) -> dict[str, Estimate | None]:
    """Return every figure by its name in the JSON; None where the columns do not allow it.

    Args:
        sweep: the router.
        reference: the ladder's ends on the same rows.
        fixed: what the artefact's stored threshold does, or None.
        resamples: of the bootstrap.
    """
    n = reference.weak.size
    draws = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), resamples) / n
    weights = np.concatenate([np.full((1, n), 1 / n), draws])
    has_usd = sweep.usd is not None and reference.strong_usd is not None and float(reference.strong_usd.sum()) > 0
    curve = _Curve(weights, sweep, reference)
    figures: dict[str, Callable[[], Floats] | None] = {
        "apgr": curve.area_by_calls,
        "apgr_dollars": curve.area_by_dollars if has_usd else None,
        "cpt50": lambda: curve.calls_for(0.5),
        "cpt80": lambda: curve.calls_for(0.8),
        "savings_at_1pt_loss": (lambda: curve.savings(0.01)) if has_usd else None,
        "savings_fixed": None,
        "loss_fixed": None,
        "harm_fixed": None,
    }
    if fixed is not None:
        lost = reference.strong - fixed.quality
        figures["loss_fixed"] = lambda: weights @ lost
        figures["harm_fixed"] = lambda: weights @ np.maximum(lost, 0)
        if has_usd and fixed.usd is not None:
            paid, baseline = fixed.usd, reference.strong_usd
            figures["savings_fixed"] = lambda: 1 - (weights @ paid) / (weights @ baseline)
    return {name: None if figure is None else _estimate(figure()) for name, figure in figures.items()}


class _Curve:
    """A sweep's means under every resample: float64[resamples, settings]."""

    __slots__ = ("_base", "_calls", "_is_gap", "_pgr", "_quality", "_strong", "_strong_usd", "_usd", "_weak_usd")

    def __init__(self, weights: Floats, sweep: Sweep, reference: Reference) -> None:
        self._quality = weights @ sweep.quality.T
        self._calls = weights @ sweep.calls.T
        self._usd = None if sweep.usd is None else weights @ sweep.usd.T
        self._strong = weights @ reference.strong
        weak = weights @ reference.weak
        gap = self._strong - weak
        self._is_gap = gap > 0
        self._pgr = (self._quality - weak[:, None]) / np.where(self._is_gap, gap, np.nan)[:, None]
        self._weak_usd = None if reference.weak_usd is None else weights @ reference.weak_usd
        self._strong_usd = None if reference.strong_usd is None else weights @ reference.strong_usd

    def area_by_calls(self) -> Floats:
        return np.asarray(np.trapezoid(self._pgr, self._calls, axis=1))

    def area_by_dollars(self) -> Floats:
        assert self._usd is not None  # noqa: S101 - `measure` asks only where costs are known
        assert self._weak_usd is not None  # noqa: S101
        assert self._strong_usd is not None  # noqa: S101
        areas = np.empty(len(self._usd))
        for row, (usd, pgr) in enumerate(zip(self._usd, self._pgr, strict=True)):
            span = self._strong_usd[row] - self._weak_usd[row]
            order = np.argsort(usd, kind="stable")
            best = np.maximum.accumulate(pgr[order])
            spent = (usd[order] - self._weak_usd[row]) / (span if span > 0 else np.nan)
            areas[row] = np.trapezoid(np.interp(_DOLLARS, spent, best), _DOLLARS)
        return areas

    def calls_for(self, share: float) -> Floats:
        """Return the least share of strong calls that recovers this share of the gap (CPT)."""
        best = np.maximum.accumulate(self._pgr, axis=1)
        return np.array([_first_reach(x, y, share) for x, y in zip(self._calls, best, strict=True)])

    def savings(self, max_loss: float) -> Floats:
        """Return the most dollars saved against always-strong by a setting that loses at most `max_loss`."""
        assert self._usd is not None  # noqa: S101 - as above
        assert self._strong_usd is not None  # noqa: S101
        saved = 1 - self._usd / self._strong_usd[:, None]
        allowed = self._strong[:, None] - self._quality <= max_loss + 1e-12
        # Always-strong without any router in front saves nothing and loses nothing.
        return np.asarray(np.maximum(np.where(allowed, saved, 0.0).max(axis=1), 0.0))


def _first_reach(x: Floats, y: Floats, level: float) -> float:
    reached = np.flatnonzero(y >= level - 1e-12)
    if not reached.size:
        return float("nan")
    here = int(reached[0])
    if here == 0 or y[here] == y[here - 1]:
        return float(x[here])
    share = (level - y[here - 1]) / (y[here] - y[here - 1])
    return float(x[here - 1] + share * (x[here] - x[here - 1]))


def _estimate(values: Floats) -> Estimate | None:
    if not np.isfinite(values[0]):
        return None
    resampled = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(resampled, (0.025, 0.975)) if resampled.size else (np.nan, np.nan)
    return Estimate(value=float(values[0]), low=float(low), high=float(high))
