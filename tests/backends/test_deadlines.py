"""Deadlines: they end as `asyncio.timeout` does, whoever else cancels, and one timer serves all."""

from __future__ import annotations

import asyncio

import pytest

from backends.deadlines import Deadline, Deadlines


async def test_a_block_that_takes_too_long_times_out():
    with pytest.raises(TimeoutError), Deadlines(0.01).begin():
        await asyncio.Event().wait()


async def test_a_block_that_ends_in_time_is_left_alone():
    deadlines = Deadlines(0.01)
    with deadlines.begin():
        pass
    with pytest.raises(TimeoutError), deadlines.begin():  # the timer of the first one serves this one
        await asyncio.Event().wait()
    assert asyncio.current_task().cancelling() == 0


async def test_a_task_that_is_cancelled_is_not_timed_out():
    async def wait() -> None:
        with Deadlines(5).begin():
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


async def test_who_is_cancelled_and_late_is_cancelled():
    deadlines = Deadlines(5)

    async def wait() -> None:
        with deadlines.begin():
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait())
        await asyncio.sleep(0)
        deadlines.expire()
        task.cancel()
    assert task.cancelled()


async def test_all_can_be_ended_at_once():
    deadlines = Deadlines(5)

    async def wait() -> bool:
        try:
            with deadlines.begin():
                await asyncio.Event().wait()
        except TimeoutError:
            return True
        return False

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        deadlines.expire()
    assert [task.result() for task in tasks] == [True] * 3


async def test_the_inner_of_two_times_out_alone():
    with Deadlines(5).begin():
        with pytest.raises(TimeoutError), Deadlines(0.01).begin():
            await asyncio.Event().wait()
        await asyncio.sleep(0)


async def test_one_that_is_prolonged_ends_after_those_that_began_since():
    deadlines, ended = Deadlines(0.01), list[str]()
    first = deadlines.begin()

    async def wait(name: str, deadline: Deadline) -> None:
        try:
            with deadline:
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait("first", first))
        group.create_task(wait("second", deadlines.begin()))
        await asyncio.sleep(0)
        first.prolong()
    assert ended == ["second", "first"]
