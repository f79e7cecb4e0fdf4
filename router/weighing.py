"""A trained artefact's judge while serving: one rung's answer, weighed as those of its records were.

Rules:
- What the prompt alone says of it is reckoned with the forecast, on the embedder's thread (`Weigher.told`); what the
  answer adds, its signal and its length, costs microseconds on the event loop.
- On the same answer it says what `router.estimators.Estimators.values` says, which is what the threshold was certified
  with. An answer is kept, or abandoned for the rung that is worth most, which need not be the next one.
- The signal is the mean log-probability of the answer's tokens, and the answer is read whole: records say nothing of
  its beginning. An answer such as no record has (cut short, longer, a signal beyond theirs) is not kept, and its
  request goes to the baseline, which loses nothing.
- A confidence is 1 - the quality that the baseline is expected to gain. The artefact's threshold is in dollars and
  points, no confidence; what live verdicts ask for (`at_least`) comes on top of it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, expm1, fsum, log1p
from typing import TypeAlias

import numpy as np

from backends.words import Capability, ModelId
from policies.signals import Signal
from router.artefact import Answers, Stored
from router.estimators import SHRINKAGE, Estimators, Look, answer_features
from router.judge import WHOLE, Evidence, Judge, Promise, Reason, Verdict, Way

_EXTREME = 30.0
_DEAREST, _CHEAPEST = 10.0, -40.0
"""Logarithms of dollars and log-odds are clipped as `router.estimators.Judging` does."""
SIGNAL_FLOOR = -12.0
"""Means below this count as this, in records (`router.train_records.SIGNAL_FLOOR`) as here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a prompt says of every rung's answer, before there is one.

    Attributes:
        cluster: the prompt's.
        bases: for each judged rung, log-odds of each head, then values, then log dollars, of an answer without signal
            or length.
    """

    cluster: int
    bases: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What an answer comes to: of its own rung, then of each rung above.

    Attributes:
        qualities: expected.
        usd: of going there; the own rung's is paid, so 0.
        values: what is compared; the greatest wins, the first of equal ones.
    """

    qualities: tuple[float, ...]
    usd: tuple[float, ...]
    values: tuple[float, ...]


class Weigher:
    """One rung's estimates under one setting, for one answer at a time.

    Args:
        estimators: the artefact's.
        rung: whose answers it weighs.
        setting: index into `Estimators.settings`.
    """

    __slots__ = (
        "_bent",
        "_bonus",
        "_grid",
        "_heads",
        "_judge",
        "_lengths",
        "_means",
        "_own",
        "_price",
        "_stacked",
        "_usd",
    )

    def __init__(self, estimators: Estimators, *, rung: int, setting: int) -> None:
        self._judge = judge = estimators.judges[rung]
        self._heads = heads = judge.weights.shape[1]
        count, has_values = len(estimators.space.clusters), judge.values.shape[1] > 0
        values = judge.values[:, :, setting] if has_values else np.zeros((len(judge.weights), 0))
        value_means = judge.value_means[:, setting] if has_values else np.zeros(0)
        self._stacked = np.hstack([judge.weights, values, judge.costs])
        self._means = np.concatenate([judge.intercept, value_means, judge.cost_means])
        # What a signal, its square, its bent form, a length, and a signal by cluster add; see `answer_features`.
        plain = self._stacked / judge.scale[:, None]
        self._bent = plain[:3].tolist()
        self._lengths = plain[4].tolist()
        self._own = plain[5 + count : 5 + 2 * count].tolist()
        self._grid = judge.grid.tolist()
        chosen = estimators.settings[setting]
        self._price, self._bonus = chosen.price, chosen.bonus
        self._usd = None if estimators.opening is not None else (0.0,) * (heads - 2) + (1.0,)

    def told(self, look: Look) -> tuple[float, ...]:
        """Return what one prompt says of this rung's answers; see `Told.bases`."""
        nothing = np.zeros(1)
        row = answer_features(look, nothing, nothing, len(self._own))
        row = (row - self._judge.centre) / self._judge.scale
        return tuple((row @ self._stacked + self._means)[0].tolist())

    def weigh(self, base: Sequence[float], cluster: int, *, signal: float, tokens: float) -> Weighed:
        """Return what an answer comes to.

        Args:
            base: what `told` said of its prompt.
            cluster: the prompt's.
            signal: the answer's.
            tokens: its output tokens; 0 where records do not tell them.
        """
        bent, written, own = expm1(min(signal, 1.0)), log1p(tokens), self._own[cluster]
        linear = [
            start + signal * first + signal * signal * square + bent * curved + written * length + signal * here
            for start, first, square, curved, length, here in zip(base, *self._bent, self._lengths, own, strict=True)
        ]
        heads = self._heads
        qualities = self._qualities(linear[:heads], cluster, signal)
        usd = self._usd or [exp(min(max(each, _CHEAPEST), _DEAREST)) for each in linear[2 * heads - 2 :]]
        values = [qualities[0], *linear[heads : 2 * heads - 2], qualities[-1] + self._bonus]
        values[1:] = [value - self._price * cost for value, cost in zip(values[1:], usd, strict=True)]
        return Weighed(qualities=tuple(qualities), usd=(0.0, *usd), values=tuple(values))

    def _qualities(self, log_odds: Sequence[float], cluster: int, signal: float) -> list[float]:
        place = min(max(bisect_left(self._grid, signal), 1), len(self._grid) - 1)
        left, right = self._grid[place - 1], self._grid[place]
        share = min(max((signal - left) / max(right - left, 1e-12), 0.0), 1.0)
        curves = self._judge.curves[cluster, place - 1 : place + 1].tolist()
        both = [
            (1 / (1 + exp(-min(max(odds, -_EXTREME), _EXTREME))) + (1 - share) * low + share * high) / 2
            for odds, low, high in zip(log_odds, *curves, strict=True)
        ]
        means = self._judge.means.tolist()
        above = zip(both[1:], means[1:], strict=True)
        return [both[0], *(SHRINKAGE * each + (1 - SHRINKAGE) * mean for each, mean in above)]


class ByAnswer:
    """Decides about one rung's answers, as `router.judge.Judge` does; stateless.

    Args:
        weigher: the rung's estimates.
        rung: its place on the ladder.
        ladder: the models, cheapest first.
        answers: what the records' answers were.
        kept: the artefact's promise.
        digest: of the artefact's file.
        threshold: of the confidence; 0: nothing beyond what the artefact asks.
    """

    __slots__ = ("_answers", "_digest", "_kept", "_ladder", "_rung", "_weigher", "promise")

    def __init__(
        self,
        weigher: Weigher,
        *,
        rung: int,
        ladder: Sequence[ModelId],
        answers: Answers,
        kept: Stored,
        digest: str,
        threshold: float = 0.0,
    ) -> None:
        self._weigher, self._rung, self._ladder = weigher, rung, tuple(ladder)
        self._answers, self._kept, self._digest = answers, kept, digest
        savings = (kept.savings, kept.savings_low, kept.savings_high)
        of_all, low, high = (0.0 if each is None else each for each in savings)
        self.promise = Promise(
            max_loss=kept.max_loss,
            confidence=kept.confidence,
            bound=kept.bound,
            mean_loss=kept.mean_loss,
            n=kept.n,
            threshold=threshold,
            share_kept=kept.share_small,
            savings=of_all,
            savings_low=low,
            savings_high=high,
            windows={},
        )

    @property
    def needs(self) -> frozenset[Capability]:
        """Return what a model must be able to do for its answers to be weighed."""
        return frozenset({Capability.LOGPROBS})

    @property
    def signal(self) -> Signal:
        """Return what it looks at."""
        return Signal.LOGPROBS

    @property
    def reads_whole(self) -> bool:
        """Tell that it looks at nothing before an answer's end."""
        return True

    @property
    def certificate(self) -> str:
        """Name what an answer kept by it was kept for."""
        parts = (self._digest, self._rung, self._kept.setting, self.promise.threshold)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def wants_probe(self, evidence: Evidence) -> bool:  # noqa: ARG002 - as `Judge`
        """Tell that nobody is asked again."""
        return False

    def at_least(self, threshold: float) -> ByAnswer:
        """Return this judge, keeping nothing of a confidence below `threshold` either."""
        return ByAnswer(
            self._weigher,
            rung=self._rung,
            ladder=self._ladder,
            answers=self._answers,
            kept=self._kept,
            digest=self._digest,
            threshold=max(threshold, self.promise.threshold),
        )

    def weigh(self, evidence: Evidence, told: Told | None) -> Verdict:
        """Return the verdict on a whole answer.

        Args:
            evidence: the answer.
            told: what the forecast said of its prompt; nothing is kept without.
        """
        # Log-probabilities may be minus infinity: what counts as the floor is that, too.
        signal = max(mean_logprob(evidence), SIGNAL_FLOOR) if evidence.tokens else SIGNAL_FLOOR
        refusal = self._refusal(evidence, told, signal)
        if refusal is not None or told is None:
            return Verdict(
                confidence=0.0,
                is_kept=False,
                window="none",
                reason=refusal or Reason.UNFORESEEN,
                goes_to=self._ladder[-1],
            )
        found = self._weigher.weigh(
            told.bases[self._rung],
            told.cluster,
            signal=signal,
            tokens=len(evidence.tokens) if self._answers.most_tokens[self._rung] else 0,
        )
        best = max(range(len(found.values)), key=found.values.__getitem__)
        confidence = 1 - min(max(found.qualities[-1] - found.qualities[0], 0.0), 1.0)
        is_kept = best == 0 and confidence >= self.promise.threshold
        above = self._ladder[self._rung :]
        return Verdict(
            confidence=confidence,
            is_kept=is_kept,
            window=WHOLE,
            reason=Reason.ABOVE if is_kept else Reason.BELOW,
            # Where only a raised threshold is against it, the artefact knows of no better rung than the baseline.
            goes_to=None if is_kept else above[best or -1],
            ways=tuple(
                Way(model=model, quality=quality, usd=usd)
                for model, quality, usd in zip(above, found.qualities, found.usd, strict=True)
            ),
            is_barred=best != 0,
        )

    def _refusal(self, evidence: Evidence, told: Told | None, signal: float) -> Reason | None:
        answers, rung = self._answers, self._rung
        most = answers.most_tokens[rung]
        checks = (
            (told is None, Reason.UNFORESEEN),
            (not evidence.tokens, Reason.NO_LOGPROBS),
            (not evidence.is_finished, Reason.UNFINISHED),
            (evidence.finish_reason != "stop", Reason.UNUSUAL_END),
            (bool(most) and len(evidence.tokens) > most, Reason.TOO_LONG),
            (not answers.lowest[rung] <= signal <= answers.highest[rung], Reason.UNSEEN_SIGNAL),
        )
        return next((reason for is_so, reason in checks if is_so), None)


def mean_logprob(evidence: Evidence) -> float:
    """Return the mean log-probability of an answer's tokens, natural, at least one token."""
    return fsum(token.logprob for token in evidence.tokens) / len(evidence.tokens)


AnswerJudge: TypeAlias = Judge | ByAnswer
"""Who decides about a rung's answers: a calibration, or a trained artefact."""


def weigh(judge: AnswerJudge, evidence: Evidence, *, task: str | None, told: Told | None) -> Verdict:
    """Return a judge's verdict on an answer.

    Args:
        judge: the rung's.
        evidence: the answer, as far as it is known.
        task: where a calibration placed the question.
        told: what an artefact's forecast said of it.
    """
    return judge.weigh(evidence, told) if isinstance(judge, ByAnswer) else judge.weigh(evidence, task=task)
