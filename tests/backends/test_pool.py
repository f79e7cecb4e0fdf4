"""A pool's choice of endpoint: failing over before the first event, sparing who failed, and counting what is open."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest

from backends.breaker import Standing
from backends.errors import (
    AskRejected,
    BackendError,
    EndpointFailed,
    EndpointTimeout,
    EndpointUnreachable,
    ReplyMalformed,
    StreamCut,
)
from backends.pool import Pool
from backends.retries import RetryRules
from backends.seam import Outbound
from tests.backends.fakes import OUT, FakeBackend, OwnClock

GONE = EndpointUnreachable("gone")
MANY = RetryRules(max=10, budget_share=1.0, min_per_s=100)
BROKE = EndpointFailed(500)
TOO_LONG = AskRejected(400, "too long", kind="x", param=None, code="context_length_exceeded")
NOT_LOADED = AskRejected(404, "no such model", kind="x", param=None, code=None)


def a_pool(
    *outcomes: BackendError | None, clock: OwnClock | None = None, rules: RetryRules | None = None
) -> tuple[Pool, list[FakeBackend]]:
    members = [FakeBackend(f"e{n}", outcome) for n, outcome in enumerate(outcomes)]
    return Pool(members, clock=clock or OwnClock(), rules=rules, chance=lambda: 0.5), members


def asking(text: str, *, model: str = "m") -> Outbound:
    return msgspec.structs.replace(OUT, body=text.encode(), model=model)


async def ask(pool: Pool, out: Outbound = OUT, *, until: float = float("inf")) -> str | BackendError:
    """Return who answered, or what the client is told; waits take no time."""
    tries = pool.begin(out, until=until)
    while True:
        try:
            reply = await tries.open()
        except BackendError as error:
            if tries.after(error) is None:
                return tries.told
        else:
            await reply.aclose()
            return reply.endpoint


def standings(pool: Pool) -> list[Standing]:
    return [status.standing for status in pool.endpoints()]


async def test_a_failing_endpoint_is_passed_over():
    pool, (first, second) = a_pool(GONE, None)
    assert (await pool.open(OUT)).endpoint == "e1"
    assert (first.opened, second.opened) == (1, 1)


async def test_a_refused_request_is_not_tried_elsewhere():
    pool, (first, second) = a_pool(TOO_LONG, None)
    with pytest.raises(AskRejected):
        await pool.open(OUT)
    assert (first.opened, second.opened) == (1, 0)


async def test_when_all_fail_the_last_error_is_told():
    pool, members = a_pool(GONE, EndpointFailed(500))
    with pytest.raises(EndpointFailed):
        await pool.open(OUT)
    assert [member.opened for member in members] == [1, 1]


async def test_an_endpoint_that_failed_rests_and_is_then_probed():
    clock = OwnClock()
    pool, (first, _) = a_pool(GONE, None, clock=clock)
    await ask(pool)
    first.outcome = None
    await ask(pool)
    assert first.opened == 1
    clock.seconds += 1.5
    assert await ask(pool) == "e0"
    assert standings(pool) == [Standing.READY, Standing.READY]


async def test_each_failed_probe_doubles_the_rest():
    clock = OwnClock()
    pool, (first, _) = a_pool(GONE, None, clock=clock)
    await ask(pool)
    clock.seconds += 1.1
    await ask(pool)
    clock.seconds += 1.1
    await ask(pool)
    assert first.opened == 2


async def test_one_request_probes_at_a_time():
    clock = OwnClock()
    pool, (first, second) = a_pool(GONE, None, clock=clock)
    await ask(pool)
    clock.seconds += 1.5
    first.holds = True
    async with asyncio.TaskGroup() as group:
        probe = group.create_task(ask(pool))
        await first.asked_again(2)
        assert [await ask(pool) for _ in range(5)] == ["e1"] * 5
        probe.cancel()
    assert (first.opened, second.opened) == (2, 6)


async def test_a_probe_whose_client_left_is_followed_by_another():
    clock = OwnClock()
    pool, (first, _) = a_pool(GONE, None, clock=clock)
    await ask(pool)
    clock.seconds += 1.5
    first.holds = True
    async with asyncio.TaskGroup() as group:
        probe = group.create_task(ask(pool))
        await first.asked_again(2)
        probe.cancel()
    assert standings(pool)[0] is Standing.DUE


async def test_a_pool_whose_endpoints_all_rest_still_asks_the_longest_failed():
    clock = OwnClock()
    pool, members = a_pool(GONE, GONE, clock=clock, rules=replace(MANY, max=0))
    for _ in range(6):
        clock.seconds += 0.01
        await ask(pool)
    assert [member.opened for member in members] == [3, 3]
    members[0].outcome = members[1].outcome = None
    assert await ask(pool) == "e0"


async def test_the_idlest_endpoint_answers():
    pool, _ = a_pool(None, None)
    endpoints = [(await pool.open(OUT)).endpoint for _ in range(4)]
    assert sorted(endpoints) == ["e0", "e0", "e1", "e1"]


# --- poison ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [BROKE, ReplyMalformed("error object"), TOO_LONG, NOT_LOADED])
@pytest.mark.parametrize("endpoints", [1, 2, 3])
async def test_poison_beside_good_requests_takes_nothing_away_from_them(poison: BackendError, endpoints: int):
    clock = OwnClock()
    pool, members = a_pool(*[None] * endpoints, clock=clock)
    for member in members:
        member.reads = lambda out: poison if out.body.startswith(b"poison") else None
    answers = []
    for n in range(40):
        clock.seconds += 0.01
        assert await ask(pool, asking(f"poison {n}")) is poison
        answers.append(await ask(pool, asking(f"good {n}")))
    assert not [answer for answer in answers if isinstance(answer, BackendError)]
    assert standings(pool) == [Standing.READY] * endpoints


async def test_a_burst_of_poison_leaves_the_good_requests_after_it_alone():
    pool, members = a_pool(None, None)
    for member in members:
        member.reads = lambda out: BROKE if out.body.startswith(b"poison") else None
    for n in range(40):
        await ask(pool, asking(f"poison {n}"))
    assert {await ask(pool, asking(f"good {n}")) for n in range(40)} <= {"e0", "e1"}


async def test_a_request_that_fails_everywhere_alike_is_held_against_nobody():
    pool, _ = a_pool(BROKE, BROKE, rules=MANY)
    for n in range(20):
        await ask(pool, asking(f"poison {n}"))
    assert standings(pool) == [Standing.READY, Standing.READY]


async def test_an_endpoint_that_fails_what_others_answer_is_found_out():
    pool, (broken, _) = a_pool(BROKE, None, rules=MANY)
    answers = [await ask(pool, asking(f"good {n}")) for n in range(20)]
    assert answers == ["e1"] * 20
    assert broken.opened == 3


async def test_a_replica_without_the_model_is_spared_for_that_model_only():
    pool, (first, _) = a_pool(None, None)
    first.reads = lambda out: NOT_LOADED if out.model == "big" else None
    assert [await ask(pool, asking("q", model="big")) for _ in range(3)] == ["e1"] * 3
    assert (first.opened, standings(pool)[0]) == (1, Standing.READY)
    assert await ask(pool, asking("q", model="small")) == "e0"


async def test_what_is_nowhere_is_told_as_the_upstream_told_it():
    pool, members = a_pool(NOT_LOADED, NOT_LOADED)
    assert await ask(pool) is NOT_LOADED
    assert [member.opened for member in members] == [1, 1]


async def test_a_missing_model_is_not_told_when_another_endpoint_is_only_down():
    pool, _ = a_pool(EndpointFailed(503), NOT_LOADED, rules=replace(MANY, max=1))
    assert str(await ask(pool)) == "upstream answered HTTP 503"


# --- rate limits and draining ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["20", "Mon, 02 Nov 2026 12:00:20 GMT"])
async def test_an_endpoint_that_asks_for_time_gets_it(value: str):
    clock = OwnClock()
    pool, (first, _) = a_pool(EndpointFailed(429, retry_after=value), None, clock=clock)
    for _ in range(5):
        assert await ask(pool) == "e1"
        clock.seconds += 3
    assert (first.opened, standings(pool)[0]) == (1, Standing.READY)
    clock.seconds += 20
    await ask(pool)
    assert first.opened == 2


async def test_when_all_ask_for_time_the_client_is_told_at_once():
    limit = EndpointFailed(429, retry_after="20")
    pool, members = a_pool(limit, GONE, rules=replace(MANY, max=1))
    assert await ask(pool) is limit
    assert [member.opened for member in members] == [1, 1]


async def test_a_short_retry_after_is_waited_for():
    pool, _ = a_pool(EndpointFailed(429, retry_after="1.5"))  # and half of the first backoff's 0.2 s is added
    tries = pool.begin(OUT)
    with pytest.raises(EndpointFailed) as failed:
        await tries.open()
    assert tries.after(failed.value) == 1.5 + 0.1


@pytest.mark.parametrize(("until", "rules"), [(1.0, None), (9.0, RetryRules(max_wait_s=1.0))])
async def test_a_wait_beyond_the_deadline_or_the_longest_one_is_none(until: float, rules: RetryRules | None):
    pool, _ = a_pool(EndpointFailed(429, retry_after="1.5"), rules=rules)
    tries = pool.begin(OUT, until=until)
    with pytest.raises(EndpointFailed) as failed:
        await tries.open()
    assert tries.after(failed.value) is None


async def test_a_draining_endpoint_is_left_at_once_and_probed_later():
    clock = OwnClock()
    pool, (first, _) = a_pool(
        EndpointFailed(500, is_draining=True), None, clock=clock, rules=RetryRules(budget_share=0, min_per_s=0)
    )
    for _ in range(6):
        assert await ask(pool) == "e1"
        clock.seconds += 1
    assert first.opened == 1
    clock.seconds += 10
    await ask(pool)
    assert first.opened == 2


async def test_one_fault_is_no_reason_to_turn_to_another_model():
    pool, _ = a_pool(EndpointTimeout("first_byte", 60), rules=RetryRules(max=0))
    await ask(pool, asking("q"))
    assert standings(pool) == [Standing.RESTING]
    assert not pool.is_resting("m")


@pytest.mark.parametrize("error", [GONE, EndpointFailed(429, retry_after="1")])
async def test_a_pool_rests_until_one_of_its_endpoints_may_be_asked(error: BackendError):
    clock = OwnClock()
    pool, _ = a_pool(error, error, clock=clock)
    assert not pool.is_resting("m")
    await ask(pool, asking("q"))
    await ask(pool, asking("q"))
    assert pool.is_resting("m")
    clock.seconds += 1.3
    assert not pool.is_resting("m")


# --- the budget --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [GONE, BROKE, EndpointFailed(503), EndpointFailed(429), EndpointTimeout("idle", 1)])
@pytest.mark.parametrize("endpoints", [1, 3])
async def test_retries_into_a_pool_that_is_down_stay_in_their_share(error: BackendError, endpoints: int):
    pool, members = a_pool(*[error] * endpoints, rules=RetryRules(max=5, budget_share=0.2, min_per_s=0.3))
    for n in range(100):
        await ask(pool, asking(f"q{n}"))
    assert sum(member.opened for member in members) == 100 + pool.retries <= 100 + 20 + 3


async def test_a_request_that_may_have_been_generated_moves_out_of_the_budget_only():
    pool, (_, second) = a_pool(EndpointTimeout("first_byte", 60), None, rules=RetryRules(budget_share=0, min_per_s=0))
    assert isinstance(await ask(pool), EndpointTimeout)
    assert second.opened == 0


async def test_requests_in_flight_when_an_endpoint_dies_all_move_to_the_other():
    pool, (first, second) = a_pool(GONE, None, rules=RetryRules(budget_share=0, min_per_s=0))
    first.gate.clear()
    second.gate.clear()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(pool, asking(f"q{n}"))) for n in range(40)]
        await first.asked_again(20)
        first.gate.set()
        second.gate.set()
    assert [task.result() for task in asked] == ["e1"] * 40
    assert (first.opened, second.opened) == (20, 40)


@pytest.mark.parametrize(
    ("error", "asked"),
    [(GONE, 3), (EndpointFailed(503), 3), (EndpointFailed(429), 3), (BROKE, 1), (EndpointTimeout("connect", 5), 1)],
)
async def test_the_same_endpoint_is_asked_again_only_after_what_did_no_work(error: BackendError, asked: int):
    pool, (only,) = a_pool(error)
    await ask(pool)
    assert only.opened == asked


async def test_no_retries_means_none():
    pool, (_, second) = a_pool(GONE, None, rules=RetryRules(max=0))
    assert await ask(pool) is GONE
    assert second.opened == 0


# --- what is open ------------------------------------------------------------------------------------------------


async def test_a_stream_that_breaks_off_counts_against_its_endpoint():
    pool, (first, _) = a_pool(None, None)
    first.breaks = StreamCut("cut")
    reply = await pool.open(OUT)
    await anext(reply)
    with pytest.raises(StreamCut):
        await anext(reply)
    assert standings(pool) == [Standing.RESTING, Standing.READY]


async def test_in_flight_counts_open_replies_only():
    pool, (first, _) = a_pool(GONE, None)
    reply = await pool.open(OUT)
    assert pool.in_flight == 1
    await reply.aclose()
    await reply.aclose()
    assert (pool.in_flight, first.closed) == (0, 0)


async def test_a_cancelled_opening_is_not_in_flight():
    pool, (member,) = a_pool(None)
    member.holds = True
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(pool.open(OUT))
        await member.asked.wait()
        opening.cancel()
    assert pool.in_flight == 0


async def test_closing_a_pool_closes_its_members():
    pool, members = a_pool(None, None)
    await pool.aclose()
    assert [member.closed for member in members] == [1, 1]


def test_a_pool_without_endpoints_is_a_mistake():
    with pytest.raises(ValueError, match="at least one endpoint"):
        Pool([], clock=OwnClock())


async def test_a_breaker_that_opens_is_told_and_a_fault_that_is_heard_is_not_asked():
    told: list[str] = []
    members = [FakeBackend("e0", GONE), FakeBackend("e1")]
    learns = Pool(members, clock=OwnClock(), chance=lambda: 0.5, on_open=told.append)
    hears = Pool([FakeBackend("e0"), FakeBackend("e1")], clock=OwnClock(), chance=lambda: 0.5, on_open=told.append)
    assert await ask(learns) == "e1"
    for endpoint in [*told, "unknown"]:
        hears.hear(endpoint)
    assert (told, standings(hears)) == (["e0"], [Standing.RESTING, Standing.READY])
    assert await ask(hears) == "e1"
