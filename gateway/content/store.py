"""The file of stored prompts and answers: `content.db`, whose rows may be deleted, unlike the ledger's.

Several workers write it, commands read and delete meanwhile (WAL). Deleted rows are overwritten in the file.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from backends.wal import enter_wal
from gateway.content.cipher import ContentUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta
    from pathlib import Path

    from backends.words import JsonValue
    from gateway.content.cipher import Cipher

FILE_NAME: Final = "content.db"

_OPENING_S: Final = 5.0
"""How long it waits for another process's lock, and for others that make the file at the same time."""

_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE contents (              -- one row for every request whose prompt is stored
  id INTEGER PRIMARY KEY,            -- order of storing
  request_id TEXT NOT NULL UNIQUE,   -- the ledger's
  tenant TEXT NOT NULL,              -- who paid
  known_as TEXT,                     -- keyed digest of the end user, as in the ledger; NULL when none was named
  stored_at_us INTEGER NOT NULL,     -- microseconds since 1970 UTC
  is_cut INTEGER NOT NULL,           -- 1 when something was longer than the policy keeps
  key_name TEXT NOT NULL,            -- which key it is encrypted under; '' when it is text, redacted
  size INTEGER NOT NULL,             -- bytes of the body
  body BLOB NOT NULL                 -- JSON: the prompt, and the answer or null
) STRICT;
CREATE INDEX contents_by_time ON contents (stored_at_us);
CREATE INDEX contents_by_user ON contents (known_as) WHERE known_as IS NOT NULL;
"""
_INSERT: Final = """
INSERT OR IGNORE INTO contents (request_id, tenant, known_as, stored_at_us, is_cut, key_name, size, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_MOST_DELETED: Final = 1_000
"""Rows of one deletion for size; the next sweep goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is stored of a request.

    Attributes:
        body: JSON of `prompt` and `answer`.
    """

    request_id: str
    tenant: str
    known_as: str | None
    stored_at: datetime
    is_cut: bool
    body: bytes


class ContentStore:
    """The file of a folder. Calls block for a disk's time: make them from one thread.

    Args:
        db: the open file.
        cipher: what seals new rows and opens old ones; None: new rows are text.
    """

    def __init__(self, db: sqlite3.Connection, cipher: Cipher | None = None) -> None:
        self._db = db
        self._cipher = cipher

    @classmethod
    def open(cls, folder: Path, cipher: Cipher | None = None) -> ContentStore:
        """Open a folder's file, making it where it is missing.

        Raises:
            ContentUnusable: it cannot be opened, or another version made it.
        """
        path = folder / FILE_NAME
        try:
            path.touch(mode=0o600)
            db = sqlite3.connect(path, timeout=_OPENING_S, check_same_thread=False, isolation_level=None)
            try:
                _prepare(db, path)
            except BaseException:
                db.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise ContentUnusable(f"{path} cannot be used ({error}); make it readable and writable") from error
        return cls(db, cipher)

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()

    def put(self, row: Stored) -> None:
        """Store a request's; the first of its id stays.

        Raises:
            ContentUnusable: the disk does not take it.
        """
        name, body = "", row.body
        if self._cipher is not None:
            name, body = self._cipher.name, self._cipher.seal(row.body, about=_about(row.request_id, row.tenant))
        values = (row.request_id, row.tenant, row.known_as, _us(row.stored_at), row.is_cut, name, len(body), body)
        with _refusals():
            self._db.execute(_INSERT, values)

    def find(self, request_id: str) -> Stored | None:
        """Return what is stored of a request, opened; None when nothing is.

        Raises:
            ContentUnusable: it cannot be read, or was stored under a key that is not at hand.
        """
        with _refusals():
            row = self._db.execute(
                "SELECT tenant, known_as, stored_at_us, is_cut, key_name, body FROM contents WHERE request_id = ?",
                (request_id,),
            ).fetchone()
        if row is None:
            return None
        tenant, known_as, stored_at_us, is_cut, key_name, body = row
        if key_name and self._cipher is None:
            raise ContentUnusable(
                f"it is encrypted under key {key_name}; give the policy that has it in `ledger.content.key`"
            )
        if key_name and self._cipher is not None:
            body = self._cipher.open(body, about=_about(request_id, tenant), name=key_name)
        return Stored(
            request_id=request_id,
            tenant=tenant,
            known_as=known_as,
            stored_at=datetime.fromtimestamp(stored_at_us / 1e6, UTC),
            is_cut=bool(is_cut),
            body=body,
        )

    def forget(self, known_as: str) -> int:
        """Delete all of an end user's; return how many rows.

        Raises:
            ContentUnusable: the disk does not take it.
        """
        with _refusals():
            deleted = self._db.execute("DELETE FROM contents WHERE known_as = ?", (known_as,)).rowcount
            self._overwrite(deleted)
        return deleted

    def sweep(self, now: datetime, *, retention: timedelta, max_store_bytes: int | None = None) -> int:
        """Delete what is older than `retention`, and the oldest of what is too much; return how many rows.

        Raises:
            ContentUnusable: the disk does not take it.
        """
        with _refusals():
            deleted = self._db.execute("DELETE FROM contents WHERE stored_at_us < ?", (_us(now - retention),)).rowcount
            if max_store_bytes is not None:
                deleted += self._db.execute(
                    "DELETE FROM contents WHERE id IN ("
                    "SELECT id FROM (SELECT id, SUM(size) OVER (ORDER BY id DESC) AS kept FROM contents) "
                    "WHERE kept > ? ORDER BY id LIMIT ?)",
                    (max_store_bytes, _MOST_DELETED),
                ).rowcount
            self._overwrite(deleted)
        return deleted

    def _overwrite(self, deleted: int) -> None:
        if deleted:  # the log of changes has the rows, too
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def body_of(prompt: JsonValue, answer: JsonValue) -> bytes:
    """Return the JSON that is stored."""
    return msgspec.json.encode({"prompt": prompt, "answer": answer})


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA secure_delete = ON").fetchall()
    enter_wal(db, wait_s=_OPENING_S)
    db.execute("PRAGMA synchronous = NORMAL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone() == (0,):  # no other worker was first
            for statement in filter(str.strip, _SCHEMA.split(";\n")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("COMMIT")
    elif version != _VERSION:
        raise ContentUnusable(
            f"{path} is of version {version}, this Faregate reads version {_VERSION}; install the Faregate it is of"
        )


def _about(request_id: str, tenant: str) -> bytes:
    return f"{len(request_id)}:{request_id}{tenant}".encode()


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ContentUnusable(
            f"stored prompts cannot be read or written ({error}); free space there, or make the file writable"
        ) from error
