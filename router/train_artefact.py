"""Makes an artefact of outcome records: estimators of all rows, and a threshold chosen on out-of-fold scores.

The promise is strictly that of the five fold models, whose mean the shipped one is in all but name: the grid of
settings is the shipped one's in every fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from backends.embedder import EMBEDDER_ID
from policies.signals import Signal
from router.artefact import FORMAT, Answers, Artefact
from router.estimators import Mode, Vectors
from router.foresight import STEPS_ASIDE
from router.judge import Quantiles
from router.train_certify import Uncertified, certify
from router.train_estimators import fit
from router.train_outcomes import TrainingError
from router.train_records import Outcomes, check_trainable
from router.train_replay import Show, cross_fit, reference, replay

_TENTHS, _SHARES = ("p10", "p50", "p90"), (0.1, 0.5, 0.9)
_ROUNDING = 1e-3
"""A log-probability that was reckoned in single precision may come out a little above 0."""


def make(
    outcomes: Outcomes,
    vectors: Vectors,
    *,
    mode: Mode,
    max_loss: float | None,
    confidence: float,
    made: str,
    source: str,
    is_logprob: bool | None = None,
    show: Show = iter,
) -> Artefact:
    """Fit and certify.

    Args:
        outcomes: one ladder's.
        vectors: the prompts' embeddings, in the rows' order.
        mode: when the rung is decided.
        max_loss: what the promise allows to be lost; None for no promise.
        confidence: of the promise, in (0, 1).
        made: ISO date.
        source: what was trained on, see `sources`.
        is_logprob: whether column `signal` is the answers' mean log-probability, which a gateway can take of its own
            answers; None: as it looks (`looks_like_logprobs`).
        show: wraps the fits (one of all rows, then one a fold), for a progress bar.

    Raises:
        TrainingError: the rows cannot be learned from, or no threshold keeps the promise.
    """
    check_trainable(outcomes, needs_signal=mode is not Mode.ROUTE)
    steps = iter(show(range(6 if max_loss is not None else 1)))
    next(steps)
    estimators = fit(outcomes, vectors, mode)
    promise = None
    if max_loss is not None:
        done = cross_fit(
            outcomes, vectors, mode, settings=estimators.settings, show=lambda folds: _paired(steps, folds)
        )
        chosen = certify(done, reference(outcomes), max_loss=max_loss, confidence=confidence)
        if isinstance(chosen, Uncertified):
            raise TrainingError(chosen.reason)
        promise = chosen
    for _ in steps:
        pass  # the bar is drawn to its end
    return Artefact(
        format=FORMAT,
        ladder=outcomes.models,
        embedder=EMBEDDER_ID,
        made=made,
        source=source,
        questions=len(outcomes),
        qualities=tuple(round(float(one), 4) for one in outcomes.quality.mean(axis=0)),
        estimators=estimators,
        promise=promise,
        answers=None if mode is Mode.ROUTE else _answers(outcomes, is_logprob),
        output_ratios=_output_ratios(outcomes),
    )


def certified(
    artefact: Artefact,
    outcomes: Outcomes,
    vectors: Vectors,
    *,
    max_loss: float,
    confidence: float,
    made: str,
    source: str,
) -> Artefact:
    """Return an artefact with the threshold that keeps a promise on other rows than it was trained on.

    Its whole plan is replayed on them: where it starts, what its judges keep, and what it leaves to the last rung.

    Args:
        artefact: whose estimators decide; they stay as they are.
        outcomes: one ladder's; the artefact's from then on, if it spoke of any.
        vectors: the prompts' embeddings, in the rows' order.
        max_loss: what the promise allows to be lost.
        confidence: of the promise, in (0, 1).
        made: ISO date.
        source: what the rows are, see `sources`.

    Raises:
        TrainingError: the artefact steps aside for such rows, cannot judge them, or no threshold keeps the promise.
    """
    judges = artefact.estimators.judges
    check_trainable(outcomes, needs_signal=bool(judges))
    done = replay(artefact.estimators, outcomes, vectors)
    outside = float(done.is_outside.mean())
    if outside > STEPS_ASIDE:
        raise TrainingError(
            f"{outside:.0%} of these questions are unlike those that the artefact was trained on, and beyond"
            f" {STEPS_ASIDE:.0%} it steps aside for all; train one on questions like these with `faregate train`"
        )
    chosen = certify(done, reference(outcomes), max_loss=max_loss, confidence=confidence)
    if isinstance(chosen, Uncertified):
        raise TrainingError(chosen.reason)
    return replace(
        artefact,
        ladder=outcomes.models,
        made=made,
        source=f"{artefact.source}; threshold by {source}",
        promise=chosen,
        answers=_widened(artefact.answers, outcomes) if judges else None,
        output_ratios=_output_ratios(outcomes),
    )


def _widened(answers: Answers | None, outcomes: Outcomes) -> Answers:
    """Return what answers may be: as the records trained on or those certified with."""
    if answers is None or answers.signal is None:
        raise TrainingError(
            "the artefact judges answers, and the signal of its records is not known to be their mean log-probability, "
            "the one that a gateway takes of its own; train it with `--signal mean_logprob`"
        )
    new = _answers(outcomes, is_logprob=True)
    has_lengths = [bool(most) for most in answers.most_tokens]
    if has_lengths != [bool(most) for most in new.most_tokens]:
        raise TrainingError(
            "column output_tokens is filled for other models than in the records the artefact was trained on; its"
            " judges look at it: fill it for the same"
        )
    return Answers(
        signal=answers.signal,
        lowest=tuple(map(min, answers.lowest, new.lowest)),
        highest=tuple(map(max, answers.highest, new.highest)),
        most_tokens=tuple(map(max, answers.most_tokens, new.most_tokens)),
    )


def looks_like_logprobs(outcomes: Outcomes) -> bool:
    """Tell whether no signal of a judged rung is above 0, as of log-probabilities."""
    return bool((outcomes.signal[:, :-1] <= _ROUNDING).all())


def sources(files: Sequence[Path]) -> str:
    """Return the files' names with the beginning of their digests."""
    return ", ".join(f"{file.name} (sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]})" for file in files)


def _answers(outcomes: Outcomes, is_logprob: bool | None) -> Answers:
    judged = outcomes.signal[:, :-1]
    if is_logprob is None:
        is_logprob = looks_like_logprobs(outcomes)
    elif is_logprob and not looks_like_logprobs(outcomes):
        raise TrainingError(
            f"column signal has values up to {judged.max():g}, and no mean log-probability is above 0; say"
            " --signal other (the artefact can be evaluated, and not served), or fill it with mean log-probabilities"
        )
    lengths = outcomes.output_tokens[:, :-1]
    return Answers(
        signal=Signal.LOGPROBS if is_logprob else None,
        lowest=tuple(judged.min(axis=0).tolist()),
        highest=tuple(judged.max(axis=0).tolist()),
        most_tokens=tuple(0 if np.isnan(column).any() else int(column.max()) for column in lengths.T),
    )


def _output_ratios(outcomes: Outcomes) -> tuple[Quantiles | None, ...]:
    *below, last = np.maximum(outcomes.output_tokens, 1).T
    ratios = [last / own for own in below]
    return tuple(
        None
        if np.isnan(ratio).any()
        else Quantiles(**dict(zip(_TENTHS, np.quantile(ratio, _SHARES).tolist(), strict=True)))
        for ratio in ratios
    )


def _paired(steps: Iterable[int], folds: Iterable[int]) -> Iterable[int]:
    for fold, _ in zip(folds, steps, strict=False):
        yield fold
