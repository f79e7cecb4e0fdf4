"""The files that every worker opens when it starts: several at once, none told that a file is locked."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.wal import enter_wal
from gateway.content.store import FILE_NAME as CONTENT_FILE
from gateway.content.store import ContentStore
from gateway.verdicts import FILE_NAME as VERDICTS_FILE
from gateway.verdicts import Verdicts
from semantic_cache.sqlite_store import SqliteStore


def a_cache(folder: Path) -> SqliteStore:
    return SqliteStore(folder / "cache.db", max_entries=10, max_bytes=10**6)


OPENINGS: dict[str, Callable[[Path], SqliteStore | Verdicts | ContentStore]] = {
    "cache.db": a_cache,
    VERDICTS_FILE: Verdicts.open,
    CONTENT_FILE: ContentStore.open,
}


_HOLDING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
db.execute("COMMIT")
"""


@contextmanager
def held(file: Path, *, for_s: float) -> Iterator[None]:
    """Have another process hold a file for some time, as one does that is just making it."""
    command = [sys.executable, "-S", "-c", _HOLDING, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        release = threading.Timer(for_s, process.stdin.close)
        release.start()
        yield
        release.join()


@pytest.mark.parametrize("name", OPENINGS)
def test_a_file_that_another_process_is_making_is_waited_for(tmp_path: Path, name: str):
    with held(tmp_path / name, for_s=0.05):
        OPENINGS[name](tmp_path).close()


def test_a_file_that_stays_locked_is_not_waited_for_without_end(tmp_path: Path):
    db = sqlite3.connect(tmp_path / "x.db", isolation_level=None, timeout=0)
    with held(tmp_path / "x.db", for_s=0.2), pytest.raises(sqlite3.OperationalError, match="locked"):
        enter_wal(db, wait_s=0.02)
    db.close()
