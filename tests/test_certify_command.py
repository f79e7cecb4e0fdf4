"""`faregate calibrate --outcomes`: a live route's promise by records of its models, its artefact's plan replayed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from backends.embedder import EMBEDDER_ID
from backends.words import JsonValue
from gateway.cli import main
from router.artefact import Artefact
from router.estimators import Mode
from router.foresight import Foresight
from router.train_artefact import make, sources
from tests.router.outcomes import rows, vectors_of, write
from tests.served.world import LARGE_NAME, SMALL_NAME, a_policy, write_policy

MODELS = (SMALL_NAME, LARGE_NAME)


def records(folder: Path, name: str, *, n: int = 400, seed: int, models: tuple[str, ...] = MODELS) -> Path:
    made = rows(n, seed=seed, models=models)
    return write(folder / name, [{**row, "signal": min(float(row["signal"]), -0.01)} for row in made])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artefact without a threshold, records it was not made of, and the prompts' embeddings."""
    from router.train_records import read_records

    folder = tmp_path_factory.mktemp("certify")
    prompts: dict[str, np.ndarray] = {}
    files = [records(folder, name, seed=seed) for seed, name in enumerate(("train.csv", "fresh.csv", "ids.csv"))]
    files[2] = records(folder, "ids.csv", seed=2, models=("small", "large"))
    for file, models in zip(files, (MODELS, MODELS, ("small", "large")), strict=True):
        read = read_records([file], models)
        prompts |= dict(zip(read.prompts, vectors_of(read), strict=True))
    digests = [hashlib.sha256(prompt.encode()).hexdigest()[:24] for prompt in prompts]
    np.savez(
        folder / "v.npz",
        embedder=np.array(EMBEDDER_ID),
        digests=np.array(digests),
        vectors=np.array(list(prompts.values())),
    )
    read = read_records(files[:1], MODELS)
    usual = {"max_loss": None, "confidence": 0.9, "made": "2026-11-22", "source": sources(files[:1])}
    (folder / "own.json").write_text(make(read, vectors_of(read), mode=Mode.COMBINED, **usual).dump())
    return folder


def calibrate(folder: Path, file: str, *more: str, **route: JsonValue) -> Result:
    policy = a_policy(["http://127.0.0.1:1/v1"])
    policy["routes"] = [{"name": "r", "ladder": ["small", "large"], "router": {"artefact": "own.json"}, **route}]
    options = ["--policy", str(write_policy(folder, policy)), "--route", "r", "--outcomes", str(folder / file)]
    return CliRunner().invoke(main, ["calibrate", *options, "--vectors", str(folder / "v.npz"), *more])


@pytest.mark.parametrize("file", ["fresh.csv", "ids.csv"])  # models under the names sent upstream, or the catalog's
def test_a_route_is_certified_with_its_artefacts_plan_and_then_serves_by_it(folder: Path, file: str):
    out = folder / f"certified-{file}.json"
    result = calibrate(folder, file, "--max-loss", "0.1", "--confidence", "0.9", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "promise: expected loss below 0.1 at a confidence of 0.9; its bound is" in result.stdout
    assert "dollars saved: " in result.stdout
    before, after = Artefact.load(folder / "own.json"), Artefact.load(out)
    assert after.promise is not None
    assert (after.ladder, after.promise.n, after.promise.max_loss) == (MODELS, 400, 0.1)
    assert np.array_equal(before.estimators.judges[0].weights, after.estimators.judges[0].weights)
    assert Foresight.load(out, name="out", ladder=MODELS).judges_answers


def test_what_the_route_promises_is_what_is_asked_of_the_records(folder: Path):
    result = calibrate(folder, "fresh.csv", quality={"max_loss": 0.12, "confidence": 0.95})
    assert result.exit_code == 0, result.output
    assert "not written (--out)" in result.stdout
    assert "expected loss below 0.12 at a confidence of 0.95" in result.stdout


def test_a_promise_that_no_threshold_keeps_says_how_many_records_would_do(folder: Path):
    result = calibrate(folder, "fresh.csv", "--max-loss", "0.0005", "--out", str(folder / "no.json"))
    assert (result.exit_code, (folder / "no.json").exists()) == (1, False)
    assert "no threshold keeps a loss of 0.0005" in result.stderr
    assert "rows of the same kind would do" in result.stderr or "more rows would not help" in result.stderr


def test_the_rows_it_was_trained_on_prove_nothing(folder: Path):
    result = calibrate(folder, "train.csv", "--max-loss", "0.1")
    assert result.exit_code == 1
    assert "the artefact was made of train.csv" in result.stderr


def test_a_route_that_promises_nothing_is_told_to_say_what(folder: Path):
    result = calibrate(folder, "fresh.csv")
    assert result.exit_code == 1
    assert "say what with --max-loss" in result.stderr


def test_an_artefact_of_another_signal_cannot_be_certified(folder: Path):
    own = Artefact.load(folder / "own.json")
    assert own.answers is not None
    (folder / "strange.json").write_text(replace(own, answers=replace(own.answers, signal=None)).dump())
    result = calibrate(folder, "fresh.csv", "--max-loss", "0.1", router={"artefact": "strange.json"})
    assert result.exit_code == 1
    assert "train it with `--signal mean_logprob`" in result.stderr
