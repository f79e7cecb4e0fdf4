"""Fits the estimators of `router.estimators` on outcome records (scikit-learn; never when serving).

How, and why so:
- Before the call: a ridge on hashed n-grams, embedding and shape, averaged with extremely randomised trees on
  directions, shape and what the neighbours came to (two points of area above boosted ones on three folds of MMLU, which
  follow single neighbours too closely; on 700 to 1,500 rows two to three points above a mean of 80 neighbours).
  All predict every model's quality, not "difficulty": what pays is the difference.
- After an answer: isotonic in the signal, cluster by cluster (drawn to the whole by 60 rows), averaged with a logistic
  model on signal, lengths, cluster and directions. Curves of the rungs above are drawn halfway to their mean in the
  cluster, and their estimates then a little to the whole's, since the best of several estimates is biased upwards.
- The value of a rung that can itself climb is a ridge on what is known below it, one head a setting of the grid.
- Fractional qualities are two weighted rows of a logistic fit, one right and one wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, Ridge

from router.estimators import (
    SHRINKAGE,
    Estimators,
    Floats,
    Judging,
    Look,
    Mode,
    Neighbours,
    Opening,
    Rungs,
    Setting,
    Space,
    Trees,
    Vectors,
    Weighed,
    Wording,
    answer_features,
    opening_features,
    shapes_of,
    tree_features,
    weigh,
)
from router.train_records import Outcomes
from router.wording import BUCKETS, SHAPE, grams, shape

_Number = TypeVar("_Number", np.int64, np.float64)

_SEED = 0
_DIRECTIONS = 64
_CLUSTERS = 10
_SAMPLE = 4_000
_CLUSTER_WEIGHT = 60
_MEAN_WEIGHT = 20
_OWN_CURVE = 0.5
"""How much a small answer's signal says of the rungs above, the rest being their mean where the prompt lies: drawing to
that mean gains half a point of area in dollars where drawing to the whole's alone stands, on both sets it was tried on.
"""
_OUTSIDE = 0.005
"""This share of the training prompts would themselves be outside, seen from the others."""
_SHAPE_WEIGHT = 0.05
_WORDING_PENALTY = 20.0
_FEW_WORDING_PENALTY = 50.0
"""The weights are pulled to zero the more the fewer rows there are; 8 cost a point on 900 and on 1,500 rows."""
_DENSE_PENALTY = 30.0
_DENSE_SHAPE = 0.2
_FEW_ROWS = 3_000
"""Below it a ridge that sees no n-grams is averaged in: two points better on 1,500 rows, and no worse on 3,000."""
_TREE_COUNT = 100
_TREE_DEPTH = 8
_LINEAR_SHARE = (700, 3_000), (0.65, 0.35)
"""By training rows: with few of them trees know less than a line; with many they alone are as good where they were
trained, but the ridge carries over to other prompts."""
_STRICT = 2.0
"""A bonus of more than any difference of qualities: nothing is kept."""
_HIGH_MARGIN = 0.02
"""Starting high forgoes an answer that could be judged, so a guess must pay by this much quality.

Without it the combined mode lost a point of area where small answers cost next to nothing; .05 would forgo most of the
gain elsewhere.
"""
_FLAT = 1e-9
_LOOSE_USD = 1e15
"""A price at which nothing is worth a dollar."""


def fit(
    outcomes: Outcomes,
    vectors: Vectors,
    mode: Mode,
    *,
    settings: Sequence[Setting] | None = None,
    count: int = 120,
) -> Estimators:
    """Fit a ladder's estimators.

    Args:
        outcomes: one ladder's.
        vectors: the prompts' embeddings, in the rows' order.
        mode: when the rung is decided.
        settings: the grid to use; made from the training rows when None.
        count: about how many prices such a grid has.

    The rows must have passed `check_trainable` (a fold of such rows is as good).
    """
    space = _space(vectors)
    projected = space.project(vectors)
    clusters = space.cluster(vectors)
    neighbours = _neighbours(projected, vectors @ space.centre, outcomes.quality)
    wording, trees = None, None
    if mode is Mode.ROUTE:
        wording = _wording(vectors, outcomes, is_averaged=len(outcomes) < _FEW_ROWS)
        trees = _trees(projected, vectors @ space.centre, outcomes, neighbours)
    lengths = np.log1p(np.array([len(text) for text in outcomes.prompts], dtype=np.float64))
    opening = None
    usd = np.zeros_like(outcomes.quality)
    usd[:, -1] = 1.0
    raw = opening_features(projected, clusters, lengths, len(space.clusters))
    if outcomes.has_usd:
        opening = _costs_of_opening(raw, outcomes)
        raw = (raw - opening.centre) / opening.scale
        usd = opening.usd(raw)
    look = Look(
        quality=np.zeros_like(outcomes.quality),
        usd=usd,
        similarity=np.zeros(len(outcomes)),
        is_outside=np.zeros(len(outcomes), dtype=bool),
        features=raw,
        projected=projected,
        clusters=clusters,
        lengths=lengths,
    )
    rungs = len(outcomes.models)
    judges = [] if mode is Mode.ROUTE else [_judging(look, outcomes, rung, space) for rung in range(rungs - 1)]
    base = Estimators(
        mode=mode,
        rungs=rungs,
        space=space,
        wording=wording,
        linear_share=float(np.interp(len(outcomes), *_LINEAR_SHARE)),
        neighbours=neighbours,
        trees=trees,
        opening=opening,
        judges=tuple(judges),
        settings=(),
    )
    grid = tuple(settings) if settings is not None else _settings(base, look, outcomes, vectors, count)
    return _with_values(base, look, outcomes, grid)


def _space(vectors: Vectors) -> Space:
    draw = np.random.default_rng(_SEED)
    rows = vectors if len(vectors) <= _SAMPLE else vectors[draw.choice(len(vectors), _SAMPLE, replace=False)]
    centre = vectors.mean(axis=0, dtype=np.float64)
    basis = np.linalg.svd(rows - centre, full_matrices=False)[2][:_DIRECTIONS].T
    count = max(1, min(_CLUSTERS, len(rows) // 50))
    means = KMeans(count, n_init=2, random_state=_SEED).fit(rows).cluster_centers_
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    return Space(centre=centre, basis=np.asarray(basis, dtype=np.float64), clusters=np.asarray(units, np.float64))


def _neighbours(projected: Floats, central: Floats, quality: Floats) -> Neighbours:
    lengths = np.linalg.norm(projected, axis=1) + 1e-9
    bank = Neighbours(
        bank=(projected / lengths[:, None]).astype(np.float32),
        lengths=lengths.astype(np.float32),
        quality=quality.copy(),
        cutoff=0.0,
    )
    some = np.random.default_rng(_SEED).permutation(len(projected))[:1500]
    similarity = bank.predict(projected[some], central[some], own=some)[1]
    return replace(bank, cutoff=float(np.quantile(similarity, _OUTSIDE)))


def _wording(vectors: Vectors, outcomes: Outcomes, *, is_averaged: bool) -> Wording:
    """Return the ridge; `is_averaged` with one that sees no n-grams, which is as linear and so costs nothing more."""
    n = len(outcomes)
    seen = np.zeros(BUCKETS)
    for text in outcomes.prompts:
        seen[grams(text)[0]] += 1
    idf = np.where(seen > 1, np.log((1 + n) / (1 + seen)) + 1, 0.0)
    shapes = np.array([shape(text) for text in outcomes.prompts])
    centre, scale = shapes.mean(axis=0), _SHAPE_WEIGHT / (shapes.std(axis=0) + 1e-9)
    found = [weigh(text, idf) for text in outcomes.prompts]
    indptr = np.cumsum([0, *(len(buckets) for buckets, _ in found)])
    words = sparse.csr_matrix(
        (np.concatenate([v for _, v in found]), np.concatenate([b for b, _ in found]), indptr), shape=(n, BUCKETS)
    )
    dense = np.hstack([2 * vectors, (shapes - centre) * scale])
    rows = sparse.hstack([words, sparse.csr_matrix(dense)]).tocsr().astype(np.float32)
    penalty = _FEW_WORDING_PENALTY if is_averaged else _WORDING_PENALTY
    ridge = Ridge(alpha=penalty, solver="sparse_cg", tol=1e-3).fit(rows, outcomes.quality)
    weights = np.asarray(ridge.coef_, dtype=np.float64).T
    wording = weights[:BUCKETS], weights[BUCKETS:], np.asarray(ridge.intercept_, dtype=np.float64)
    if is_averaged:
        ratio = np.concatenate([np.full(vectors.shape[1], 0.5), np.full(len(SHAPE), _DENSE_SHAPE / _SHAPE_WEIGHT)])
        plain = Ridge(alpha=_DENSE_PENALTY).fit(dense * ratio, outcomes.quality)
        parts = np.zeros_like(wording[0]), np.asarray(plain.coef_).T * ratio[:, None], np.asarray(plain.intercept_)
        wording = ((wording[0] + parts[0]) / 2, (wording[1] + parts[1]) / 2, (wording[2] + parts[2]) / 2)
    return Wording(
        idf=idf.astype(np.float32),
        grams=wording[0].astype(np.float32),
        dense=wording[1],
        intercept=wording[2],
        shape_centre=centre,
        shape_scale=scale,
    )


def _trees(projected: Floats, central: Floats, outcomes: Outcomes, neighbours: Neighbours) -> Trees:
    own = np.arange(len(projected))
    features = tree_features(projected, shapes_of(outcomes.prompts), neighbours.predict(projected, central, own=own)[0])
    forest = ExtraTreesRegressor(
        _TREE_COUNT, max_depth=_TREE_DEPTH, min_samples_leaf=10, max_features=0.5, random_state=_SEED
    ).fit(features, outcomes.quality)
    tables = [_table(tree.tree_, 1 / _TREE_COUNT) for tree in forest.estimators_]
    height = max(len(table.feature) for table in tables)
    return Trees(
        feature=np.stack([_padded(table.feature, height) for table in tables]),
        threshold=np.stack([_padded(table.threshold, height) for table in tables]),
        left=np.stack([_padded(table.left, height) for table in tables]),
        right=np.stack([_padded(table.right, height) for table in tables]),
        value=np.stack([_padded(table.value, height) for table in tables]),
        depth=_TREE_DEPTH,
    )


def _padded(column: NDArray[_Number], height: int) -> NDArray[_Number]:
    return np.concatenate([column, np.zeros((height - len(column), *column.shape[1:]), dtype=column.dtype)])


class _Tree(Protocol):
    """The part of sklearn's documented `tree_` that is read; a leaf's children are -1."""

    feature: NDArray[np.int64]
    threshold: Floats
    children_left: NDArray[np.int64]
    children_right: NDArray[np.int64]
    value: Floats


class _Table(NamedTuple):
    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: Floats


def _table(tree: _Tree, share: float) -> _Table:
    is_leaf = tree.children_left < 0
    own = np.arange(len(is_leaf))
    # Rounded down to what the artefact keeps, so that a value at the threshold goes the same way after loading.
    threshold = tree.threshold.astype(np.float32).astype(np.float64)
    return _Table(
        feature=np.where(is_leaf, 0, tree.feature),
        threshold=np.where(is_leaf, 0.0, threshold),
        left=np.where(is_leaf, own, tree.children_left),
        right=np.where(is_leaf, own, tree.children_right),
        value=np.where(is_leaf[:, None], share * tree.value[:, :, 0], 0.0),
    )


def _costs_of_opening(raw: Floats, outcomes: Outcomes) -> Opening:
    centre, scale = raw.mean(axis=0), _scale(raw)
    costs, means = _ridge((raw - centre) / scale, _log_usd(outcomes.usd))
    empty = np.zeros((raw.shape[1], 0, 0))
    return Opening(
        centre=centre,
        scale=scale,
        values=empty,
        value_means=np.zeros((0, 0)),
        last=np.zeros(raw.shape[1]),
        last_mean=0.0,
        costs=costs,
        cost_means=means,
    )


def _scale(raw: Floats) -> Floats:
    """Return the columns' spreads; 1 for one that never varied, so that a new value of it moves nothing far."""
    spread = raw.std(axis=0)
    return np.asarray(np.where(spread > _FLAT, spread, 1.0))


def _judging(look: Look, outcomes: Outcomes, rung: int, space: Space) -> Judging:
    signals = outcomes.signal[:, rung]
    raw = answer_features(look, signals, outcomes.output_tokens[:, rung], len(space.clusters))
    centre, scale = raw.mean(axis=0), _scale(raw)
    features = (raw - centre) / scale
    quality = outcomes.quality[:, rung:]
    heads = [_logistic(features, quality[:, head]) for head in range(quality.shape[1])]
    grid = np.unique(np.quantile(signals, np.linspace(0, 1, 65)))
    if len(grid) == 1:
        grid = np.array([grid[0] - 1.0, grid[0]])
    count = len(space.clusters)
    curves = [_curves(signals, look.clusters, quality[:, h], grid, count) for h in range(quality.shape[1])]
    for head in range(1, quality.shape[1]):
        means = _cluster_means(look.clusters, quality[:, head], count)
        curves[head] = _OWN_CURVE * curves[head] + (1 - _OWN_CURVE) * means[:, None]
    costs, cost_means = _ridge(features, _log_usd(outcomes.usd[:, rung + 1 :]))
    return Judging(
        grid=grid,
        curves=np.stack(curves, axis=2),
        weights=np.column_stack([weights for weights, _ in heads]),
        intercept=np.array([intercept for _, intercept in heads]),
        means=quality.mean(axis=0),
        centre=centre,
        scale=scale,
        values=np.zeros((raw.shape[1], 0, 0)),
        value_means=np.zeros((0, 0)),
        costs=costs,
        cost_means=cost_means,
    )


def _logistic(features: Floats, quality: Floats) -> tuple[Floats, float]:
    rows = np.concatenate([features, features])
    labels = np.concatenate([np.ones(len(quality)), np.zeros(len(quality))])
    weights = np.concatenate([quality, 1 - quality])
    used = weights > 0
    if len(np.unique(labels[used])) == 1:  # a fold may miss the few wrong answers of a good model
        return np.zeros(features.shape[1]), 4.0 if labels[used][0] else -4.0
    model = LogisticRegression(C=0.03, max_iter=2000).fit(rows[used], labels[used], sample_weight=weights[used])
    return np.asarray(model.coef_[0], dtype=np.float64), float(model.intercept_[0])


def _curves(signals: Floats, clusters: Rungs, quality: Floats, grid: Floats, count: int) -> Floats:
    """Return float64[clusters, grid]: isotonic within the cluster, drawn to the whole's where the cluster is small."""
    whole = IsotonicRegression(out_of_bounds="clip").fit(signals, quality).predict(grid)
    curves = np.tile(whole, (count, 1))
    for cluster in range(count):
        here = clusters == cluster
        n = int(here.sum())
        if n < 2:
            continue
        own = IsotonicRegression(out_of_bounds="clip").fit(signals[here], quality[here]).predict(grid)
        share = n / (n + _CLUSTER_WEIGHT)
        curves[cluster] = share * own + (1 - share) * whole
    return curves


def _cluster_means(clusters: Rungs, quality: Floats, count: int) -> Floats:
    """Return float64[clusters]: each one's mean quality, drawn to the whole's where it is small."""
    sizes = np.bincount(clusters, minlength=count)
    sums = np.bincount(clusters, weights=quality, minlength=count)
    return np.asarray((sums + _MEAN_WEIGHT * quality.mean()) / (sizes + _MEAN_WEIGHT))


def _settings(base: Estimators, look: Look, outcomes: Outcomes, vectors: Vectors, count: int) -> tuple[Setting, ...]:
    """Return the grid: bonuses from "keep none" down to nothing, then prices up to "nothing is worth a dollar"."""
    if base.mode is Mode.ROUTE:
        known = base.look(vectors, outcomes.prompts)
        benefit = known.quality[:, -1] - known.quality[:, 0]
        dear = known.usd[:, -1] - known.usd[:, 0]
    else:
        weighed = base.weigh(look, 0, outcomes.signal[:, 0], outcomes.output_tokens[:, 0])
        benefit = weighed.quality[:, -1] - weighed.quality[:, 0]
        dear = weighed.usd[:, -1]
    ratio = benefit / np.maximum(dear, 1e-12)
    gains = ratio[ratio > 0]
    if not gains.size:
        gains = np.array([1.0])
    middle = np.quantile(gains, np.linspace(0, 1, count))
    if base.mode is Mode.ROUTE:
        # In-sample benefits are spread wider than new ones: even steps cover both.
        middle = np.union1d(middle[::2], np.linspace(0, np.quantile(gains, 0.995), count // 2))
    floor = float(middle[middle > 0].min()) * 1e-3
    least = max(0.0, -float(benefit.min()))
    losses = -benefit[benefit < 0]
    steps = np.linspace(0, least, count // 4) if base.mode is Mode.ROUTE else np.zeros(0)
    if losses.size:
        steps = np.union1d(steps, np.quantile(losses, np.linspace(0, 1, count // 4)))
    strict = [Setting(price=floor, bonus=float(b)) for b in sorted({_STRICT, *steps.tolist()}, reverse=True)]
    loose = [Setting(price=float(p), bonus=0.0) for p in sorted({*middle.tolist(), _LOOSE_USD}) if p > floor]
    return (*strict, *loose)


def _with_values(base: Estimators, look: Look, outcomes: Outcomes, grid: tuple[Setting, ...]) -> Estimators:
    """Return the estimators with the grid and, from the last rung down, the value of every rung that can climb."""
    known: dict[int, Floats] = {}
    judges = list(base.judges)
    for rung in range(base.rungs - 2, -1, -1):
        if not judges:
            break
        weighed = base.weigh(look, rung, outcomes.signal[:, rung], outcomes.output_tokens[:, rung])
        above = [known[other] for other in range(rung + 1, base.rungs - 1)]
        values, means = _value_heads(weighed.features, above, len(grid))
        judges[rung] = _replace_values(judges[rung], values, means)
        base = _rebuilt(base, judges, grid)
        known[rung] = _best(base, weighed)
    opening = base.opening
    if opening is not None and base.mode is Mode.COMBINED:
        values, means = _value_heads(look.features, [known[rung] for rung in range(base.rungs - 1)], len(grid))
        last, last_mean = _ridge(look.features, outcomes.quality[:, -1:])
        opening = Opening(
            centre=opening.centre,
            scale=opening.scale,
            values=values,
            value_means=means,
            last=SHRINKAGE * last[:, 0],
            last_mean=float(last_mean[0]) - _HIGH_MARGIN,
            costs=opening.costs,
            cost_means=opening.cost_means,
        )
    return _rebuilt(base, judges, grid, opening=opening)


def _best(base: Estimators, weighed: Weighed) -> Floats:
    return np.column_stack([base.values(weighed, setting).max(axis=1) for setting in range(len(base.settings))])


def _value_heads(features: Floats, targets: Sequence[Floats], settings: int) -> tuple[Floats, Floats]:
    """Return float64[features, targets, settings] and float64[targets, settings], shrunk by half to the means."""
    if not targets:
        return np.zeros((features.shape[1], 0, settings)), np.zeros((0, settings))
    weights, means = _ridge(features, np.column_stack(list(targets)))
    return (
        SHRINKAGE * weights.reshape(features.shape[1], len(targets), settings),
        means.reshape(len(targets), settings),
    )


def _ridge(features: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Return weights and means of a ridge on standardised features."""
    means = targets.mean(axis=0)
    gram = features.T @ features + 10.0 * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(gram, features.T @ (targets - means))), np.asarray(means)


def _log_usd(usd: Floats) -> Floats:
    # A model that runs for nothing still gets a number: a billionth of a dollar.
    return np.asarray(np.log(np.maximum(np.nan_to_num(usd, nan=1.0), 1e-9)))


def _replace_values(judge: Judging, values: Floats, means: Floats) -> Judging:
    return replace(judge, values=values, value_means=means)


def _rebuilt(
    base: Estimators, judges: Sequence[Judging], grid: tuple[Setting, ...], *, opening: Opening | None = None
) -> Estimators:
    return replace(base, judges=tuple(judges), settings=grid, opening=opening or base.opening)


assert len(SHAPE) == 10  # noqa: S101 - the artefact's shape weights are by position
