"""Starting worker processes, and seeing them end.

Free of all that takes long to import, so that the first workers import theirs while the supervisor imports its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROGRAM: Final = (
    "import sys; root = sys.argv[1]; root in sys.path or sys.path.insert(0, root); "
    "from gateway.workers.member import main; main()"
)
"""The packages are found where the supervisor's were found, and never in the present folder (`-P`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker's process, and the supervisor's end of the line to it."""

    process: subprocess.Popen[bytes]
    end: socket.socket

    def discard(self) -> None:
        """End it at once; it has not been told what to do, or is not wanted any more."""
        self.end.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def start_worker(listening: socket.socket, environ: Mapping[str, str]) -> Worker:
    """Start a process that waits on its standard input, a socket, to be told what to do.

    Args:
        listening: what it will accept connections from; it inherits the descriptor under the same number.
        environ: its environment.

    Raises:
        OSError: there is no room for another process.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                pass_fds=(listening.fileno(),),
                start_new_session=True,  # Ctrl-C at a terminal is for the supervisor, who tells them
                env=dict(environ),
            )
        except OSError:
            ours.close()
            raise
    return Worker(process=process, end=ours)


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Return a process's exit status once it has ended, minus a signal's number where that ended it."""
    if (status := process.poll()) is not None:
        return status
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    fd = os.pidfd_open(process.pid)
    try:
        loop.add_reader(fd, gone.set)
        await gone.wait()
        return process.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
