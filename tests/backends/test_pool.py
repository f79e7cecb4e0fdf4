"""A pool's choice of endpoint: failing over before the first event, resting, and counting what is in flight."""

from __future__ import annotations

import asyncio

import pytest

from backends.errors import AskRejected, BackendError, EndpointFailed, EndpointUnreachable
from backends.pool import Pool
from tests.backends.fakes import OUT, FakeBackend, OwnClock


def a_pool(*outcomes: BackendError | None, clock: OwnClock | None = None) -> tuple[Pool, list[FakeBackend]]:
    members = [FakeBackend(f"e{n}", outcome) for n, outcome in enumerate(outcomes)]
    return Pool(members, clock=clock or OwnClock()), members


async def test_a_failing_endpoint_is_passed_over():
    pool, (first, second) = a_pool(EndpointUnreachable("gone"), None)
    assert (await pool.open(OUT)).endpoint == "e1"
    assert (first.opened, second.opened) == (1, 1)


async def test_a_refused_request_is_not_tried_elsewhere():
    rejection = AskRejected(400, "no", kind="x", param=None, code=None)
    pool, (_, second) = a_pool(rejection, None)
    with pytest.raises(AskRejected):
        await pool.open(OUT)
    assert second.opened == 0


async def test_when_all_fail_the_last_error_is_told_and_each_was_asked_once():
    pool, members = a_pool(EndpointUnreachable("gone"), EndpointFailed(503))
    with pytest.raises(EndpointFailed):
        await pool.open(OUT)
    assert [member.opened for member in members] == [1, 1]


async def test_an_endpoint_that_failed_rests_and_is_then_asked_again():
    clock = OwnClock()
    pool, (first, _) = a_pool(EndpointUnreachable("gone"), None, clock=clock)
    await (await pool.open(OUT)).aclose()
    first.outcome = None
    await (await pool.open(OUT)).aclose()
    assert first.opened == 1
    clock.seconds += 3
    await (await pool.open(OUT)).aclose()
    assert first.opened == 2


async def test_each_failure_doubles_the_rest():
    clock = OwnClock()
    pool, (first, _) = a_pool(EndpointUnreachable("gone"), None, clock=clock)
    await (await pool.open(OUT)).aclose()
    clock.seconds += 2.5
    await (await pool.open(OUT)).aclose()
    clock.seconds += 2.5
    await (await pool.open(OUT)).aclose()
    assert first.opened == 2


async def test_a_pool_whose_endpoints_all_rest_still_tries_them():
    pool, (only,) = a_pool(EndpointUnreachable("gone"))
    with pytest.raises(EndpointUnreachable):
        await pool.open(OUT)
    only.outcome = None
    assert (await pool.open(OUT)).endpoint == "e0"


async def test_the_idlest_endpoint_answers():
    pool, _ = a_pool(None, None)
    endpoints = [(await pool.open(OUT)).endpoint for _ in range(4)]
    assert sorted(endpoints) == ["e0", "e0", "e1", "e1"]


async def test_in_flight_counts_open_replies_only():
    pool, (first, _) = a_pool(EndpointUnreachable("gone"), None)
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
