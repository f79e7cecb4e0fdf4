"""A worker's line to its supervisor: what it asks, what it hears, and what it does when it is alone."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backends.asks import parse_ask
from backends.words import Surface, TenantId
from gateway.errors import RateLimited, Stopping
from gateway.ledger.errors import LedgerError
from gateway.limits import Admission
from gateway.workers.line import (
    Admit,
    Admitted,
    Answer,
    Change,
    Fault,
    FromMember,
    Leave,
    Limited,
    Line,
    Question,
    Standing,
    Stop,
    Topic,
    member_says,
    supervisor_says,
)
from gateway.workers.member import Crew
from policies.loader import load_policy
from tests.served.world import a_policy, write_policy

ASK = parse_ask(
    Surface.CHAT, json.dumps({"model": "plain", "messages": [{"role": "user", "content": "x"}], "n": 1}).encode()
)


@dataclass(kw_only=True)
class Watched:
    """A crew, the supervisor's end of its line, and what the worker was made to do."""

    crew: Crew
    supervisor: Line[FromMember]
    stops: list[int] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    damage: list[LedgerError] = field(default_factory=list)

    def stop(self, reason: LedgerError) -> None:
        """Be a ledger that is stopped."""
        self.damage.append(reason)

    async def admit(self, tenant: str = "limited") -> Admission | None:
        """Ask whether a request may pass."""
        return await self.crew.admit(TenantId(tenant), "key", ASK, 0.0)


@asynccontextmanager
async def watched(place: Path) -> AsyncIterator[Watched]:
    """Connect a crew to this test, until the block ends or the supervisor is gone."""
    policy = a_policy(["http://127.0.0.1:1/v1"], tenants=[{"id": "limited", "limits": {"rpm": 5}}, {"id": "free"}])
    ours, theirs = socket.socketpair()
    supervisor = await Line.over(ours, member_says)
    line = await Line.over(theirs, supervisor_says)
    crew = Crew(line, load_policy(write_policy(place, policy), {}))
    world = Watched(crew=crew, supervisor=supervisor)
    async with aclosing(line), aclosing(supervisor), asyncio.TaskGroup() as group:
        listening = group.create_task(
            crew.listen(
                lambda topic: json.dumps(topic).encode(),
                world.stop,
                world.stops.append,
                world.changes.append,
                world.faults.append,
            )
        )
        yield world
        listening.cancel()


async def test_a_tenant_without_limits_is_not_asked_about(tmp_path: Path):
    async with watched(tmp_path) as world:
        assert await world.admit("free") is None


async def test_a_request_is_let_in_by_the_supervisor_and_tells_it_what_it_took(tmp_path: Path):
    async with watched(tmp_path) as world, asyncio.TaskGroup() as group:
        admitting = group.create_task(world.admit())
        asked = await world.supervisor.hear()
        assert isinstance(asked, Admit)
        world.supervisor.say(Admitted(asked.number, (("x-ratelimit-limit-requests", "5"),)))
        admission = await admitting
        assert admission is not None
        world.crew.finish(admission, 12)
        assert await world.supervisor.hear() == Leave(asked.number, 12)
    assert (asked.tenant, asked.key) == ("limited", "key")
    assert admission.headers == ((b"x-ratelimit-limit-requests", b"5"),)


async def test_a_refusal_of_the_supervisors_is_told_as_any_other(tmp_path: Path):
    async def refuse(world: Watched) -> None:
        asked = await world.supervisor.hear()
        assert isinstance(asked, Admit)
        world.supervisor.say(Limited(asked.number, "too fast", "requests", "rpm", 7, (("a", "b"),)))

    async with watched(tmp_path) as world:
        refused, _ = await asyncio.gather(world.admit(), refuse(world), return_exceptions=True)
    assert isinstance(refused, RateLimited)
    told = (str(refused), refused.kind, refused.limit, refused.retry_after_s, refused.headers)
    assert told == ("too fast", "requests", "rpm", 7, ((b"a", b"b"),))


async def test_a_client_that_leaves_before_the_answer_keeps_no_place(tmp_path: Path):
    async with watched(tmp_path) as world, asyncio.TaskGroup() as group:
        admitting = group.create_task(world.admit())
        asked = await world.supervisor.hear()
        assert isinstance(asked, Admit)
        admitting.cancel()
        assert await world.supervisor.hear() == Leave(asked.number, 0)


async def test_a_worker_tells_of_itself_and_stops_when_told(tmp_path: Path):
    async with watched(tmp_path) as world:
        world.supervisor.say(Stop(15))
        world.supervisor.say(Question(3, Topic.STATUS))
        said = await world.supervisor.hear()
    assert isinstance(said, Answer)
    assert (said.number, bytes(said.body), world.stops) == (3, b'"status"', [15])


async def test_a_worker_hears_of_policies_and_of_the_others_faults(tmp_path: Path):
    async with watched(tmp_path) as world:
        world.supervisor.say(Change("version: 1"))
        world.supervisor.say(Fault("http://gpu-a/v1"))
        world.supervisor.say(Question(1, Topic.STATUS))
        await world.supervisor.hear()
    assert (world.changes, world.faults) == (["version: 1"], ["http://gpu-a/v1"])


async def test_a_damaged_store_stops_the_ledger(tmp_path: Path):
    async with watched(tmp_path) as world:
        world.supervisor.say(Standing(is_complete=True, damage="byte 7"))
        world.supervisor.say(Question(1, Topic.STATUS))
        await world.supervisor.hear()
    assert ([str(error) for error in world.damage], world.crew.standing.damage) == (["byte 7"], "byte 7")


async def test_a_worker_without_a_supervisor_stops_at_once_and_admits_nobody(tmp_path: Path):
    async def vanish(world: Watched) -> None:
        await world.supervisor.hear()
        world.supervisor.close()

    async with watched(tmp_path) as world:
        waiting, _ = await asyncio.gather(world.admit(), vanish(world), return_exceptions=True)
        with pytest.raises(Stopping):
            await world.admit()
    assert (type(waiting), world.stops) == (Stopping, [15, 15])
