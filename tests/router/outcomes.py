"""Made-up outcome records with a known truth: topics that the small model can or cannot, and an honest signal."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from backends.words import JsonValue
from router.estimators import Vectors
from router.train_records import Outcomes, read_records

LADDER = ("small", "large")


def rows(n: int = 300, *, seed: int = 0, models: tuple[str, ...] = LADDER) -> list[dict[str, JsonValue]]:
    """Return one row per question and model; on even topics the small model is right, on odd ones mostly wrong."""
    draw = np.random.default_rng(seed)
    made: list[dict[str, JsonValue]] = []
    for key in range(n):
        topic = int(draw.integers(6))
        chances = [0.9 if topic % 2 == 0 else 0.25, 0.85, 0.9][: len(models) - 1]
        for rung, model in enumerate(models):
            chance = 0.92 if rung == len(models) - 1 else chances[rung]
            right = float(draw.random() < chance)
            made.append(
                {
                    "key": f"q{key}",
                    "prompt": f"topic{topic} word{topic} about thing{topic}, question number {key}",
                    "model": model,
                    "quality": right,
                    "cost_usd": 0.0001 * 10**rung * (1 + 0.1 * draw.random()),
                    "signal": float(draw.normal(-0.2 if right else -1.2, 0.4)),
                    "input_tokens": 20,
                    "output_tokens": 10,
                    "task": f"t{topic}",
                    "answer": None,
                }
            )
    return made


def write(file: Path, made: list[dict[str, JsonValue]]) -> Path:
    """Write rows as the file's ending says."""
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    elif file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, fieldnames=list(made[0]))
            writer.writeheader()
            writer.writerows(made)
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(made), file)
    return file


def vectors_of(outcomes: Outcomes, *, turned: bool = False) -> Vectors:
    """Return a unit vector for each prompt, near its topic's direction; `turned` ones are near none of them."""
    draw = np.random.default_rng(5)
    topics = draw.normal(size=(6, 384))
    places = [int(prompt[5]) for prompt in outcomes.prompts]
    raw = topics[places] + 0.3 * draw.normal(size=(len(places), 384))
    raw = draw.normal(size=raw.shape) if turned else raw
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), dtype=np.float32)


def some(folder: Path, n: int = 300, *, seed: int = 0, models: tuple[str, ...] = LADDER) -> Outcomes:
    """Return made-up outcomes as they are read."""
    return read_records([write(folder / f"o{seed}.jsonl", rows(n, seed=seed, models=models))], models)
