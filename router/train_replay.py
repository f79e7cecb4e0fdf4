"""What a ladder's estimators would have done on rows whose every answer is known: the sweep that metrics are taken of.

Rules: `cross_fit` never scores a row by estimators that have seen it; a prompt outside the training data has no score,
so at every setting it is served like the others on average (in expectation: a constant score), and where the share
outside passes `STEPS_ASIDE`, the learned plan steps aside for all prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from router.estimators import Estimators, Floats, Mode, Rungs, Setting, Vectors
from router.foresight import STEPS_ASIDE
from router.train_estimators import fit
from router.train_metrics import Fixed, Reference, Sweep
from router.train_records import Outcomes

FOLDS = 5

Show = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Rows under every setting, strictest first.

    Attributes:
        quality: float64[settings, n], served.
        calls: float64[settings, n], 1 where the last rung was called.
        usd: float64[settings, n], everything paid (NaN where costs are unknown).
        small: float64[settings, n], 1 where something below the last rung was served.
        is_outside: bool[n].
    """

    quality: Floats
    calls: Floats
    usd: Floats
    small: Floats
    is_outside: NDArray[np.bool_]


def replay(estimators: Estimators, outcomes: Outcomes, vectors: Vectors) -> Replay:
    """Return what every setting does to each row."""
    look = estimators.look(vectors, outcomes.prompts)
    weighed = [
        estimators.weigh(look, rung, outcomes.signal[:, rung], outcomes.output_tokens[:, rung])
        for rung in range(len(estimators.judges))
    ]
    shape = (len(estimators.settings), len(outcomes))
    quality, calls, usd, small = (np.zeros(shape) for _ in range(4))
    everyone = np.arange(len(outcomes))
    for setting in range(len(estimators.settings)):
        rung = estimators.start(look, setting)
        paid = outcomes.usd[everyone, rung].copy()
        for judged in weighed:
            here = np.flatnonzero(rung == judged.rung)
            after: Rungs = estimators.climb(judged, setting)[here]
            climbed = after > judged.rung
            paid[here[climbed]] += outcomes.usd[here[climbed], after[climbed]]
            rung[here] = after
        quality[setting] = outcomes.quality[everyone, rung]
        calls[setting] = rung == estimators.rungs - 1
        small[setting] = rung < estimators.rungs - 1
        usd[setting] = paid
    return Replay(quality=quality, calls=calls, usd=usd, small=small, is_outside=look.is_outside)


def cross_fit(
    outcomes: Outcomes,
    vectors: Vectors,
    mode: Mode,
    *,
    settings: Sequence[Setting] | None = None,
    seed: int = 1,
    show: Show = iter,
) -> Replay:
    """Return the replay in which each row is decided by estimators fitted on the other four fifths.

    Args:
        outcomes: one ladder's.
        vectors: the prompts' embeddings, in the rows' order.
        mode: when the rung is decided.
        settings: the grid; each fold makes its own when None (they correspond by position).
        seed: of the folds.
        show: wraps the folds, for a progress bar.
    """
    n = len(outcomes)
    split = list(KFold(FOLDS, shuffle=True, random_state=seed).split(np.arange(n)))
    parts: list[tuple[NDArray[np.int64], Replay]] = []
    for fold in show(range(FOLDS)):
        train, test = split[fold]
        grid = settings if settings is not None or not parts else None
        fitted = fit(outcomes.take(train), vectors[train], mode, settings=grid)
        parts.append((test, replay(fitted, outcomes.take(test), vectors[test])))
    height = min(len(part.quality) for _, part in parts)
    whole = {name: np.zeros((height, n)) for name in ("quality", "calls", "usd", "small")}
    outside = np.zeros(n, dtype=bool)
    for rows, part in parts:
        picked = np.round(np.linspace(0, len(part.quality) - 1, height)).astype(int)
        for name, table in whole.items():
            table[:, rows] = getattr(part, name)[picked]
        outside[rows] = part.is_outside
    return Replay(**whole, is_outside=outside)


def reference(outcomes: Outcomes) -> Reference:
    """Return the ladder's ends."""
    has_usd = outcomes.has_usd
    return Reference(
        weak=outcomes.quality[:, 0],
        strong=outcomes.quality[:, -1],
        weak_usd=outcomes.usd[:, 0] if has_usd else None,
        strong_usd=outcomes.usd[:, -1] if has_usd else None,
    )


def sweep(done: Replay, ends: Reference) -> Sweep:
    """Return the replay cheapest first, with prompts outside served as by a constant score."""
    quality, calls, usd = done.quality[::-1], done.calls[::-1], done.usd[::-1]
    has_usd = ends.weak_usd is not None and ends.strong_usd is not None
    outside = done.is_outside
    if outside.mean() > STEPS_ASIDE:
        outside = np.ones(len(outside), dtype=bool)
        share = np.array([0.0, 1.0])
        quality, calls, usd = (np.zeros((2, len(outside))) for _ in range(3))
    else:
        share = calls[:, ~outside].mean(axis=1)
    quality, calls, usd = quality.copy(), calls.copy(), usd.copy()
    rows = np.flatnonzero(outside)
    quality[:, rows] = ends.weak[rows] + share[:, None] * (ends.strong - ends.weak)[rows]
    calls[:, rows] = share[:, None]
    if ends.weak_usd is not None and ends.strong_usd is not None:
        usd[:, rows] = ends.weak_usd[rows] + share[:, None] * (ends.strong_usd - ends.weak_usd)[rows]
    # The ends of the curve are the ladder's own: nobody needs a router for them.
    n = len(outside)
    ends_usd = (
        (ends.weak_usd, ends.strong_usd)
        if ends.weak_usd is not None and ends.strong_usd is not None
        else (np.zeros(n), np.zeros(n))
    )
    return Sweep(
        quality=np.vstack([ends.weak, quality, ends.strong]),
        calls=np.vstack([np.zeros(n), calls, np.ones(n)]),
        usd=np.vstack([ends_usd[0], usd, ends_usd[1]]) if has_usd else None,
    )


def at(done: Replay, ends: Reference, setting: int) -> Fixed:
    """Return one setting; what is outside goes to the last rung at once, as the gateway sends it."""
    outside = done.is_outside if done.is_outside.mean() <= STEPS_ASIDE else np.ones_like(done.is_outside)
    usd = None if ends.strong_usd is None else np.where(outside, ends.strong_usd, done.usd[setting])
    return Fixed(quality=np.where(outside, ends.strong, done.quality[setting]), usd=usd)
