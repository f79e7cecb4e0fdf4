"""API keys: made once, shown once, kept as digests in `keys.json` of the storage folder.

- A secret carries 190 bits of randomness, so a plain SHA-256 keeps it: slow hashes protect guessable passwords.
- A revoked key keeps its record: a later bill still says whose it was.
- An admin key belongs to no tenant and calls no `/v1` path; the caller of `identify` holds it to that.
- The file is 0600 and replaced atomically; writers take turns by a lock beside it, readers need none.
- A server looks at the file at most every `LOOK_S` for keys that it knows, and `revoke` returns when that has passed:
  a key that `faregate keys revoke` has told to be revoked opens nothing any more. A file that is edited by hand is seen
  as late. For a key that it does not know it looks each time: a new key works at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import string
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Final, NewType, TypeAlias

import msgspec

from backends.words import TenantId
from policies.errors import KeysError, KeyStoreBrokenError, UnknownKeyError, UnknownTenantError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from backends.clock import Clock

KeyId = NewType("KeyId", str)

FILE_NAME: Final = "keys.json"
SECRET_PREFIX: Final = "sk-fg-"  # noqa: S105  # how ours are told apart, by people and by scanners for leaked secrets
_ALPHABET: Final = string.ascii_letters + string.digits
_SECRET_LENGTH: Final = 32
_ID_LENGTH: Final = 8
_MAX_LABEL: Final = 100
_VERSION: Final = 1
LOOK_S: Final = 0.05
"""How old what a server knows of the file may be. A look is a `stat`: 2 to 5 µs, of a request's few hundred."""


class Refusal(Enum):
    """Why a secret identifies nobody."""

    MISSING = "missing"
    UNKNOWN = "unknown"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a secret belongs to; `tenant` is None exactly for an admin key."""

    key_id: KeyId
    tenant: TenantId | None
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is kept of a key; the secret is not.

    Attributes:
        sha256: hex digest of the secret's ASCII bytes.
        created_at, revoked_at: UTC.
    """

    id: KeyId
    tenant: TenantId | None
    sha256: str
    created_at: datetime
    label: str | None = None
    is_admin: bool = False
    revoked_at: datetime | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    keys: tuple[KeyRecord, ...]


class KeyStore:
    """The keys of a storage folder, for the commands that change them.

    Args:
        folder: the storage folder; it need not exist yet.
        clock: when keys are made and revoked.
        wait: waits so many seconds, until all servers have looked.
    """

    def __init__(self, folder: Path, *, clock: Clock, wait: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._file = folder / FILE_NAME
        self._clock = clock
        self._wait = wait

    @property
    def file(self) -> Path:
        """Return where the keys are kept; the file appears with the first key."""
        return self._file

    def create(
        self,
        tenant: str | None,
        *,
        tenants: Collection[str],
        label: str | None = None,
        is_admin: bool = False,
    ) -> tuple[KeyRecord, str]:
        """Make a key and return its record and its secret, which cannot be had again.

        Args:
            tenant: who pays; None for an admin key.
            tenants: those of the policy.
            label: what people call it, at most 100 characters.
            is_admin: whether it opens the admin paths, and nothing else.

        Raises:
            UnknownTenantError: the policy has no such tenant.
            KeysError: a tenant's key without a tenant, an admin key with one, or a label that cannot be printed.
            KeyStoreBrokenError: the file is no key store.
        """
        if is_admin != (tenant is None):
            raise KeysError("a key belongs to one tenant, or is an admin key: give either a tenant or admin, not both")
        if tenant is not None and tenant not in tenants:
            raise UnknownTenantError(tenant, list(tenants))
        if label is not None and (len(label) > _MAX_LABEL or not label.isprintable()):
            raise KeysError(f"a label is one line of at most {_MAX_LABEL} printable characters; got {label[:120]!r}")
        secret = SECRET_PREFIX + _random_text(_SECRET_LENGTH)
        with self._locked():
            records = self.list()
            taken = {record.id for record in records}
            record = KeyRecord(
                id=next(key_id for key_id in _random_ids() if key_id not in taken),
                tenant=TenantId(tenant) if tenant is not None else None,
                sha256=digest_of(secret),
                created_at=self._clock.now(),
                label=label,
                is_admin=is_admin,
            )
            self._write((*records, record))
        return record, secret

    def list(self) -> tuple[KeyRecord, ...]:
        """Return all records, oldest first, revoked ones included.

        Raises:
            KeyStoreBrokenError: the file is no key store.
        """
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise KeyStoreBrokenError(self._file, error.strerror or str(error)) from error
        return _decode(content, self._file)

    def revoke(self, key_id: str) -> KeyRecord:
        """End a key and return its record, when no server takes it any more; one revoked before keeps its date.

        Raises:
            UnknownKeyError: no key has this id.
            KeyStoreBrokenError: the file is no key store.
        """
        with self._locked():
            records = {record.id: record for record in self.list()}
            record = records.get(KeyId(key_id))
            if record is None:
                raise UnknownKeyError(key_id, list(records))
            if record.revoked_at is None:
                record = replace(record, revoked_at=self._clock.now())
                records[record.id] = record
                self._write(tuple(records.values()))
        self._wait(LOOK_S)
        return record

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one writer at a time read, change and replace. The lock's file is never the one that is replaced."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._folder / f"{FILE_NAME}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeysError(f"{self._folder} cannot be written ({error.strerror}); check `storage.folder`") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, records: tuple[KeyRecord, ...]) -> None:
        content = msgspec.json.format(msgspec.json.encode(_File(version=_VERSION, keys=records)), indent=2) + b"\n"
        fresh = self._folder / f"{FILE_NAME}.new"
        try:
            fresh.unlink(missing_ok=True)  # left by a writer that was killed; its mode may not be ours
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as target:
                target.write(content)
                target.flush()
                os.fsync(target.fileno())
            fresh.replace(self._file)
            _sync_folder(self._folder)
        except OSError as error:
            raise KeysError(f"{self._file} cannot be written ({error.strerror}); nothing was changed") from error


_Stamp: TypeAlias = tuple[int, int, int]


class KeyRing:
    """The keys as a server uses them: read once, and again when the file has changed.

    Attributes:
        reload_failures: how often a changed file could not be used and the last good keys stayed in force.
    """

    def __init__(self, file: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Open the ring on a key file that need not exist yet.

        Args:
            file: the key file.
            monotonic: the time, in seconds that never go back.

        Raises:
            KeyStoreBrokenError: the file exists and is no key store: a server must not start without its keys.
        """
        self._file = file
        self._path = os.fspath(file)
        self._stamp: _Stamp | None = None
        self._known: Mapping[str, Identity | Refusal] = {}
        self._monotonic = monotonic
        self._looks_at = monotonic() + LOOK_S
        self.reload_failures = 0
        stamp = self._present_stamp()
        if stamp is not None:
            self._load(stamp)

    def identify(self, secret: str | None) -> Identity | Refusal:
        """Return who a secret belongs to, or why nobody."""
        return self.recognise(digest_of(secret) if secret else None)

    def recognise(self, digest: str | None) -> Identity | Refusal:
        """Return who the secret with this `digest_of` belongs to, or why nobody; None: no secret was shown.

        Digests are compared as a dict compares: what its timing tells is about a digest, which leads to no secret.
        """
        if digest is None:
            return Refusal.MISSING
        now = self._monotonic()
        if now < self._looks_at and (known := self._known.get(digest)) is not None:
            return known
        self._looks_at = now + LOOK_S
        self._refresh()
        return self._known.get(digest, Refusal.UNKNOWN)

    def _refresh(self) -> None:
        stamp = self._present_stamp()
        if stamp == self._stamp:
            return
        # Counted once per change, not per request. The good keys stay: a half-copied file must lock nobody out.
        self._stamp = stamp
        if stamp is None:
            self.reload_failures += 1
            return
        try:
            self._load(stamp)
        except KeyStoreBrokenError:
            self.reload_failures += 1

    def _load(self, stamp: _Stamp) -> None:
        try:
            content = self._file.read_bytes()
        except OSError as error:
            raise KeyStoreBrokenError(self._file, error.strerror or str(error)) from error
        self._known = {record.sha256: _verdict(record) for record in _decode(content, self._file)}
        self._stamp = stamp

    def _present_stamp(self) -> _Stamp | None:
        """Return what changes with every replacement; taken before reading, so a later change is seen again."""
        try:
            status = os.stat(self._path)  # noqa: PTH116  # Path.stat costs twice as much, and this is every request
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_ino, status.st_size)


def _decode(content: bytes, file: Path) -> tuple[KeyRecord, ...]:
    try:
        store = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as error:
        raise KeyStoreBrokenError(file, str(error)) from error
    if store.version != _VERSION:
        raise KeyStoreBrokenError(file, f"its version is {store.version}, this program knows {_VERSION}")
    return store.keys


def _verdict(record: KeyRecord) -> Identity | Refusal:
    if record.revoked_at is not None:
        return Refusal.REVOKED
    return Identity(key_id=record.id, tenant=record.tenant, is_admin=record.is_admin)


def digest_of(secret: str) -> str:
    """Return the hex SHA-256 of a secret: what is kept of a key, and what it is recognised by."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _random_ids() -> Iterator[KeyId]:
    while True:
        yield KeyId(f"key-{_random_text(_ID_LENGTH).lower()}")


def _sync_folder(folder: Path) -> None:
    """Make the replacement itself survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
