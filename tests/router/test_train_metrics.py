"""The figures by which routers are compared, on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.train_metrics import Fixed, Floats, Reference, Sweep, measure

DRAW = np.random.default_rng(2)
WEAK = (DRAW.random(400) < 0.6).astype(float)
STRONG = (DRAW.random(400) < 0.85).astype(float)
ENDS = Reference(weak=WEAK, strong=STRONG, weak_usd=np.full(400, 0.1), strong_usd=np.full(400, 1.0))


def sweep_of_scores(scores: Floats, reference: Reference, *, is_cascade: bool = False) -> Sweep:
    """Return the sweep of a two-rung router that calls the strong model where the score is highest.

    Args:
        reference: the ladder's ends.
        scores: float64[n]; equal scores change sides together.
        is_cascade: the weak model has been called (and is paid) in any case.
    """
    levels = np.unique(scores)[::-1]
    if levels.size > 512:
        levels = np.unique(np.quantile(scores, np.linspace(0, 1, 512), method="lower"))[::-1]
    calls = np.concatenate([np.zeros((1, scores.size)), (scores >= levels[:, None]).astype(np.float64)])
    calls = np.concatenate([calls, np.ones((1, scores.size))]) if calls[-1].min() < 1 else calls
    quality = np.where(calls > 0, reference.strong, reference.weak)
    usd = None
    if reference.weak_usd is not None and reference.strong_usd is not None:
        kept = reference.weak_usd
        usd = np.where(calls > 0, reference.strong_usd + (kept if is_cascade else 0.0), kept)
    return Sweep(quality=quality, calls=calls, usd=usd)


def value(name: str, scores: np.ndarray, *, is_cascade: bool = False) -> float:
    found = measure(sweep_of_scores(scores, ENDS, is_cascade=is_cascade), ENDS, None)[name]
    assert found is not None
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    return found.value


@pytest.mark.parametrize("name", ["apgr", "apgr_dollars", "cpt50"])
def test_a_constant_score_is_worth_exactly_a_half(name: str):
    assert value(name, np.zeros(400)) == pytest.approx(0.5, abs=1e-9)


def test_knowing_who_is_right_beats_a_half_and_the_reverse_falls_below():
    benefit = STRONG - WEAK

    assert value("apgr", benefit) > 0.9
    assert value("apgr", -benefit) < 0.5


@given(st.lists(st.integers(0, 3), min_size=400, max_size=400))
@settings(max_examples=20)
def test_equal_scores_count_as_the_mean_over_all_their_orders(scores: list[int]):
    tied = np.array(scores)
    order = np.argsort(-tied, kind="stable")
    means = np.array([(STRONG - WEAK)[tied == score].mean() for score in tied[order]])
    expected = np.trapezoid(np.cumsum([0, *means]) / (STRONG - WEAK).sum(), np.linspace(0, 1, 401))

    found = measure(sweep_of_scores(tied.astype(float), ENDS), ENDS, None, resamples=2)["apgr"]

    assert found is not None
    assert found.value == pytest.approx(expected, abs=1e-9)


def test_a_cascade_pays_its_small_answers_and_so_saves_less():
    benefit = STRONG - WEAK

    assert value("savings_at_1pt_loss", benefit, is_cascade=True) < value("savings_at_1pt_loss", benefit)


def test_a_stored_setting_has_its_loss_its_harm_and_its_savings():
    served = np.where(np.arange(400) < 100, WEAK, STRONG)
    usd = np.where(np.arange(400) < 100, 0.1, 1.0)

    figures = measure(sweep_of_scores(STRONG - WEAK, ENDS), ENDS, Fixed(quality=served, usd=usd))

    loss, harm, saved = (figures[name] for name in ("loss_fixed", "harm_fixed", "savings_fixed"))
    assert loss is not None
    assert harm is not None
    assert saved is not None
    assert loss.value == pytest.approx((STRONG - served).mean())
    assert harm.value == pytest.approx(np.maximum(STRONG - served, 0).mean())
    assert harm.value >= loss.value
    assert saved.value == pytest.approx(0.225)


def test_what_the_columns_do_not_allow_is_null():
    blind = Reference(weak=WEAK, strong=STRONG, weak_usd=None, strong_usd=None)

    figures = measure(sweep_of_scores(STRONG - WEAK, blind), blind, None)

    assert {name for name, figure in figures.items() if figure is not None} == {"apgr", "cpt50", "cpt80"}


def test_without_a_gap_there_is_no_area():
    same = Reference(weak=WEAK, strong=WEAK, weak_usd=None, strong_usd=None)

    assert measure(sweep_of_scores(WEAK, same), same, None)["apgr"] is None
