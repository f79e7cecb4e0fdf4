"""Measured energy: looks at the cards' meters now and then, and books what each replica's drew in between.

One process of a gateway does it. What is drawn while none runs, or between a killed one's last look and the next one's
first, is nobody's: the bill then estimates it where the policy states watts.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from backends.energy import MetersUnavailable, NvmlMeters
from gateway.ledger.rows import EnergyRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from backends.clock import Clock
    from backends.energy import Meters
    from policies.schema import Policy

LOOK_S: Final = 60.0
"""Some 43,000 rows a replica and month; a report's joules are shared by time within one."""
_LOOK_TIMEOUT_S: Final = 10.0

_log = logging.getLogger("faregate")

Card = int | str
Machines = dict[tuple[str, str], tuple[Card, ...]]
"""The cards of each replica, by pool and endpoint."""


def metered_machines(policy: Policy) -> Machines:
    """Return the replicas whose cards a policy names."""
    return {
        (str(name), machine.endpoint): machine.gpus
        for name, pool in policy.pools.items()
        for machine in pool.machines
        if machine.gpus
    }


class EnergyWatch:
    """Books the differences between looks. Looks may come from any thread; one that comes during another is skipped.

    Args:
        meters: of the cards.
        machines: whose cards they are.
        book: called with every difference.
        clock: when a look was.
    """

    def __init__(self, *, meters: Meters, machines: Machines, book: Callable[[EnergyRow], None], clock: Clock) -> None:
        self._meters = meters
        self._machines = machines
        self._book = book
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[datetime, tuple[int, ...]]] = {}
        self._silent: set[tuple[str, str]] = set()
        self._looking = threading.Lock()

    def look(self) -> None:
        """Read all meters (blocking, milliseconds) and book what was drawn since the last look."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            for of, cards in self._machines.items():
                self._look_at(of, cards)
        finally:
            self._looking.release()

    def _look_at(self, of: tuple[str, str], cards: Sequence[Card]) -> None:
        try:
            now, read = self._clock.now(), tuple(self._meters.millijoules(card) for card in cards)
        except MetersUnavailable as error:
            self._last.pop(of, None)
            if of not in self._silent:
                self._silent.add(of)
                _log.warning("meter_unreadable", extra={"pool": of[0], "endpoint": of[1], "error": str(error)})
            return
        self._silent.discard(of)
        former, self._last[of] = self._last.get(of), (now, read)
        if former is None or now <= former[0]:
            return
        drawn = [after - before for after, before in zip(read, former[1], strict=True)]
        if min(drawn) < 0:  # the driver was loaded anew, and its meters began at 0
            return
        self._book(EnergyRow(pool=of[0], endpoint=of[1], since=former[0], until=now, millijoules=sum(drawn)))


@asynccontextmanager
async def metering(
    policy: Policy,
    book: Callable[[EnergyRow], None],
    clock: Clock,
    *,
    open_meters: Callable[[], Meters] = NvmlMeters.open,
) -> AsyncIterator[tuple[str, ...]]:
    """Book what the policy's cards draw until the block ends; yields what an operator should know.

    A machine without meters serves all the same: its bill has estimates.
    """
    machines = metered_machines(policy)
    if not machines:
        yield ()
        return
    try:
        meters = await asyncio.to_thread(open_meters)
    except MetersUnavailable as error:
        yield (f"energy is not measured: {error}",)
        return
    watch = EnergyWatch(meters=meters, machines=machines, book=book, clock=clock)
    try:
        await _look(watch)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_run(watch))
            try:
                yield ()
            finally:
                task.cancel()
        watch.look()
    finally:
        meters.close()


async def _run(watch: EnergyWatch) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        await _look(watch)


async def _look(watch: EnergyWatch) -> None:
    with suppress(TimeoutError):  # a driver that hangs: looks are skipped until this one is over
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            await asyncio.to_thread(watch.look)
