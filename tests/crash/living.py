"""The gateway of the crash tests, a program: it lives under load and is killed (SIGKILL), again and again.

All is imported once; each life is a fork that opens the whole gateway on the folder the former one left (recovery
included) and answers clients until it is killed at a random moment: while it opens, or later. The process that folds
for it is started ahead, so that lives are short, and is killed too in some of them, while the gateway goes on. What a
client got whole is noted in a file. At the end it says how the lives were, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from backends.clock import SystemClock
from backends.words import Surface
from gateway.calls import Call
from gateway.children import Child, start_child
from gateway.compose import open_gateway
from gateway.ledger.store_process import StoreProcess
from gateway.pipeline import Gateway
from gateway.settings import environment
from policies.keys import KeyStore, digest_of
from policies.loader import load_policy
from policies.schema import Policy
from tests.served.world import EMBEDDER, an_acceptance

CLIENTS = 12
MOST_OPENING_S = 0.15
"""A third of the lives end within this time of their beginning: while they lock, fold, recover, begin."""
MOST_SERVING_S = 0.4
"""The others within this time of the first moment at which they serve."""
LONGEST_OPENING_S = 60.0
LOST_STORES = 0.3
"""In so many of the lives the process that folds is killed before the gateway is."""
FOLDS = "gateway.ledger.storing"


class Client:
    """Takes one answer, and notes a whole one when it has it."""

    is_slow = True  # all of it by `write`

    def __init__(self, note: int) -> None:
        self.is_started = False
        self._note = note
        self._id = b""
        self._is_whole = False

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.is_started = True
        named = dict(headers)
        self._id = named[b"x-request-id"]
        self._is_whole = status == 200 and named[b"content-type"].startswith(b"application/json")

    async def write(self, data: bytes) -> None:
        """Take some of it."""

    async def finish(self, data: bytes) -> None:  # noqa: ARG002 - the seam's
        if self._is_whole:
            os.write(self._note, b"got %b\n" % self._id)


async def load(gateway: Gateway, secret: str, note: int, chance: random.Random) -> None:
    """Ask for ever: whole answers, streams, and now and then a hang-up."""
    while True:
        body = {
            "model": "plain",
            "stream": chance.random() < 0.5,
            "messages": [{"role": "user", "content": f"question {chance.random()}"}],
        }
        call = Call(surface=Surface.CHAT, body=json.dumps(body).encode(), digest=digest_of(secret))
        patience_s = chance.uniform(0.001, 0.03) if chance.random() < 0.1 else None
        try:
            async with asyncio.timeout(patience_s):
                await gateway.answer(call, Client(note))
        except TimeoutError:
            pass


async def one_answer(policy: Policy, secret: str, note: Path) -> None:
    """Open, answer once and close in order: what is imported or compiled at first use need not be so in every life."""
    noted = os.open(note, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    body = {"model": "plain", "messages": [{"role": "user", "content": "first question"}]}
    call = Call(surface=Surface.CHAT, body=json.dumps(body).encode(), digest=digest_of(secret))
    async with open_gateway(
        policy, environ={}, clock=SystemClock(), embedder=EMBEDDER, acceptance=an_acceptance()
    ) as running:
        await running.gateway.answer(call, Client(noted))
    os.close(noted)


async def lose(store: StoreProcess, chance: random.Random) -> None:
    """Kill the process that folds, once, in some lives."""
    is_lost = chance.random() < LOST_STORES
    await asyncio.sleep(chance.uniform(0, MOST_SERVING_S / 2))
    if is_lost and store.pid is not None:
        os.kill(store.pid, signal.SIGKILL)


async def live(policy: Policy, secret: str, note: Path, *, seed: int, opened: int, folds: Child) -> None:
    """Open the gateway, say so, and serve until killed."""
    noted = os.open(note, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    store = StoreProcess(folds, environment())
    async with open_gateway(
        policy, environ={}, clock=SystemClock(), embedder=EMBEDDER, acceptance=an_acceptance(), store=store
    ) as running:
        os.write(opened, b"o")
        async with asyncio.TaskGroup() as group:
            group.create_task(lose(store, random.Random(seed)))  # noqa: S311 - a seed, not a secret
            for number in range(CLIENTS):
                chance = random.Random(seed * 1_000 + number)  # noqa: S311 - a seed, not a secret
                group.create_task(load(running.gateway, secret, noted, chance))


def end_of_life(pid: int, opened: int, chance: random.Random) -> str:
    """Kill a life at a random moment; return what it was doing."""
    phase = "opening" if chance.random() < 1 / 3 else "serving"
    if phase == "opening":
        time.sleep(chance.uniform(0, MOST_OPENING_S))
    else:
        if not select.select([opened], [], [], LONGEST_OPENING_S)[0]:
            raise SystemExit("the gateway did not open in a minute")
        time.sleep(chance.uniform(0, MOST_SERVING_S))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "serving" if os.read(opened, 1) else "opening"  # a life that ended before it said so left an empty pipe


def main(policy_file: Path, note: Path, kills: int, seed: int) -> None:
    """Live and die so many times."""
    policy = load_policy(policy_file, {})
    keys = KeyStore(policy.storage.folder, clock=SystemClock())
    _, secret = keys.create(policy.tenant_ids[0], tenants=policy.tenant_ids)
    chance = random.Random(seed)  # noqa: S311 - a seed, not a secret
    phases = {"opening": 0, "serving": 0}
    asyncio.run(one_answer(policy, secret, note))
    if threading.active_count() > 1:
        raise SystemExit("a thread is left, so that forking is not safe")
    began = time.monotonic()
    folds = start_child(FOLDS, environment())
    for life in range(kills):
        opened, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(opened)
            try:
                asyncio.run(live(policy, secret, note, seed=seed + life, opened=tell, folds=folds))
            finally:
                os._exit(1)  # a life that was not killed has failed
        os.close(tell)
        folds.end.close()  # the life's alone now, so that it ends with it
        former, folds = folds, start_child(FOLDS, environment())
        phases[end_of_life(pid, opened, chance)] += 1
        former.process.wait(LONGEST_OPENING_S)
        os.close(opened)
    folds.discard()
    sys.stdout.write(json.dumps({"kills": kills, **phases, "seconds": round(time.monotonic() - began, 1)}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
