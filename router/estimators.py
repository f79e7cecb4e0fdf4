"""What a prompt will make of each model of a ladder, before the call and after an answer: numpy only.

Rules:
- Everything works on a batch of prompts; serving asks for one. Training evaluates with these very functions, so what
  is measured is what is served.
- A plan maximises expected quality - price * dollars: `Setting.price` is quality points a dollar. Below a price of
  zero nothing is left to trade, so the strict end of the grid adds `Setting.bonus` to the last rung instead.
- Climbing is worth E[value of the next rung | what is known] - price * its predicted cost, so nothing climbs where the
  next model would fail as well, and a prompt may start high (modes "route" and "combined").

Sources: Weitzman, "Optimal Search for the Best Alternative", Econometrica 47 (1979) for the option's value; benefit
instead of difficulty: Ding et al., "Hybrid LLM", ICLR 2024, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from router.wording import BUCKETS, SHAPE, WORDS, grams, shape

Floats: TypeAlias = NDArray[np.float64]
Vectors: TypeAlias = NDArray[np.float32]
"""float32[n, 384], rows of unit length: the base embedder's."""
Rungs: TypeAlias = NDArray[np.int64]

SIZES = (8, 20, 80, 200)
"""Neighbourhoods that are looked at."""
_WITHIN = (np.arange(SIZES[-1])[None, :] < np.array(SIZES)[:, None]).astype(np.float64)
"""Which of the nearest belong to which neighbourhood."""
AVERAGED = 2
"""The neighbourhood of 80 stands for all where there are no trees."""
NEAREST = 10
SHARPNESS = 8.0
"""Weight of a neighbour = exp(8 * cosine); 4 to 12 do equally well."""


class Mode(StrEnum):
    """When the rung is decided: before the call, after each answer, or both."""

    ROUTE = "route"
    CASCADE = "cascade"
    COMBINED = "combined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One point of the grid; `price` in quality points a dollar, `bonus` in quality points."""

    price: float
    bonus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Where prompts lie: a projection of the embedding, and clusters.

    Attributes:
        centre: float64[384].
        basis: float64[384, 64], orthonormal columns, by falling variance.
        clusters: float64[clusters, 384], rows of unit length.
    """

    centre: Floats
    basis: Floats
    clusters: Floats

    def project(self, vectors: Vectors) -> Floats:
        """Return float64[n, 64]."""
        return np.asarray((vectors - self.centre) @ self.basis)

    def cluster(self, vectors: Vectors) -> Rungs:
        """Return int64[n]: the nearest cluster's index."""
        return np.asarray((vectors @ self.clusters.T).argmax(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A ridge on hashed n-grams, embedding and shape: one head a model.

    Attributes:
        idf: float32[BUCKETS], 0 where a bucket was hardly seen.
        grams: float32[BUCKETS, models]: single precision halves what a prompt pulls out of memory.
        dense: float64[384 + shapes, models], on [2 * vector, (shape - centre) * scale].
    """

    idf: NDArray[np.float32]
    grams: NDArray[np.float32]
    dense: Floats
    intercept: Floats
    shape_centre: Floats
    shape_scale: Floats

    def predict(self, vectors: Vectors, texts: Sequence[str], shapes: Floats) -> Floats:
        """Return float64[n, models]: expected quality, not clipped; `shapes` are the texts', float64[n, len(SHAPE)]."""
        rows = np.empty((len(texts), self.intercept.size))
        for row, text in enumerate(texts):
            rows[row] = self.of_grams(text)
        dense = np.concatenate([2 * vectors, (shapes - self.shape_centre) * self.shape_scale], axis=1)
        return np.asarray(rows + dense @ self.dense + self.intercept)

    def of_grams(self, text: str) -> Floats:
        """Return float64[models]: what the text's n-grams alone add."""
        buckets, values = weigh(text, self.idf)
        return np.asarray(values @ self.grams[buckets])


def weigh(text: str, idf: Floats | NDArray[np.float32]) -> tuple[NDArray[np.int64], Floats]:
    """Return the text's buckets and tf-idf weights; words and characters are scaled to length 1 apart."""
    buckets, values = grams(text)
    values = values * idf[buckets]
    split = int(np.searchsorted(buckets, WORDS))
    for part in (values[:split], values[split:]):
        np.divide(part, max(float(np.sqrt(part @ part)), 1e-9), out=part)
    return buckets, values


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The training prompts and what they came to.

    Attributes:
        bank: float32[n, 64], projected prompts, scaled to length 1.
        lengths: float32[n], before scaling.
        quality: float64[n, models].
        cutoff: a prompt whose ten nearest are less similar than this on average is outside.
    """

    bank: NDArray[np.float32]
    lengths: NDArray[np.float32]
    quality: Floats
    cutoff: float

    def predict(self, projected: Floats, central: Floats, *, own: Rungs | None = None) -> tuple[Floats, Floats]:
        """Return the neighbours' mean quality, and how near they are.

        Args:
            projected: float64[n, 64].
            central: float64[n], the prompts' similarity to the centre of all training prompts.
            own: int64[n], each row's own place in the bank, which does not vouch for itself; None for new prompts.

        Returns:
            float64[n, SIZES, models + 1]: quality among the nearest 8, 20, 80 and 200, then their mean cosine.
            float64[n]: the similarity for the gate: about the mean cosine of the ten nearest, before centring.
        """
        found = np.empty((len(projected), len(SIZES), self.quality.shape[1] + 1))
        similarities = np.empty(len(projected))
        for start in range(0, len(projected), 512):
            here = slice(start, start + 512)
            block = projected[here].astype(np.float32)
            norms = np.sqrt(np.einsum("ij,ij->i", block, block))[:, None]
            # The few numbers of the prompt are scaled, not the many products.
            cosines = (block / (norms + 1e-9)) @ self.bank.T
            if own is not None:
                cosines[np.arange(len(block)), own[here]] = -1
            found[here], around = self._around(cosines)
            nearest = _mean_of_largest(cosines * self.lengths, around, min(NEAREST, len(self.bank)))
            # Centring hides how far a stranger is from everything: its similarity to the centre is added again.
            similarities[here] = central[here] + nearest * norms[:, 0]
        return found, similarities

    def _around(self, cosines: NDArray[np.float32]) -> tuple[Floats, Rungs]:
        """Return what `predict` does of the neighbourhoods, and the places of the nearest, in no order."""
        rows = np.arange(len(cosines))[:, None]
        count = min(SIZES[-1], cosines.shape[1])
        around = cosines.argpartition(cosines.shape[1] - count, axis=1)[:, -count:]
        near = cosines[rows, around]
        order = (-near).argsort(axis=1)
        nearest, near = around[rows, order], near[rows, order].astype(np.float64)
        weights = np.exp(SHARPNESS * near)
        told = np.concatenate(
            [weights[:, :, None] * self.quality[nearest], weights[:, :, None], near[:, :, None]], axis=2
        )
        sums = _WITHIN[:, :count] @ told  # of each neighbourhood: one product in place of sums for every size
        sums[:, :, :-2] /= sums[:, :, -2:-1]
        sums[:, :, -1] /= np.minimum(SIZES, count)
        return np.delete(sums, -2, axis=2), around


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """Averaged regression trees in one table: float64[trees, nodes], short trees padded.

    Attributes:
        feature: int64, the column that a node asks about.
        left: int64, the node for values up to the threshold; a leaf names itself.
        right: int64, the node for values above.
        value: float64[trees, nodes, models], what a leaf adds to each model's quality.
        depth: steps from the root to the deepest leaf.
    """

    feature: Rungs
    threshold: Floats
    left: Rungs
    right: Rungs
    value: Floats
    depth: int

    def predict(self, features: Floats) -> Floats:
        """Return float64[n, models]."""
        # All trees are one table, in which a node is found by its tree's beginning and its own number.
        begins = np.arange(len(self.feature)) * self.feature.shape[1]
        rows = np.arange(len(features))[:, None] * features.shape[1]
        # The trees were fitted on single precision: a value at a threshold must go the same way.
        columns = features.astype(np.float32).ravel()
        places = np.broadcast_to(begins, (len(features), len(begins)))
        for _ in range(self.depth):
            goes_left = columns.take(rows + self.feature.take(places)) <= self.threshold.take(places)
            places = begins + np.where(goes_left, self.left.take(places), self.right.take(places))
        values = self.value.reshape(-1, self.value.shape[2])
        return np.asarray(values.take(places, axis=0).sum(axis=1))


def tree_features(projected: Floats, shapes: Floats, around: Floats) -> Floats:
    """Return float64[n, features]: the first 40 directions, the text's shape, what the neighbours came to."""
    return np.concatenate([projected[:, :40], shapes, around.reshape(len(around), -1)], axis=1)


def shapes_of(texts: Sequence[str]) -> Floats:
    """Return float64[n, len(SHAPE)]: every text's shape."""
    return np.array([shape(text) for text in texts]).reshape(len(texts), len(SHAPE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What an answer of one rung tells about it and about the rungs above.

    Attributes:
        grid: float64[g], ascending signals.
        curves: float64[clusters, g, heads], isotonic estimates; heads are this rung and those above, in order.
        weights: float64[features, heads], logistic.
        means: float64[heads], what the estimates of the rungs above are shrunk to.
        values: float64[features, rungs above but the last, settings]: expected value of going there.
        costs: float64[features, rungs above]: log of dollars.
    """

    grid: Floats
    curves: Floats
    weights: Floats
    intercept: Floats
    means: Floats
    centre: Floats
    scale: Floats
    values: Floats
    value_means: Floats
    costs: Floats
    cost_means: Floats

    def quality(self, features: Floats, signals: Floats, clusters: Rungs) -> Floats:
        """Return float64[n, heads]: P(right) of this rung, then of those above, shrunk to their means."""
        logistic = 1 / (1 + np.exp(-np.clip(features @ self.weights + self.intercept, -30, 30)))
        places = np.clip(np.searchsorted(self.grid, signals), 1, len(self.grid) - 1)
        left, right = self.grid[places - 1], self.grid[places]
        share = np.clip((signals - left) / np.maximum(right - left, 1e-12), 0, 1)[:, None]
        curve = (1 - share) * self.curves[clusters, places - 1] + share * self.curves[clusters, places]
        both = (logistic + curve) / 2
        both[:, 1:] = SHRINKAGE * both[:, 1:] + (1 - SHRINKAGE) * self.means[1:]
        return np.asarray(both)

    def usd(self, features: Floats) -> Floats:
        """Return float64[n, rungs above]: predicted dollars."""
        return np.asarray(np.exp(np.clip(features @ self.costs + self.cost_means, -40, 10)))


SHRINKAGE = 0.75
"""How much of an estimate of another model's quality is believed: .25 to .75 are equally good in trials, 1 is worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What the prompt alone tells: where to start, and what calls will cost.

    Attributes:
        values: float64[features, rungs but the last, settings], for the combined mode; the last rung's head is `last`.
        costs: float64[features, rungs]: log of dollars.
    """

    centre: Floats
    scale: Floats
    values: Floats
    value_means: Floats
    last: Floats
    last_mean: float
    costs: Floats
    cost_means: Floats

    def usd(self, features: Floats) -> Floats:
        """Return float64[n, rungs]: predicted dollars of a call of each rung."""
        return np.asarray(np.exp(np.clip(features @ self.costs + self.cost_means, -40, 10)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimators:
    """Everything learned about one ladder.

    Attributes:
        wording: None where only answers are judged.
        linear_share: how much of a prediction is the wording's; the rest is the trees' or the neighbours'.
        trees: None where rows were too few for them.
        opening: None where costs are unknown: then a call of the last rung costs 1 and all others nothing.
        judges: one a rung but the last; empty in mode "route".
        settings: the grid, strictest (keep none) first.
    """

    mode: Mode
    rungs: int
    space: Space
    wording: Wording | None
    linear_share: float
    neighbours: Neighbours
    trees: Trees | None
    opening: Opening | None
    judges: tuple[Judging, ...]
    settings: tuple[Setting, ...]

    def look(self, vectors: Vectors, texts: Sequence[str]) -> Look:
        """Return what is known of prompts before any call."""
        projected = self.space.project(vectors)
        around, similarity = self.neighbours.predict(projected, vectors @ self.space.centre)
        quality = self._quality(vectors, texts, projected, around)
        clusters = self.space.cluster(vectors)
        lengths = np.log1p(np.array([len(text) for text in texts], dtype=np.float64))
        features = np.zeros((len(texts), 0))
        usd = np.zeros((len(texts), self.rungs))
        usd[:, -1] = 1.0
        if self.opening is not None:
            features = opening_features(projected, clusters, lengths, len(self.space.clusters))
            features = (features - self.opening.centre) / self.opening.scale
            usd = self.opening.usd(features)
        return Look(
            quality=np.clip(quality, 0, 1),
            usd=usd,
            similarity=similarity,
            is_outside=similarity < self.neighbours.cutoff,
            features=features,
            projected=projected,
            clusters=clusters,
            lengths=lengths,
        )

    def _quality(self, vectors: Vectors, texts: Sequence[str], projected: Floats, around: Floats) -> Floats:
        near: Floats = around[:, AVERAGED, :-1]
        if self.wording is None:
            return near
        shapes = shapes_of(texts)
        if self.trees is not None:
            near = self.trees.predict(tree_features(projected, shapes, around))
        return self.linear_share * self.wording.predict(vectors, texts, shapes) + (1 - self.linear_share) * near

    def start(self, look: Look, setting: int) -> Rungs:
        """Return int64[n]: the rung to call first, under one setting of the grid."""
        chosen = self.settings[setting]
        if self.mode is Mode.CASCADE:
            # At the strict end the small answer would never be kept, so asking for it would only cost.
            return np.zeros(len(look.usd), dtype=np.int64)
        if self.mode is Mode.ROUTE or self.opening is None:
            values = look.quality.copy()
        else:
            start = look.features @ self.opening.values[:, :, setting] + self.opening.value_means[:, setting]
            last = look.features @ self.opening.last + self.opening.last_mean + chosen.bonus
            values = np.column_stack([start, last])
        if self.mode is Mode.ROUTE:
            values[:, -1] += chosen.bonus
        return np.asarray((values - chosen.price * look.usd).argmax(axis=1))

    def weigh(self, look: Look, rung: int, signals: Floats, output_tokens: Floats) -> Weighed:
        """Return what answers of one rung tell; NaN output tokens count as none.

        Args:
            look: the same prompts before the call.
            rung: whose answers these are.
            signals: float64[n], the raw confidence of each answer.
            output_tokens: float64[n].
        """
        judge = self.judges[rung]
        features = answer_features(look, signals, output_tokens, len(self.space.clusters))
        features = (features - judge.centre) / judge.scale
        return Weighed(
            rung=rung,
            quality=judge.quality(features, signals, look.clusters),
            usd=judge.usd(features) if self.opening is not None else _unit_costs(len(signals), self.rungs - rung - 1),
            features=features,
        )

    def climb(self, weighed: Weighed, setting: int) -> Rungs:
        """Return int64[n]: the rung to call next; the answer's own where it is kept."""
        values = self.values(weighed, setting)
        return np.asarray(values.argmax(axis=1) + weighed.rung)

    def values(self, weighed: Weighed, setting: int) -> Floats:
        """Return float64[n, heads]: the value of keeping, then of going to each rung above."""
        judge, chosen = self.judges[weighed.rung], self.settings[setting]
        values = weighed.quality.copy()
        if judge.values.shape[1]:
            values[:, 1:-1] = weighed.features @ judge.values[:, :, setting] + judge.value_means[:, setting]
        values[:, -1] += chosen.bonus
        values[:, 1:] -= chosen.price * weighed.usd
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Prompts before a call: expected quality and dollars of each rung, float64[n, rungs], and whether they are known.

    `features` (none where costs are unknown), `projected`, `clusters` and `lengths` are what `weigh` and `start` go on
    from.
    """

    quality: Floats
    usd: Floats
    similarity: Floats
    is_outside: NDArray[np.bool_]
    features: Floats
    projected: Floats
    clusters: Rungs
    lengths: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Answers of one rung: quality float64[n, heads] of it and the rungs above, dollars of those above."""

    rung: int
    quality: Floats
    usd: Floats
    features: Floats


def opening_features(projected: Floats, clusters: Rungs, lengths: Floats, count: int) -> Floats:
    """Return float64[n, features] of prompts: length, cluster, the first 30 directions."""
    return np.column_stack([lengths, np.eye(count)[clusters], projected[:, :30]])


def answer_features(look: Look, signals: Floats, output_tokens: Floats, count: int) -> Floats:
    """Return float64[n, features] of answers: signal (bent, and by cluster), lengths, cluster, directions."""
    ones = np.eye(count)[look.clusters]
    written = np.log1p(np.nan_to_num(output_tokens))
    return np.column_stack(
        [
            signals,
            signals**2,
            np.expm1(np.minimum(signals, 1.0)),
            look.lengths,
            written,
            ones,
            ones * signals[:, None],
            look.projected[:, :30],
        ]
    )


def _unit_costs(n: int, above: int) -> Floats:
    usd = np.zeros((n, above))
    usd[:, -1] = 1.0
    return usd


def _mean_of_largest(rows: NDArray[np.float32], likely: Rungs, count: int) -> Floats:
    """Return the mean of each row's largest; `likely` are places where many of them are, which spares a search."""
    means = np.empty(len(rows))
    for index, (row, places) in enumerate(zip(rows, likely, strict=True)):
        some = row[places]
        least = np.partition(some, some.size - count)[-count]
        # At least `count` are as large, and hardly more.
        largest = row[row >= least]
        means[index] = np.partition(largest, largest.size - count)[-count:].mean(dtype=np.float64)
    return means


assert BUCKETS > WORDS  # noqa: S101 - `weigh` splits there
