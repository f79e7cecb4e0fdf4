"""Which store a policy's caches are kept in, opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from backends.embedder import DIMENSIONS, EMBEDDER_ID
from gateway.ledger.errors import FolderUnusable
from gateway.prepare import PolicyUnusable
from policies.schema import EMBEDDED, Policy
from semantic_cache.sqlite_store import SqliteStore

if TYPE_CHECKING:
    from policies.schema import CacheStore
    from semantic_cache.scaled_store import ScaledStore

CACHE_FILE = "cache.db"


def open_store(policy: Policy) -> SqliteStore | ScaledStore:
    """Open the store; it is the caller's to close. One in a server is connected to when it is first asked.

    Raises:
        FolderUnusable: the embedded one's file cannot be used.
        PolicyUnusable: it names a server, whose client is not installed.
    """
    settings = policy.storage.cache
    if settings.is_shared:
        return _shared(settings)
    file = Path(policy.storage.folder) / CACHE_FILE
    try:
        return SqliteStore(file, max_entries=settings.max_entries, max_bytes=settings.max_bytes)
    except (sqlite3.Error, OSError) as error:
        raise FolderUnusable(
            f"{file} cannot be used ({error}); delete it: it holds nothing but cached answers"
        ) from error


def _shared(settings: CacheStore) -> ScaledStore:
    try:
        from semantic_cache.redis_store import RedisBodies
        from semantic_cache.scaled_store import ScaledStore
    except ImportError as error:
        raise PolicyUnusable(
            [f"storage.cache is in a server, and {error.name} is not installed; `pip install 'faregate[scaled]'`"]
        ) from error
    deadline_s = settings.deadline_ms / 1e3
    address = settings.at.get_secret_value()
    bodies = RedisBodies.at(
        address, max_entries=settings.max_entries, max_bytes=settings.max_bytes, deadline_s=deadline_s
    )
    if settings.vectors == EMBEDDED:
        return ScaledStore(bodies, None)
    from semantic_cache.qdrant_index import QdrantIndex

    key = None if settings.vectors_key is None else settings.vectors_key.get_secret_value()
    index = QdrantIndex.at(
        settings.vectors, api_key=key, embedder_id=EMBEDDER_ID, dimensions=DIMENSIONS, deadline_s=deadline_s
    )
    return ScaledStore(bodies, index)
