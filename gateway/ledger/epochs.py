"""The number of an epoch: one counter a folder, shared by all processes that write its journals."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_EPOCH_FILE: Final = "epoch"


def next_epoch(journal: Path, *, above: int = 0) -> int:
    """Return an epoch's number that no writer of the folder has had: ascending, shared by its processes.

    Raises:
        OSError: the counter cannot be read or written.
    """
    fd = os.open(journal / _EPOCH_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        text = os.pread(fd, 32, 0).strip()
        number = max(int(text) if text.isdigit() else 0, above) + 1
        os.pwrite(fd, b"%020d\n" % number, 0)  # always as long, so that half a number is never read
    finally:
        os.close(fd)
    return number
