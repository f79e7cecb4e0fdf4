"""Who leads among several processes: of equal requests in flight, one process buys the answer and the others wait.

A process asks for the lead when it has a request that its caches cannot answer and that no other of its own requests
leads (`gateway.flights`). Whoever has it lets go of it when the answer is stored, or when there will be none; then the
others look into the cache, and one of those that find nothing has the lead. A process that dies lets go as well: at
once where a supervisor sees it, after `LIFE_S` where the lead is an entry in a Redis that is renewed.

It fails open: where nobody can be asked, everybody leads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Protocol

from gateway.worker import Worker, WorkerFull
from semantic_cache.seam import StoreUnavailable

_log = logging.getLogger("faregate")

LIFE_S: Final = 5.0
"""How long a lead in a server outlives its process."""
_RENEWALS: Final = 3
_FIRST_LOOK_S: Final = 0.02
_LONGEST_LOOK_S: Final = 0.25
"""Between two looks at a lead that another gateway has: half of what a fast answer takes, or a tenth of a slow one."""
_QUEUE_LIMIT: Final = 256


class Lead:
    """The right to buy an answer that other processes wait for.

    Args:
        let_go: called on the event loop with whether the answer is stored.
    """

    def __init__(self, let_go: Callable[[bool], object]) -> None:
        self._let_go = let_go
        self._loop = asyncio.get_running_loop()
        self._is_over = False

    def end(self, *, is_stored: bool) -> None:
        """Let the others go on; callable from any thread, and only the first call counts."""
        if not self._is_over:
            self._is_over = True
            self._loop.call_soon_threadsafe(self._let_go, is_stored)


class Leads(Protocol):
    """Gives leads to the processes that share a cache."""

    async def claim(self, key: bytes) -> Lead | None:
        """Return the lead, or None when another process had it: waits until it lets go.

        Cancelling this claims nothing. With either, the caller looks into the cache again before it buys.
        """
        ...


class LeaseStore(Protocol):
    """Where leads of several gateways are kept; all methods may raise `StoreUnavailable`."""

    def claim(self, key: bytes, holder: bytes, *, life_s: float) -> bool:
        """Take the lead for a while, if nobody has it."""
        ...

    def renew(self, keys: Iterable[bytes], holder: bytes, *, life_s: float) -> None:
        """Keep leads of one's own for longer."""
        ...

    def release(self, key: bytes, holder: bytes) -> None:
        """Let go of a lead of one's own."""
        ...


class SharedLeads:
    """Implements `Leads` for gateways that share a server.

    Args:
        store: the server.
        deadline_s: how long it may take to answer.
    """

    def __init__(self, store: LeaseStore, *, deadline_s: float) -> None:
        self._store = store
        self._deadline_s = deadline_s
        self._holder = secrets.token_bytes(16)
        self._held: set[bytes] = set()
        # Not the thread of the caches: a lead is let go of while that one waits for the server.
        self._worker = Worker(queue_limit=_QUEUE_LIMIT)

    async def claim(self, key: bytes) -> Lead | None:
        """Return the lead, as soon as nobody else has it."""
        wait_s = _FIRST_LOOK_S
        while not await self._take(key):
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_LOOK_S)
        return Lead(lambda _: self._let_go(key))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Renew what is held until the block ends, and then let go of it."""
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew())
            try:
                yield
            finally:
                renewing.cancel()
                for key in tuple(self._held):
                    self._let_go(key)
                self._worker.close()

    async def _take(self, key: bytes) -> bool:
        is_told = False
        try:
            async with asyncio.timeout(self._deadline_s):
                is_taken = await self._worker.run(self._store.claim, key, self._holder, life_s=LIFE_S)
            is_told = True
        except (WorkerFull, StoreUnavailable):
            is_told = True
            return True
        except TimeoutError:
            return True
        finally:
            if not is_told:  # it may be taken all the same, and nobody would let go of it
                self._worker.put(_quietly, self._store.release, key, self._holder)
        if is_taken:
            self._held.add(key)
        return is_taken

    def _let_go(self, key: bytes) -> None:
        if key in self._held:
            self._held.discard(key)
            self._worker.put(_quietly, self._store.release, key, self._holder)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LIFE_S / _RENEWALS)
            if self._held:
                self._worker.put(_quietly, self._store.renew, tuple(self._held), self._holder, life_s=LIFE_S)


def _quietly(question: Callable[..., None], *args: object, **kwargs: object) -> None:
    try:
        question(*args, **kwargs)
    except StoreUnavailable as error:
        _log.warning("lead_not_told", extra={"error": str(error)})
