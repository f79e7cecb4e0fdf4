"""Single-flight on a served gateway: equal requests in flight are one attempt, and its leader pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from backends.words import JsonValue
from gateway.flights import Flight
from tests.served.world import Seen, Served, a_policy, serving
from tests.upstream import Act, Received, Says, Upstream, refuses, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these; each test has its own question


class Gates:
    """An upstream's script: a question that has a gate is answered in full when that opens."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.failing: dict[str, list[Act]] = {}

    def __call__(self, received: Received) -> Act:
        if self.failing.get(received.text):
            return self.failing[received.text].pop()
        return says(f"You asked: {received.text}", stall_after=1, gate=self.gates.get(received.text))

    def shut(self, question: str) -> asyncio.Event:
        """Return the gate of a question."""
        self.gates[question] = asyncio.Event()
        return self.gates[question]


@pytest.fixture(scope="module")
def gates() -> Gates:
    return Gates()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream(gates: Gates) -> AsyncIterator[Upstream]:
    async with Upstream(gates) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("flights"), a_policy([upstream.url])) as served:
        yield served


def path(seen: Seen) -> str:
    return str(seen.headers["x-faregate-path"])


async def eventually(is_so: Callable[[], object]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - the gateway tells nobody of what is looked at here
            await asyncio.sleep(0)


async def until(served: Served, followers: int) -> None:
    """Wait until so many requests follow another one."""
    flights = served.opened.gateway._flights._flights
    await eventually(lambda: sum(flight._followers for flight in flights.values()) == followers)


def ask(gateway: Served, question: str, **fields: JsonValue) -> Awaitable[Seen]:
    return gateway.ask(question, **{"model": "cached", **fields})


@asynccontextmanager
async def flying(
    gateway: Served, gates: Gates, question: str, *, streams: tuple[bool, ...]
) -> AsyncIterator[list[asyncio.Task[Seen]]]:
    """Ask one question several times, the first time first; at the end of the block the upstream may answer."""
    gates.gates.setdefault(question, asyncio.Event())
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        asked = [group.create_task(_ask(gateway, question, stream=streams[0]))]
        await eventually(lambda: gateway.opened.gateway._flights._flights)
        asked += [group.create_task(_ask(gateway, question, stream=is_stream)) for is_stream in streams[1:]]
        await until(gateway, len(streams) - 1)
        try:
            yield asked
        finally:
            gates.gates[question].set()


async def _ask(gateway: Served, question: str, **fields: JsonValue) -> Seen:
    return await ask(gateway, question, **fields)


def the_flight(gateway: Served) -> Flight:
    (flight,) = gateway.opened.gateway._flights._flights.values()
    return flight


async def left_by(gateway: Served, cost_nusd: int) -> dict[str, JsonValue]:
    """Wait for the row of a client that hung up on an answer of this cost."""
    async with asyncio.timeout(20):
        while True:
            for row in (await gateway.rows()).requests:
                if row["error_code"] == "client_gone" and row["cost_nusd"] == cost_nusd:
                    return row


@pytest.mark.parametrize("leads_stream", [False, True])
@pytest.mark.parametrize("follows_stream", [False, True])
async def test_an_equal_request_gets_the_leaders_answer(
    gateway: Served, upstream: Upstream, gates: Gates, leads_stream: bool, follows_stream: bool
):
    asked = len(upstream.requests)
    question = f"Who leads {leads_stream} {follows_stream}?"
    async with flying(gateway, gates, question, streams=(leads_stream, follows_stream)) as flight:
        pass
    leader, follower = [task.result() for task in flight]
    assert (path(leader), path(follower), len(upstream.requests)) == ("large", "cache:flight", asked + 1)
    assert follower.text == leader.text == f"You asked: {question}"
    assert follower.headers["x-faregate-cost-usd"] == "0"
    assert not follows_stream or follower.is_done


async def test_the_leader_pays_and_the_follower_books_what_it_saved(gateway: Served, gates: Gates):
    async with flying(gateway, gates, "Who pays?", streams=(True, True, False)) as flight:
        pass
    rows = await gateway.rows_of(*[task.result() for task in flight])
    assert len(rows.charges) == 1
    cost = rows.charges[0]["cost_nusd"]
    assert cost > 0
    assert [row["cost_nusd"] for row in rows.requests] == [cost, 0, 0]
    assert [row["baseline_nusd"] for row in rows.requests] == [cost, cost, cost]
    assert [row["path"] for row in rows.requests] == ["large", "cache:flight", "cache:flight"]


async def test_a_follower_gets_what_the_leader_has_already_sent(gateway: Served, gates: Gates):
    async with flying(gateway, gates, "A live one?", streams=(True,)):
        leader = next(iter(gateway.opened.gateway._flights._flights.values()))
        body = {"model": "cached", "messages": [{"role": "user", "content": "A live one?"}], "temperature": 0}
        headers = {"authorization": f"Bearer {gateway.secrets['acme']}"}
        url = f"{gateway.base_url}/chat/completions"
        async with gateway.session.post(url, json={**body, "stream": True}, headers=headers) as response:
            while b"You" not in await response.content.readuntil(b"\n\n"):
                pass
            assert leader.landing is None  # the gate is shut: all the rest is still to come


async def test_usage_is_told_to_the_follower_that_wants_it(gateway: Served, gates: Gates):
    async with flying(gateway, gates, "How long?", streams=(True,)) as flight, asyncio.TaskGroup() as group:
        wanted = {"stream": True, "stream_options": {"include_usage": True}}
        flight.append(group.create_task(_ask(gateway, "How long?", **wanted)))
        await until(gateway, 1)
        gates.gates["How long?"].set()
    plain, told = [task.result() for task in flight]
    assert all("usage" not in chunk for chunk in plain.chunks)
    usage = told.chunks[-1]["usage"]
    assert (usage["cost"], usage["completion_tokens"] > 0, usage["faregate"]["attempts"]) == (0, True, [])


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_leader_whose_client_is_gone_goes_on_for_its_follower_and_pays(
    gateway: Served, gates: Gates, is_stream: bool
):
    question = f"Who stays {is_stream}?"
    async with flying(gateway, gates, question, streams=(is_stream, is_stream)) as (leader, follower):
        flight = the_flight(gateway)
        leader.cancel()
        await eventually(lambda: flight.is_orphan)
    seen = follower.result()
    assert (path(seen), seen.text) == ("cache:flight", f"You asked: {question}")
    saved = (await gateway.rows_of(seen)).requests[0]["baseline_nusd"]
    paid = await left_by(gateway, saved)
    assert (paid["status"], paid["cost_nusd"]) == (499, saved)


async def test_when_all_are_gone_the_leader_is_cancelled_and_books_what_came(gateway: Served, gates: Gates):
    async with flying(gateway, gates, "Anybody?", streams=(True, True)) as (leader, follower):
        flight = the_flight(gateway)
        await eventually(lambda: flight.model is not None)  # the stream has begun
        leader.cancel()
        await eventually(lambda: flight.is_orphan)
        follower.cancel()
        await eventually(lambda: not gateway.opened.gateway._flights._flights)
    assert flight.landing is None
    async with asyncio.timeout(10):
        while "cancelled" not in [charge["kind"] for charge in (await gateway.rows()).charges]:
            pass


async def test_a_leader_that_fails_hands_over(gateway: Served, upstream: Upstream, gates: Gates):
    gates.failing["Who is next?"] = [Says(cut_after=0, gate=gates.shut("Who is next?"))]
    asked = len(upstream.requests)
    async with flying(gateway, gates, "Who is next?", streams=(True, False, False)) as flight:
        gates.gates["Who is next?"].set()
        leader = await flight[0]
        gates.shut("Who is next?")
    paths = sorted(path(task.result()) for task in flight[1:])
    assert (leader.is_cut, paths, len(upstream.requests)) == (True, ["cache:flight", "large"], asked + 2)


async def test_a_refused_question_is_refused_for_each(gateway: Served, gates: Gates):
    gates.failing["What is wrong?"] = [refuses(400, "no such thing") for _ in range(2)]
    seen = await asyncio.gather(ask(gateway, "What is wrong?"), ask(gateway, "What is wrong?"))
    assert [each.status for each in seen] == [400, 400]


@pytest.mark.parametrize("wish", ["no-store", "no-cache", "max-age=0"])
async def test_a_client_that_wants_a_fresh_answer_follows_nobody(
    gateway: Served, upstream: Upstream, gates: Gates, wish: str
):
    question, asked = f"Fresh by {wish}?", len(upstream.requests)
    async with flying(gateway, gates, question, streams=(False,)) as flight, asyncio.TaskGroup() as group:
        own = group.create_task(
            asyncio.wait_for(gateway.ask(question, model="cached", headers={"x-faregate-cache": wish}), 20)
        )
        await upstream.request(asked + 2)
        gates.gates[question].set()
    assert (path(flight[0].result()), path(own.result())) == ("large", "large")


async def test_another_tenant_follows_nobody(gateway: Served, upstream: Upstream, gates: Gates):
    asked = len(upstream.requests)
    async with flying(gateway, gates, "Whose is it?", streams=(False,)), asyncio.TaskGroup() as group:
        other = group.create_task(asyncio.wait_for(gateway.ask("Whose is it?", model="cached", tenant="other"), 20))
        await upstream.request(asked + 2)
        gates.gates["Whose is it?"].set()
    assert path(other.result()) == "large"


async def test_who_has_waited_long_enough_asks_alone(tmp_path: Path):
    gates = Gates()
    async with Upstream(gates) as upstream:
        policy = a_policy([upstream.url])
        policy["routes"][1]["cache"]["flight_wait_s"] = 0.05
        async with serving(tmp_path, policy) as gateway, flying(gateway, gates, "Impatient?", streams=(False, False)):
            await upstream.request(2)


async def test_a_route_may_let_each_ask_alone(tmp_path: Path):
    gates = Gates()
    async with Upstream(gates) as upstream:
        policy = a_policy([upstream.url])
        policy["routes"][1]["cache"]["flight_wait_s"] = 0
        gate = gates.shut("Alone?")
        async with serving(tmp_path, policy) as gateway, asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(_ask(gateway, "Alone?", stream=False))
            await upstream.request(2)
            gate.set()
