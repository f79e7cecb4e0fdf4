"""A worker process for the lease tests: asks for money a number of times at once, spends it, and tells what it spent.

    python lease_worker.py SOCKET NAME REQUESTS HOLD_NUSD [stay]

Prints one line of JSON. With `stay` it keeps what it got, says so, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

from backends.clock import SystemClock
from gateway.ledger.budgets import BudgetsUnready, Hold
from gateway.ledger.leases import LeasedBudgets, SocketChannel

POT = ("tenant:acme", "acme")
CLOCK = SystemClock()


async def spend(budgets: LeasedBudgets, hold_nusd: int, *, stays: bool) -> int | None:
    """Return what one attempt spent, None when it was refused."""
    await asyncio.sleep(random.random() / 5)  # noqa: S311 - traffic
    try:
        hold = await budgets.reserve([POT], hold_nusd, CLOCK.now())
    except BudgetsUnready:  # a busy machine: no answer in time, which a client is told with 503
        return None
    if not isinstance(hold, Hold):
        return None
    await asyncio.sleep(random.random() / 20)  # noqa: S311 - as above
    if stays:
        return hold_nusd
    actual = random.randint(0, hold_nusd)  # noqa: S311 - as above
    budgets.settle(hold, actual)
    return actual


async def main(path: Path, name: str, requests: int, hold_nusd: int, *, stays: bool) -> None:
    """Connect, spend, tell."""
    budgets = LeasedBudgets(CLOCK)
    ready = asyncio.Event()
    channel = SocketChannel(budgets, path, worker=name, policy_digest="p")
    async with asyncio.TaskGroup() as group:
        line = group.create_task(channel.run(ready.set))
        await ready.wait()
        spent = await asyncio.gather(*(spend(budgets, hold_nusd, stays=stays) for _ in range(requests)))
        got = [each for each in spent if each is not None]
        print(json.dumps({"granted": len(got), "spent": sum(got)}), flush=True)  # noqa: T201 - for the test to read
        if stays:
            await asyncio.Event().wait()
        line.cancel()


if __name__ == "__main__":
    socket, worker, count, amount, *rest = sys.argv[1:]
    asyncio.run(main(Path(socket), worker, int(count), int(amount), stays=bool(rest)))
