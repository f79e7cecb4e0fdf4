"""Several workers, one cap: leases over a real socket, between real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from backends.clock import SystemClock
from backends.words import JsonValue
from gateway.ledger.budgets import BudgetAuthority, BudgetsUnready, Hold, Lease, PotId, Refused
from gateway.ledger.leases import LeasedBudgets, LeaseServer, SocketChannel, keep_line
from policies.schema import AtLimit
from policies.windows import Per
from tests.ledger.test_budgets import a_cap

POT = ("tenant:acme", "acme")
WORKER = Path(__file__).parent / "lease_worker.py"


class Watched(BudgetAuthority):
    """An authority whose pot is looked at after every lease."""

    most_nusd = 0

    @override
    def lease(self, *args: JsonValue) -> tuple[Lease, ...] | Refused:
        given = super().lease(*args)
        pot = self.pot(POT, CLOCK.now())
        self.most_nusd = max(self.most_nusd, pot.committed_nusd + pot.held_nusd + pot.leased_nusd)
        return given


class World:
    """A served authority, and workers of it in this process."""

    def __init__(self, authority: Watched, path: Path, group: asyncio.TaskGroup) -> None:
        self.authority = authority
        self.path = path
        self.dead: list[str] = []
        self._group = group

    @property
    def left(self) -> int:
        return self.authority.pot(POT, CLOCK.now()).left_nusd

    async def worker(self, name: str, digest: str = "p") -> tuple[LeasedBudgets, asyncio.Task[None]]:
        budgets, ready = LeasedBudgets(CLOCK), asyncio.Event()
        line = self._group.create_task(
            SocketChannel(budgets, self.path, worker=name, policy_digest=digest).run(ready.set)
        )
        await ready.wait()
        return budgets, line


class OwnedClock(SystemClock):
    ahead = timedelta(0)

    @override
    def now(self):
        return super().now() + self.ahead


CLOCK = OwnedClock()


@asynccontextmanager
async def serving(
    folder: Path,
    nusd: int,
    authority: Watched | None = None,
    *,
    at_limit: AtLimit = AtLimit.BLOCK,
    per: Per = Per.TOTAL,
) -> AsyncIterator[World]:
    if authority is None:
        authority = Watched([a_cap(POT[0], nusd=nusd, per=per, at_limit=at_limit)], CLOCK.now())
        authority.rebuild({}, CLOCK.now())
    async with asyncio.TaskGroup() as group:
        world = World(authority, folder / "s", group)
        server = LeaseServer(authority, clock=CLOCK, path=world.path, policy_digest="p", on_death=world.dead.append)
        async with server:
            yield world


async def held(budgets: LeasedBudgets, amount: int, *pots: PotId) -> Hold:
    hold = await budgets.reserve(pots or (POT,), amount, CLOCK.now())
    assert isinstance(hold, Hold)
    return hold


async def soon(budgets: LeasedBudgets, amount: int) -> Hold:
    """Return a hold as soon as there is a line, and its authority has heard of what went before."""
    async with asyncio.timeout(10):
        while True:
            with suppress(BudgetsUnready):
                if isinstance(hold := await budgets.reserve([POT], amount, CLOCK.now()), Hold):
                    return hold
            await asyncio.sleep(0.02)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - other processes' deeds set no event here
            await asyncio.sleep(0.01)


async def a_process(world: World, name: str, requests: int, hold_nusd: int, *more: str) -> asyncio.subprocess.Process:
    arguments = [str(world.path), name, str(requests), str(hold_nusd), *more]
    return await asyncio.create_subprocess_exec(sys.executable, str(WORKER), *arguments, stdout=asyncio.subprocess.PIPE)


async def test_a_thousand_requests_at_once_over_several_processes_overshoot_by_nothing(tmp_path: Path):
    cap, amount = 20_000, 100
    async with serving(tmp_path, cap) as world:
        processes = [await a_process(world, f"w{n}", 334, amount) for n in range(3)]
        said = [json.loads((await process.communicate())[0]) for process in processes]
        await until(lambda: world.authority.pot(POT, CLOCK.now()).leased_nusd == 0)
        pot = world.authority.pot(POT, CLOCK.now())
    assert pot.committed_nusd == sum(each["spent"] for each in said)
    assert cap / 4 < pot.committed_nusd <= world.authority.most_nusd <= cap
    assert world.dead == []


async def test_a_killed_workers_lease_is_lent_again_only_when_its_journal_was_read(tmp_path: Path):
    async with serving(tmp_path, 1000) as world:
        process = await a_process(world, "w1", 9, 100, "stay")
        assert process.stdout is not None
        assert json.loads(await process.stdout.readline())["granted"] == 9
        process.kill()
        await process.communicate()
        await until(lambda: world.dead == ["w1"])
        budgets, line = await world.worker("w2")
        refused = await budgets.reserve([POT], 200, CLOCK.now())
        world.authority.reclaim("w1", {POT: 500}, CLOCK.now())
        await held(budgets, 500)
        line.cancel()
    assert isinstance(refused, Refused)
    assert refused.left_nusd <= 100


async def test_what_one_worker_has_to_spare_is_called_back_for_another(tmp_path: Path):
    async with serving(tmp_path, 1600) as world:
        (one, first), (two, second) = await world.worker("w1"), await world.worker("w2")
        one.release(await held(one, 1000))
        assert world.left < 1000
        hold = await held(two, 1600)
        two.settle(hold, 1600)
        assert isinstance(await one.reserve([POT], 1, CLOCK.now()), Refused)
        for line in (first, second):
            line.cancel()
        await until(lambda: world.authority.pot(POT, CLOCK.now()).leased_nusd == 0)
        assert world.left == 0


async def test_a_lease_ends_with_its_window(tmp_path: Path):
    async with serving(tmp_path, 100, per=Per.DAY) as world:
        budgets, line = await world.worker("w1")
        hold = await held(budgets, 100)
        CLOCK.ahead += timedelta(days=1)
        try:
            await held(budgets, 100)
            budgets.settle(hold, 100)
            await until(lambda: world.left == 0)
            assert world.authority.pot(POT, CLOCK.now()).committed_nusd == 0
        finally:
            CLOCK.ahead = timedelta(0)
        line.cancel()


async def test_a_warned_pot_is_lent_beyond_its_cap_and_says_so(tmp_path: Path):
    async with serving(tmp_path, 100, at_limit=AtLimit.WARN) as world:
        budgets, line = await world.worker("w1")
        assert (await held(budgets, 100)).warned == ()
        assert (await held(budgets, 1)).warned == (POT,)
        line.cancel()


async def test_a_cancelled_question_loses_nothing(tmp_path: Path):
    async with serving(tmp_path, 100) as world:
        budgets, line = await world.worker("w1")
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(budgets.reserve([POT], 90, CLOCK.now()))
            await asyncio.sleep(0)
            asking.cancel()
        budgets.settle(await held(budgets, 100), 100)
        line.cancel()


async def test_a_worker_whose_line_was_cut_grants_nothing_and_settles_its_accounts_over_the_next(tmp_path: Path):
    budgets = LeasedBudgets(CLOCK)
    async with asyncio.TaskGroup() as group:
        line = group.create_task(keep_line(budgets, tmp_path / "s", worker="w", policy_digest="p"))
        async with serving(tmp_path, 1000) as world:
            hold = await soon(budgets, 100)
        await until(lambda: not budgets.is_ready)
        with pytest.raises(BudgetsUnready):
            await budgets.reserve([POT], 1, CLOCK.now())
        budgets.settle(hold, 60)
        assert world.dead == ["w.0"]
        assert world.authority.pot(POT, CLOCK.now()).leased_nusd >= 100
        async with serving(tmp_path, 1000, world.authority) as again:
            budgets.settle(await soon(budgets, 1000 - 60), 0)
            assert again.authority.pot(POT, CLOCK.now()).committed_nusd == 60
            line.cancel()


async def test_accounts_go_on_when_a_pot_is_lent_again(tmp_path: Path):
    async with serving(tmp_path, 1000) as world:
        budgets, line = await world.worker("w1")
        for spent in (60, 50):
            budgets.settle(await held(budgets, 100), spent)
            budgets.tell(is_last=True)  # nothing is left of the lease: the pot is laid aside
        line.cancel()
        await until(lambda: world.authority.pot(POT, CLOCK.now()).leased_nusd == 0)
        assert world.authority.pot(POT, CLOCK.now()).committed_nusd == 110


async def test_a_worker_of_another_policy_is_turned_away(tmp_path: Path):
    budgets = LeasedBudgets(CLOCK)
    async with serving(tmp_path, 100) as world:
        with pytest.raises(BudgetsUnready, match="load the same policy"):
            await SocketChannel(budgets, world.path, worker="w", policy_digest="q").run()
