"""A gateway of several workers in processes of its own, and a client of it."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from backends.clock import SystemClock
from backends.words import JsonValue
from policies.keys import KeyStore
from tests.served.world import write_policy

SERVER: JsonValue = {"port": 0, "notice_s": 0, "grace_s": 20, "workers": 2}
"""The policy's `server`, but for how many workers."""

_SERVE = (sys.executable, "-m", "gateway", "serve")


@dataclass(kw_only=True)
class Manned:
    """A running gateway."""

    process: asyncio.subprocess.Process
    origin: str
    folder: Path
    secrets: Mapping[str, str]
    session: aiohttp.ClientSession

    async def ask(self, question: str, *, tenant: str = "acme", **fields: JsonValue) -> aiohttp.ClientResponse:
        """Ask over a new connection, so that any worker may take it; the response is the caller's to read."""
        body = {"model": "plain", "messages": [{"role": "user", "content": question}], **fields}
        headers = {"authorization": f"Bearer {self.secrets[tenant]}", "connection": "close"}
        return await self.session.post(f"{self.origin}/v1/chat/completions", json=body, headers=headers)

    async def status(self, question: str, *, tenant: str = "acme") -> int:
        """Ask, read all, and return the status; 0 when the connection broke."""
        try:
            async with await self.ask(question, tenant=tenant, max_tokens=4) as response:
                await response.read()
                return response.status
        except aiohttp.ClientError:
            return 0

    async def statuses(self, questions: Sequence[str], *, tenant: str = "acme") -> list[int]:
        """Ask all of these at once."""
        return await asyncio.gather(*(self.status(question, tenant=tenant) for question in questions))

    async def household(self) -> JsonValue:
        """How all workers are."""
        headers = {"authorization": f"Bearer {self.secrets['admin']}", "connection": "close"}
        async with self.session.get(f"{self.origin}/admin/status", headers=headers) as response:
            return await response.json()

    async def is_ready(self) -> bool:
        """Whether the gateway says that all is well."""
        async with self.session.get(f"{self.origin}/health/readiness", headers={"connection": "close"}) as response:
            return response.status == 200

    async def figure(self, line: str) -> float:
        """Return one number of the metrics."""
        async with self.session.get(f"{self.origin}/metrics", headers={"connection": "close"}) as response:
            text = await response.text()
        return next(float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(f"{line} "))

    async def stop(self) -> int:
        """Stop it in order and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def manned(place: Path, policy: JsonValue, *, workers: int) -> AsyncIterator[Manned]:
    """Serve a policy out of a folder with several workers, until the block ends."""
    file = write_policy(place, {**policy, "server": SERVER | {"workers": workers}})
    keys = KeyStore(place / "data", clock=SystemClock())
    tenants = [tenant["id"] for tenant in policy["tenants"]]
    secrets = {tenant: keys.create(tenant, tenants=tenants)[1] for tenant in tenants}
    secrets["admin"] = keys.create(None, tenants=tenants, is_admin=True)[1]
    command = [*_SERVE, "--policy", str(file), "--log-level", "error"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as session:
            yield Manned(
                process=process,
                origin=await _listens(process),
                folder=place / "data",
                secrets=secrets,
                session=session,
            )
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def fails(*options: str) -> str:
    """Run a gateway that must end with status 1 and no trace, and return what it says."""
    process = await asyncio.create_subprocess_exec(
        *_SERVE, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1, said.decode()
    assert b"Traceback" not in said, said.decode()
    return said.decode()


async def _listens(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(40):
        while line := (await process.stderr.readline()).decode():
            said += line
            if found := re.search(r"at (http://\S+)/v1", line):
                return found[1]
    raise AssertionError(f"it ended before it listened: {said}")


def one(folder: Path, query: str) -> JsonValue:
    """Return the single value of a query of the ledger."""
    with closing(sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchone()[0]


def column(folder: Path, query: str) -> list[JsonValue]:
    """Return the first column of a query of the ledger."""
    with closing(sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as db:
        return [row[0] for row in db.execute(query)]
