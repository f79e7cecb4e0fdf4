"""A circuit breaker as a pure state machine: `advance(state, event, now=...)` returns the next state.

    Closed ──(endpoint fault, or three suspicions from different requests)──▶ Open
    Open ──(its rest is over, and a request is sent as a probe)──▶ HalfOpen
    HalfOpen ──(answered)──▶ Closed        HalfOpen ──(failed)──▶ Open, resting twice as long

- It counts endpoint faults only (`backends.blame`): a request that fails by its own content is an answer.
- A suspicion (a 500 that may be the prompt's) weighs little: three different requests in a row, no answer between.
- What was asked before the state began says nothing about it: the failures of forty requests that were in flight when
  a server died are one fault, and an answer that was asked for before it began to drain closes nothing.
- A breaker advises and never forbids: who finds all endpoints open asks the least bad one, whose answer closes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from backends.blame import Blame

SUSPICIONS = 3
"""Different requests that fail in a row before a 500 is held against the endpoint. vLLM's engine, once dead, answers
500 to all of them; three poison prompts in a row without one good answer between are rare where there is traffic."""

FIRST_REST_S = 1.0
"""Longer than a broken connection takes to be made again; the doubling covers a model server's restart."""
DRAINING_REST_S = 10.0
"""A server that drains comes back as another process, which has to load its model first."""
LONGEST_REST_S = 60.0
PROBE_S = 10.0
"""A probe that has not been answered for so long lets another one go: long answers and lost ones block nothing."""

_FIRST = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """In good standing since `since`; `strikes` are digests of requests that failed and may be the cause themselves."""

    since: float = _FIRST
    strikes: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Resting from `since` until `until`, for the `times`-th time in a row; it last failed at `failed_at`.

    `faults` counts what was held against it since it was last in good standing.
    """

    since: float
    until: float
    times: int
    failed_at: float
    faults: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfOpen:
    """A probe was sent at `since`; from `until` on another one may be. `opened_at`: when the rest before it began."""

    since: float
    until: float
    opened_at: float
    times: int
    failed_at: float
    faults: int


State: TypeAlias = Closed | Open | HalfOpen


@dataclass(frozen=True, slots=True)
class Asked:
    """A request is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A request sent at `asked_at` got an answer, if only that it is wrong itself."""

    asked_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A request sent at `asked_at` failed.

    Attributes:
        digest: tells requests apart; the same body has the same digest.
        jitter: a random number in [0, 1), so that gateways do not probe in step.
    """

    asked_at: float
    blame: Blame
    digest: int
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """A request sent at `asked_at` ended without telling anything: its client left, or it failed everywhere alike."""

    asked_at: float


Event: TypeAlias = Asked | Answered | Failed | Abandoned

COUNTED = frozenset({Blame.ENDPOINT, Blame.DRAINING, Blame.SUSPECT})
"""What may open a breaker."""


class Standing(StrEnum):
    """What a state means for the next request."""

    READY = "closed"
    DUE = "due"
    """The rest is over: one request may be sent to see whether the endpoint is back."""
    PROBING = "half_open"
    RESTING = "open"


def standing(state: State, *, now: float) -> Standing:
    """Return what a state means for a request at `now`."""
    match state:
        case Closed():
            return Standing.READY
        case Open():
            return Standing.DUE if now >= state.until else Standing.RESTING
        case HalfOpen():
            return Standing.DUE if now >= state.until else Standing.PROBING
        case _:
            assert_never(state)


def is_confirmed(state: State) -> bool:
    """Tell whether more than one fault keeps it open: reason enough to turn to another model, which one is not."""
    return not isinstance(state, Closed) and state.faults > 1


def rest_s(times: int, blame: Blame, jitter: float) -> float:
    """Return how long the `times`-th rest in a row lasts, in seconds: doubling, and a quarter more or less."""
    first_s = DRAINING_REST_S if blame is Blame.DRAINING else FIRST_REST_S
    doubled_s = first_s * 2.0 ** min(times - 1, 16)
    return float(min(LONGEST_REST_S, doubled_s) * (0.75 + 0.5 * jitter))


def advance(state: State, event: Event, *, now: float) -> State:
    """Return the state after an event."""
    match state:
        case Closed():
            return _from_closed(state, event, now)
        case Open():
            return _from_open(state, event, now)
        case HalfOpen():
            return _from_half_open(state, event, now)
        case _:
            assert_never(state)


def _from_closed(state: Closed, event: Event, now: float) -> State:
    if isinstance(event, Answered):
        return replace(state, strikes=frozenset()) if state.strikes else state
    if not isinstance(event, Failed) or event.blame not in COUNTED or event.asked_at < state.since:
        return state
    if event.blame is Blame.SUSPECT:
        strikes = state.strikes | {event.digest}
        if len(strikes) < SUSPICIONS:
            return replace(state, strikes=strikes)
    return _opened(event, now, times=1, faults=1)


def _from_open(state: Open, event: Event, now: float) -> State:
    match event:
        case Asked() if now >= state.until:
            return HalfOpen(
                since=now,
                until=now + PROBE_S,
                opened_at=state.since,
                times=state.times,
                failed_at=state.failed_at,
                faults=state.faults,
            )
        case Answered() if event.asked_at >= state.since:
            return Closed(since=now)
        case Failed() if event.blame in COUNTED and event.asked_at >= state.since:
            # Asked for want of a better one: it does not rest longer for it, but others are asked before it.
            return replace(state, failed_at=now, faults=state.faults + 1)
        case _:
            return state


def _from_half_open(state: HalfOpen, event: Event, now: float) -> State:
    match event:
        case Asked() if now >= state.until:
            return replace(state, until=now + PROBE_S)
        case Answered() if event.asked_at >= state.opened_at:
            return Closed(since=now)
        case Failed() if event.blame in COUNTED and event.asked_at >= state.since:
            return _opened(event, now, times=state.times + 1, faults=state.faults + 1)
        case Abandoned() if event.asked_at >= state.since:
            return Open(
                since=state.opened_at,
                until=now,
                times=state.times,
                failed_at=state.failed_at,
                faults=state.faults,
            )
        case _:
            return state


def _opened(event: Failed, now: float, *, times: int, faults: int) -> Open:
    until = now + rest_s(times, event.blame, event.jitter)
    return Open(since=now, until=until, times=times, failed_at=now, faults=faults)
