"""What is known of one prompt before any call: `Estimators.look` for a single one, at a third of its time.

Rules: the numbers are those of `Estimators.look` (tests/router/test_forecast.py), which works on many prompts at once
and spends most of a single one's time on the arrays in between. Here products with the vector are one, the bank of
training prompts lies in columns, and all trees are walked at once through one table of children.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from router.estimators import (
    AVERAGED,
    NEAREST,
    SHARPNESS,
    SIZES,
    Estimators,
    Floats,
    Look,
    Neighbours,
    Rungs,
    Trees,
    opening_features,
    tree_features,
)
from router.wording import shape


class Forecaster:
    """Tells what `Estimators.look` does, of one prompt. Stateless and callable from any thread.

    Args:
        estimators: an artefact's.
    """

    __slots__ = ("_around", "_estimators", "_offset", "_parts", "_products", "_trees")

    def __init__(self, estimators: Estimators) -> None:
        space, wording = estimators.space, estimators.wording
        self._estimators = estimators
        dense = np.zeros((len(space.centre), 0)) if wording is None else 2 * wording.dense[: len(space.centre)]
        parts = (space.basis, space.clusters.T, space.centre[:, None], dense)
        self._products = np.ascontiguousarray(np.hstack(parts).T)
        ends = np.cumsum([part.shape[1] for part in parts]).tolist()
        self._parts = tuple(slice(start, end) for start, end in zip([0, *ends], ends, strict=False))
        self._offset = space.centre @ space.basis
        self._around = _Around(estimators.neighbours)
        self._trees = None if estimators.trees is None else _Walk(estimators.trees)

    def __call__(self, text: str, vector: NDArray[np.float32]) -> Look:
        """Return what is known of a prompt.

        Args:
            text: the prompt.
            vector: float32[384] of unit length, its embedding.
        """
        estimators = self._estimators
        products = self._products @ vector.astype(np.float64)
        to_basis, to_clusters, to_centre, to_dense = self._parts
        projected = products[to_basis] - self._offset
        cluster = np.array([products[to_clusters].argmax()])
        around, similarity = self._around(projected, float(products[to_centre][0]))
        quality = self._quality(text, projected, around, products[to_dense])
        lengths = np.array([np.log1p(float(len(text)))])
        features = np.zeros((1, 0))
        usd = np.zeros((1, estimators.rungs))
        usd[:, -1] = 1.0
        if estimators.opening is not None:
            features = opening_features(projected[None, :], cluster, lengths, len(estimators.space.clusters))
            features = (features - estimators.opening.centre) / estimators.opening.scale
            usd = estimators.opening.usd(features)
        return Look(
            quality=np.clip(quality, 0, 1)[None, :],
            usd=usd,
            similarity=np.array([similarity]),
            is_outside=np.array([similarity < estimators.neighbours.cutoff]),
            features=features,
            projected=projected[None, :],
            clusters=cluster,
            lengths=lengths,
        )

    def _quality(self, text: str, projected: Floats, around: Floats, dense: Floats) -> Floats:
        estimators, wording = self._estimators, self._estimators.wording
        near: Floats = around[AVERAGED, :-1]
        if wording is None:
            return near
        shapes = shape(text)
        if self._trees is not None:
            near = self._trees(tree_features(projected[None, :], shapes[None, :], around[None, :, :])[0])
        bent = (shapes - wording.shape_centre) * wording.shape_scale
        said = wording.of_grams(text) + dense + bent @ wording.dense[len(estimators.space.centre) :] + wording.intercept
        share = estimators.linear_share
        return np.asarray(share * said + (1 - share) * near)


class _Around:
    """`Neighbours.predict` of one prompt."""

    __slots__ = ("_bank", "_count", "_lengths", "_nearest", "_quality", "_sizes", "_within")

    def __init__(self, neighbours: Neighbours) -> None:
        self._count = count = min(SIZES[-1], len(neighbours.bank))
        # In columns the product with one prompt, the largest part of a forecast, reads memory in order.
        self._bank = np.asfortranarray(neighbours.bank)
        self._lengths = neighbours.lengths
        self._quality = neighbours.quality
        self._nearest = min(NEAREST, len(neighbours.bank))
        self._sizes = np.minimum(SIZES, count).astype(np.float64)
        self._within = (np.arange(count)[None, :] < np.array(SIZES)[:, None]).astype(np.float64)

    def __call__(self, projected: Floats, central: float) -> tuple[Floats, float]:
        """Return float64[SIZES, models + 1], and the similarity for the gate; see `Neighbours.predict`."""
        block = projected.astype(np.float32)
        norm = np.sqrt(block @ block)
        cosines = self._bank @ (block / (norm + np.float32(1e-9)))
        places = cosines.argpartition(cosines.size - self._count)[-self._count :]
        near = cosines[places]
        order = (-near).argsort()
        nearest, ordered = places[order], near[order].astype(np.float64)
        weights = np.exp(SHARPNESS * ordered)
        told = np.empty((self._count, self._quality.shape[1] + 2))
        np.multiply(self._quality[nearest], weights[:, None], out=told[:, :-2])
        told[:, -2] = weights
        told[:, -1] = ordered
        sums = self._within @ told
        found = np.empty((len(SIZES), told.shape[1] - 1))
        np.divide(sums[:, :-2], sums[:, -2:-1], out=found[:, :-1])
        np.divide(sums[:, -1], self._sizes, out=found[:, -1])
        return found, central + self._mean_of_nearest(cosines, places) * float(norm)

    def _mean_of_nearest(self, cosines: NDArray[np.float32], places: Rungs) -> float:
        row = cosines * self._lengths
        some = row[places]
        least = np.partition(some, some.size - self._nearest)[-self._nearest]
        largest = row[row >= least]
        return float(np.partition(largest, largest.size - self._nearest)[-self._nearest :].mean(dtype=np.float64))


class _Walk:
    """`Trees.predict` of one prompt: every node knows its children's places in one table of all trees."""

    __slots__ = ("_begins", "_children", "_depth", "_feature", "_threshold", "_values")

    def __init__(self, trees: Trees) -> None:
        count, nodes = trees.feature.shape
        self._begins = np.arange(count) * nodes
        self._depth = trees.depth
        self._feature = trees.feature.ravel()
        self._threshold = trees.threshold.ravel()
        # At 2 * node the child for values above the threshold, after it the one for those up to it.
        children = np.stack([trees.right, trees.left], axis=2) + self._begins[:, None, None]
        self._children = children.ravel()
        self._values = trees.value.reshape(-1, trees.value.shape[2])

    def __call__(self, features: Floats) -> Floats:
        """Return float64[models].

        Args:
            features: float64[features], as `tree_features` gives them.
        """
        columns = features.astype(np.float32)  # as they were fitted; see `Trees.predict`
        places = self._begins
        for _ in range(self._depth):
            goes_left = columns.take(self._feature.take(places)) <= self._threshold.take(places)
            places = self._children.take(2 * places + goes_left)
        return np.asarray(self._values.take(places, axis=0).sum(axis=0))
