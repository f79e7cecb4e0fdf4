from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import KeysError, KeyStoreBrokenError, UnknownKeyError, UnknownTenantError
from policies.keys import LOOK_S, Identity, KeyRing, KeyStore, Refusal

TENANTS = ("shop", "support")
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Time:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds


class StoppedClock:
    def now(self) -> datetime:
        return NOON

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def store(tmp_path: Path, time: Time) -> KeyStore:
    return KeyStore(tmp_path / "data", clock=StoppedClock(), wait=time.wait)


def test_a_new_key_identifies_its_tenant(store: KeyStore):
    record, secret = store.create("shop", tenants=TENANTS, label="web")

    assert KeyRing(store.file).identify(secret) == Identity(key_id=record.id, tenant=record.tenant)
    assert (record.tenant, record.label, record.created_at) == ("shop", "web", NOON)


def test_a_secret_is_long_random_and_kept_nowhere(store: KeyStore):
    _, secret = store.create("shop", tenants=TENANTS)
    _, other = store.create("shop", tenants=TENANTS)

    assert secret.startswith("sk-fg-")
    assert len(secret) == 38
    assert secret != other
    assert secret.removeprefix("sk-fg-") not in store.file.read_text()


def test_a_tenant_has_several_keys_so_that_they_rotate(store: KeyStore, time: Time):
    old, old_secret = store.create("shop", tenants=TENANTS)
    new, new_secret = store.create("shop", tenants=TENANTS)
    ring = KeyRing(store.file, monotonic=time.monotonic)
    ring.identify(old_secret)

    store.revoke(old.id)

    assert ring.identify(old_secret) is Refusal.REVOKED
    assert ring.identify(new_secret) == Identity(key_id=new.id, tenant=new.tenant)


def test_a_revoked_key_keeps_its_record_and_its_date(store: KeyStore):
    record, _ = store.create("shop", tenants=TENANTS)

    first = store.revoke(record.id)

    assert store.revoke(record.id) == first
    assert store.list() == (first,)
    assert first.revoked_at == NOON


def test_an_admin_key_belongs_to_no_tenant(store: KeyStore):
    record, secret = store.create(None, tenants=TENANTS, is_admin=True)

    assert KeyRing(store.file).identify(secret) == Identity(key_id=record.id, tenant=None, is_admin=True)


@pytest.mark.parametrize(("tenant", "is_admin"), [("shop", True), (None, False)])
def test_a_key_is_a_tenants_or_an_admins(store: KeyStore, tenant: str | None, *, is_admin: bool):
    with pytest.raises(KeysError, match="give either"):
        store.create(tenant, tenants=TENANTS, is_admin=is_admin)


@pytest.mark.parametrize("label", ["x" * 101, "two\nlines"])
def test_a_label_is_one_printable_line(store: KeyStore, label: str):
    with pytest.raises(KeysError, match="a label is one line"):
        store.create("shop", tenants=TENANTS, label=label)


def test_an_unknown_tenant_is_told_the_known_ones(store: KeyStore):
    with pytest.raises(UnknownTenantError, match='unknown tenant "shp"; the policy has: shop, support'):
        store.create("shp", tenants=TENANTS)


def test_an_unknown_key_is_told_the_known_ones(store: KeyStore):
    record, _ = store.create("shop", tenants=TENANTS)

    with pytest.raises(UnknownKeyError, match=record.id):
        store.revoke("key-none")


@pytest.mark.parametrize("secret", [None, ""])
def test_no_secret_is_missing(store: KeyStore, secret: str | None):
    assert KeyRing(store.file).identify(secret) is Refusal.MISSING


@given(st.text(min_size=1))
def test_any_other_secret_is_unknown(secret: str):
    assert KeyRing(Path("no-such-folder/keys.json")).identify(secret) is Refusal.UNKNOWN


def test_a_ring_sees_the_first_key_of_a_store_made_after_it(store: KeyStore):
    ring = KeyRing(store.file)

    _, secret = store.create("shop", tenants=TENANTS)

    assert isinstance(ring.identify(secret), Identity)
    assert ring.reload_failures == 0


def test_a_new_key_works_at_once_beside_keys_that_are_known(store: KeyStore, time: Time):
    _, known = store.create("shop", tenants=TENANTS)
    ring = KeyRing(store.file, monotonic=time.monotonic)
    ring.identify(known)

    _, secret = store.create("shop", tenants=TENANTS)

    assert isinstance(ring.identify(secret), Identity)


def test_a_file_that_is_edited_by_hand_is_seen_within_the_looks_time(store: KeyStore, time: Time):
    record, secret = store.create("shop", tenants=TENANTS)
    ring = KeyRing(store.file, monotonic=time.monotonic)
    store.file.write_text(store.file.read_text().replace('"revoked_at": null', '"revoked_at": "2026-11-21T12:00:00Z"'))

    early = ring.identify(secret)
    time.wait(LOOK_S)

    assert early == Identity(key_id=record.id, tenant=record.tenant)
    assert ring.identify(secret) is Refusal.REVOKED


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 2, "keys": []}', '{"version": 1, "keys": [{"id": 4}]}'])
def test_a_broken_file_leaves_the_last_good_keys_and_is_counted_once(store: KeyStore, time: Time, content: str):
    _, secret = store.create("shop", tenants=TENANTS)
    ring = KeyRing(store.file, monotonic=time.monotonic)

    store.file.write_text(content)
    time.wait(LOOK_S)

    assert isinstance(ring.identify(secret), Identity)
    assert isinstance(ring.identify(secret), Identity)
    assert ring.reload_failures == 1


def test_a_deleted_file_leaves_the_last_good_keys_and_is_counted(store: KeyStore, time: Time):
    _, secret = store.create("shop", tenants=TENANTS)
    ring = KeyRing(store.file, monotonic=time.monotonic)

    store.file.unlink()
    time.wait(LOOK_S)

    assert isinstance(ring.identify(secret), Identity)
    assert ring.reload_failures == 1


def test_no_ring_is_opened_and_nothing_written_on_a_broken_file(store: KeyStore):
    store.file.parent.mkdir()
    store.file.write_text("{")

    with pytest.raises(KeyStoreBrokenError, match="restore it"):
        KeyRing(store.file)
    with pytest.raises(KeyStoreBrokenError):
        store.create("shop", tenants=TENANTS)
    assert store.file.read_text() == "{"


def test_only_the_owner_reads_the_file(store: KeyStore):
    before = os.umask(0)
    try:
        store.create("shop", tenants=TENANTS)
    finally:
        os.umask(before)

    assert stat.S_IMODE(store.file.stat().st_mode) == 0o600


def test_writers_at_the_same_time_lose_no_key(store: KeyStore):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.create("shop", tenants=TENANTS)[0].id, range(24)))

    assert sorted(record.id for record in store.list()) == sorted(made)
