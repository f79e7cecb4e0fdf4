"""Outcome records: the same from every kind of file, and every mistake told with its place and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backends.words import JsonValue
from router.train_outcomes import TrainingError
from router.train_records import SIGNAL_FLOOR, check_trainable, read_records
from tests.router.outcomes import LADDER, rows, write

Rows = list[dict[str, JsonValue]]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_every_kind_of_file_reads_the_same(tmp_path: Path, ending: str):
    made = rows(20)

    read = read_records([write(tmp_path / f"a{ending}", made)], LADDER)

    assert len(read) == 20
    assert read.quality[:, 0].tolist() == [row["quality"] for row in made[::2]]
    assert read.usd[3, 1] == pytest.approx(made[7]["cost_usd"])
    assert read.tasks[0] == made[0]["task"]


def test_only_four_columns_are_needed_and_the_rest_is_unknown(tmp_path: Path):
    made = [{name: row[name] for name in ("key", "prompt", "model", "quality")} for row in rows(5)]

    read = read_records([write(tmp_path / "a.csv", made)], LADDER)

    assert np.isnan(read.usd).all()
    assert not (read.has_usd)
    assert not (read.has_signal)


def test_a_signal_of_minus_infinity_counts_as_the_floor(tmp_path: Path):
    made = rows(4)
    made[0]["signal"] = -50

    assert read_records([write(tmp_path / "a.jsonl", made)], LADDER).signal[0, 0] == SIGNAL_FLOOR


def test_several_files_are_read_as_one_and_models_off_the_ladder_are_left_out(tmp_path: Path):
    made = rows(30, models=("small", "middle", "large"))
    files = [write(tmp_path / "a.csv", made[:45]), write(tmp_path / "b.jsonl", made[45:])]

    assert read_records(files, LADDER).quality.shape == (30, 2)


def changed(column: str, value: JsonValue) -> Callable[[Rows], None]:
    def change(made: Rows) -> None:
        made[3][column] = value

    return change


def renamed(made: Rows) -> None:
    for row in made:
        row["score"] = row.pop("quality")


MISTAKES: list[tuple[Callable[[Rows], None], str]] = [
    (changed("quality", 1.5), r'row 4: column "quality" is 1.5; it must lie in \[0, 1\]'),
    (changed("quality", float("nan")), r'row 4: column "quality" is nan'),
    (changed("quality", "good"), r'column "quality" is "good", which is no number'),
    (changed("prompt", None), r'row 4: column "prompt" is empty'),
    (changed("cost_usd", -1), r'column "cost_usd" is -1'),
    (changed("key", "q0"), r'key "q0" comes twice for model "large" \(first at a.jsonl row 2\)'),
    (changed("model", "larger"), r'1 of 20 questions have no row of model "large" \(first: key "q1"\)'),
    (changed("prompt", "another"), r'key "q1" has another prompt'),
    (renamed, r'lacks column "quality", has an unknown column "score"; the columns are key, prompt, model, quality'),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, change: Callable[[Rows], None], message: str):
    made = rows(20)
    change(made)
    file = write(tmp_path / "a.jsonl", made)

    with pytest.raises(TrainingError, match=message):
        read_records([file], LADDER)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", 'ends in ".txt"; outcome records are .parquet, .csv, .jsonl'),
        ("a.parquet", b"no", "is not Parquet"),
        ("a.jsonl", b"{}\nno", "lacks column"),
        ("b.jsonl", b"no", "line 1 is not JSON"),
        ("a.csv", b"key,prompt\na", "line 2 has not as many fields"),
        ("b.csv", b"key\n\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(TrainingError, match=message):
        read_records([tmp_path / name], LADDER)


def test_a_ladder_of_unknown_models_is_told_with_those_that_are_there(tmp_path: Path):
    with pytest.raises(TrainingError, match='no row is of model "huge"; column model has: large, small'):
        read_records([write(tmp_path / "a.csv", rows(5))], ("small", "huge"))


def one_class(made: Rows) -> None:
    for row in made[::2]:
        row["quality"] = 0


def turned_round(made: Rows) -> None:
    for row in made:
        row["model"] = {"small": "large", "large": "small"}[str(row["model"])]


def no_signal(made: Rows) -> None:
    made[0]["signal"] = None


@pytest.mark.parametrize(
    ("n", "change", "message"),
    [
        (10, lambda _: None, "10 questions are too few: 100 are the least"),
        (150, one_class, 'column quality says that model "small" is right in 0 of 150 rows'),
        (150, turned_round, '"large" .* is not better than "small"'),
        (150, no_signal, 'column signal is empty in 1 of 150 rows of model "small"'),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, n: int, change: Callable[[Rows], None], message: str):
    made = rows(n)
    change(made)
    read = read_records([write(tmp_path / "a.jsonl", made)], LADDER)

    with pytest.raises(TrainingError, match=message):
        check_trainable(read, needs_signal=True)
