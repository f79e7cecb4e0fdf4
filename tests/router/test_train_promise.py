"""A promise breaks no oftener than it says, on populations whose true loss is known (the full count: train_promise)."""

from __future__ import annotations

import numpy as np
import pytest

from policies.promise import T_ROWS, loss_bound, student_quantile, t_bound, upper_bound
from router.train_promise import POPULATIONS, Population, try_made_up, try_real

ALLOWED = 0.1 + 2 * (0.1 * 0.9 / 300) ** 0.5
"""One in ten, and two standard errors of 300 draws."""


@pytest.mark.parametrize("population", POPULATIONS, ids=lambda population: population.name)
def test_a_promise_on_a_made_up_population_is_kept(population: Population):
    found = try_made_up(population, n=T_ROWS, draws=300, max_loss=0.01, confidence=0.9)

    assert found.share <= ALLOWED


def test_below_two_thousand_rows_the_betting_bound_keeps_it_too():
    found = try_made_up(POPULATIONS[0], n=400, draws=60, max_loss=0.02, confidence=0.9)

    assert found.share <= 0.1 + 2 * (0.1 * 0.9 / 60) ** 0.5
    assert found.worth > 0


def test_a_real_set_taken_as_the_world_is_judged_on_all_its_rows():
    random = np.random.default_rng(1)
    place = random.random(3000)
    losses = (place < np.linspace(0, 0.03, 25)[:, None]).astype(float)

    found = try_real(losses, np.linspace(0, 1, 25), n=3000, draws=300, max_loss=0.01, confidence=0.9)

    assert found.share <= ALLOWED
    assert found.worth > 0.15  # of the .33 that knowing the truth would give


def test_the_bound_is_the_one_for_the_number_of_rows():
    few, many = np.zeros(T_ROWS - 1), np.zeros(T_ROWS)

    assert loss_bound(few, 0.9) == upper_bound(few, 0.9)
    assert loss_bound(many, 0.9) == t_bound(many, 0.9) > 0


def test_a_few_losses_bound_nothing_by_students_t():
    assert t_bound(np.zeros(1), 0.9) == 1.0


@pytest.mark.parametrize(("degrees", "quantile"), [(30, 1.31042), (100, 1.29007), (1999, 1.28205)])
def test_students_quantile_is_the_tables(degrees: int, quantile: float):
    assert student_quantile(0.9, degrees) == pytest.approx(quantile, abs=2e-4)
