"""Making connections: how many at once, and how long the network may take for one.

Thousands of requests that begin in one moment must neither overflow the upstream's listen queue, whose lost handshakes
are repeated after one, three and seven seconds, nor time out because the event loop is busy with all of them: nine
thousand streams opened at once once made four thousand 504s, with every connection long accepted by the kernel.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

MOST_AT_ONCE: Final = 256
"""Connections being made to one origin; half of the smallest listen queue in use (nginx's and Node's 511)."""

_LOOKS: Final = 10


class Patience:
    """A block that the network has so many seconds for; it raises `TimeoutError` as `asyncio.timeout` does.

    Time in which the event loop did not turn is not the network's: its answer may have come, and nobody looked. The
    time is therefore counted in tenths, each over once the loop has turned after it, and none counts for more.

    Args:
        seconds: how long the block may take.
    """

    __slots__ = ("_cancelling", "_is_over", "_left", "_loop", "_task", "_tenth_s", "_timer")

    def __init__(self, seconds: float) -> None:
        self._tenth_s = seconds / _LOOKS
        self._left = _LOOKS
        self._is_over = False

    def __enter__(self) -> None:
        """Begin."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("patience is a task's")
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._tenth_s, self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End; see the class.

        Raises:
            TimeoutError: the time was over.
        """
        self._timer.cancel()
        # Someone else may have cancelled the task as well: then it is cancelled, and no time-out.
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _look(self) -> None:
        self._left -= 1
        if self._left:
            self._timer = self._loop.call_later(self._tenth_s, self._look)
            return
        self._is_over = True
        self._task.cancel()
