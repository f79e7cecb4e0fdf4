"""The circuit breaker's laws, whatever happens in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from backends.blame import Blame, blame_of, is_paid
from backends.breaker import (
    COUNTED,
    DRAINING_REST_S,
    LONGEST_REST_S,
    PROBE_S,
    SUSPICIONS,
    Abandoned,
    Answered,
    Asked,
    Closed,
    Failed,
    HalfOpen,
    Open,
    Standing,
    State,
    advance,
    rest_s,
    standing,
)
from backends.errors import (
    AskRejected,
    BackendError,
    CredentialsRejected,
    EndpointFailed,
    EndpointTimeout,
    EndpointUnreachable,
    ReplyMalformed,
    StreamCut,
)

FAULT = Blame.ENDPOINT


def failed(asked_at: float, blame: Blame = FAULT, *, digest: int = 0, jitter: float = 0.5) -> Failed:
    return Failed(asked_at=asked_at, blame=blame, digest=digest, jitter=jitter)


def opened(now: float = 0.0) -> Open:
    state = advance(Closed(), failed(now), now=now)
    assert isinstance(state, Open)
    return state


class Life(RuleBasedStateMachine):
    """An endpoint's requests, which overlap, end late and fail in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state: State = Closed()
        self.asked: list[float] = []
        self.suspects: set[int] = set()
        self.probes: list[float] = []

    @rule(seconds=st.floats(0.001, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        was = standing(self.state, now=self.now)
        self.state = advance(self.state, Asked(), now=self.now)
        if was is Standing.DUE:
            assert standing(self.state, now=self.now) is Standing.PROBING
            self.probes.append(self.now)
        self.asked.append(self.now)

    @precondition(lambda self: self.asked)
    @rule(chance=st.data())
    def answer(self, chance: st.DataObject) -> None:
        before, asked_at = self.state, self.ended(chance)
        self.state = advance(before, Answered(asked_at=asked_at), now=self.now)
        self.suspects.clear()
        if isinstance(before, Open) and asked_at < before.since:
            assert self.state == before
        elif not isinstance(before, HalfOpen) or asked_at >= before.opened_at:
            assert isinstance(self.state, Closed)

    @precondition(lambda self: self.asked)
    @rule(chance=st.data(), blame=st.sampled_from(list(Blame)), digest=st.integers(0, 4), jitter=st.floats(0, 0.999))
    def fail(self, chance: st.DataObject, blame: Blame, digest: int, jitter: float) -> None:
        before, asked_at = self.state, self.ended(chance)
        self.state = advance(before, failed(asked_at, blame, digest=digest, jitter=jitter), now=self.now)
        if blame not in COUNTED:
            assert self.state == before
        if isinstance(before, Closed) and asked_at >= before.since:
            self.suspects |= {digest} if blame is Blame.SUSPECT else set()
            is_over = blame in {FAULT, Blame.DRAINING} or len(self.suspects) == SUSPICIONS
            assert isinstance(self.state, Open) is is_over
        if isinstance(self.state, Open) and not isinstance(before, Open):
            assert self.state.times == (before.times + 1 if isinstance(before, HalfOpen) else 1)
            self.suspects.clear()

    @precondition(lambda self: self.asked)
    @rule(chance=st.data())
    def abandon(self, chance: st.DataObject) -> None:
        before = self.state
        self.state = advance(before, Abandoned(asked_at=self.ended(chance)), now=self.now)
        assert type(self.state) is type(before) or standing(self.state, now=self.now) is Standing.DUE

    def ended(self, chance: st.DataObject) -> float:
        return self.asked.pop(chance.draw(st.integers(0, len(self.asked) - 1)))

    @invariant()
    def every_rest_ends(self) -> None:
        if not isinstance(self.state, Closed):
            longest_s = max(PROBE_S, LONGEST_REST_S * 1.25)
            assert standing(self.state, now=self.now + longest_s) is Standing.DUE

    @invariant()
    def a_probe_is_alone(self) -> None:
        if isinstance(self.state, HalfOpen) and self.now < self.state.until:
            assert standing(self.state, now=self.now) is Standing.PROBING
            assert self.state.until - self.probes[-1] == pytest.approx(PROBE_S)


def test_the_breakers_laws_hold_in_every_life():
    run_state_machine_as_test(Life, settings=settings(max_examples=50, stateful_step_count=30, deadline=None))


@given(st.integers(1, 40), st.floats(0, 0.999))
def test_rests_grow_and_are_spread_but_bounded(times: int, jitter: float):
    rests = [rest_s(n, FAULT, jitter) for n in (times, times + 1)]
    assert 0.75 <= rests[0] <= rests[1] <= LONGEST_REST_S * 1.25
    assert rest_s(times, FAULT, 0.0) < rest_s(times, FAULT, 0.5)
    assert rest_s(times, Blame.DRAINING, jitter) >= max(rests[0], DRAINING_REST_S * 0.75)


def test_poison_of_one_kind_never_opens_it():
    state: State = Closed()
    for n in range(100):
        state = advance(state, failed(n, Blame.SUSPECT, digest=7), now=n)
    assert isinstance(state, Closed)


def test_different_requests_failing_in_a_row_open_it():
    state: State = Closed()
    for n in range(SUSPICIONS):
        state = advance(state, failed(n, Blame.SUSPECT, digest=n), now=n)
    assert isinstance(state, Open)


def test_requests_in_flight_when_it_opened_are_one_fault():
    state: State = opened(10.0)
    for _ in range(40):
        state = advance(state, failed(9.0), now=11.0)
    assert state == opened(10.0)


def test_an_answer_from_before_it_drained_closes_nothing():
    state = advance(Closed(), failed(5.0, Blame.DRAINING), now=5.0)
    assert advance(state, Answered(asked_at=4.0), now=6.0) == state


def test_a_failure_from_before_it_recovered_opens_nothing():
    closed = advance(opened(0.0), Answered(asked_at=3.0), now=4.0)
    assert advance(closed, failed(2.0), now=60.0) == closed


@pytest.mark.parametrize(
    ("error", "blame", "paid"),
    [
        (EndpointUnreachable("gone"), Blame.ENDPOINT, False),
        (EndpointTimeout("connect", 5), Blame.ENDPOINT, False),
        (EndpointTimeout("first_byte", 5), Blame.ENDPOINT, True),
        (StreamCut("cut"), Blame.ENDPOINT, True),
        (EndpointFailed(503), Blame.ENDPOINT, False),
        (EndpointFailed(500), Blame.SUSPECT, False),
        (EndpointFailed(500, is_draining=True), Blame.DRAINING, False),
        (EndpointFailed(429), Blame.LIMITED, False),
        (CredentialsRejected("no"), Blame.SUSPECT, False),
        (ReplyMalformed("html"), Blame.SUSPECT, True),
        (AskRejected(404, "no", kind="x", param=None, code=None), Blame.MISSING, False),
        (AskRejected(400, "no", kind="x", param=None, code=None), Blame.CONTENT, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_error_has_its_blame(error: BackendError, blame: Blame, paid: bool):
    assert (blame_of(error), is_paid(error)) == (blame, paid)
