"""A client that leaves while the gateway itself waits: for a connection, a turn, a budget, a second opinion, a leader.

`test_hang_ups` has the states in which an upstream is answering; here nobody is, or somebody else than the answer's.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from typing_extensions import override

from backends.clock import SystemClock
from backends.words import JsonValue
from gateway.compose import Opened, Purse, epoch_of, open_way, prepare, terms_of
from gateway.ledger.journal import OsFiles
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.leases import LeasedBudgets, keep_line
from gateway.spending import caps_of, digest_pseudonym
from gateway.workers.line import Line, member_says, supervisor_says
from gateway.workers.member import Crew
from policies.schema import Policy
from policies.signals import Signal
from tests.served.test_signals import a_signal_judge
from tests.served.test_verifier import FIRST, OTHER, a_calibration
from tests.served.world import EMBEDDER, SMALL_NAME, Served, a_policy, an_acceptance, serving
from tests.transports import TRANSPORTS
from tests.upstream import Received
from tests.wall.runs import open_holds
from tests.wall.server import Floods, Hangs, Play, PlayServer, as_chunk
from tests.wall.test_hang_ups import TRIES, WITHIN_S, booked
from tests.wall.words import ANSWERS, ONE, ROLE, TWO, begun, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELD = "Held at the embedder?"


class HeldEmbedder:
    """The real embedder, which does not come back from some texts until `go_on` is set."""

    def __init__(self) -> None:
        self.id = EMBEDDER.id
        self.dimensions = EMBEDDER.dimensions
        self.go_on = threading.Event()
        self.is_held = threading.Event()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the texts' vectors."""
        if HELD in texts:
            self.is_held.set()
            self.go_on.wait(20)
        return EMBEDDER.embed(texts)


class HeldDisk(OsFiles):
    """The real files, whose `sync` does not come back while `go_on` is not set."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.is_held = threading.Event()

    @override
    def sync(self, fd: int) -> None:
        if not self.go_on.is_set():
            self.is_held.set()
            self.go_on.wait(20)
        super().sync(fd)


@contextmanager
def nobody_accepting() -> Iterator[str]:
    """Give the address of a listener whose queue is full: connections to it are never made."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


def play_of(received: Received) -> Play:
    """Answer what the tests ask before; hang at what they leave."""
    if received.text == "Between two tries?":
        return refusal("429 Too Many Requests", "later", "retry-after: 1")
    if received.text == "Never read?":
        return (*begun(ROLE, ONE), Floods(as_chunk(TWO * 300), 10**9))
    is_first = received.text == FIRST or received.text.startswith("Checked by")
    return ANSWERS if is_first and received.json["temperature"] == 0 else (Hangs(),)


def policy_of(place: Path, url: str, far: str, transport: str) -> JsonValue:
    """Return a policy with a verifier, judges that ask again, an upstream out of reach and a careful ledger."""
    (place / "verifier.json").write_text(a_calibration().dump())
    for signal in (Signal.SELF_CHECK, Signal.AGREEMENT):
        (place / f"{signal}.json").write_text(a_signal_judge(signal).dump())
    policy = a_policy([url], server={"transport": transport}, ledger={"durability": "power"})
    policy["timeouts"] = {"connect_s": 20}
    policy["models"]["far"] = policy["models"]["large"] | {"pool": "far"}
    policy["pools"]["far"] = policy["pools"]["large"] | {"endpoints": [far]}
    policy["models"]["verifier"] = policy["models"]["small"].copy()
    policy["models"]["small"]["capabilities"] = ["chat", "json_schema"]
    _, cached, judged = policy["routes"]
    verifier = {"model": "verifier", "calibration": "verifier.json", "wait": "always", "timeout_ms": 20000}
    cached["cache"]["semantic"]["verifier"] = verifier
    policy["routes"][2:] = [
        {"name": "remote", "match": {"model": "remote-alias"}, "ladder": ["far"]},
        *(
            judged
            | {
                "name": signal,
                "match": {"model": f"{signal}-alias"},
                "quality": judged["quality"] | {"calibration": f"{signal}.json", "signals": {"small": signal}},
            }
            for signal in ("self_check", "agreement")
        ),
    ]
    return policy


@pytest.fixture(scope="module")
def embedder() -> HeldEmbedder:
    return HeldEmbedder()


@pytest.fixture(scope="module")
def disk() -> HeldDisk:
    return HeldDisk()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[PlayServer]:
    async with PlayServer(play_of) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def gateway(
    request: pytest.FixtureRequest,
    upstream: PlayServer,
    embedder: HeldEmbedder,
    disk: HeldDisk,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Served]:
    place = tmp_path_factory.mktemp("leavers")
    with nobody_accepting() as far:
        policy = policy_of(place, upstream.url, far, request.param)
        async with serving(place, policy, embedder=embedder, files=disk) as served:
            yield served


@asynccontextmanager
async def asking(
    gateway: Served, model: str, text: str, *, tenant: str = "acme", times: int = 1, **fields: JsonValue
) -> AsyncIterator[asyncio.StreamWriter]:
    """Send a request, several times where it is pipelined, over a connection that is closed when the block ends."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 50}
    data = json.dumps(body | fields).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.secrets[tenant]}\r\n"
    head += f"x-request-id: {text}\r\ncontent-length: {len(data)}\r\n\r\n"
    host, port = gateway.origin.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write((head.encode() + data) * times)
    try:
        async with asyncio.timeout(10):
            yield writer
    finally:
        writer.close()


async def eventually(is_so: Callable[[], object]) -> float:
    """Let the loop turn until something is so; return how many seconds that took."""
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - the gateway tells nobody of what is looked at here
            await asyncio.sleep(0)
    return asyncio.get_running_loop().time() - began


def in_flight(gateway: Served) -> int:
    return gateway.opened.gateway._in_flight


async def ended(gateway: Served, count: int = 0) -> float:
    """Return after how many seconds no more than so many requests were in flight."""
    return await eventually(lambda: in_flight(gateway) <= count)


async def leaving(
    gateway: Served, until: Callable[[], Awaitable[object]], model: str, text: str, **fields: JsonValue
) -> float:
    """Ask, leave when `until` is there, and return the best time of several until nothing is left of it, in seconds."""
    times = []
    for _ in range(TRIES):
        async with asking(gateway, model, text, **fields):
            await eventually(lambda: in_flight(gateway))
            await until()
        times.append(await ended(gateway))
    return min(times)


async def is_left(gateway: Served, text: str) -> list[JsonValue]:
    """Assert that a request was booked as left and that no money is held; return what was paid for it, by kind."""
    rows = await booked(gateway, text)
    assert {(row["status"], row["error_code"]) for row in rows.requests} == {(499, "client_gone")}
    assert open_holds(gateway) == 0
    return [charge["kind"] for charge in rows.charges]


async def test_before_a_connection_is_made(gateway: Served):
    async def connecting() -> None:
        await asyncio.sleep(0.05)
        assert in_flight(gateway) == 1

    assert await leaving(gateway, connecting, "remote", "Out of reach?") < WITHIN_S
    await is_left(gateway, "Out of reach?")


async def test_between_two_tries(gateway: Served, upstream: PlayServer):
    async def waiting() -> None:
        await upstream.request(len(upstream.requests) + 1)
        await asyncio.sleep(0.05)

    before = len(upstream.requests)
    assert await leaving(gateway, waiting, "plain", "Between two tries?") < WITHIN_S
    assert len(upstream.requests) == before + TRIES
    assert await is_left(gateway, "Between two tries?") == []


async def test_while_the_disk_writes_down_what_is_held(gateway: Served, upstream: PlayServer, disk: HeldDisk):
    before = len(upstream.requests)
    disk.is_held.clear()
    disk.go_on.clear()
    try:
        assert await leaving(gateway, lambda: eventually(disk.is_held.is_set), "plain", "Written down?") < WITHIN_S
    finally:
        disk.go_on.set()
    assert len(upstream.requests) == before
    assert await is_left(gateway, "Written down?") == []


async def test_at_the_embedder_and_behind_another_there(gateway: Served, embedder: HeldEmbedder):
    async def held() -> None:
        await eventually(embedder.is_held.is_set)

    embedder.go_on.clear()
    try:
        assert await leaving(gateway, held, "cached", HELD) < WITHIN_S
    finally:
        embedder.go_on.set()
    assert await is_left(gateway, HELD) == []


@pytest.mark.parametrize(("route", "kind"), [("self_check", "self_check"), ("agreement", "sample")])
async def test_while_a_model_is_asked_of_its_own_answer(gateway: Served, upstream: PlayServer, route: str, kind: str):
    first = len(upstream.requests)
    async with asking(gateway, route, f"Checked by {route}?"):
        second = await upstream.request(first + 2)
    took = await ended(gateway)
    await asyncio.wait_for(second.closed.wait(), 10)
    assert took < WITHIN_S
    assert set(await is_left(gateway, f"Checked by {route}?")) == {"cancelled", kind}


async def test_while_the_verifier_is_asked(gateway: Served, upstream: PlayServer):
    await gateway.ask(FIRST, model="cached", max_tokens=50)
    await gateway.stored()

    async def asked() -> None:
        received = await upstream.request(len(upstream.requests) + 1)
        assert received.json["model"] == SMALL_NAME

    assert await leaving(gateway, asked, "cached", OTHER) < WITHIN_S
    assert await is_left(gateway, OTHER) == ["verifier"]
    await eventually(lambda: all(r.closed.is_set() for r in upstream.requests if r.json["model"] == SMALL_NAME))


async def test_a_follower_leaves_its_leader_alone_and_the_leader_frees_the_upstream(
    gateway: Served, upstream: PlayServer
):
    asked = len(upstream.requests)
    async with asking(gateway, "cached", "Followed?", x=1):
        led = await upstream.request(asked + 1)
        flights = gateway.opened.gateway._flights._flights
        async with asking(gateway, "cached", "Followed?", x=1):
            await eventually(lambda: [flight for flight in flights.values() if flight.has_followers])
        assert await ended(gateway, 1) < WITHIN_S
        assert not led.closed.is_set()
    assert await ended(gateway) < WITHIN_S
    await asyncio.wait_for(led.closed.wait(), 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_while_its_next_request_waits_to_be_read(gateway: Served, upstream: PlayServer, stream: bool):
    asked = len(upstream.requests)
    async with asking(gateway, "plain", "First of two?", times=40, stream=stream):
        led = await upstream.request(asked + 1)
    took = await ended(gateway)
    await asyncio.wait_for(led.closed.wait(), 1)
    assert took < WITHIN_S
    assert len(upstream.requests) == asked + 1


async def test_while_it_does_not_read(gateway: Served, upstream: PlayServer):
    asked = len(upstream.requests)
    async with asking(gateway, "plain", "Never read?", stream=True) as writer:
        writer.transport.pause_reading()
        flooding = await upstream.request(asked + 1)
        sent = -1
        while sent != (sent := upstream.last.sent_bytes):  # noqa: ASYNC110 - until nobody takes any more
            await asyncio.sleep(0.05)
    took = await ended(gateway)
    await asyncio.wait_for(flooding.closed.wait(), 1)
    assert took < WITHIN_S
    assert await is_left(gateway, "Never read?") == ["cancelled"]


# --- a worker whose supervisor and budgets do not answer --------------------------------------------------------------


@asynccontextmanager
async def unanswered(place: Path, policy: Policy, heard: list[str]) -> AsyncIterator[Opened]:
    """Open a gateway as a worker's, of which nobody answers what it asks; `heard` gets the names of the questions."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            heard.append(str(json.loads(line)["type"]))
        writer.close()

    async def supervise(line: Line[object]) -> None:
        while (said := await line.hear()) is not None:
            heard.append(type(said).__name__)

    clock = SystemClock()
    ours, theirs = socket.socketpair()
    supervisor, line = await Line.over(ours, member_says), await Line.over(theirs, supervisor_says)
    budgets, crew = LeasedBudgets(clock), Crew(line, policy)
    ledger = JournaledLedger.open(Path(policy.storage.folder), clock, epoch_of(policy), terms=terms_of(policy))
    purse = Purse(
        ledger=ledger, budgets=budgets, caps=caps_of(policy), known_as=digest_pseudonym, limits=crew, leads=crew
    )
    address = place / "budgets"
    async with (
        await asyncio.start_unix_server(listen, address),
        aclosing(line),
        aclosing(supervisor),
        asyncio.TaskGroup() as group,
    ):
        beside = [
            group.create_task(supervise(supervisor)),  # type: ignore[arg-type]  # any line
            group.create_task(keep_line(budgets, address, worker="w", policy_digest=policy.digest)),
        ]
        async with open_way(
            policy,
            prepare(policy, clock),
            purse,
            environ={},
            clock=clock,
            embedder=EMBEDDER,
            acceptance=an_acceptance(),
        ) as opened:
            yield opened
        for task in beside:
            task.cancel()
    ledger.close()


@pytest.mark.parametrize(
    ("tenant", "model", "question"), [("poor", "plain", "Ask"), ("slow", "plain", "Admit"), ("many", "cached", "Claim")]
)
async def test_while_another_process_is_asked(
    upstream: PlayServer, tmp_path: Path, tenant: str, model: str, question: str
):
    heard: list[str] = []
    tenants = [
        {"id": "poor", "budget": {"usd": 5, "per": "month"}},
        {"id": "slow", "limits": {"rpm": 100}},
        {"id": "many"},
    ]
    policy = a_policy([upstream.url], tenants=tenants)
    before = len(upstream.requests)
    async with serving(tmp_path, policy, opening=lambda loaded: unanswered(tmp_path, loaded, heard)) as gateway:

        async def asked() -> None:
            await eventually(lambda: question in heard)
            heard.clear()

        assert await leaving(gateway, asked, model, "Allowed?", tenant=tenant) < WITHIN_S
        assert await is_left(gateway, "Allowed?") == []
    assert len(upstream.requests) == before
