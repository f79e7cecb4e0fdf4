"""A trained artefact made ready to serve, and every reason for which it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.sealed import seal
from router.artefact import SHIPPED, Artefact, ArtefactError
from router.estimators import Mode
from router.foresight import Foresight
from router.train_artefact import make
from tests.router.foreseeing import a_promise
from tests.router.outcomes import LADDER, some, vectors_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foresight")


@pytest.fixture(scope="module")
def artefact(folder: Path) -> Artefact:
    read = some(folder, 200)
    vectors = vectors_of(read)
    return make(read, vectors, mode=Mode.ROUTE, max_loss=None, confidence=0.9, made="2026-11-21", source="made up")


def test_it_tells_topics_apart_as_the_estimators_do(folder: Path, artefact: Artefact):
    (folder / "a.json").write_text(artefact.dump())
    new = some(folder, 60, seed=1)
    vectors = vectors_of(new)

    foresight = Foresight.load(folder / "a.json", name="a.json", ladder=LADDER)
    told = [foresight(prompt, vector) for prompt, vector in zip(new.prompts, vectors, strict=True)]

    batch = Artefact.load(folder / "a.json").estimators.look(vectors, new.prompts)
    assert np.array([one.qualities for one in told]) == pytest.approx(batch.quality, abs=1e-5)
    assert [one.is_outside for one in told] == batch.is_outside.tolist()
    even = np.array([int(prompt[5]) % 2 == 0 for prompt in new.prompts])
    small = np.array([one.qualities[0] for one in told])
    assert small[even].mean() > small[~even].mean() + 0.2
    assert {one.start for one in told} == {None}  # it holds no threshold


def test_a_threshold_of_its_own_chooses_as_the_replay_did(folder: Path, artefact: Artefact):
    strictest, loosest = 0, len(artefact.estimators.settings) - 1
    starts = {}
    for setting in (strictest, loosest):
        file = folder / f"own{setting}.json"
        file.write_text(replace(artefact, promise=a_promise(setting=setting)).dump())
        told = Foresight.load(file, name="own", ladder=LADDER)
        starts[setting] = told("topic0 word0 about thing0", vectors_of(some(folder, 60, seed=2))[0]).start
    assert starts == {strictest: 1, loosest: 0}


def cut(text: str) -> str:
    return text[: len(text) // 2]


def tampered(text: str) -> str:
    return text.replace('"questions":200', '"questions":201')


def another(field: str, value: object) -> Callable[[str], str]:
    def change(text: str) -> str:
        row = json.loads(text)
        del row["sha256"]
        return seal({**row, field: value})  # whole, sealed, and not for us

    return change


def misfit(text: str) -> str:
    row = json.loads(text)
    del row["sha256"]
    row["estimators"]["space"]["basis"] = row["estimators"]["space"]["centre"]
    return seal(row)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "is not JSON, perhaps cut short"),
        (tampered, "was changed or cut"),
        (another("ladder", ["one", "two"]), "made for the ladder one, two, not small, large"),
        (another("embedder", "elsewhere@1"), 'made with embedder "elsewhere@1"'),
        (another("format", "faregate-router/9"), 'has format "faregate-router/9"'),
        (misfit, "does not run"),
    ],
)
def test_what_is_damaged_or_made_for_something_else_is_refused(
    folder: Path, artefact: Artefact, damage: Callable[[str], str], said: str
):
    file = folder / "bad.json"
    file.write_text(damage(artefact.dump()))
    with pytest.raises(ArtefactError, match=said):
        Foresight.load(file, name="bad.json", ladder=LADDER)
    file.unlink()
    with pytest.raises(ArtefactError, match="cannot be read"):
        Foresight.load(file, name="bad.json", ladder=LADDER)


def test_the_one_that_ships_is_ready_for_any_two_models():
    foresight = Foresight.load(SHIPPED, name="default", ladder=("mine", "yours"))
    told = foresight("What is the sum of 2 and 3?", np.full(384, 384**-0.5, dtype=np.float32))
    assert (len(told.qualities), told.is_outside, foresight.promise) == (2, True, None)
