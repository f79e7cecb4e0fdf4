"""Starting worker processes, and seeing them end.

Free of all that takes long to import, so that the first workers import theirs while the supervisor imports its own.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from gateway.children import Child, start_child

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Mapping


def start_worker(listening: socket.socket, environ: Mapping[str, str]) -> Child:
    """Start a process that waits on its standard input, a socket, to be told what to do.

    Args:
        listening: what it will accept connections from; it inherits the descriptor under the same number.
        environ: its environment.

    Raises:
        OSError: there is no room for another process.
    """
    return start_child("gateway.workers.member", environ, pass_fds=(listening.fileno(),))


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
