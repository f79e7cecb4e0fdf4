"""Vectors in cells: nothing is lost, small shelves are exact, large ones find what is near."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semantic_cache.shelf import CELL_ROWS, READ_ROWS, Shelf, packed

Rows = NDArray[np.float32]


def rows(count: int, *, width: int = 24, seed: int = 1) -> Rows:
    """Alike ones, as questions are: around some topics, in few of their dimensions."""
    random = np.random.default_rng(seed)
    topics = random.normal(size=(40, width))
    drawn = topics[random.integers(40, size=count)] + random.normal(scale=0.6, size=(count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def a_shelf(vectors: Rows, *, at_once: int = 100) -> Shelf:
    shelf = Shelf()
    for first in range(0, len(vectors), at_once):
        some = vectors[first : first + at_once]
        shelf.add(np.arange(first, first + len(some)), [packed(vector) for vector in some])
    return shelf


def found(shelf: Shelf, vector: Rows) -> list[int]:
    return [each for some in shelf.nearest(vector) for each in some]


def test_an_empty_shelf_finds_nothing():
    assert found(Shelf(), rows(1)[0]) == []


def test_a_packed_vector_is_within_a_hundredth_of_what_it_was():
    vector = rows(1, width=384)[0]
    code = np.frombuffer(packed(vector), dtype=np.int8)
    unpacked = code[4:] * code[:4].view("<f4")[0]
    assert np.abs(unpacked - vector).max() < 0.01 * np.abs(vector).max()
    assert len(packed(vector)) == 388
    assert packed(np.zeros(8, dtype=np.float32))[4:] == bytes(8)


@pytest.mark.parametrize("count", [1, 40, READ_ROWS - CELL_ROWS])
def test_what_a_search_reads_whole_comes_in_the_order_of_cosines(count: int):
    vectors, query = rows(count), rows(1, seed=9)[0]
    order = found(a_shelf(vectors), query)
    assert sorted(order) == list(range(count))
    assert np.diff(vectors[order] @ query).max(initial=0.0) < 0.02  # int8 may swap what is equally near


def test_a_large_shelf_finds_what_is_near():
    vectors = rows(6_000)
    shelf, random = a_shelf(vectors), np.random.default_rng(3)
    near = vectors[::40] + random.normal(scale=0.08, size=(150, vectors.shape[1])).astype(np.float32)
    nearest = [int((vectors @ query).argmax()) for query in near]
    hits = sum(best in next(shelf.nearest(query))[:8] for query, best in zip(near, nearest, strict=True))
    assert hits >= 0.97 * len(near)
    assert len(found(shelf, near[0])) < 2 * READ_ROWS


def test_a_thousand_equal_vectors_are_cells_like_others():
    vectors = np.repeat(rows(1), 4 * CELL_ROWS, axis=0)
    shelf = a_shelf(vectors)
    assert sorted(found(shelf, vectors[0])) == list(range(len(vectors)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(st.tuples(st.just("add"), st.integers(1, 400)), st.tuples(st.just("forget"), st.integers(1, 300))),
        max_size=8,
    )
)
def test_exactly_what_was_added_and_not_forgotten_is_there(steps: list[tuple[str, int]]):
    shelf, kept, vectors, added = Shelf(), set[int](), rows(3_200, width=8), 0
    for step, count in steps:
        if step == "add":
            ids = np.arange(added, added + count)
            shelf.add(ids, [packed(vectors[each % len(vectors)]) for each in ids])
            kept |= set(ids.tolist())
            added += count
        elif kept:
            gone = np.array(sorted(kept)[::2][:count])
            shelf.forget(gone)
            kept -= set(gone.tolist())
    assert len(shelf) == len(kept)
    shelf.keep(np.array(sorted(kept)[:READ_ROWS], dtype=np.int64))
    assert sorted(found(shelf, vectors[0])) == sorted(kept)[:READ_ROWS]
