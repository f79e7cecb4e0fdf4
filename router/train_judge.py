"""Fits a judge's calibration from two models' outcomes: `python -m router.train_judge --small … --large … --out …`.

How, and why so:
- Target: the small answer is not worse than the large one. Features and windows are those of `router.judge`. One
  logistic model a window, on standardised features: with a thousand rows nothing richer was worth its weight.
- Every row is scored by models that have not seen it (5 folds). The shipped weights are fitted on all rows; thresholds
  are certified on the out-of-fold scores, so the promise is strictly that of the five fold models, whose mean the
  shipped one is in all but name.
- Loss per question = q_large - q_served. Served is what the gateway would do: questions outside every task, and tasks
  where trying the small model does not pay, go to the large model at once; the rest are judged.
- Thresholds form a grid fixed in advance, strictest first; each has a betting bound a window and confidence. Which one
  is used is decided when a policy states its promise (`Calibration.judge`), by Learn-then-Test.
- Money is core time: both models are priced by the same core-hour, so savings are shares of core-seconds.

What a calibration says, it says of questions like its own; a promise from it is `prior` until live audits confirm it.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from backends.embedder import MiniLM
from policies.promise import upper_bound
from router.judge import (
    FEATURES,
    TOOLS,
    WHOLE,
    Calibration,
    Group,
    Judge,
    Kept,
    NoThreshold,
    Quantiles,
    Rates,
    Signal,
    Step,
    Window,
    features,
    is_refusal,
    text_features,
)
from router.probe import PROBED
from router.train_outcomes import Outcome, TrainingError, is_json, read_outcomes

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]
"""Turns texts into float32[n, 384], rows of unit length."""

WINDOWS: tuple[tuple[str, int | None], ...] = (("8", 8), ("16", 16), ("32", 32), (WHOLE, None))
GRID = tuple(round(0.99 - 0.01 * step, 2) for step in range(70))
"""Thresholds on the confidence, strictest first."""
CONFIDENCES = (0.8, 0.9, 0.95, 0.975, 0.99)
FEWEST = 400
"""Fewer questions promise nothing worth stating."""
FEWEST_OF_A_FORM = 200
"""Likewise of those with tools, of single questions and of conversations: each has a bound, and all are promised."""
CONVERSATIONS = "conversations "
"""Begins the name of a window's figures on conversations alone."""
_FOLDS = 5
_SEED = 20261121
_TASKS = 24
_OUTSIDE = 0.02
"""This share of the calibration's own questions would be called outside when left out of their task's centroid."""
_RESAMPLES = 400
_PRIOR_WEIGHT = 4.0
"""A task's prior counts the whole's mean as this many questions of its own."""
_PRIOR = -1
"""The last feature, whatever a judge looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Both models' outcomes to the same questions, row by row."""

    small: Sequence[Outcome]
    large: Sequence[Outcome]

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.small)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the steps are computed from; every array has one row a question.

    Attributes:
        confidences: out-of-fold confidence by window; what JSON and ended answers get is the whole answer's.
        rejected_s: core-seconds of a small attempt that the window's judge rejects.
        is_longer: the question is a conversation.
    """

    loss: Floats
    small_s: Floats
    large_s: Floats
    confidences: dict[str, Floats]
    rejected_s: dict[str, Floats]
    folds: NDArray[np.int64]
    tasks: NDArray[np.int64]
    is_inside: Flags
    has_tools: Flags
    is_longer: Flags


def pair(small: Iterable[Outcome], large: Iterable[Outcome]) -> Pairs:
    """Return the questions that both models answered, in the small model's order.

    Raises:
        TrainingError: fewer than `FEWEST` remain.
    """
    answered = {outcome.whole: outcome for outcome in large}
    both = [(outcome, answered[outcome.whole]) for outcome in small if outcome.whole in answered]
    if len(both) < FEWEST:
        raise TrainingError(f"{len(both)} questions have both models' outcomes; at least {FEWEST} are needed: ask more")
    for form, found in (
        ("offer tools", [outcome.has_tools for outcome, _ in both]),
        ("are conversations", [outcome.turns > 1 for outcome, _ in both]),
    ):
        if sum(found) and min(sum(found), len(both) - sum(found)) < FEWEST_OF_A_FORM:
            raise TrainingError(
                f"{sum(found)} of {len(both)} questions {form}; each form is judged by itself and needs at least "
                f"{FEWEST_OF_A_FORM}: ask more of the rarer, or none of them"
            )
    return Pairs(small=[one for one, _ in both], large=[other for _, other in both])


def fit(
    pairs: Pairs,
    *,
    small_rates: Rates,
    large_rates: Rates,
    embed: Embed,
    embedder: str,
    made: str,
    source: str,
    temperature: float = 0.0,
    grid: Sequence[float] = GRID,
    signal: Signal = Signal.LOGPROBS,
    show: Callable[[Sequence[float]], Iterable[float]] = iter,
) -> Calibration:
    """Return the calibration of two models, complete with its bounds.

    Args:
        pairs: at least `FEWEST` questions, in an order that says nothing about them.
        small_rates: core-seconds a token, measured on an unloaded server; the large model's likewise.
        large_rates: see `small_rates`.
        embed: the base embedder, by which questions are placed.
        embedder: its id.
        made: ISO date.
        source: of the questions, with licences.
        temperature: at which they were answered.
        grid: thresholds, strictest first.
        signal: what the judge looks at; the text where the small model gives no log-probabilities.
        show: wraps the grid to show progress.
    """
    places = place_all(embed([outcome.prompt for outcome in pairs.small]))
    rows, windows = rows_of(
        pairs, places, folds_of(len(pairs)), small_rates=small_rates, large_rates=large_rates, signal=signal
    )
    about = About(embedder=embedder, made=made, source=source, temperature=temperature)
    steps = tuple(_step(rows, threshold) for threshold in show(grid))
    return assembled(
        pairs,
        places,
        about,
        windows=windows,
        steps=steps,
        signal=signal,
        small_rates=small_rates,
        large_rates=large_rates,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where questions lie: tasks' int8 centroids, each row's task and whether it is inside, the similarity's cutoff."""

    centroids: NDArray[np.int8]
    tasks: NDArray[np.int64]
    is_inside: Flags
    cutoff: float


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a calibration says of itself; see `Calibration`."""

    embedder: str
    made: str
    source: str
    temperature: float = 0.0
    ladder: tuple[str, ...] = ()
    fit: str = ""


def rows_of(
    pairs: Pairs,
    places: Places,
    folds: NDArray[np.int64],
    *,
    small_rates: Rates,
    large_rates: Rates,
    signal: Signal,
) -> tuple[Rows, tuple[Window, ...]]:
    """Return what steps are computed from, and the windows' models, fitted on all rows.

    Raises:
        TrainingError: the outcomes cannot be weighed by the signal, or leave nothing to tell apart.
    """
    _check_probes(pairs, signal)
    windows, confidences = _windows(pairs, folds, places.tasks, signal)
    again_s = np.array([_again_s(outcome, small_rates) for outcome in pairs.small])
    small_s = np.array([_seconds(outcome, small_rates, outcome.output_tokens) for outcome in pairs.small])
    rows = Rows(
        loss=np.array([big.quality - little.quality for little, big in zip(pairs.small, pairs.large, strict=True)]),
        small_s=small_s + again_s,
        large_s=np.array([_seconds(outcome, large_rates, outcome.output_tokens) for outcome in pairs.large]),
        confidences=confidences,
        rejected_s={w.name: _rejected_s(pairs.small, small_rates, w.tokens) + again_s for w in windows},
        folds=folds,
        tasks=places.tasks,
        is_inside=places.is_inside,
        has_tools=np.array([outcome.has_tools for outcome in pairs.small]),
        is_longer=np.array([outcome.turns > 1 for outcome in pairs.small]),
    )
    return rows, windows


def assembled(
    pairs: Pairs,
    places: Places,
    about: About,
    *,
    windows: tuple[Window, ...],
    steps: tuple[Step, ...],
    signal: Signal,
    small_rates: Rates,
    large_rates: Rates,
) -> Calibration:
    """Return the calibration, complete with what the outcomes say of both models."""
    ratios = [b.output_tokens / max(1, s.output_tokens) for s, b in zip(pairs.small, pairs.large, strict=True)]
    low, middle, high = (round(float(value), 3) for value in np.quantile(ratios, (0.1, 0.5, 0.9)))
    return Calibration(
        small=pairs.small[0].model,
        large=pairs.large[0].model,
        made=about.made,
        questions=len(pairs),
        temperature=about.temperature,
        max_tokens=max(outcome.output_tokens for outcome in pairs.small),
        source=about.source,
        small_quality=round(float(np.mean([outcome.quality for outcome in pairs.small])), 4),
        large_quality=round(float(np.mean([outcome.quality for outcome in pairs.large])), 4),
        small_rates=small_rates,
        large_rates=large_rates,
        output_ratio=Quantiles(p10=low, p50=middle, p90=high),
        embedder=about.embedder,
        tasks=_groups(pairs, places.tasks),
        centroids=base64.b64encode(places.centroids.tobytes()).decode(),
        cutoff=round(places.cutoff, 4),
        windows=windows,
        steps=steps,
        signal=signal,
        max_characters=max(len(outcome.text) for outcome in pairs.small),
        method=pairs.small[0].method if signal.asks_again else "",
        turns=max(outcome.turns for outcome in pairs.small),
        ladder=about.ladder,
        fit=about.fit,
    )


def sizes_of(signal: Signal, *, is_whole: bool = False) -> tuple[tuple[str, int | None], ...]:
    """Return the windows of a judge: text is only judged whole, and so are answers whose tokens are not known."""
    return WINDOWS if signal is Signal.LOGPROBS and not is_whole else ((WHOLE, None),)


def folds_of(n: int) -> NDArray[np.int64]:
    """Return each row's fold; the same for every rung of a ladder."""
    folds = np.zeros(n, dtype=np.int64)
    for index, (_, test) in enumerate(KFold(_FOLDS, shuffle=True, random_state=_SEED).split(np.zeros(n))):
        folds[test] = index
    return folds


def _check_probes(pairs: Pairs, signal: Signal) -> None:
    """Refuse to mix models that were asked again in different ways, or not at all.

    Raises:
        TrainingError: some were.
    """
    if not signal.asks_again:
        return
    methods = {outcome.method for outcome in pairs.small}
    if len(methods) != 1 or not all(method.startswith(signal.value) for method in methods):
        raise TrainingError(
            f"the small model was not asked again for {signal} in one way, but in: "
            f"{', '.join(sorted(repr(method) for method in methods))}; delete its outcomes and ask again"
        )
    if all(outcome.probe is None for outcome in pairs.small):
        raise TrainingError(f"the small model gave no usable reply to any {signal}; choose another signal for it")


def _windows(
    pairs: Pairs, folds: NDArray[np.int64], tasks: NDArray[np.int64], signal: Signal
) -> tuple[tuple[Window, ...], dict[str, Floats]]:
    """Return the windows, that of tools last, and each row's out-of-fold confidence at each.

    Requests with tools are judged whole by a model of their own: whatever the window, that is their confidence.
    """
    target = _not_worse(pairs)
    is_json = np.array([outcome.is_json for outcome in pairs.small])
    has_tools = np.array([outcome.has_tools for outcome in pairs.small])
    lengths = np.array([len(outcome.tokens) for outcome in pairs.small])
    prior = _prior_column(target, np.ones(len(pairs), dtype=bool), folds, tasks)
    whole_looks = _looks(pairs.small, None, signal)
    calling = np.zeros(len(pairs))
    if has_tools.any():
        calling[has_tools] = _out_of_fold(whole_looks, target, has_tools, folds, tasks)[has_tools]
    whole = np.where(has_tools, calling, _out_of_fold(whole_looks, target, ~has_tools, folds, tasks))
    whole[_unfit(pairs.small, signal)] = 0.0
    windows, confidences = [], {}
    is_whole = any(outcome.mean_logprob is not None for outcome in pairs.small)
    for name, size in sizes_of(signal, is_whole=is_whole):
        looks = whole_looks if size is None else _looks(pairs.small, size, signal)
        # Only text is judged before its end.
        rows = ~has_tools if size is None else ~is_json & ~has_tools
        scores = whole if size is None else _out_of_fold(looks, target, rows, folds, tasks)
        reaches = rows if size is None else rows & (lengths > size)
        confidences[name] = np.where(reaches, scores, whole)
        looks[:, _PRIOR] = prior
        windows.append(_window(name, size, looks[rows], target[rows], _auc(target, scores, reaches)))
    if has_tools.any():
        confidences[TOOLS] = whole
        auc = _auc(target, whole, has_tools)
        windows.append(_window(TOOLS, None, whole_looks[has_tools], target[has_tools], auc))
    return tuple(windows), confidences


def _not_worse(pairs: Pairs) -> Flags:
    return np.array([s.quality >= b.quality for s, b in zip(pairs.small, pairs.large, strict=True)])


def _priors(target: Flags, tasks: NDArray[np.int64], sample: Flags) -> Floats:
    """Return each task's log-odds of a small answer that is not worse, from the sample only."""
    count = int(tasks.max()) + 1
    sizes = np.bincount(tasks[sample], minlength=count)
    goods = np.bincount(tasks[sample], weights=target[sample], minlength=count)
    shares = (goods + _PRIOR_WEIGHT * target[sample].mean()) / (sizes + _PRIOR_WEIGHT)
    shares = np.clip(shares, 0.01, 0.99)  # a sample without one bad answer is still no certainty
    return np.asarray(np.log(shares / (1 - shares)), dtype=np.float64)


def _prior_column(target: Flags, train: Flags, folds: NDArray[np.int64], tasks: NDArray[np.int64]) -> Floats:
    """Return each row's prior from training rows of other folds: no row's own outcome is in its features."""
    column = _priors(target, tasks, train)[tasks]
    for fold in np.unique(folds[train]):
        here = train & (folds == fold)
        column[here] = _priors(target, tasks, train & (folds != fold))[tasks[here]]
    return column


def _looks(outcomes: Sequence[Outcome], size: int | None, signal: Signal) -> Floats:
    if signal is not Signal.LOGPROBS:
        # An answer without a usable reply to the second question is never kept (`_unfit`).
        none = (0.0,) * len(PROBED.get(signal, ()))
        rows = [
            text_features(o.text, is_json=o.is_json, prior=0.0, probe=(o.probe or none) if signal.asks_again else ())
            for o in outcomes
        ]
        return np.array(rows, dtype=np.float64)
    return np.array([_tokens_look(o, size) for o in outcomes], dtype=np.float64)


def _tokens_look(outcome: Outcome, size: int | None) -> Floats:
    """Return what an answer's tokens tell; 0 for an answer without any, which is never kept (`_unfit`)."""
    if outcome.mean_logprob is None:
        return (
            features(outcome.tokens[:size], is_json=outcome.is_json, prior=0.0)
            if outcome.tokens
            else np.zeros(len(FEATURES))
        )
    # Of a record only these are known. What is the same in all rows has no weight, so that the judge, which computes
    # all of them, looks at these two alone.
    known = {"mean_logprob": outcome.mean_logprob, "log_length": np.log(max(1, outcome.output_tokens))}
    return np.array([known.get(name, 0.0) for name in FEATURES])


def _unfit(outcomes: Sequence[Outcome], signal: Signal) -> Flags:
    """Mark the answers that the judge refuses to weigh."""
    return np.array(
        [
            (is_refusal(o.text) if signal is not Signal.LOGPROBS else not o.tokens and o.mean_logprob is None)
            or (o.is_json and (o.finish_reason != "stop" or not is_json(o.text)))
            or not o.is_valid
            or (signal.asks_again and o.probe is None)
            for o in outcomes
        ]
    )


def _model(looks: Floats, target: Flags) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(looks)
    # C: the features say much the same; without shrinking, a fold of some hundred rows plays them against each other.
    return scaler, LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(looks), target)


def _out_of_fold(
    looks: Floats, target: Flags, rows: Flags, folds: NDArray[np.int64], tasks: NDArray[np.int64]
) -> Floats:
    scores = np.zeros(len(target))
    for fold in range(_FOLDS):
        looks[:, _PRIOR] = _prior_column(target, folds != fold, folds, tasks)
        train, test = rows & (folds != fold), rows & (folds == fold)
        if target[train].all() or not target[train].any():
            raise TrainingError(
                f"of {int(rows.sum())} small answers all are worse, or none is: there is nothing to tell apart; ask "
                "questions of which the small model gets some wrong and some right"
            )
        scaler, model = _model(looks[train], target[train])
        scores[test] = model.predict_proba(scaler.transform(looks[test]))[:, 1]
    return scores


def _window(name: str, size: int | None, looks: Floats, target: Flags, auc: float) -> Window:
    scaler, model = _model(looks, target)
    return Window(
        name=name,
        tokens=size,
        centre=_rounded(scaler.mean_),
        scale=_rounded(scaler.scale_),
        weights=_rounded(model.coef_[0]),
        intercept=round(float(model.intercept_[0]), 6),
        auc=auc,
    )


def _auc(target: Flags, scores: Floats, rows: Flags) -> float:
    chosen = target[rows]
    if not rows.any() or chosen.all() or not chosen.any():
        return 0.5  # nothing to tell apart
    return round(float(roc_auc_score(chosen, scores[rows])), 4)


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _seconds(outcome: Outcome, rates: Rates, output_tokens: int) -> float:
    return outcome.input_tokens * rates.uncached_input_s + output_tokens * rates.output_s


def _again_s(outcome: Outcome, rates: Rates) -> float:
    """Return what asking the small model again cost."""
    return outcome.again_input_tokens * rates.uncached_input_s + outcome.again_output_tokens * rates.output_s


def _rejected_s(outcomes: Sequence[Outcome], rates: Rates, size: int | None) -> Floats:
    """Return what a rejected attempt costs: a stream is closed at its window, JSON and short answers are read whole."""
    return np.array(
        [
            _seconds(
                o, rates, o.output_tokens if size is None or o.is_json or o.has_tools else min(size, o.output_tokens)
            )
            for o in outcomes
        ]
    )


def place_all(vectors: NDArray[np.float32]) -> Places:
    """Cluster questions, float32[n, 384] of unit length, into tasks.

    A row's similarity is taken to its own centroid without it, so that it does not vouch for itself.
    """
    count = min(_TASKS, len(vectors) // 10)
    means = KMeans(count, n_init=4, random_state=_SEED).fit(vectors).cluster_centers_
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    centroids = np.round(directions / np.abs(directions).max(axis=1, keepdims=True) * 127).astype(np.int8)
    units = centroids / np.linalg.norm(centroids.astype(np.float64), axis=1, keepdims=True)
    similarities = vectors @ units.T
    tasks = similarities.argmax(axis=1).astype(np.int64)
    sums = np.zeros_like(units)
    np.add.at(sums, tasks, vectors)
    others = sums[tasks] - vectors
    own = (others * vectors).sum(axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-9)
    similarities[np.arange(len(vectors)), tasks] = own
    nearest = similarities.max(axis=1)
    cutoff = float(np.quantile(nearest, _OUTSIDE))
    return Places(centroids=centroids, tasks=tasks, is_inside=nearest >= cutoff, cutoff=cutoff)


def _groups(pairs: Pairs, tasks: NDArray[np.int64]) -> tuple[Group, ...]:
    priors = _priors(_not_worse(pairs), tasks, np.ones(len(pairs), dtype=bool))
    groups: list[Group] = []
    seen: Counter[str] = Counter()
    for task, prior in enumerate(_rounded(priors)):
        members = Counter(o.task for o, one in zip(pairs.small, tasks, strict=True) if one == task)
        name = members.most_common(1)[0][0] if members else "empty"
        seen[name] += 1
        groups.append(Group(name=f"{name}-{seen[name]}", questions=members.total(), prior=prior))
    return tuple(groups)


def _step(rows: Rows, threshold: float) -> Step:
    is_kept = rows.confidences[WHOLE] >= threshold
    keep_rates, pays = _pays(rows, is_kept, np.ones(len(rows.loss), dtype=bool))
    starts = np.zeros(len(rows.loss), dtype=bool)
    for fold in range(_FOLDS):
        # Whether a task pays is learned too, so it is asked of the other folds.
        here = rows.folds == fold
        starts[here] = _pays(rows, is_kept, ~here)[1][rows.tasks[here]]
    starts &= rows.is_inside
    return Step(
        threshold=threshold,
        keep_rates=_rounded(keep_rates),
        start_small=tuple(bool(one) for one in pays),
        windows={
            f"{form}{name}": _kept(rows, name, threshold, starts, own)
            for name in rows.confidences
            for form, own in _forms(rows, name).items()
        },
    )


def _forms(rows: Rows, window: str) -> dict[str, Flags]:
    """Return which rows a window is held to: those with tools, or single questions and conversations apart.

    Every bound is of one form alone, and a threshold has to keep all, so that it holds for any mixture of them.
    """
    if window == TOOLS:
        return {"": rows.has_tools}
    forms = {"": ~rows.is_longer & ~rows.has_tools, CONVERSATIONS: rows.is_longer}
    return {form: own for form, own in forms.items() if own.any()}


def _pays(rows: Rows, is_kept: Flags, sample: Flags) -> tuple[Floats, Flags]:
    """Return each task's keep rate and whether small first is cheaper there: c_small + (1 - keep) c_large < c_large."""
    count = int(rows.tasks.max()) + 1
    sums = [
        np.bincount(rows.tasks[sample], weights=values[sample], minlength=count)
        for values in (np.ones(len(rows.loss)), is_kept.astype(float), rows.small_s, rows.large_s)
    ]
    sizes = np.maximum(sums[0], 1)
    keep_rates = sums[1] / sizes
    return keep_rates, np.asarray(sums[2] < keep_rates * sums[3])


def _kept(rows: Rows, window: str, threshold: float, starts: Flags, own: Flags) -> Kept:
    """Return what a window does on some of the rows, `own`.

    Every bound is of one form of request alone, so that together they hold for any mixture of them.
    """
    is_small = (starts & (rows.confidences[window] >= threshold))[own]
    losses = np.where(is_small, rows.loss[own], 0.0)
    large_s = rows.large_s[own]
    tried_s = np.where(starts, rows.rejected_s[window], 0.0)[own]
    paid = np.where(is_small, rows.small_s[own], large_s + tried_s)
    draws = np.random.default_rng(_SEED).multinomial(len(losses), np.full(len(losses), 1 / len(losses)), _RESAMPLES)
    resampled = 1 - (draws @ paid) / (draws @ large_s)
    low, high = np.quantile(resampled, (0.05, 0.95))
    return Kept(
        mean_loss=round(float(losses.mean()), 5),
        bounds={str(confidence): round(upper_bound(losses, confidence), 5) for confidence in CONFIDENCES},
        share=round(float(is_small.mean()), 4),
        savings=round(float(1 - paid.sum() / large_s.sum()), 4),
        savings_low=round(float(low), 4),
        savings_high=round(float(high), 4),
        harm_bounds={str(level): round(upper_bound(np.maximum(losses, 0), level), 5) for level in CONFIDENCES},
    )


def promises(calibration: Calibration, *, confidence: float = 0.9) -> Table:
    """Return a table for people: what could be promised, what it keeps small, what it saves."""
    table = Table(title=f"{calibration.small} before {calibration.large}: {calibration.questions} questions")
    for heading in ("max_loss", "threshold", "window", "bound", "mean loss", "kept small", "core time saved (90 %)"):
        table.add_column(heading, justify="right")
    for max_loss in (0.01, 0.02, 0.03, 0.05):
        judge = calibration.judge(max_loss=max_loss, confidence=confidence)
        match judge:
            case NoThreshold():
                table.add_row(f"{max_loss}", "none", judge.reason)
            case Judge(promise=promise):
                for name, kept in promise.windows.items():
                    table.add_row(
                        f"{max_loss}",
                        f"{promise.threshold:.2f}",
                        name,
                        f"{kept.bounds[str(promise.confidence)]:.4f}",
                        f"{kept.mean_loss:.4f}",
                        f"{kept.share:.1%}",
                        f"{kept.savings:.1%} ({kept.savings_low:.1%} to {kept.savings_high:.1%})",
                    )
    return table


def _rates(_context: click.Context, option: click.Parameter, value: str) -> Rates:
    try:
        uncached_input_s, output_s = map(float, value.split(","))
    except ValueError as error:
        raise click.BadParameter(f'"{value}" is not two numbers like 0.018,0.045', param=option) from error
    return Rates(uncached_input_s=uncached_input_s, output_s=output_s)


@click.command()
@click.option("--small", type=click.Path(path_type=Path, exists=True), required=True, help="Small model's outcomes.")
@click.option("--large", type=click.Path(path_type=Path, exists=True), required=True, help="Large model's outcomes.")
@click.option("--small-rates", callback=_rates, required=True, help="Core-seconds per uncached input, output token.")
@click.option("--large-rates", callback=_rates, required=True, help="The same for the large model.")
@click.option("--made", required=True, help="ISO date of the answers.")
@click.option("--source", required=True, help="Where the questions come from, with licences.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The artefact to write.")
def main(
    *, small: Path, large: Path, small_rates: Rates, large_rates: Rates, made: str, source: str, out: Path
) -> None:
    """Fit a calibration from two files of outcomes and say what it can promise."""
    console = Console()
    embedder = MiniLM.load()
    try:
        pairs = pair(read_outcomes(small), read_outcomes(large))
    except TrainingError as error:
        raise click.ClickException(str(error)) from error
    calibration = fit(
        pairs,
        small_rates=small_rates,
        large_rates=large_rates,
        embed=embedder.embed,
        embedder=embedder.id,
        made=made,
        source=source,
        show=lambda grid: track(grid, description="thresholds", console=console),
    )
    out.write_text(calibration.dump(), encoding="utf-8")
    console.print(promises(calibration))
    console.print(f"wrote {out} ({out.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
