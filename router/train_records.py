"""Outcome records: what several models made of the same questions, from Parquet, CSV or JSON lines, checked.

Rules: one row per question and model; of `COLUMNS` all but the first four may be empty or absent; every mistake names
its file, row or column and what is allowed, since a table that is misread trains a model that is silently useless.

Errors are `TrainingError`s of `router.train_outcomes`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.words import JsonValue
from router.train_outcomes import TrainingError

COLUMNS = ("key", "prompt", "model", "quality", "cost_usd", "signal", "input_tokens", "output_tokens", "task", "answer")
REQUIRED = COLUMNS[:4]
NUMBERS = ("quality", "cost_usd", "signal", "input_tokens", "output_tokens")
MIN_QUESTIONS = 100
"""Below this a fit says nothing: with 100 rows the standard error of a mean quality is 4 points already."""
MIN_CLASS = 3
"""Right and wrong answers of each model that a fit needs."""
SIGNAL_FLOOR = -12.0
"""Log-probabilities below this count as this: sources write -50 for minus infinity, which would rule every mean."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Questions by the models of one ladder; unknown numbers are NaN.

    Attributes:
        models: the ladder, cheapest first.
        quality: float64[n, models], each in [0, 1], never NaN.
        usd: float64[n, models], dollars of the whole call.
        signal: float64[n, models], raw confidence about the model's own answer, higher is surer, at least SIGNAL_FLOOR.
        input_tokens: float64[n, models].
        output_tokens: float64[n, models]; all of a model's are known, or none.
    """

    models: tuple[str, ...]
    keys: tuple[str, ...]
    prompts: tuple[str, ...]
    tasks: tuple[str, ...]
    quality: Floats
    usd: Floats
    signal: Floats
    input_tokens: Floats
    output_tokens: Floats

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: NDArray[np.int64]) -> Outcomes:
        """Return these rows; one may be taken several times."""
        return Outcomes(
            models=self.models,
            keys=tuple(self.keys[row] for row in rows),
            prompts=tuple(self.prompts[row] for row in rows),
            tasks=tuple(self.tasks[row] for row in rows),
            quality=self.quality[rows],
            usd=self.usd[rows],
            signal=self.signal[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
        )

    @property
    def has_usd(self) -> bool:
        """Whether every call's cost is known."""
        return bool(np.isfinite(self.usd).all())

    @property
    def has_signal(self) -> bool:
        """Whether every answer that can be judged (all but the last rung's) has its signal."""
        return bool(np.isfinite(self.signal[:, :-1]).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row: a model's answer to a question."""

    place: str
    key: str
    prompt: str
    model: str
    task: str
    numbers: Mapping[str, float]


def read_records(files: Sequence[Path], ladder: Sequence[str]) -> Outcomes:
    """Return the questions that the files hold on a ladder's models, in the files' order.

    Args:
        files: `.parquet`, `.csv` or `.jsonl`; models outside the ladder are left out.
        ladder: the models' names as in column `model`, cheapest first.

    Raises:
        TrainingError: a file cannot be read, a column or value is wrong, a key comes twice for a model, or a question
            lacks one of the ladder's models.
    """
    if len(ladder) < 2 or len(set(ladder)) != len(ladder):
        raise TrainingError(f"a ladder has two or more different models, cheapest first; this one is {list(ladder)}")
    questions: dict[str, dict[str, Record]] = {}
    models: set[str] = set()
    for record in (record for file in files for record in _records(file)):
        models.add(record.model)
        if record.model not in ladder:
            continue
        rows = questions.setdefault(record.key, {})
        earlier = rows.setdefault(record.model, record)
        if earlier is not record:
            raise TrainingError(
                f'{record.place}: key "{record.key}" comes twice for model "{record.model}" (first at {earlier.place});'
                " one row per question and model is allowed: delete one, or give the questions different keys"
            )
        first = next(iter(rows.values()))
        if first.prompt != record.prompt:
            raise TrainingError(
                f'{record.place}: key "{record.key}" has another prompt than at {first.place}; a key names one question'
            )
    for model in ladder:
        if model not in models:
            raise TrainingError(
                f'no row is of model "{model}"; column model has: {", ".join(sorted(models)) or "none"}'
            )
    return _assemble(questions, tuple(ladder))


def check_trainable(outcomes: Outcomes, *, needs_signal: bool) -> None:
    """Refuse what no estimator can be fitted on.

    Raises:
        TrainingError: too few questions, a model that is always right or wrong, no gap between the ends, or no signal.
    """
    n = len(outcomes)
    if n < MIN_QUESTIONS:
        raise TrainingError(
            f"{n} questions are too few: {MIN_QUESTIONS} are the least that a fit says anything with, 1,500 do well;"
            " add rows"
        )
    for index, model in enumerate(outcomes.models):
        values = outcomes.quality[:, index]
        right = int((values >= 0.5).sum())
        if min(right, n - right) < MIN_CLASS:
            raise TrainingError(
                f'column quality says that model "{model}" is right in {right} of {n} rows: there is nothing to learn'
                f" from one class, {MIN_CLASS} of each are the least; check how the answers were graded"
            )
    weak, strong = float(outcomes.quality[:, 0].mean()), float(outcomes.quality[:, -1].mean())
    if weak >= strong:
        raise TrainingError(
            f'"{outcomes.models[-1]}" (mean quality {strong:.3f}) is not better than "{outcomes.models[0]}"'
            f" ({weak:.3f}): name the ladder cheapest and weakest first, or route everything to the first"
        )
    if needs_signal and not outcomes.has_signal:
        column = np.isnan(outcomes.signal[:, :-1]).sum(axis=0)
        model = outcomes.models[int(column.argmax())]
        raise TrainingError(
            f'column signal is empty in {int(column.max())} of {n} rows of model "{model}": a cascade judges answers by'
            " it; fill it (the answer's mean log-probability is the usual one), or use --mode route"
        )


def _assemble(questions: Mapping[str, Mapping[str, Record]], ladder: tuple[str, ...]) -> Outcomes:
    for model in ladder:
        lacking = [key for key, rows in questions.items() if model not in rows]
        if lacking:
            raise TrainingError(
                f'{len(lacking)} of {len(questions)} questions have no row of model "{model}" (first: key'
                f' "{lacking[0]}"); every question needs one row for each model of the ladder: add them, or delete'
                " the other rows of these questions"
            )
    firsts = [rows[ladder[0]] for rows in questions.values()]

    def table(column: str) -> Floats:
        values = [[rows[model].numbers[column] for model in ladder] for rows in questions.values()]
        return np.array(values, dtype=np.float64).reshape(len(questions), len(ladder))

    return Outcomes(
        models=ladder,
        keys=tuple(questions),
        prompts=tuple(first.prompt for first in firsts),
        tasks=tuple(first.task for first in firsts),
        quality=table("quality"),
        usd=table("cost_usd"),
        signal=np.maximum(table("signal"), SIGNAL_FLOOR),
        input_tokens=table("input_tokens"),
        output_tokens=_known_columns(table("output_tokens")),
    )


def _known_columns(tokens: Floats) -> Floats:
    """Return lengths, those of a model unknown where some of them are.

    Estimators take an unknown length for none; a model's that are told for a part of the questions would teach them
    which part that is.
    """
    return np.where(np.isnan(tokens).any(axis=0), np.nan, tokens)


def _records(file: Path) -> Iterator[Record]:
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise TrainingError(f'{file} ends in "{file.suffix}"; outcome records are {", ".join(_READERS)}')
    try:
        for number, row in enumerate(reader(file), start=1):
            if number == 1:
                _check_columns(file, row)
            yield _record(f"{file.name} row {number}", row)
    except OSError as error:
        raise TrainingError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"{file} is not UTF-8 text at byte {error.start}; save it as UTF-8") from error


def _check_columns(file: Path, row: Mapping[str, JsonValue]) -> None:
    missing = [name for name in REQUIRED if name not in row]
    unknown = [name for name in row if name not in COLUMNS]
    if missing or unknown:
        what = [f'lacks column "{name}"' for name in missing] + [f'has an unknown column "{name}"' for name in unknown]
        raise TrainingError(
            f"{file} {', '.join(what)}; the columns are {', '.join(COLUMNS)} (the first four must be there)"
        )


def _record(place: str, row: Mapping[str, JsonValue]) -> Record:
    for name in REQUIRED:
        if row.get(name) in {None, ""}:
            raise TrainingError(f'{place}: column "{name}" is empty; it must be filled in every row')
    numbers = {name: _number(place, name, row.get(name)) for name in NUMBERS}
    if not 0 <= numbers["quality"] <= 1:  # NaN fails it too
        raise TrainingError(
            f'{place}: column "quality" is {row["quality"]}; it must lie in [0, 1], 1 for a right answer and 0 for a'
            " wrong one"
        )
    for name in ("cost_usd", "input_tokens", "output_tokens"):
        if numbers[name] < 0 or math.isinf(numbers[name]):
            raise TrainingError(f'{place}: column "{name}" is {row[name]}; it must be a number from 0 on, or empty')
    return Record(
        place=place,
        key=str(row["key"]),
        prompt=str(row["prompt"]),
        model=str(row["model"]),
        task=str(row.get("task") or ""),
        numbers=numbers,
    )


def _number(place: str, name: str, value: JsonValue) -> float:
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TrainingError(f'{place}: column "{name}" is "{value}", which is no number') from error


def _parquet(file: Path) -> Iterable[Mapping[str, JsonValue]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
    except pa.ArrowInvalid as error:
        raise TrainingError(f"{file} is not Parquet: {error}") from error
    # `answer` is read by nobody here and is by far the largest column.
    kept = [name for name in table.column_names if name != "answer"]
    for batch in table.select(kept).to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _csv(file: Path) -> Iterable[Mapping[str, JsonValue]]:
    csv.field_size_limit(1 << 24)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened)
        for row in reader:
            if None in row or None in row.values():
                raise TrainingError(f"{file} line {reader.line_num} has not as many fields as its first line")
            yield row


def _jsonl(file: Path) -> Iterable[Mapping[str, JsonValue]]:
    with file.open(encoding="utf-8") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise TrainingError(f"{file} line {number} is not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise TrainingError(f"{file} line {number} is no object; one row per question and model is expected")
            yield row


_READERS = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
