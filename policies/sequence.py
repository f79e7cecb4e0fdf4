"""Promises while they are served: what may be said after every verdict, for ever, and the state that follows from it.

A verdict says what one served answer lost against its baseline's, in [-1, 1], and was sampled with a known probability;
all other units (answers that were not sampled, or that cannot have lost anything) count as 0, which weighting by the
inverse probability makes right in the mean. A gambler bets against "the mean is at least m" (and another against "at
most m") with constant stakes, a mixture of several; wealth above 1 / (1 - confidence) refutes it, whenever one looks.

- The interval is valid at every n at once while the expected loss stays what it is. About one fixed m, such as the loss
  that is promised, the claim also holds of the average of expected losses that drift (constant stakes: the product of
  1 + stake * (m - expectation) is at most 1 while the average expectation is at least m).
- A verdict is a proxy of quality. Its own error, measured on labelled verdicts, is added to the interval, at half of
  what confidence leaves; without labels nothing is known of it, and reports say so.
- A breach is not healed by luck: it ends when the route is calibrated anew, which begins a new series.

numpy only. Sources:
- Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), sections 4 and 5;
- Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro, "Anytime-valid off-policy inference for contextual bandits",
  ACM/IMS JDS (2024), section 2: the weighted capital process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.promise import upper_bound

Floats: TypeAlias = NDArray[np.float64]

_STAKES: Floats = np.array([0.99 * 0.5**halvings for halvings in range(8)])
"""Constant stakes of the mixture against "at least m", as shares of the largest that cannot lose everything."""
_WEIGHTS: Floats = 1.0 / np.arange(1, _STAKES.size + 1) ** 2
"""Most of the wealth is on the largest stake, which is the best as long as nothing is lost, as in a good cascade."""
_HIGH_STAKES: Floats = np.array([8.0 * 0.5**halvings for halvings in range(11)])
"""Stakes against "at most m", in multiples of the least probability; capped likewise."""
_CAP = 0.99
_PRECISION = 1e-5
_FEW = 8
"""Verdicts below which no breach is called: one unlucky audit of a rare sample must not move a route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One verdict.

    Attributes:
        loss: what the served answer lost, in [-1, 1]; of a cache's hit 1 when it was wrong, else 0.
        probability: with which it was sampled, in (0, 1].
        before: units since the sample before that count as 0: answered and not sampled, or unable to lose.
    """

    loss: float
    probability: float
    before: int = 0


class Series:
    """All verdicts on one promise since it was last calibrated, in the order in which they came.

    Args:
        samples: the verdicts.
        can_gain: whether a loss can be negative (a judge may find the served answer better).

    Raises:
        ValueError: a loss outside [-1, 1], a probability outside (0, 1], a negative count.
    """

    def __init__(self, samples: Iterable[Sample], *, can_gain: bool = False) -> None:
        rows = np.array([(s.loss, s.probability, s.before) for s in samples], dtype=np.float64).reshape(-1, 3)
        losses, probabilities, self._before = rows.T
        lowest = -1.0 if can_gain else 0.0
        if rows.size and not (losses.min() >= lowest and losses.max() <= 1):
            raise ValueError(f"losses span {losses.min()} to {losses.max()}; every one must lie in [{lowest:g}, 1]")
        if rows.size and not (probabilities.min() > 0 and probabilities.max() <= 1 and self._before.min() >= 0):
            raise ValueError("a probability must lie in (0, 1], and a count of units cannot be negative")
        self.n = len(rows)
        self.units = int(self._before.sum()) + self.n
        self._values: Floats = losses / probabilities
        # The stakes' limits rest on the largest weight; it is the policy's, which no verdict changes.
        self._most = 1 / float(probabilities.min()) if self.n else 1.0
        self._least = lowest * self._most

    @property
    def mean(self) -> float | None:
        """The weighted mean of the losses, an estimate and no promise; None without a verdict."""
        return float(self._values.sum() / self.units) if self.n else None

    def upper(self, confidence: float) -> float:
        """Return what the expected loss is below, at every n at once, with probability `confidence`; at most 1."""
        return self._above(self._values, confidence)

    def lower(self, confidence: float) -> float:
        """Return what the expected loss is above, likewise; no lower than the lowest possible loss."""
        needed = -np.log1p(-confidence)
        lowest = -1.0 if self._least < 0 else 0.0
        low, high = lowest, 1.0
        if not self.n or _last(self.wealth_above(low + _PRECISION)) < needed:
            return lowest
        while high - low > _PRECISION:
            middle = (low + high) / 2
            if _last(self.wealth_above(middle)) >= needed:
                low = middle
            else:
                high = middle
        return low

    def smallest_detectable(self, confidence: float) -> float:
        """Return the upper bound that these verdicts would give had every loss been 0: they cannot promise less."""
        return self._above(np.zeros_like(self._values), confidence)

    def wealth_below(self, mean: float, values: Floats | None = None) -> Floats:
        """Return float64[n], the logarithm of the wealth of who bet against "the mean is at least `mean`".

        Args:
            mean: what is bet against.
            values: in place of the verdicts' own weighted losses.
        """
        stakes = _STAKES / max(self._most - mean, 1e-12)
        return _mixed(stakes, _WEIGHTS, self._values if values is None else values, self._before, mean)

    def wealth_above(self, mean: float) -> Floats:
        """Return float64[n], the logarithm of the wealth of who bet against "the mean is at most `mean`"."""
        most = _CAP / max(mean - self._least, 1e-12)
        stakes = np.minimum(_HIGH_STAKES / self._most, most)
        return _mixed(-stakes, np.ones(stakes.size), self._values, self._before, mean)

    def _above(self, values: Floats, confidence: float) -> float:
        needed = -np.log1p(-confidence)
        low, high = (-1.0 if self._least < 0 else 0.0), 1.0
        if not self.n or _last(self.wealth_below(high - _PRECISION, values)) < needed:
            return high
        while high - low > _PRECISION:
            middle = (low + high) / 2
            if _last(self.wealth_below(middle, values)) >= needed:
                high = middle
            else:
                low = middle
        return high


def smallest_detectable(n: int, confidence: float) -> float:
    """Return the bound that n verdicts would give if every unit were audited and none had lost anything.

    Unlike `policies.promise.smallest_detectable` it pays for looking after every verdict.
    """
    return Series([Sample(loss=0.0, probability=1.0)] * n).smallest_detectable(confidence)


def verdicts_needed(max_loss: float, confidence: float) -> int:
    """Return how many verdicts without any loss would certify a promise: fewer never can."""
    low, high = 0, 1
    while smallest_detectable(high, confidence) > max_loss:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if smallest_detectable(middle, confidence) <= max_loss else (middle, high)
    return high


def _last(path: Floats) -> float:
    return float(path[-1])


def _mixed(stakes: Floats, weights: Floats, values: Floats, before: Floats, mean: float) -> Floats:
    """Return float64[n], the mixture's log-wealth after each value; a negative stake bets on a larger mean."""
    idle = np.log1p(stakes * mean)[:, None] * before
    wealth = np.cumsum(np.log1p(np.maximum(stakes[:, None] * (mean - values), -1 + 1e-15)) + idle, axis=1)
    shares = wealth + np.log(weights / weights.sum())[:, None]
    top = shares.max(axis=0) if shares.size else np.zeros(values.size)
    mixed: Floats = top + np.log(np.exp(shares - top).sum(axis=0))
    return mixed


class State(StrEnum):
    """What is known of a promise."""

    PRIOR = "prior"
    """It rests on the shipped calibration, on other people's traffic."""
    CERTIFIED = "certified"
    """This traffic's verdicts bound the loss below what is promised."""
    BREACHED = "breached"
    """They bound it above; nothing but the baseline is served until the promise is calibrated anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What is promised: an expected loss (or a share of wrong hits), and at which confidence."""

    max_loss: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyError:
    """By how much verdicts understate the loss, in the mean per verdict, from below and above; n labelled ones."""

    n: int
    low: float
    high: float


def proxy_error(verdicts: Floats, truths: Floats, confidence: float) -> ProxyError:
    """Return what labelled verdicts tell of the verdicts' own error, each end at the middle of what confidence leaves.

    Args:
        verdicts: float64[n], losses as the audits saw them, in [-1, 1].
        truths: float64[n], the same answers' losses as people see them, in [-1, 1].
        confidence: of the whole promise; half of what it leaves is spent here.
    """
    errors = (truths - verdicts) / 2
    half = _half(confidence)
    return ProxyError(n=errors.size, low=-2 * upper_bound(-errors, half), high=2 * upper_bound(errors, half))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a promise stands.

    Attributes:
        n: verdicts it rests on.
        units: answers they speak for.
        mean: the weighted mean loss; None without a verdict.
        low: what the expected loss is above, at the promise's confidence.
        bound: what it is below.
        smallest: the smallest bound that so many verdicts can give.
        proxy: the verdicts' own error, which low and bound contain; None: it was not measured.
    """

    state: State
    n: int
    units: int
    mean: float | None
    low: float
    bound: float
    smallest: float
    proxy: ProxyError | None = None


def assess(former: State, series: Series, stated: Stated, proxy: ProxyError | None = None) -> Standing:
    """Return how a promise stands after these verdicts.

    Args:
        former: its state before; `breached` stays until a new calibration begins a new series.
        series: the verdicts since the last calibration.
        stated: what is promised.
        proxy: the verdicts' own error.
    """
    confidence = stated.confidence if proxy is None else _half(stated.confidence)
    low, bound = series.lower(confidence), series.upper(confidence)
    if proxy is not None and series.n:
        # Units that could not lose anything are judged without error, so that this is never too little.
        low += min(0.0, proxy.low)
        bound += max(0.0, proxy.high)
    if former is State.BREACHED or (low > stated.max_loss and series.n >= _FEW):
        state = State.BREACHED
    else:
        state = State.CERTIFIED if series.n and bound <= stated.max_loss else State.PRIOR
    return Standing(
        state=state,
        n=series.n,
        units=series.units,
        mean=series.mean,
        low=max(-1.0, low),
        bound=min(1.0, bound),
        smallest=series.smallest_detectable(confidence),
        proxy=proxy,
    )


def _half(confidence: float) -> float:
    return 1 - (1 - confidence) / 2
