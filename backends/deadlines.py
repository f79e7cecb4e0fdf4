"""Deadlines of one length, for very many waits at once: one timer for all of them.

`asyncio.timeout` sets a timer of the loop, and cancels it, for each of a request's waits, nearly none of which runs
out. Deadlines of the same length end in the order in which they began: one timer for the first of them is enough.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Protocol

_SLACK: Final = 16


class Ending(Protocol):
    """Something that ends at a time; `due` is the loop's, and the deadlines' to write."""

    due: float

    def expire(self) -> None:
        """End now."""
        ...


class Deadlines:
    """Makes deadlines; used in one event loop.

    Args:
        seconds: from a deadline's beginning to its end.
    """

    __slots__ = ("_open", "_timer", "loop", "seconds", "slack_s")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.slack_s = seconds / _SLACK
        self._open: dict[Ending, None] = {}  # in the order of their ends; removed in any
        self._timer: asyncio.TimerHandle | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> Deadline:
        """Return a deadline that begins when its block is entered."""
        return Deadline(self)

    def expire(self) -> None:
        """End every block that runs, as if its time were over; in the loop's next turn, as a timer would."""
        for deadline in self._open:
            deadline.due = 0.0
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(0, self._look)

    def add(self, deadline: Ending, *, more_s: float = 0.0) -> None:
        """Watch a deadline that is not watched; it is told once, and not watched any longer then."""
        loop = self.loop
        if loop is None:
            loop = self.loop = asyncio.get_running_loop()
        deadline.due = due = loop.time() + self.seconds + more_s
        self._open[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(due, self._look)

    def remove(self, deadline: Ending) -> None:
        """Watch it no longer."""
        self._open.pop(deadline, None)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while (deadline := next(iter(self._open), None)) is not None:
            if deadline.due > now:
                self._timer = loop.call_at(deadline.due, self._look)
                return
            del self._open[deadline]
            deadline.expire()


class Deadline:
    """A block that must end in time; it raises `TimeoutError` if it does not, exactly as `asyncio.timeout` does."""

    __slots__ = ("_all", "_cancelling", "_is_expired", "_task", "due")

    def __init__(self, all_of_them: Deadlines) -> None:
        self.due = 0.0
        self._all = all_of_them
        self._is_expired = False

    def __enter__(self) -> None:
        """Begin; one that has ended may begin again."""
        every = self._all
        task = asyncio.current_task(every.loop)
        if task is None:
            raise RuntimeError("a deadline is a task's")
        self._task = task
        self._cancelling = task.cancelling()
        self._is_expired = False
        every.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End; see the class.

        Raises:
            TimeoutError: the time was over.
        """
        self._all.remove(self)
        # Someone else may have cancelled the task as well: then it is cancelled, and no time-out.
        if self._is_expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def prolong(self) -> None:
        """Begin its time anew, from outside its block, which runs.

        It may end a sixteenth of its time late then, never early: for a stream's tokens, of which there are many in
        that time, nearly all calls have nothing to do.
        """
        every = self._all
        loop = every.loop
        if loop is not None and self.due < loop.time() + every.seconds:
            every.remove(self)
            every.add(self, more_s=every.slack_s)

    def expire(self) -> None:
        """End the block now."""
        self._is_expired = True
        self._task.cancel()
