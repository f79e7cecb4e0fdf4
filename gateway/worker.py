"""The bounded worker: one thread for what would hold up the event loop (embedding, vectors, cache writes).

One thread, because the embedder and the store are each used by one thread at a time and the machine's other cores
belong to the loop. The queue is bounded: a job that finds it full is refused, and its caller goes on without it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

_QUEUE_LIMIT = 64
"""Jobs waiting: at some 4 ms a job (one embedding), a longer queue would cost more time than a cache hit saves."""


_TURN_S = 0.0001
"""How long a thread may keep the interpreter while another waits for it. With Python's own 5 ms, a lookup's pieces in
pure Python keep the event loop waiting: 7 ms at the median while a thread reads texts, 0.3 ms with this."""


def take_short_turns() -> None:
    """Have threads of this process give the interpreter to one another after 0.1 ms; for processes that serve."""
    sys.setswitchinterval(_TURN_S)


class WorkerFull(Exception):
    """Too many jobs are waiting; the caller goes on without the result."""


class Worker:
    """Runs functions in order on one thread."""

    def __init__(self, *, queue_limit: int = _QUEUE_LIMIT) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="faregate-worker")
        self._waiting = 0
        self._limit = queue_limit

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `function` returns, computed on the thread.

        Raises:
            WorkerFull: the queue is full.
        """
        if self._waiting >= self._limit:
            raise WorkerFull
        self._waiting += 1
        future = self._executor.submit(function, *args, **kwargs)
        future.add_done_callback(lambda _: self._done())
        return await asyncio.wrap_future(future)

    def put(self, function: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> bool:
        """Queue a job whose result nobody waits for; dropped when the queue is full, which is told by False."""
        if self._waiting >= self._limit:
            return False
        self._waiting += 1
        self._executor.submit(function, *args, **kwargs).add_done_callback(lambda _: self._done())
        return True

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        self._executor.shutdown(wait=True)

    def _done(self) -> None:
        self._waiting -= 1
