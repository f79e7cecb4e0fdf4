"""Training, the artefact, and what it does afterwards; and everything for which an artefact is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backends.embedder import EMBEDDER_ID
from router.artefact import Artefact, ArtefactError
from router.estimators import Mode
from router.train_artefact import make
from router.train_outcomes import TrainingError
from router.train_replay import at, reference, replay
from router.train_report import evaluate
from tests.router.outcomes import LADDER, some, vectors_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outcomes")


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    read = some(folder, 400)
    made = make(
        read,
        vectors_of(read),
        mode=Mode.CASCADE,
        max_loss=0.15,
        confidence=0.9,
        made="2026-11-21",
        source="made up",
    )
    return made.dump()


def test_an_artefact_read_again_decides_the_same(folder: Path, text: str):
    (folder / "a.json").write_text(text)
    read = some(folder, 120, seed=1)
    vectors = vectors_of(read)

    loaded = Artefact.load(folder / "a.json")

    again = Artefact.load(folder / "a.json")
    first, second = (replay(one.estimators, read, vectors) for one in (loaded, again))
    assert (first.quality == second.quality).all()
    assert loaded.dump() == text


def test_a_trained_cascade_saves_and_loses_less_than_promised_on_new_rows(folder: Path, text: str):
    (folder / "b.json").write_text(text)
    artefact = Artefact.load(folder / "b.json")
    read = some(folder, 600, seed=2)

    figures = evaluate(read, vectors_of(read), mode=Mode.CASCADE, artefact=artefact).figures

    saved, lost, area = (figures[name] for name in ("savings_fixed", "loss_fixed", "apgr_dollars"))
    assert saved is not None
    assert saved.value > 0.2
    assert lost is not None
    assert lost.value < 0.15
    assert area is not None
    assert area.value > 0.6


@pytest.mark.parametrize("mode", list(Mode))
def test_three_rungs_are_decided_in_every_mode(folder: Path, mode: Mode):
    models = ("small", "middle", "large")
    read = some(folder, 250, seed=3, models=models)

    figures = evaluate(read, vectors_of(read), mode=mode, artefact=None).figures

    area = figures["apgr_dollars"]
    assert area is not None
    assert area.value > 0.5


def test_strangers_make_the_learned_plan_step_aside(folder: Path, text: str):
    (folder / "c.json").write_text(text)
    artefact = Artefact.load(folder / "c.json")
    read = some(folder, 120, seed=4)

    report = evaluate(read, vectors_of(read, turned=True), mode=Mode.CASCADE, artefact=artefact)

    assert report.share_outside > 0.9
    assert report.figures["apgr"] is not None
    assert report.figures["apgr"].value == pytest.approx(0.5, abs=1e-9)
    assert report.figures["loss_fixed"] is not None
    assert report.figures["loss_fixed"].value == 0  # all go to the baseline


def test_the_strictest_setting_loses_nothing_and_the_loosest_serves_the_small_model(folder: Path, text: str):
    (folder / "d.json").write_text(text)
    read = some(folder, 120, seed=5)
    done = replay(Artefact.load(folder / "d.json").estimators, read, vectors_of(read))

    assert (at(done, reference(read), 0).quality == read.quality[:, 1]).all()
    assert (done.quality[-1] == read.quality[:, 0]).all()
    assert (np.diff(done.small.mean(axis=1)) >= 0).all()


def test_a_promise_that_cannot_be_kept_is_no_artefact_but_says_how_many_rows_would_do(folder: Path):
    read = some(folder, 120, seed=6)

    with pytest.raises(TrainingError, match=r"no threshold keeps a loss of 0.001 .* on 120 rows; .*rows"):
        make(
            read,
            vectors_of(read),
            mode=Mode.CASCADE,
            max_loss=0.001,
            confidence=0.9,
            made="2026-11-21",
            source="made up",
        )


def tampered(text: str) -> str:
    row = json.loads(text)
    row["promise"]["max_loss"] = 0.5
    return json.dumps(row)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON, perhaps cut short"),
        (tampered, "was changed or cut"),
        (lambda _: "[1]", "was changed or cut"),
        (lambda _: "", "is not JSON"),
    ],
)
def test_a_damaged_artefact_is_refused(folder: Path, text: str, damage: Callable[[str], str], message: str):
    (folder / "e.json").write_text(damage(text))

    with pytest.raises(ArtefactError, match=message):
        Artefact.load(folder / "e.json")


def test_an_artefact_for_another_ladder_or_embedder_is_refused(folder: Path, text: str):
    (folder / "f.json").write_text(text)
    artefact = Artefact.load(folder / "f.json")

    artefact.check(ladder=LADDER, embedder=EMBEDDER_ID)
    with pytest.raises(ArtefactError, match=r"made for the ladder small, large, not small, huge"):
        artefact.check(ladder=("small", "huge"), embedder=EMBEDDER_ID)
    with pytest.raises(ArtefactError, match=r'made with embedder .*, this is "other"'):
        artefact.check(ladder=LADDER, embedder="other")
    with pytest.raises(ArtefactError, match="cannot be read"):
        Artefact.load(folder / "absent.json")
