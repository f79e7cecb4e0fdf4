"""Foresights and artefacts that say what a test wants, where nothing is to be learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from backends.embedder import EMBEDDER_ID
from policies.signals import Signal
from router.artefact import FORMAT, Answers, Artefact, Stored
from router.estimators import Estimators, Judging, Mode, Neighbours, Setting, Space
from router.foresight import Foreseen, Foresight, Sight

INSIDE, OUTSIDE = 0.9, 0.1


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a strategy reads of a foresight."""

    name: str = "told"
    digest: str = "d"
    means: tuple[float, ...] = (0.6, 0.9)
    promise: Stored | None = None
    judges_answers: bool = False


def a_sight(
    *, means: tuple[float, ...] = (0.6, 0.9), promise: Stored | None = None, judges_answers: bool = False
) -> Sight:
    """Return a route's sight whose foresight is never asked."""
    return Sight(cast("Foresight", Told(means=means, promise=promise, judges_answers=judges_answers)))


def foreseen(*qualities: float, start: int | None = None, similarity: float = INSIDE) -> Foreseen:
    """Return what an artefact expects of a prompt."""
    return Foreseen(qualities=qualities, start=start, similarity=similarity, cutoff=0.5)


def a_promise(*, max_loss: float = 0.05, confidence: float = 0.9, setting: int = 0) -> Stored:
    """Return a threshold's promise."""
    return Stored(
        setting=setting,
        max_loss=max_loss,
        confidence=confidence,
        bound=max_loss,
        mean_loss=0.0,
        n=400,
        share_small=0.5,
        savings=0.4,
        savings_low=0.3,
        savings_high=0.5,
    )


def an_artefact(
    *qualities: float,
    ladder: tuple[str, ...],
    means: tuple[float, ...] | None = None,
    promise: Stored | None = None,
    cutoff: float = -10.0,
) -> Artefact:
    """Return an artefact that expects the same of every prompt; by default none is outside.

    Its two settings are "all to the last rung" and "all to the first".
    """
    n = 16
    bank = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(384, 4)))[0]
    estimators = Estimators(
        mode=Mode.ROUTE,
        rungs=len(qualities),
        space=Space(centre=np.zeros(384), basis=basis, clusters=basis.T.copy()),
        wording=None,
        linear_share=0.5,
        neighbours=Neighbours(
            bank=bank / np.linalg.norm(bank, axis=1, keepdims=True),
            lengths=np.ones(n, dtype=np.float32),
            quality=np.tile(np.array(qualities), (n, 1)),
            cutoff=cutoff,
        ),
        trees=None,
        opening=None,
        judges=(),
        settings=(Setting(price=1e-9, bonus=2.0), Setting(price=1e15, bonus=0.0)),
    )
    return Artefact(
        format=FORMAT,
        ladder=ladder,
        embedder=EMBEDDER_ID,
        made="2026-11-21",
        source="made up",
        questions=n,
        qualities=means or qualities,
        estimators=estimators,
        promise=promise,
    )


def a_judging_artefact(
    ladder: tuple[str, ...],
    *,
    promise: Stored | None,
    worth_of_next: float = -1.0,
    signal: Signal | None = Signal.LOGPROBS,
) -> Artefact:
    """Return an artefact that keeps answers of a mean log-probability above -0.8 at setting 1, and none at setting 0.

    What it rejects goes to the last rung, unless the rungs between are worth more than .55 (`worth_of_next`).
    """
    rungs = len(ladder)
    plain = an_artefact(*(0.9,) * rungs, ladder=ladder, promise=promise)
    judges = tuple(_signal_judge(rungs - rung, worth_of_next) for rung in range(rungs - 1))
    below = rungs - 1
    return replace(
        plain,
        estimators=replace(
            plain.estimators,
            mode=Mode.CASCADE,
            judges=judges,
            settings=(Setting(price=1e-9, bonus=2.0), Setting(price=0.2, bonus=0.0)),
        ),
        answers=Answers(signal=signal, lowest=(-5.0,) * below, highest=(0.0,) * below, most_tokens=(50,) * below),
    )


def _signal_judge(heads: int, worth_of_next: float) -> Judging:
    """Return a judge that reads the signal off a line from 0 at -2 to 1 at 0; all else tells nothing."""
    columns = 5 + 4 + 4 + 4
    curves = np.full((4, 2, heads), 0.9)
    curves[:, :, 0] = [0.0, 1.0]
    between = heads - 2
    return Judging(
        grid=np.array([-2.0, 0.0]),
        curves=curves,
        weights=np.zeros((columns, heads)),
        intercept=np.zeros(heads),
        means=np.full(heads, 0.9),
        centre=np.zeros(columns),
        scale=np.ones(columns),
        values=np.zeros((columns, between, 2)),
        value_means=np.full((between, 2), worth_of_next),
        costs=np.zeros((columns, heads - 1)),
        cost_means=np.zeros(heads - 1),
    )
