"""Running the wall's cases through a gateway on real sockets: what each client saw, and what was booked."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import aiohttp

from backends.words import JsonValue
from tests.served.world import Rows, Served, a_policy, read_rows
from tests.upstream import Received
from tests.wall.cases import Case, Relayed, Script, Seen
from tests.wall.server import Connection, Hangs, Play, PlayServer
from tests.wall.words import KEY

HANGS_AFTER_S = 20.0
"""A request that takes longer has hung: the hasty gateway's deadlines are half a second."""

AT_ONCE = 12
HASTY = {"connect_s": 0.5, "first_byte_s": 0.5, "idle_s": 0.5, "total_s": 1.5}
"""Deadlines in seconds: long enough for a busy machine to relay a few tokens in."""


@dataclass(kw_only=True, repr=False)
class Run:
    """One case, asked for as a stream or not. `client_request_id` finds it in the ledger."""

    case: Case
    is_stream: bool
    number: int
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_cut: bool = False
    has_hung: bool = False
    relayed: asyncio.Event = field(default_factory=asyncio.Event)
    received: list[Received] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    request: dict[str, JsonValue] = field(default_factory=dict)
    charges: list[dict[str, JsonValue]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The name of the case and its kind of request."""
        return f"{self.case.name} ({'stream' if self.is_stream else 'whole'})"

    @property
    def model(self) -> str:
        """The model that is this case's alone, so that no case spoils another's endpoint."""
        return f"wall-{self.number}"

    @property
    def script(self) -> Script:
        """What the upstream does."""
        return (self.case.stream if self.is_stream else self.case.whole) or ()

    @property
    def expected(self) -> Seen:
        """What the client must see."""
        seen = self.case.sees_stream if self.is_stream else self.case.sees_whole
        if seen is None:
            raise AssertionError(f"{self.id}: nothing is expected")
        return seen

    @property
    def blocks(self) -> list[str]:
        """A stream's events and comments."""
        return [block for block in self.body.decode().split("\n\n") if block]

    @property
    def events(self) -> list[JsonValue]:
        """A stream's events but for `[DONE]`, decoded."""
        data = ["\n".join(line[6:] for line in b.split("\n")) for b in self.blocks if b.startswith("data: ")]
        return [json.loads(text) for text in data if text != "[DONE]"]

    @property
    def text(self) -> str:
        """The text of choice 0 as far as it came."""
        if not self.is_stream:
            choices = json.loads(self.body).get("choices", [])
        else:
            choices = [choice for event in self.events for choice in event.get("choices", ())]
        return "".join(_text(choice) for choice in choices)


def _text(choice: JsonValue) -> str:
    said = choice.get("delta") or choice.get("message") or choice
    return str(said.get("content") or said.get("text") or "")


def runs_of(cases: Sequence[Case]) -> list[Run]:
    """Return every case with every kind of request that it is for."""
    kinds = [
        (case, kind) for case in cases for kind in (True, False) if (case.stream if kind else case.whole) is not None
    ]
    return [Run(case=case, is_stream=kind, number=number) for number, (case, kind) in enumerate(kinds)]


def upstream_of(runs: Sequence[Run]) -> PlayServer:
    """Return a server that does each run's play under the run's own path."""
    by_path = {f"/{run.model}/v1/{run.case.surface}": run for run in runs}

    def play(received: Received) -> Play:
        run = by_path[received.path]
        run.received.append(received)
        run.connections.append(next(c for c in server.connections if id(c) == received.connection))
        return [Hangs(until=run.relayed) if isinstance(step, Relayed) else step for step in run.script]

    server = PlayServer(play)
    return server


def policy_of(runs: Sequence[Run], url: str, gone_url: str, **changes: JsonValue) -> dict[str, JsonValue]:
    """Return a policy with a model and a pool for each run."""
    origin = url.removesuffix("/v1")
    policy = a_policy([url])
    a_model, a_pool = policy["models"]["large"], policy["pools"]["large"] | {"api_key": KEY}
    for run in runs:
        place = gone_url if run.case.is_gone else f"{origin}/{run.model}/v1"
        policy["pools"][run.model] = a_pool | {"endpoints": [place]}
        policy["models"][run.model] = a_model | {"pool": run.model, "name": run.model}
    return policy | changes


async def play_all(gateway: Served, runs: Sequence[Run]) -> None:
    """Send every run's request, a dozen at once, and fill in what was seen and booked."""
    slots = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(_play(gateway, session, run, slots))
    rows = await _booked(gateway, len(runs))
    for run in runs:
        (run.request,) = [row for row in rows.requests if row["client_request_id"] == run.model]
        run.charges = [row for row in rows.charges if row["request_id"] == run.request["request_id"]]


async def _booked(gateway: Served, requests: int) -> Rows:
    async with asyncio.timeout(HANGS_AFTER_S):
        while True:
            await asyncio.to_thread(gateway.opened.ledger.flush, 5.0)
            rows = read_rows(gateway.folder)
            if len(rows.requests) >= requests:
                return rows


async def _play(gateway: Served, session: aiohttp.ClientSession, run: Run, slots: asyncio.Semaphore) -> None:
    async with slots:
        try:
            async with asyncio.timeout(HANGS_AFTER_S):
                await _ask(gateway, session, run)
        except TimeoutError:
            run.has_hung = True


async def _ask(gateway: Served, session: aiohttp.ClientSession, run: Run) -> None:
    body = {"model": run.model, "stream": run.is_stream, "max_tokens": 50, **run.case.request}
    if run.case.surface == "chat/completions":
        body["messages"] = [{"role": "user", "content": "What is it?"}]
    headers = {"authorization": f"Bearer {gateway.secrets['acme']}", "x-request-id": run.model}
    async with session.post(f"{gateway.base_url}/{run.case.surface}", json=body, headers=headers) as response:
        run.status, run.headers = response.status, response.headers
        try:
            async for part in response.content.iter_any():
                run.body += part
                if run.is_stream and run.text == run.expected.text:
                    run.relayed.set()
        except aiohttp.ClientPayloadError:
            run.is_cut = True


def open_holds(gateway: Served) -> int:
    """Return how many holds nobody ended."""
    with closing(sqlite3.connect(f"file:{gateway.folder / 'ledger.db'}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT COUNT(*) FROM open_holds").fetchone()[0])


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Collect every log record, of any level and logger, as text with all its fields."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.getMessage()} {record.__dict__}")

    root, collector = logging.getLogger(), Collector()
    level = root.level
    root.addHandler(collector)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(collector)
        root.setLevel(level)
