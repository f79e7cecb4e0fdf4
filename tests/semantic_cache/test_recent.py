"""Entries in memory: never other than what the file says, whoever wrote to it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backends.words import ModelId, TenantId, Usage
from semantic_cache.recent import Recent
from semantic_cache.seam import Entry, Hit, Miss, MissReason, Selector, Tier
from semantic_cache.sqlite_store import SqliteStore

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def an_entry(key: bytes = b"k", payload: bytes = b"{}") -> Entry:
    return Entry(
        key=key,
        partition=b"",
        asked="",
        vector=None,
        payload=payload,
        model=ModelId("m"),
        usage=Usage(input_tokens=1),
        baseline_nusd=0,
        baseline_low_nusd=0,
        baseline_high_nusd=0,
        created_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        tenant=TenantId("t"),
    )


class Counting(SqliteStore):
    """Counts how often the file is read."""

    reads = 0

    def get(self, key: bytes, now: datetime) -> Entry | None:
        self.reads += 1
        return super().get(key, now)


@pytest.fixture
def store(tmp_path: Path):
    store = Counting(tmp_path / "cache.db", max_entries=100, max_bytes=10**6)
    yield store
    store.close()


def test_an_entry_is_read_once(store: Counting):
    recent = Recent(store)
    store.put(an_entry())
    found = [recent.find(b"k", now=NOW) for _ in range(3)]
    assert found == [Hit(tier=Tier.EXACT, entry=an_entry())] * 3
    assert store.reads == 1


def test_what_another_process_drops_is_found_no_more(store: Counting, tmp_path: Path):
    recent = Recent(store)
    store.put(an_entry())
    recent.find(b"k", now=NOW)
    other = SqliteStore(tmp_path / "cache.db", max_entries=100, max_bytes=10**6)
    other.drop(Selector(key=b"k"))
    other.close()
    assert recent.find(b"k", now=NOW) == Miss(reason=MissReason.ABSENT)


def test_what_is_put_in_its_place_is_found_at_once(store: Counting):
    recent = Recent(store)
    store.put(an_entry())
    recent.find(b"k", now=NOW)
    store.put(an_entry(payload=b'{"new":1}'))
    found = recent.find(b"k", now=NOW)
    assert isinstance(found, Hit)
    assert found.entry.payload == b'{"new":1}'


def test_an_expired_entry_is_found_no_more(store: Counting):
    recent = Recent(store)
    store.put(an_entry())
    recent.find(b"k", now=NOW)
    assert recent.find(b"k", now=NOW + timedelta(hours=1)) == Miss(reason=MissReason.ABSENT)


def test_those_used_longest_ago_make_room(store: Counting):
    recent = Recent(store, max_bytes=200)
    for key in (b"a", b"b", b"c"):
        store.put(an_entry(key, b"x" * 100))
    for key in (b"a", b"b", b"a", b"c"):
        recent.find(key, now=NOW)
    before = store.reads
    for key in (b"a", b"c", b"b"):
        recent.find(key, now=NOW)
    assert store.reads == before + 1


def test_a_closed_store_is_a_counted_miss(store: Counting):
    recent = Recent(store)
    store.close()
    assert recent.find(b"k", now=NOW) == Miss(reason=MissReason.STORE_FAILED)
