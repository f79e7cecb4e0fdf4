"""Child processes on a line: ourselves anew, with one end of a socket pair as standard input.

Free of all that takes long to import, so that a child imports what it needs while its parent imports its own.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROGRAM: Final = (
    "import sys, importlib; root = sys.argv[1]; root in sys.path or sys.path.insert(0, root); "
    "importlib.import_module(sys.argv[2]).main()"
)
"""The packages are found where the parent's were found, and never in the present folder (`-P`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process, and our end of the line to it; at its other end is the process's standard input."""

    process: subprocess.Popen[bytes]
    end: socket.socket

    def discard(self) -> None:
        """End it at once; it has not been told what to do, or is not wanted any more."""
        self.end.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def start_child(module: str, environ: Mapping[str, str], *, pass_fds: tuple[int, ...] = ()) -> Child:
    """Start a process that runs `main()` of one of our modules.

    Args:
        module: its whole name.
        environ: its environment.
        pass_fds: descriptors it inherits under the same numbers.

    Raises:
        OSError: there is no room for another process.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[1]), module],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C at a terminal is for the parent, who tells them
                env=dict(environ),
            )
        except OSError:
            ours.close()
            raise
    return Child(process=process, end=ours)
