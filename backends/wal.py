"""Opening SQLite files that several processes open at once."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

_AGAIN_S: Final = 0.01


def enter_wal(db: sqlite3.Connection, *, wait_s: float) -> None:
    """Have a file's changes go to a write-ahead log, where they do not yet.

    Of several connections that switch a new file, SQLite tells all but one that it is locked, at once and whatever
    their busy timeout: each holds a lock the other waits for, so that waiting would not end. They may try again.

    Args:
        db: a connection; nothing is under way on it.
        wait_s: for how long the switch is tried again.

    Raises:
        sqlite3.Error: it cannot be made.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= until:
                raise
            time.sleep(_AGAIN_S)
        else:
            return
