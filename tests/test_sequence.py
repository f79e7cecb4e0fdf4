"""What is said of a promise while verdicts arrive: it holds whenever one looks, and states change only for a reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.sequence import (
    ProxyError,
    Sample,
    Series,
    State,
    Stated,
    assess,
    proxy_error,
    smallest_detectable,
    verdicts_needed,
)

STATED = Stated(max_loss=0.05, confidence=0.9)
LOSSES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def a_series(losses: list[float] | np.ndarray, *, probability: float = 1.0, before: int = 0, can_gain: bool = False):
    return Series([Sample(loss=float(x), probability=probability, before=before) for x in losses], can_gain=can_gain)


def a_stream(draw: np.random.Generator, *, mean: float, probability: float, units: int) -> Series:
    places = np.flatnonzero(draw.random(units) < probability)
    gaps = np.diff(np.concatenate(([-1], places))) - 1
    lost = draw.random(places.size) < mean
    return Series(
        [Sample(loss=float(x), probability=probability, before=int(g)) for x, g in zip(lost, gaps, strict=True)]
    )


@pytest.mark.parametrize(("probability", "units"), [(1.0, 60), (0.2, 200)])
def test_no_more_streams_than_stated_ever_refute_their_own_mean(probability: float, units: int):
    draw = np.random.default_rng(5)
    mean, trials, needed = 0.1, 2_000, np.log(10)
    too_low = too_high = 0
    for _ in range(trials):
        series = a_stream(draw, mean=mean, probability=probability, units=units)
        if series.n:
            too_low += series.wealth_below(mean).max() >= needed  # at any time, not only at the end
            too_high += series.wealth_above(mean).max() >= needed

    assert max(too_low, too_high) / trials <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / trials)


@given(LOSSES, st.sampled_from([1.0, 0.5, 0.05]), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_its_own_mean_and_more_confidence_widens_it(
    losses: list[float], probability: float, before: int
):
    series = a_series(losses, probability=probability, before=before)

    assert series.lower(0.9) <= min(1.0, series.mean or 0.0) + 1e-4
    assert series.upper(0.9) >= min(1.0, series.mean or 0.0) - 1e-4
    assert series.lower(0.99) <= series.lower(0.9)
    assert series.upper(0.99) >= series.upper(0.9) >= series.smallest_detectable(0.9)


def test_weights_make_up_for_answers_that_were_not_sampled():
    draw = np.random.default_rng(2)
    series = a_stream(draw, mean=0.2, probability=0.1, units=20_000)

    assert series.mean == pytest.approx(0.2, abs=0.03)
    assert series.lower(0.95) < 0.2 < series.upper(0.95)
    assert series.upper(0.95) - series.lower(0.95) < 0.08


def test_few_verdicts_promise_little_and_it_is_known_how_many_are_needed():
    needed = verdicts_needed(0.01, 0.95)

    assert 300 < needed < 400
    assert smallest_detectable(needed, 0.95) <= 0.01 < smallest_detectable(needed - 1, 0.95)
    assert smallest_detectable(0, 0.95) == 1.0


def test_gains_weigh_against_losses_only_where_a_judge_may_see_them():
    balanced = a_series([0.5, -0.5] * 200, can_gain=True)

    assert balanced.lower(0.9) < 0 < balanced.upper(0.9) < 0.1
    with pytest.raises(ValueError, match="must lie in"):
        a_series([-0.5])


@pytest.mark.parametrize(
    "sample", [Sample(loss=2, probability=1), Sample(loss=0, probability=0), Sample(loss=0, probability=1, before=-1)]
)
def test_what_cannot_be_a_verdict_is_refused(sample: Sample):
    with pytest.raises(ValueError, match=r"must lie in|cannot be negative"):
        Series([sample])


def test_a_promise_is_prior_without_verdicts_and_certified_by_enough_good_ones():
    nothing = assess(State.PRIOR, a_series([]), STATED)
    good = assess(State.PRIOR, a_series([0.0] * 200), STATED)

    assert (nothing.state, nothing.n, nothing.bound, nothing.smallest) == (State.PRIOR, 0, 1.0, 1.0)
    assert good.state is State.CERTIFIED
    assert good.smallest <= good.bound < 0.05


def test_a_promise_is_breached_by_enough_bad_verdicts_and_stays_so():
    bad = a_series([1.0, 0.0] * 20)
    breached = assess(State.CERTIFIED, bad, STATED)

    assert breached.state is State.BREACHED
    assert breached.low > STATED.max_loss
    assert assess(State.BREACHED, a_series([0.0] * 500), STATED).state is State.BREACHED


def test_one_lost_audit_of_a_rare_sample_breaches_nothing():
    assert assess(State.PRIOR, a_series([1.0], probability=0.01, before=3), STATED).state is State.PRIOR


def test_a_certificate_is_lost_when_later_verdicts_do_not_bear_it_out():
    mixed = a_series([0.0] * 200 + [1.0] * 8)

    assert assess(State.CERTIFIED, mixed, STATED).state is State.PRIOR


def test_the_verdicts_own_error_enters_the_bound():
    series, error = a_series([0.0] * 400), ProxyError(n=50, low=-0.02, high=0.045)

    alone, labelled = assess(State.PRIOR, series, STATED), assess(State.PRIOR, series, STATED, error)

    assert alone.bound + 0.045 < labelled.bound
    assert (alone.state, labelled.state) == (State.CERTIFIED, State.PRIOR)
    assert labelled.proxy is error


def test_labels_that_agree_with_the_verdicts_bound_their_error_around_nothing():
    verdicts = np.array([0.0, 1.0] * 200)

    error = proxy_error(verdicts, verdicts, 0.9)

    assert error.low < 0 < error.high < 0.05
    assert error.n == 400
