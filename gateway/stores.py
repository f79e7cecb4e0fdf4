"""Which store a policy's caches are kept in, opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gateway.ledger.errors import FolderUnusable
from policies.schema import Policy
from semantic_cache.seam import Store
from semantic_cache.sqlite_store import SqliteStore

CACHE_FILE = "cache.db"


def open_store(policy: Policy) -> Store:
    """Open the store; it is the caller's to close.

    Raises:
        FolderUnusable: its file cannot be used.
    """
    limits = policy.storage.cache
    file = Path(policy.storage.folder) / CACHE_FILE
    try:
        return SqliteStore(file, max_entries=limits.max_entries, max_bytes=limits.max_bytes)
    except sqlite3.Error as error:
        raise FolderUnusable(
            f"{file} cannot be used ({error}); delete it: it holds nothing but cached answers"
        ) from error
