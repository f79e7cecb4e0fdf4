"""What retries may cost, how long they wait, and what Retry-After says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.retries import WINDOW_S, RetryBudget, RetryRules, backoff_s, retry_after_s
from tests.backends.fakes import NOON


@settings(max_examples=50)
@given(
    st.floats(0, 1),
    st.integers(0, 3),
    st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=200),
)
def test_retries_never_exceed_their_share_of_any_window(share: float, minimum: int, events: list[tuple[bool, float]]):
    budget = RetryBudget(RetryRules(budget_share=share, min_per_s=minimum))
    now, requests, retries = 0.0, [], []
    for is_request, pause_s in events:
        now += pause_s
        if is_request:
            budget.note_request(now)
            requests.append(now)
        elif budget.take(now):
            retries.append(now)
            recent = [sum(int(t) > int(now) - WINDOW_S for t in times) for times in (requests, retries)]
            assert recent[1] <= share * recent[0] + minimum * WINDOW_S + 1e-5


@pytest.mark.parametrize(("share", "minimum", "expected"), [(0.2, 0, 20), (0.2, 1, 30), (0, 0, 0), (0, 0.5, 5)])
def test_a_budget_is_the_share_and_the_minimum(share: float, minimum: float, expected: int):
    budget = RetryBudget(RetryRules(budget_share=share, min_per_s=minimum))
    for _ in range(100):
        budget.note_request(3.0)
    assert sum(budget.take(3.5) for _ in range(100)) == expected


def test_a_spent_budget_comes_back_with_time():
    budget = RetryBudget(RetryRules(budget_share=0, min_per_s=0.1))
    assert (budget.take(0.0), budget.take(9.0), budget.take(10.0)) == (True, False, True)


@given(st.integers(1, 100), st.floats(0, 0.999))
def test_a_wait_is_between_nothing_and_twice_the_last(retry: int, chance: float):
    assert 0 <= backoff_s(retry, chance) <= backoff_s(retry + 1, chance) <= 2 * backoff_s(retry, chance)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("9" * 400, 86_400.0),
        ("Mon, 02 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 02 Nov 2026 12:00:30 -0000", 30.0),
        ("Mon, 02 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None):
    assert retry_after_s(value, NOON) == seconds


@settings(max_examples=50)
@given(st.text(max_size=40))
def test_no_header_is_a_crash(value: str):
    wait_s = retry_after_s(value, NOON + timedelta(days=1))
    assert wait_s is None or 0 <= wait_s <= 86_400
