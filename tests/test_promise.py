"""The statistics of promises: they hold as often as they say, and choosing a threshold costs nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.promise import (
    Losses,
    fixed_sequence,
    shared_confidence,
    smallest_detectable,
    upper_bound,
)

# Mostly 0, sometimes a loss, sometimes a gain: what a cascade's losses look like.
VALUES, CHANCES = np.array([-1.0, 0.0, 1.0]), np.array([0.03, 0.92, 0.05])
TRUE_MEAN = float(VALUES @ CHANCES)
LOSSES = arrays(np.float64, st.integers(2, 60), elements=st.floats(-1, 1))


def bernstein_bound(losses: Losses, confidence: float) -> float:
    """Return what another bound says, for comparison.

    Source: Maurer, Pontil, "Empirical Bernstein Bounds and Sample Variance Penalization", COLT 2009, theorem 4.
    """
    shares, n = (losses + 1) / 2, losses.size
    level = np.log(2 / (1 - confidence))
    bound = shares.mean() + np.sqrt(2 * shares.var(ddof=1) * level / n) + 7 * level / (3 * (n - 1))
    return float(min(1.0, 2 * bound - 1))


@pytest.mark.parametrize("bound", [upper_bound, bernstein_bound])
def test_a_bound_covers_the_true_mean_as_often_as_it_says(bound: Callable[[Losses, float], float]):
    draw = np.random.default_rng(7)
    samples = draw.choice(VALUES, p=CHANCES, size=(300, 400))

    covered = np.mean([bound(sample, 0.9) >= TRUE_MEAN for sample in samples])

    assert covered >= 0.88  # 0.9 less two standard errors of 300 trials


def test_the_betting_bound_is_sharper_than_bernsteins_and_near_the_normal_one():
    sample = np.random.default_rng(3).choice(VALUES, p=CHANCES, size=1500)

    betting = upper_bound(sample, 0.9)

    normal = sample.mean() + 1.2816 * sample.std() / np.sqrt(sample.size)
    assert betting < bernstein_bound(sample, 0.9)
    assert abs(betting - normal) < 0.005


@given(LOSSES, st.floats(0.55, 0.99))
@settings(max_examples=60)
def test_a_plug_in_mean_is_never_above_the_bound(losses: Losses, confidence: float):
    assert losses.mean() - 1e-9 <= upper_bound(losses, confidence) <= 1


@given(LOSSES)
@settings(max_examples=40)
def test_more_confidence_never_gives_a_lower_bound(losses: Losses):
    bounds = [upper_bound(losses, confidence) for confidence in (0.8, 0.9, 0.95, 0.99)]

    assert bounds == sorted(bounds)


def test_few_rows_promise_little():
    assert smallest_detectable(20, 0.9) > 0.1
    assert smallest_detectable(1500, 0.9) < 0.01


def test_no_rows_promise_nothing():
    assert upper_bound(np.array([]), 0.9) == 1.0


@pytest.mark.parametrize(("losses", "confidence"), [([1.5], 0.9), ([0.0], 1.0), ([float("nan")], 0.9)])
def test_losses_and_confidences_outside_their_range_are_refused(losses: list[float], confidence: float):
    with pytest.raises(ValueError, match=r"must lie in|outside"):
        upper_bound(np.array(losses), confidence)


def test_the_sequence_stops_at_the_first_setting_that_fails():
    bounds = [(0.9, 0.005), (0.8, 0.02), (0.7, 0.04), (0.6, 0.01)]

    assert fixed_sequence(bounds, 0.03) == 0.8
    assert fixed_sequence(bounds, 0.001) is None


def test_a_chosen_threshold_breaks_its_promise_no_more_often_than_stated():
    draw = np.random.default_rng(11)
    grid = np.linspace(0.95, 0.5, 10)
    true_losses = {threshold: 0.12 * (0.95 - threshold) for threshold in grid}
    broken = 0
    for _ in range(200):
        uniform = draw.random(600)
        bounds = [(t, upper_bound((uniform < true_losses[t]).astype(float), 0.9)) for t in grid]
        chosen = fixed_sequence(bounds, 0.03)
        broken += chosen is not None and true_losses[chosen] > 0.03

    assert broken / 200 <= 0.14  # 0.1 plus two standard errors


@pytest.mark.parametrize(("confidence", "shares", "each"), [(0.9, 2, 0.95), (0.95, 2, 0.975), (0.9, 1, 0.9)])
def test_bounds_that_must_hold_together_share_the_risk(confidence: float, shares: int, each: float):
    assert shared_confidence(confidence, shares) == each
