"""End users by pseudonym: the ledger can tell them apart, and can forget who one was.

Rules:
- a user is known to the gateway by a keyed digest of tenant and user; the key is the folder's own file `user.key`;
- rows carry a second digest of that under a random salt, which stands in `end_users` alone: deleting that row leaves
  rows and chain as they are, and nobody can tell any more, key or not, whose they were.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Final

from gateway.ledger.errors import FolderUnusable

if TYPE_CHECKING:
    from pathlib import Path

KEY_FILE: Final = "user.key"
_KEY_BYTES: Final = 32


class Pseudonyms:
    """Turns end users into what the gateway knows them as; several processes of a folder share its key."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's key, and make it where there is none.

        Raises:
            FolderUnusable: it cannot be read or made, or is no key.
        """
        path = folder / KEY_FILE
        try:
            self._key = _read_or_make(path)
        except OSError as error:
            raise FolderUnusable(
                f"cannot use {path}: {error.strerror}; give the gateway a data folder that it may write"
            ) from error
        if len(self._key) != _KEY_BYTES:
            raise FolderUnusable(
                f"{path} holds {len(self._key)} bytes instead of {_KEY_BYTES}; restore it from a backup"
            )

    def of(self, tenant: str, user: str) -> str:
        """Return what a tenant's end user is known as; two tenants' users are never the same."""
        text = f"{len(tenant)}:{tenant}{user}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._key, digest_size=12).hexdigest()


def _read_or_make(path: Path) -> bytes:
    if not path.exists():
        # Written beside and linked, so that no process ever reads half a key and the first one wins.
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(_KEY_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(beside, path)
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    return path.read_bytes()
