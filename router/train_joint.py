"""Fits the judges of a ladder with several judged rungs together, and certifies what the whole ladder loses.

Why together: judges that were fitted apart share the route's loss and risk, and are held to bounds of the harm, since
each answers only what those below it did not keep. Rows on which every model of the ladder answered say what the whole
loses, gains included: the whole loss is then one number, tested once.

How:
- One threshold on the confidence serves every rung, so the sequence of Learn-then-Test is that of one judge: thresholds
  of a fixed grid, strictest first.
- Each task tries the rungs that are cheapest there at the threshold, on the rows of other folds; a rung that does not
  pay in a task is left out of its plans.
- Beside the whole ladder every part of it is tested (each rung alone, each pair, …): an endpoint that is down, or a
  model that cannot take a request, leaves such a part. A step's bound is the worst of all; so is it of all combinations
  of windows, and of each form of request.
- Every rung gets a calibration of its own, whose steps hold the ladder's figures: whatever a route promises, all choose
  the same step. They serve together or not at all (`Calibration.fit`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.promise import loss_bound
from router.judge import TOOLS, WHOLE, Calibration, Kept, Rates, Signal, Step
from router.train_judge import (
    CONFIDENCES,
    CONVERSATIONS,
    GRID,
    About,
    Embed,
    Flags,
    Floats,
    Pairs,
    Rows,
    assembled,
    folds_of,
    pair,
    place_all,
    rows_of,
)
from router.train_outcomes import Outcome, TrainingError
from router.train_records import Outcomes, check_trainable

Answers: TypeAlias = Mapping[tuple[str, ...], Outcome]
"""One model's outcomes by what is said in the question (`Outcome.whole`)."""

JOINT_GRID = (
    *(round(0.995 - 0.0025 * step, 4) for step in range(78)),
    *(threshold for threshold in GRID if threshold < 0.8),
)
"""Thresholds, strictest first: close together where ladders of good models keep their promises."""
_SEED = 20261121
_RESAMPLES = 400
_MOST_JUDGED = 4
"""Sixteen parts of the ladder by hundreds of combinations of windows: what more would take hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a part of the ladder does to each row at one threshold: float64[n] each."""

    loss: Floats
    paid: Floats
    small: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """The judged rungs' rows, lowest first: of the same questions in the same order, with the same folds and tasks."""

    rungs: tuple[Rows, ...]

    @property
    def shared(self) -> Rows:
        """Return the lowest rung's, for what all have in common."""
        return self.rungs[0]

    def serve(self, thresholds: Sequence[float], tried: Sequence[Flags], windows: Sequence[str]) -> Part:
        """Return what happens when each question tries some rungs.

        Args:
            thresholds: of each rung: keep at or above it.
            tried: bool[n] for each rung.
            windows: at which each rung is judged.
        """
        n = len(self.shared.loss)
        is_open, loss, paid = np.ones(n, dtype=bool), np.zeros(n), np.zeros(n)
        for rows, threshold, here, window in zip(self.rungs, thresholds, tried, windows, strict=True):
            asked = is_open & here
            kept = asked & (rows.confidences[window] >= threshold)
            loss[kept] = rows.loss[kept]
            paid[kept] += rows.small_s[kept]
            rejected = asked & ~kept
            paid[rejected] += rows.rejected_s[window][rejected]
            is_open &= ~kept
        paid[is_open] += self.shared.large_s[is_open]
        return Part(loss=loss, paid=paid, small=(~is_open).astype(np.float64))

    def starts(self, threshold: float) -> tuple[tuple[Flags, ...], tuple[Flags, ...]]:
        """Return which rungs pay at a threshold: by row (learned from the other folds), and by task from all rows."""
        shared, count = self.shared, int(self.shared.tasks.max()) + 1
        n = len(shared.loss)
        choices = [frozenset(chosen) for size in range(len(self.rungs) + 1) for chosen in combinations(self._all, size)]
        paid = [
            self.serve(
                [threshold] * len(self.rungs),
                [np.full(n, rung in chosen) for rung in self._all],
                [WHOLE] * len(self.rungs),
            ).paid
            for chosen in choices
        ]

        def cheapest(sample: Flags) -> NDArray[np.int64]:
            sums = [np.bincount(shared.tasks[sample], weights=cost[sample], minlength=count) for cost in paid]
            return np.asarray(np.array(sums).argmin(axis=0), dtype=np.int64)

        membership = np.array([[rung in chosen for rung in self._all] for chosen in choices])
        rows = np.zeros((n, len(self.rungs)), dtype=bool)
        for fold in np.unique(shared.folds):
            here = shared.folds == fold
            rows[here] = membership[cheapest(~here)[shared.tasks[here]]]
        rows &= shared.is_inside[:, None]
        by_task = membership[cheapest(np.ones(n, dtype=bool))]
        return tuple(rows.T), tuple(by_task.T)

    def parts(self, threshold: float, tried: Sequence[Flags], windows: Sequence[str]) -> list[Part]:
        """Return what the whole ladder does, first, and every part of it without some rungs."""
        nobody = np.zeros(len(self.shared.loss), dtype=bool)
        sizes = range(len(self.rungs), 0, -1)
        return [
            self.serve([threshold] * len(self.rungs), [tried[r] if r in chosen else nobody for r in self._all], windows)
            for size in sizes
            for chosen in combinations(self._all, size)
        ]

    @property
    def _all(self) -> range:
        return range(len(self.rungs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How one rung's answers are weighed and paid: its signal, and core-seconds a token."""

    signal: Signal
    rates: Rates


def align(answers: Sequence[Answers]) -> list[list[Outcome]]:
    """Return the outcomes of the questions that all models answered: a list for each model, in one shuffled order.

    Raises:
        TrainingError: too few are left, of all or of a form of request.
    """
    lowest, *others = answers
    common = [whole for whole in lowest if all(whole in other for other in others)]
    order = np.random.default_rng(_SEED).permutation(len(common))
    wholes = [common[place] for place in order]  # files follow their tasks, and bounds want an order that means nothing
    rows = [[model[whole] for whole in wholes] for model in answers]
    for one in rows[:-1]:
        pair(one, rows[-1])  # checks how many there are
    return rows


def from_records(records: Outcomes) -> list[Answers]:
    """Return each model's outcomes of outcome records, whose column `signal` must be the answers' mean log-probability.

    Raises:
        TrainingError: what a judge is fitted on is missing, or is no log-probability.
    """
    check_trainable(records, needs_signal=True)
    signals = records.signal[:, :-1]
    if signals.max() > 0:
        raise TrainingError(
            f"column signal has values up to {signals.max():g}; a judge weighs an answer's mean log-probability "
            "(natural, over its tokens), which is never above 0: fill it with that"
        )
    for name, values in (("input_tokens", records.input_tokens), ("output_tokens", records.output_tokens)):
        if not np.isfinite(values).all():
            raise TrainingError(
                f"column {name} is empty in some rows; what an answer costs is reckoned from it: fill it"
            )
    return [{outcome.whole: outcome for outcome in _outcomes(records, model)} for model in range(len(records.models))]


def _outcomes(records: Outcomes, model: int) -> Iterable[Outcome]:
    is_judged = model < len(records.models) - 1
    for row, (key, prompt) in enumerate(zip(records.keys, records.prompts, strict=True)):
        yield Outcome(
            key=key,
            task=records.tasks[row] or "question",
            prompt=prompt,
            model=records.models[model],
            quality=float(records.quality[row, model]),
            text="",
            finish_reason="stop",
            input_tokens=int(records.input_tokens[row, model]),
            output_tokens=int(records.output_tokens[row, model]),
            seconds=0.0,
            mean_logprob=float(records.signal[row, model]) if is_judged else None,
        )


def fit_joint(
    rows: Sequence[Sequence[Outcome]],
    judgings: Sequence[Judging],
    *,
    large_rates: Rates,
    embed: Embed,
    embedder: str,
    made: str,
    source: str,
    temperature: float = 0.0,
    grid: Sequence[float] = JOINT_GRID,
    show: Callable[[Sequence[float]], Iterable[float]] = iter,
) -> list[Calibration]:
    """Return a calibration for each rung below the baseline, with the figures of the whole ladder.

    Args:
        rows: each model's outcomes, from `align`: the baseline's last.
        judgings: of each rung below it.
        large_rates: core-seconds a token of the baseline.
        embed: the base embedder, by which questions are placed.
        embedder: its id.
        made: ISO date.
        source: of the outcomes, with licences.
        temperature: at which they were answered.
        grid: thresholds, strictest first.
        show: wraps the grid to show progress.

    Raises:
        TrainingError: more rungs than can be tested together, or outcomes that leave nothing to tell apart.
    """
    if len(judgings) > _MOST_JUDGED:
        raise TrainingError(f"{len(judgings)} rungs are judged; at most {_MOST_JUDGED} can be certified together")
    places = place_all(embed([outcome.prompt for outcome in rows[0]]))
    folds = folds_of(len(rows[0]))
    pairs = [Pairs(small=own, large=rows[-1]) for own in rows[:-1]]
    found = [
        rows_of(each, places, folds, small_rates=how.rates, large_rates=large_rates, signal=how.signal)
        for each, how in zip(pairs, judgings, strict=True)
    ]
    climb = Climb(rungs=tuple(own for own, _ in found))
    steps = [joint_steps(climb, threshold) for threshold in show(grid)]
    about = About(
        embedder=embedder,
        made=made,
        source=source,
        temperature=temperature,
        ladder=tuple(own[0].model for own in rows),
        fit=_fit_of(rows, made),
    )
    return [
        assembled(
            each,
            places,
            about,
            windows=windows,
            steps=tuple(step[rung] for step in steps),
            signal=how.signal,
            small_rates=how.rates,
            large_rates=large_rates,
        )
        for rung, (each, how, (_, windows)) in enumerate(zip(pairs, judgings, found, strict=True))
    ]


def _fit_of(rows: Sequence[Sequence[Outcome]], made: str) -> str:
    named = repr((made, [[(outcome.model, outcome.whole, outcome.quality) for outcome in own] for own in rows]))
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def joint_steps(climb: Climb, threshold: float) -> list[Step]:
    """Return one threshold's step for each rung: the ladder's figures, with the rung's own starts and keep rates."""
    tried, by_task = climb.starts(threshold)
    windows = {
        f"{form}{'>'.join(names)}": _kept(climb, threshold, tried, names, own)
        for names in combined_windows(climb)
        for form, own in _forms(climb.shared, names).items()
    }
    return [
        Step(
            threshold=threshold,
            keep_rates=rates,
            start_small=tuple(bool(one) for one in starts),
            windows=windows,
        )
        for rates, starts in zip(_keep_rates(climb, threshold), by_task, strict=True)
    ]


def combined_windows(climb: Climb) -> list[tuple[str, ...]]:
    """Return at which windows the rungs may be judged: any with any, and requests with tools by their own."""
    sizes = [[name for name in rows.confidences if name != TOOLS] for rows in climb.rungs]
    found = sorted(product(*sizes), key=lambda names: names != (WHOLE,) * len(names))
    tools = all(TOOLS in rows.confidences for rows in climb.rungs)
    return [*found, *([(TOOLS,) * len(sizes)] if tools else [])]


def _forms(shared: Rows, names: Sequence[str]) -> dict[str, Flags]:
    if TOOLS in names:
        return {"": shared.has_tools}
    forms = {"": ~shared.is_longer & ~shared.has_tools, CONVERSATIONS: shared.is_longer}
    return {form: own for form, own in forms.items() if own.any()}


def _keep_rates(climb: Climb, threshold: float) -> list[tuple[float, ...]]:
    """Return the share of its answers that each rung keeps, by task, of the questions that those below did not keep."""
    count = int(climb.shared.tasks.max()) + 1
    is_open = np.ones(len(climb.shared.loss), dtype=bool)
    rates = []
    for rows in climb.rungs:
        kept = is_open & (rows.confidences[WHOLE] >= threshold)
        sizes = np.maximum(np.bincount(rows.tasks[is_open], minlength=count), 1)
        shares = np.bincount(rows.tasks[kept], minlength=count) / sizes
        rates.append(tuple(round(float(share), 6) for share in shares))
        is_open &= ~kept
    return rates


def _kept(climb: Climb, threshold: float, tried: Sequence[Flags], names: Sequence[str], own: Flags) -> Kept:
    """Return what the ladder does on some of the rows; its bounds are the worst of its parts."""
    parts = climb.parts(threshold, tried, names)
    whole = parts[0]
    paid, large = whole.paid[own], climb.shared.large_s[own]
    draws = _resamples(len(paid))
    low, high = np.quantile(1 - (draws @ paid) / (draws @ large), (0.05, 0.95))
    losses = [part.loss[own] for part in parts]
    harm = np.maximum(np.max(losses, axis=0), 0)
    return Kept(
        mean_loss=round(float(losses[0].mean()), 5),
        bounds={str(level): _worst(losses, level) for level in CONFIDENCES},
        share=round(float(whole.small[own].mean()), 4),
        savings=round(float(1 - paid.sum() / large.sum()), 4),
        savings_low=round(float(low), 4),
        savings_high=round(float(high), 4),
        harm_bounds={str(level): _worst([harm], level) for level in CONFIDENCES},
    )


@lru_cache(maxsize=2)
def _resamples(n: int) -> Floats:
    """Return float64[resamples, n]: how often each row is drawn."""
    return np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), _RESAMPLES).astype(np.float64)


def _worst(losses: Sequence[Floats], confidence: float) -> float:
    different = {one.tobytes(): one for one in losses}  # a part without a rung that nobody tries is the whole
    return round(max(loss_bound(one, confidence) for one in different.values()), 5)
