"""Plans by a trained artefact: which rung answers (`ByPrompt`), or which of the judged ones are tried (`Foretold`).

How a rung is chosen:
- An artefact with a threshold of its own (`faregate train --max-loss`) decides exactly as it did on the records that
  the threshold was certified on; live prices, caches and sessions are not looked at, since another choice would be
  another promise.
- One without (the default that ships) promises nothing: it goes to the rung with the greatest
  quality - least_gain * cost / cost of the baseline, at live prices, a session's cached prefix included.
- One that judges answers too (mode "cascade" or "combined") chooses where to start; every rung below the baseline is
  then judged by it (`router.weighing`), and what it says of an answer may pass rungs.
- What it does not speak for (other forms of request, prompts unlike its training, a route that is mostly such) goes the
  static way: `Cascade`'s, by calibrations, and to the baseline without any.
- The baseline follows as a rung of its own, for when the model that was chosen fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from math import exp, inf, log

import numpy as np
from numpy.typing import NDArray

from backends.asks import estimate_input_tokens
from backends.words import Ask, Capability, ModelId, Surface
from router.foresight import Foreseen, Foresight, Sight
from router.strategy import (
    NOTHING,
    Alternative,
    Cached,
    Candidate,
    Cascade,
    Costs,
    Estimator,
    Look,
    Plan,
    PlanReason,
    Prospect,
    Question,
    Rung,
    eligible_of,
    expected_output_tokens,
    turns_of,
)

_SUREST = 0.999
"""No estimate is surer: log-odds have to stay finite."""


class ByPrompt:
    """A route whose artefact chooses the first rung.

    Args:
        ladder: the models, cheapest first; the last is the baseline.
        sight: the route's artefact.
        costs: what an attempt is expected to cost.
        least_gain: expected quality that must be gained for the baseline's full price; None: the artefact's own
            threshold decides.
        static: plans what the artefact does not speak for.
    """

    def __init__(
        self,
        ladder: Sequence[Candidate],
        *,
        sight: Sight,
        costs: Costs,
        least_gain: float | None,
        static: Cascade,
    ) -> None:
        self._ladder = tuple(ladder)
        self._sight = sight
        self._costs = costs
        self._least_gain = least_gain
        self._static = static

    @property
    def static(self) -> Cascade:
        """Return what plans where the artefact does not."""
        return self._static

    def tightened(self, max_loss: float) -> ByPrompt | Cascade:
        """Return this where its threshold keeps a smaller loss as well, else the static plan, tightened."""
        promise = self._sight.foresight.promise
        if promise is not None and promise.max_loss <= max_loss:
            return self
        return self._static.tightened(max_loss)

    def at_least(self, threshold: float) -> ByPrompt | Cascade:
        """Return the plan whose judges keep nothing of a confidence below `threshold`.

        What an artefact lets through without a judge has no confidence of its own, so none of it is sure enough.
        """
        return self if self._sight.foresight.judges_answers else self._static.at_least(threshold)

    def needs_vector(self, ask: Ask) -> bool:
        """Tell whether the embedding will be looked at."""
        return _speaks_for(ask) or self._static.needs_vector(ask)

    def foresight(self, ask: Ask) -> Foresight | None:
        """Return the artefact's, for the requests it speaks for."""
        return self._sight.foresight if _speaks_for(ask) else None

    def plan(
        self,
        ask: Ask,
        vector: NDArray[np.float32] | None,
        cached_tokens: Cached = NOTHING,
        foreseen: Foreseen | None = None,
    ) -> Plan:
        """Return the plan; see `Strategy.plan`."""
        eligible = eligible_of(ask, self._ladder)
        if len(eligible) == 1 or eligible[-1].model != self._ladder[-1].model:
            return self._static.plan(ask, vector, cached_tokens)
        reason = None
        if not _speaks_for(ask):
            reason = PlanReason.FORM
        elif foreseen is None:
            reason = PlanReason.NO_VECTOR
        elif not self._sight.admits(foreseen):
            reason = PlanReason.UNLIKE_TRAINING if foreseen.is_outside else PlanReason.STEPPED_ASIDE
        if foreseen is None or reason is not None:
            return self._aside(ask, vector, cached_tokens, foreseen, reason or PlanReason.NO_VECTOR)
        return self._chosen(ask, foreseen, {one.model for one in eligible}, cached_tokens)

    def _aside(
        self, ask: Ask, vector: NDArray[np.float32] | None, cached: Cached, foreseen: Foreseen | None, why: PlanReason
    ) -> Plan:
        """Return the static plan, and why it is not the artefact's."""
        plan = self._static.plan(ask, vector, cached)
        looks = tuple(self._look(index, why, foreseen) for index in range(len(self._ladder) - 1))
        reason = why if plan.reason is PlanReason.UNCALIBRATED else plan.reason
        name = self._sight.foresight.name
        return replace(plan, reason=reason, looks=(*looks, *plan.looks), artefact=name, foreseen=foreseen)

    def _chosen(self, ask: Ask, foreseen: Foreseen, able: set[ModelId], cached: Cached) -> Plan:
        input_tokens, output_tokens = estimate_input_tokens(ask), expected_output_tokens(ask)
        ways = [
            Alternative(
                models=(one.model,),
                cost_nusd=self._costs.expected_nusd(
                    one.model,
                    input_tokens=input_tokens,
                    cached_input_tokens=min(input_tokens, cached.get(one.model, 0)),
                    output_tokens=output_tokens,
                ),
                quality=quality,
            )
            for one, quality in zip(self._ladder, foreseen.qualities, strict=True)
        ]
        last = len(ways) - 1
        start = self._best(ways, able) if self._least_gain is not None else foreseen.start
        if start is None:
            raise AssertionError("without a least gain the artefact has a threshold")
        if ways[start].models[0] not in able:
            start = last
        reason = PlanReason.FORESEEN if start < last else PlanReason.FORESEEN_HIGH
        return Plan(
            rungs=self._rungs(start, able),
            reason=reason,
            looks=tuple(self._look(index, reason, foreseen) for index in range(last)),
            alternatives=tuple(sorted(ways, key=lambda way: (way.cost_nusd is None, way.cost_nusd or 0.0))),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            artefact=self._sight.foresight.name,
            foreseen=foreseen,
        )

    def _rungs(self, start: int, able: set[ModelId]) -> tuple[Rung, ...]:
        """Return the rungs to try: the one to start at and the baseline, with judges all those between as well."""
        *below, top = self._ladder[start:]
        is_judged = self._sight.foresight.judges_answers
        # Above a rung that cannot answer nobody knows what the judges would have come to: only the baseline is left.
        tried = takewhile(lambda one: one.model in able, below) if is_judged else below[:1]
        return (*(Rung(model=one.model, is_judged=is_judged) for one in tried), Rung(model=top.model, is_judged=False))

    def _best(self, ways: Sequence[Alternative], able: set[ModelId]) -> int:
        """Return the rung that is worth most at live prices; the baseline where prices are not known."""
        top, least_gain = ways[-1].cost_nusd, self._least_gain or 0.0
        if not top or any(way.cost_nusd is None for way in ways):
            return len(ways) - 1
        values = [
            (way.quality or 0.0) - least_gain * (way.cost_nusd or 0.0) / top if way.models[0] in able else -inf
            for way in ways
        ]
        return values.index(max(values))

    def _look(self, index: int, reason: PlanReason, foreseen: Foreseen | None) -> Look:
        promise = self._sight.foresight.promise
        is_known = foreseen is not None and not foreseen.is_outside
        return Look(
            model=self._ladder[index].model,
            reason=reason,
            threshold=promise.max_loss if promise is not None and self._least_gain is None else self._least_gain or 0.0,
            similarity=None if foreseen is None else foreseen.similarity,
            cutoff=None if foreseen is None else foreseen.cutoff,
            quality=foreseen.qualities[index] if foreseen is not None and is_known else None,
        )


class Foretold:
    """The calibrations' tables, moved by what an artefact expects of the prompt.

    A cluster's keep rate is that of its mean question; the log-odds move by how far the small model's expected quality
    lies from its mean. Only costs depend on it: what is kept is the judge's to say, whose bound holds for any part.

    Args:
        tables: the calibrations'.
        sight: the route's artefact.
        ladder: the models, in the artefact's order.
    """

    def __init__(self, tables: Estimator, *, sight: Sight, ladder: Sequence[ModelId]) -> None:
        self._tables = tables
        self._means = dict(zip(ladder, sight.foresight.means, strict=True))
        self._places = {model: place for place, model in enumerate(ladder)}

    def prospects(self, question: Question) -> Sequence[Prospect]:
        """Return the rungs' prospects; see `Estimator.prospects`."""
        found = self._tables.prospects(question)
        if question.foreseen is None:
            return found
        qualities = question.foreseen.qualities
        return [
            each
            if each.model == question.baseline
            else replace(each, keep=_moved(each.keep, qualities[self._places[each.model]], self._means[each.model]))
            for each in found
        ]


def _moved(keep: float, expected: float, mean: float) -> float:
    odds = _log_odds(keep) + _log_odds(expected) - _log_odds(mean)
    return 1 / (1 + exp(-odds))


def _log_odds(share: float) -> float:
    inside = min(max(share, 1 - _SUREST), _SUREST)
    return log(inside / (1 - inside))


def _speaks_for(ask: Ask) -> bool:
    """Tell whether records of plain questions say something of a request: one such question, answered in text."""
    is_plain = all(message.is_plain for message in ask.messages) and Capability.TOOLS not in ask.needs
    is_one = ask.surface is Surface.CHAT and ask.choices == 1 and turns_of(ask) == 1
    return is_one and is_plain and not ask.wants_json and bool(ask.last_user_text)
