"""How much of what is near a search among many vectors finds, and what it costs.

    python -m load_tests.cache_recall TEXTS.jsonl... [--texts N] [--entries N] [--queries N]

Takes every string of the files' objects as a question, embeds N of them, mixes them in pairs until there are enough
vectors, and asks with others made so. Prints the share of the five nearest that are among the eight looked up, by their
cosine, beside a search that reads all vectors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.embedder import MiniLM
from semantic_cache.shelf import Shelf, packed

Rows = NDArray[np.float32]

_LOOKED_UP = 8
_WANTED = 5
_AT_ONCE = 256
_SHORTEST = 12


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--texts", type=int, default=20_000, help="questions embedded")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    texts = _texts(arguments.files)
    random.shuffle(texts)
    known = MiniLM.load().embed(texts[: arguments.texts])
    mixed = _mixed(known, max(0, arguments.entries - len(known)), random, least=0.3, most=0.9)
    vectors = np.concatenate([known, mixed])[: arguments.entries]
    shelf, begun = Shelf(), time.process_time()
    for first in range(0, len(vectors), _AT_ONCE):
        some = vectors[first : first + _AT_ONCE]
        shelf.add(np.arange(first, first + len(some)), [packed(vector) for vector in some])
    print(f"{(time.process_time() - begun) / len(vectors) * 1e6:8.1f} us CPU a vector taken in")
    print(f"{shelf.nbytes / len(vectors):8.1f} bytes of memory a vector")
    _search(shelf, vectors, _mixed(vectors, arguments.queries, random, least=0.1, most=0.6))


def _search(shelf: Shelf, vectors: Rows, queries: Rows) -> None:
    begun = time.process_time()
    found = [next(shelf.nearest(query))[:_LOOKED_UP] for query in queries]
    print(f"{(time.process_time() - begun) / len(queries) * 1e6:8.1f} us CPU a search")
    spent, first = 0.0, 0
    bands: dict[int, list[bool]] = defaultdict(list)
    for query, looked_up in zip(queries, found, strict=True):
        begun = time.process_time()
        cosines = vectors @ query
        spent += time.process_time() - begun
        best = np.argsort(-cosines)[:_WANTED]
        first += int(best[0]) in looked_up
        for place in best:
            bands[int(cosines[place] * 10)].append(int(place) in looked_up)
    print(f"{spent / len(queries) * 1e6:8.1f} us CPU where all {len(vectors):,} vectors are read")
    print(f"{first / len(queries):8.1%} of the nearest are found")
    for band, hits in sorted(bands.items()):
        share, reach = sum(hits) / len(hits), f"{band / 10:.1f} to {band / 10 + 0.1:.1f}"
        print(f"{share:8.1%} of the {len(hits)} at a cosine of {reach} that are among the five nearest")


def _mixed(rows: Rows, count: int, random: np.random.Generator, *, least: float, most: float) -> Rows:
    one, other = rows[random.integers(len(rows), size=count)], rows[random.integers(len(rows), size=count)]
    mixed = one + random.uniform(least, most, size=(count, 1)).astype(np.float32) * other
    made: Rows = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return made


def _texts(files: list[Path]) -> list[str]:
    found = {
        value
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        for value in json.loads(line).values()
        if isinstance(value, str) and len(value) > _SHORTEST
    }
    return sorted(found)


if __name__ == "__main__":
    main()
