"""`faregate train` and `faregate evaluate` as they are run, on made-up records and with embeddings kept in a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from backends.embedder import EMBEDDER_ID
from gateway.cli import main
from router.train_records import read_records
from tests.router.outcomes import LADDER, rows, vectors_of, write

FIGURES = (
    "apgr",
    "apgr_dollars",
    "cpt50",
    "cpt80",
    "savings_at_1pt_loss",
    "savings_fixed",
    "loss_fixed",
    "harm_fixed",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records to train on, others to measure on, and the embeddings of both."""
    folder = tmp_path_factory.mktemp("records")
    prompts: dict[str, np.ndarray] = {}
    for name, seed in (("train", 0), ("test", 1)):
        file = write(folder / f"{name}.csv", rows(300, seed=seed))
        read = read_records([file], LADDER)
        prompts |= dict(zip(read.prompts, vectors_of(read), strict=True))
    digests = [hashlib.sha256(prompt.encode()).hexdigest()[:24] for prompt in prompts]
    vectors = np.array(list(prompts.values()))
    np.savez(folder / "v.npz", embedder=np.array(EMBEDDER_ID), digests=np.array(digests), vectors=vectors)
    return folder


def run(folder: Path, command: str, records: str, *more: str) -> Result:
    options = ["--outcomes", str(folder / records), "--ladder", "small,large", "--vectors", str(folder / "v.npz")]
    return CliRunner().invoke(main, [command, *options, *more])


def test_an_artefact_is_trained_then_measured_and_drawn(folder: Path):
    artefact, picture = str(folder / "a.json"), folder / "p.png"

    trained = run(folder, "train", "train.csv", "--max-loss", "0.2", "--out", artefact)
    measured = run(folder, "evaluate", "test.csv", "--artefact", artefact, "--json", "--plot", str(picture))

    assert trained.exit_code == 0, trained.output
    assert "promise: expected loss below 0.2" in trained.stdout
    told = json.loads(measured.stdout)
    assert all(set(told[name]) == {"value", "low", "high"} for name in FIGURES)
    assert told["n"] == 300
    assert told["weak_quality"] < told["random"] < told["strong_quality"] < told["oracle"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_an_artefact_the_folds_decide_and_nothing_is_fixed(folder: Path):
    told = json.loads(run(folder, "evaluate", "test.csv", "--mode", "route", "--json").stdout)

    assert told["apgr"]["value"] > 0.5
    assert [name for name in FIGURES if told[name] is None] == ["savings_fixed", "loss_fixed", "harm_fixed"]


def test_people_get_tables_with_what_needs_no_router(folder: Path):
    shown = run(folder, "evaluate", "test.csv").stdout

    for words in ("always weak", "always strong", "random mix", "best single", "oracle", "area under PGR"):
        assert words in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--ladder", "small,huge"), 'no row is of model "huge"'),
        (("--ladder", "small"), "is not two or more models"),
        (("--vectors", "train.csv"), "does not hold embeddings"),
        (("--plot", "absent/p.png"), "cannot draw to"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(folder: Path, more: tuple[str, str], message: str):
    option, value = more
    value = str(folder / value) if option in {"--vectors", "--plot"} else value

    result = run(folder, "evaluate", "test.csv", option, value)

    assert result.exit_code != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_evaluate_without_records_says_what_to_give():
    result = CliRunner().invoke(main, ["evaluate"])

    assert result.exit_code == 2
    assert "--outcomes" in result.stderr
