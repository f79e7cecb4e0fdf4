"""Encryption of what is stored: AES-256-GCM, each row under a key of its own.

A row's key is derived from the operator's (HKDF-SHA256 with a random salt), so that neither nonces nor the amount of
data under one key are ever short. What a row belongs to is authenticated with it: a row moved to another request does
not open. Source: NIST SP 800-38D; RFC 5869.
"""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
from typing import TYPE_CHECKING, Final

from gateway.ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_ABOUT: Final = b"faregate content v1"


class ContentUnusable(LedgerError):
    """Prompts and answers cannot be stored or read; the message says why and how to fix it."""


def key_name(key: bytes) -> str:
    """Return what tells a key from others without telling the key."""
    return hashlib.sha256(_ABOUT + b" name" + key).hexdigest()[:16]


def has_cipher() -> bool:
    """Tell whether the package that encrypts is installed."""
    return importlib.util.find_spec("cryptography") is not None


class Cipher:
    """Seals with one key, and opens what it or a former one sealed.

    Args:
        key: 32 bytes.
        former: keys of before.

    Raises:
        ContentUnusable: the package that encrypts is not installed.
    """

    def __init__(self, key: bytes, former: Sequence[bytes] = ()) -> None:
        if not has_cipher():
            raise ContentUnusable(
                "`ledger.content: encrypted` needs the package cryptography; install faregate[content]"
            )
        self.name = key_name(key)
        self._key = key
        self._keys = {key_name(each): each for each in (*former, key)}

    def seal(self, plain: bytes, *, about: bytes) -> bytes:
        """Return `plain` encrypted; `about` must be the same when it is opened."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
        encrypted: bytes = AESGCM(_derived(self._key, salt)).encrypt(nonce, plain, about)
        return salt + nonce + encrypted

    def open(self, sealed: bytes, *, about: bytes, name: str) -> bytes:
        """Return what was sealed under the key of that name.

        Raises:
            ContentUnusable: it was another key, or the bytes are not what was sealed.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key = self._keys.get(name)
        if key is None:
            raise ContentUnusable(
                f"it was stored under key {name}, and the policy has {', '.join(self._keys)}; "
                "put that key into `ledger.content.former_keys`"
            )
        salt, rest = sealed[:_SALT_BYTES], sealed[_SALT_BYTES:]
        try:
            plain: bytes = AESGCM(_derived(key, salt)).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError) as error:
            raise ContentUnusable("it is not as it was stored: the file was changed or is damaged") from error
        return plain


def _derived(key: bytes, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived: bytes = HKDF(algorithm=SHA256(), length=32, salt=salt, info=_ABOUT).derive(key)
    return derived
