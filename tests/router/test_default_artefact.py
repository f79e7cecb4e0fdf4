"""The artefact that ships: small, sound, of any two models, and quick on one prompt without scikit-learn."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from backends.embedder import EMBEDDER_ID
from router.artefact import SHIPPED, Artefact, ArtefactError

PROMPTS = (
    "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer:",
    "Which of these is a capital city?\nA. Oslo\nB. Bergen\nAnswer:",
)


@pytest.fixture(scope="module")
def shipped() -> Artefact:
    return Artefact.load(SHIPPED)


def test_it_is_small_and_its_card_lies_beside_it():
    assert SHIPPED.stat().st_size < 3_000_000
    assert SHIPPED.with_name("MODEL_CARD.md").exists()


def test_it_speaks_of_any_two_models_and_promises_nothing(shipped: Artefact):
    shipped.check(ladder=("my-small", "my-large"), embedder=EMBEDDER_ID)

    assert shipped.promise is None
    with pytest.raises(ArtefactError, match="made for the ladder"):
        shipped.check(ladder=("one", "two", "three"), embedder=EMBEDDER_ID)


def test_one_prompt_is_judged_as_in_a_batch(shipped: Artefact):
    vectors = np.random.default_rng(0).normal(size=(2, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    both = shipped.estimators.look(vectors, PROMPTS)
    first = shipped.estimators.look(vectors[:1], PROMPTS[:1])

    assert first.quality[0] == pytest.approx(both.quality[0], abs=1e-6)
    assert first.is_outside[0]  # a random direction is like no question


def test_it_is_read_and_asked_without_scikit_learn():
    code = (
        "import sys, numpy as np; from router.artefact import SHIPPED, Artefact; e = Artefact.load(SHIPPED).estimators;"
        "l = e.look(np.ones((1, 384), np.float32) / 384**.5, ['a']); e.start(l, 5);"
        "assert not {'sklearn', 'scipy', 'pyarrow'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
