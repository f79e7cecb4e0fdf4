"""One prompt is told the same as many at once, whatever an artefact holds."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from router.artefact import SHIPPED, Artefact
from router.estimators import Estimators, Look, Mode, Trees
from router.forecast import Forecaster, _Walk
from router.train_artefact import make
from tests.router.foreseeing import an_artefact
from tests.router.outcomes import some, vectors_of

TEXTS = ("", "a", "What is 2 + 3?\n\nA) 5", "é¿ \x00", "topic1 word1 about thing1, question number 7", "w " * 3000)


def draws(n: int) -> np.ndarray:
    raw = np.random.default_rng(3).normal(size=(n, 384)).astype(np.float32)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def alike(one: Look, many: Look, row: int) -> bool:
    return all(
        np.allclose(getattr(one, each.name)[0], getattr(many, each.name)[row], rtol=1e-6, atol=1e-6)
        for each in fields(Look)
    )


def check(estimators: Estimators, vectors: np.ndarray, texts: tuple[str, ...]) -> None:
    forecaster, many = Forecaster(estimators), estimators.look(vectors, texts)
    told = [forecaster(text, vector) for text, vector in zip(texts, vectors, strict=True)]
    assert [alike(one, many, row) for row, one in enumerate(told)] == [True] * len(texts)


def test_the_one_that_ships_tells_of_one_prompt_what_it_tells_of_many():
    check(Artefact.load(SHIPPED).estimators, draws(len(TEXTS)), TEXTS)


def test_a_bank_smaller_than_a_neighbourhood_is_no_exception():
    check(an_artefact(0.5, 0.9, ladder=("a", "b")).estimators, draws(len(TEXTS)), TEXTS)


@pytest.mark.parametrize("mode", list(Mode))
def test_trained_ones_of_every_mode_tell_the_same(tmp_path: Path, mode: Mode):
    read = some(tmp_path, 150)
    usual = {"max_loss": None, "confidence": 0.9, "made": "2026-11-22", "source": "made up"}
    new = some(tmp_path, 20, seed=1)
    check(make(read, vectors_of(read), mode=mode, **usual).estimators, vectors_of(new), new.prompts)


def test_a_value_at_a_threshold_goes_the_same_way():
    trees = Trees(
        feature=np.array([[0, 0, 0]]),
        threshold=np.array([[0.5, 0.0, 0.0]]),
        left=np.array([[1, 1, 2]]),
        right=np.array([[2, 1, 2]]),
        value=np.array([[[0.0], [1.0], [2.0]]]),
        depth=1,
    )
    for value, expected in ((0.5, 1.0), (0.5 + 1e-9, 1.0), (0.51, 2.0)):
        row = np.array([value])
        assert _Walk(trees)(row)[0] == trees.predict(row[None, :])[0, 0] == expected
