"""What only the embedded store does: two threads, shelves of vectors, a folder that fails."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from backends.embedder import DIMENSIONS, WordStates
from semantic_cache.acceptance import Acceptance, Readers
from semantic_cache.cross_encoder import CrossEncoder
from semantic_cache.partition import Keys
from semantic_cache.seam import Hit, Miss, MissReason, Selector, Tier
from semantic_cache.sqlite_store import SqliteStore
from semantic_cache.tiers import lookup_exact, lookup_semantic
from tests.contracts.test_store import LATER, entry, names, unit
from tests.served.world import an_acceptance


def a_store(folder: Path) -> SqliteStore:
    return SqliteStore(folder / "cache.db", max_entries=10_000, max_bytes=10**8)


def test_a_reader_and_a_writer_work_at_once(tmp_path: Path):
    store = a_store(tmp_path)
    with ThreadPoolExecutor(1) as worker:
        jobs = [worker.submit(store.put, entry(f"e{n}", vector=unit(1, n / 100))) for n in range(200)]
        while not jobs[-1].done():
            store.get(entry("e0").key, LATER)
        for job in jobs:
            job.result()
    assert all(store.get(entry(f"e{n}").key, LATER) for n in range(200))
    store.close()


def test_random_puts_and_drops_leave_the_same_neighbours_as_a_fresh_store(tmp_path: Path):
    random = np.random.default_rng(7)
    store = SqliteStore(tmp_path / "cache.db", max_entries=50, max_bytes=10**8)
    probe = unit(1)
    for n in range(300):
        store.put(entry(f"e{random.integers(80)}", vector=unit(*random.normal(size=8))))
        if n % 10 == 0:
            names(store, probe)
    seen = names(store, probe, limit=20)
    store.close()
    fresh = SqliteStore(tmp_path / "cache.db", max_entries=50, max_bytes=10**8)
    assert names(fresh, probe, limit=20) == seen
    fresh.close()


def test_a_store_that_fails_is_a_miss(tmp_path: Path):
    store = a_store(tmp_path)
    store.close()
    assert lookup_exact(store, b"k", now=LATER) == Miss(reason=MissReason.STORE_FAILED)


def test_a_damaged_file_is_told_at_the_start(tmp_path: Path):
    (tmp_path / "cache.db").write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        a_store(tmp_path)


def test_nobody_else_may_read_what_is_stored(tmp_path: Path):
    with_entries = a_store(tmp_path)
    with_entries.put(entry("a"))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_an_exact_hit_brings_its_entry(tmp_path: Path):
    store = a_store(tmp_path)
    stored = entry("a")
    store.put(stored)
    hit = lookup_exact(store, stored.key, now=LATER)
    assert isinstance(hit, Hit)
    assert (hit.tier, hit.entry.payload, hit.similarity) == (Tier.EXACT, stored.payload, None)
    store.close()


@pytest.mark.parametrize(
    ("asked", "vector", "outcome"),
    [("What is 12?", unit(1), Hit), ("What is 13?", unit(1), Miss), ("What is 12?", unit(0, 1), Miss)],
)
def test_a_neighbour_serves_only_when_it_means_the_same(
    tmp_path: Path, asked: str, vector: np.ndarray, outcome: type[object]
):
    store = a_store(tmp_path)
    store.put(entry("12", vector=unit(1)))
    keys = Keys(exact=b"x", partition=b"p")
    found = lookup_semantic(
        store, an_acceptance(), partition=keys.partition, asked=asked, vector=vector, max_error=0.05, now=LATER
    )
    assert isinstance(found, outcome)
    if isinstance(found, Miss):
        assert (found.reason, found.detail is None) == (MissReason.DECLINED, False)
    store.close()


def test_the_words_of_the_two_nearest_that_the_guard_lets_pass_are_read(tmp_path: Path):
    read: list[str] = []

    def states(text: str) -> WordStates:
        read.append(text)
        return WordStates(pieces=("word",), states=np.ones((1, DIMENSIONS), dtype=np.float16))

    store = a_store(tmp_path)
    # All below what the score lets be served; the nearest asks for another number.
    for near, what in enumerate(["3 of that", "all of that", "any of that", "some of that"]):
        store.put(entry(what, vector=unit(1, 0.9 + near / 100)))
    readers = Readers(states=states, together=CrossEncoder.load())
    acceptance = Acceptance(an_acceptance().calibration, words=frozenset(), readers=readers)
    found = lookup_semantic(
        store, acceptance, partition=b"p", asked="What is that?", vector=unit(1), max_error=0.05, now=LATER
    )
    assert isinstance(found, Miss)
    assert found.detail == "number"
    assert [text for text in read if text != "What is that?"] == ["What is all of that?", "What is any of that?"]
    store.close()


def test_a_file_with_other_tables_is_begun_anew(tmp_path: Path):
    with sqlite3.connect(tmp_path / "cache.db") as db:
        db.execute("CREATE TABLE entries (key BLOB PRIMARY KEY)")
    db.close()
    store = a_store(tmp_path)
    store.put(entry("a"))
    assert store.get(entry("a").key, LATER) is not None
    store.close()


def test_what_another_process_dropped_leaves_room(tmp_path: Path):
    store = SqliteStore(tmp_path / "cache.db", max_entries=2, max_bytes=10**8)
    store.put(entry("a", age=timedelta(seconds=9)))
    store.put(entry("b", age=timedelta(seconds=8)))
    other = a_store(tmp_path)
    other.drop(Selector(key=entry("a").key))
    other.close()
    store.put(entry("c"))
    assert store.get(entry("b").key, LATER) is not None
    store.close()


def test_a_process_finds_what_another_has_stored_replaced_and_dropped_since(tmp_path: Path):
    one, other = a_store(tmp_path), a_store(tmp_path)
    one.put(entry("a", vector=unit(1, 0.1)))
    assert names(other, unit(1)) == ["a"]
    one.put(entry("b", vector=unit(1, 0.2)))
    one.put(entry("a", vector=unit(0, 1)))
    one.put(entry("elsewhere", vector=unit(1), partition=b"q"))
    assert other.get(entry("b").key, LATER) is not None
    assert names(other, unit(1)) == ["b", "a"]
    other.put(entry("c", vector=unit(1)))
    assert (names(one, unit(1)), names(other, unit(1))) == (["c", "b", "a"], ["c", "b", "a"])
    one.close()
    other.close()


def many(store: SqliteStore, count: int, *, first: int = 0) -> None:
    random = np.random.default_rng(first)
    for n in range(first, first + count):
        store.put(entry(f"e{n}", vector=unit(*random.normal(size=8))))


def test_a_large_partition_is_read_in_between_searches(tmp_path: Path):
    store = SqliteStore(tmp_path / "cache.db", max_entries=10_000, max_bytes=10**8)
    store.put(entry("first", vector=unit(1)))
    many(store, 2_500)
    store.close()
    store = a_store(tmp_path)
    assert names(store, unit(1), limit=1) != ["first"]
    while store.is_partial(b"p"):
        store.read_on(b"p")
    assert names(store, unit(1), limit=1) == ["first"]
    many(store, 3, first=5_000)
    store.put(entry("again", vector=unit(1)))
    assert set(names(store, unit(1), limit=2)) == {"first", "again"}
    store.close()


def test_what_nobody_meets_leaves_the_memory_too(tmp_path: Path):
    store, other = a_store(tmp_path), a_store(tmp_path)
    names(store, unit(1))
    for n in range(2_600):
        other.put(entry(f"e{n % 40}", vector=unit(1, n / 100)))
        if n % 500 == 499:
            names(store, unit(-1), limit=1)
    assert len(names(store, unit(1), limit=50)) == 40
    assert len(store._shelves[b"p"]) < 2_000
    store.close()
    other.close()


def test_partitions_that_are_not_in_use_leave_the_memory(tmp_path: Path):
    store = SqliteStore(tmp_path / "cache.db", max_entries=1_000, max_bytes=10**8, shelved_rows=50)
    for n in range(200):
        store.put(entry(f"e{n}", vector=unit(1, n), partition=b"p%d" % (n // 20)))
    for n in (*range(10), *range(10)):
        assert len(names(store, unit(1), partition=b"p%d" % n, limit=20)) == 20
    assert sum(len(shelf) for shelf in store._shelves.values()) <= 50
    store.close()


def counted(file: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    with sqlite3.connect(file) as db:
        told = db.execute("SELECT entries, bytes, vectors FROM totals").fetchone()
        true = db.execute("SELECT count(*), coalesce(sum(size), 0), (SELECT count(*) FROM vectors) FROM entries")
        counts = told, true.fetchone()
    db.close()
    return counts


def test_processes_that_put_and_drop_together_count_right(tmp_path: Path):
    stores = [SqliteStore(tmp_path / "cache.db", max_entries=30, max_bytes=10**8) for _ in range(3)]
    for n in range(120):
        stores[n % 3].put(entry(f"e{n % 45}", vector=unit(1, n) if n % 4 else None, age=timedelta(seconds=200 - n)))
        if n % 20 == 19:
            stores[n % 2].drop(Selector(key=entry(f"e{n % 45}").key))
    told, true = counted(tmp_path / "cache.db")
    assert told == true
    assert 20 <= told[0] <= 30
    assert stores[0].stock().entries == told[0]
    for store in stores:
        store.close()


_PUTTING = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
import numpy as np
from backends.words import Usage
from semantic_cache.seam import Entry
from semantic_cache.sqlite_store import SqliteStore
store = SqliteStore(Path(sys.argv[1], "cache.db"), max_entries=400, max_bytes=10**8)
noon = datetime(2026, 11, 2, 12, tzinfo=UTC)
for n in range(10**6):
    store.put(Entry(
        key=b"%d" % (n % 500), partition=b"p", asked="", vector=np.full(8, 8**-0.5, dtype=np.float32), payload=b"x",
        model="m", usage=Usage(input_tokens=1), baseline_nusd=0, baseline_low_nusd=0, baseline_high_nusd=0,
        created_at=noon, expires_at=noon + timedelta(hours=1), tenant="t"))
    if n == 50:
        print("put", flush=True)
"""


def test_a_killed_process_leaves_answers_vectors_and_counts_that_agree(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", _PUTTING, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    told, true = counted(tmp_path / "cache.db")
    assert told == true
    assert told[0] == told[2] > 50
    store = a_store(tmp_path)
    assert len(store.neighbours(b"p", unit(1), limit=50, now=LATER)) == 50
    store.close()
