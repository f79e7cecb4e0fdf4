"""Which models may answer a request, in which order: the seam `Strategy` and its two implementations.

A route's `Cascade` starts on the small rung only where a calibration says that keeping its answers pays and keeps the
route's promise; everything else goes to the baseline at once. `Pinned` is for clients that name a catalog model.
Strategies return facts and raise nothing but `NoEligibleModel`; they do no I/O and cost microseconds.

Contract of `Strategy` (tests/contracts/test_strategy.py runs it against every implementation):
- a plan has at least one rung, each of which can do what the request needs; the last rung is never judged;
- rungs come in the ladder's order, none twice; equal questions get equal plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from itertools import combinations
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.asks import estimate_input_tokens
from backends.words import Ask, Capability, ModelId, Surface
from router.foresight import Foreseen, Foresight, Sight
from router.judge import Judge, Outside, Signal
from router.probe import extra_tokens

_OUTPUT_TOKENS = 256
"""Room kept in a model's context for an answer whose length the client did not cap."""

Cached: TypeAlias = Mapping[ModelId, int]
"""How many tokens of a prompt a model's prompt cache holds."""
NOTHING: Final[Cached] = MappingProxyType({})


class PlanReason(StrEnum):
    """Why a plan is as it is."""

    PINNED = "pinned"
    CASCADE = "cascade"
    ONLY_RUNG = "only_rung"
    UNCALIBRATED = "uncalibrated"
    SMALL_INELIGIBLE = "small_ineligible"
    BASELINE_INELIGIBLE = "baseline_ineligible"
    FORM = "form_outside_calibration"
    TEMPERATURE = "temperature_outside_calibration"
    OUTSIDE = "question_outside_calibration"
    NO_VECTOR = "no_embedding"
    SMALL_DOES_NOT_PAY = "small_does_not_pay"
    SESSION = "session_keeps_its_model"
    """The baseline's prompt cache makes it cheaper than starting below it."""
    FORESEEN = "artefact_expects_enough"
    """A trained artefact expects a rung below the baseline to do well enough, or to be worth a try where it judges."""
    FORESEEN_HIGH = "artefact_expects_baseline_to_gain"
    UNLIKE_TRAINING = "prompt_unlike_artefact"
    STEPPED_ASIDE = "artefact_steps_aside"
    """Too many of the route's prompts are unlike what its artefact was trained on."""
    BUDGET_DEGRADED = "budget_degraded"
    """No strategy's own: the gateway's, where a budget has room for a cheaper rung only."""
    BREACHED = "promise_breached"
    """No strategy's own: the gateway's, where verdicts say that the route loses more than it promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model of the catalog as a strategy sees it; `context_tokens` None means that its limit is not known."""

    model: ModelId
    capabilities: frozenset[Capability]
    context_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of a plan. A judged rung's answer is sent only when its judge keeps it, knowing the question's task."""

    model: ModelId
    is_judged: bool
    task: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was known of a question at one judged rung, and whether it may start there.

    Attributes:
        reason: why the rung is no part of the plan; CASCADE where nothing speaks against it.
        task: the calibration's cluster that the question lies in.
        similarity: to that cluster's centre, in [-1, 1]; below `cutoff` the question is outside.
        keep_rate: share of its answers there that the judge keeps.
        threshold: the judge's.
        loss: quality lost by an answer that is kept, as the calibration saw it.
        quality: of this rung's answer, as a trained artefact expects it.
    """

    model: ModelId
    reason: PlanReason
    threshold: float
    task: str | None = None
    similarity: float | None = None
    cutoff: float | None = None
    keep_rate: float | None = None
    loss: float | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Rungs that could have been tried, with their expected cost in nano-dollars and quality; None: nobody knows."""

    models: tuple[ModelId, ...]
    cost_nusd: float | None
    quality: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The rungs to try, first to last, and why.

    Attributes:
        task: of the first judged rung.
        looks: what was seen at each judged rung of the ladder.
        alternatives: what was weighed, cheapest first; the plan is one of them.
        input_tokens: the estimate that costs rest on.
        output_tokens: likewise, of the baseline's answer.
        artefact: the trained artefact that was asked, whatever came of it.
        foreseen: what it expects.
    """

    rungs: tuple[Rung, ...]
    reason: PlanReason
    task: str | None = None
    looks: tuple[Look, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    artefact: str | None = None
    foreseen: Foreseen | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A rung below the baseline and who decides about its answers.

    Attributes:
        temperature: the highest that its calibration speaks for.
        length_ratio: the baseline's output tokens over this model's, in the median.
        window_tokens: what is paid of a stream that the judge rejects.
        turns: the longest conversation that its calibration speaks for, in messages beside instructions.
    """

    model: ModelId
    judge: Judge
    temperature: float
    length_ratio: float = 1.0
    window_tokens: int = _OUTPUT_TOKENS
    turns: int = 1


class Costs(Protocol):
    """What an attempt is expected to cost."""

    def expected_nusd(
        self, model: ModelId, *, input_tokens: int, cached_input_tokens: int, output_tokens: int
    ) -> float | None:
        """Return nano-dollars at present prices; None where nobody knows. `input_tokens` includes the cached ones."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a rung is expected to do with a question: costs in nano-dollars, its judge's keeping it as a probability."""

    model: ModelId
    keep: float
    quality: float | None
    kept_nusd: float | None
    rejected_nusd: float | None


class Estimator(Protocol):
    """Tells what each rung will make of a question: from the calibrations' tables, or from a trained artefact."""

    def prospects(self, question: Question) -> Sequence[Prospect]:
        """Return the rungs' prospects, in the ladder's order, the baseline's (`keep` 1) last."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an estimator looks at.

    Attributes:
        looks: of the judged rungs that may take part, in the ladder's order.
        baseline: the last rung.
        input_tokens: estimated.
        cached_tokens: how much of the prompt a model's prompt cache holds, by model.
        foreseen: what the route's artefact expects; None without one, or where it does not know such prompts.
    """

    ask: Ask
    vector: NDArray[np.float32] | None
    looks: Sequence[Look]
    baseline: ModelId
    input_tokens: int
    cached_tokens: Mapping[ModelId, int]
    foreseen: Foreseen | None = None


class NoEligibleModel(Exception):
    """No model of the route can do what the request needs."""

    def __init__(self, needs: frozenset[Capability], candidates: Sequence[Candidate], input_tokens: int) -> None:
        offers = "; ".join(
            f"{c.model}: {', '.join(sorted(c.capabilities))}, {c.context_tokens or 'unknown'} tokens"
            for c in candidates
        )
        super().__init__(
            f"no model here can answer this request, which needs {', '.join(sorted(needs))} and about {input_tokens} "
            f"input tokens; available: {offers}"
        )


class Strategy(Protocol):
    """Decides a request's plan."""

    def needs_vector(self, ask: Ask) -> bool:
        """Tell whether `plan` would look at the embedding of the last user text."""
        ...

    def foresight(self, ask: Ask) -> Foresight | None:
        """Return what `plan` would like to know of a request's last user text; hundreds of µs, so not on the loop."""
        ...

    def plan(
        self,
        ask: Ask,
        vector: NDArray[np.float32] | None,
        cached_tokens: Cached = NOTHING,
        foreseen: Foreseen | None = None,
    ) -> Plan:
        """Return the plan.

        Args:
            ask: the parsed request.
            vector: float32[d] of unit length, the last user text's embedding; None when there is none.
            cached_tokens: how much of its prompt a model's prompt cache is known to hold, by model.
            foreseen: what `foresight` said of it; None when it was not asked.

        Raises:
            NoEligibleModel: no model can do what the request needs.
        """
        ...


class Pinned:
    """The client named the model: nothing is decided."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def needs_vector(self, ask: Ask) -> bool:  # noqa: ARG002 - the seam's signature
        """Tell that no embedding is looked at."""
        return False

    def foresight(self, ask: Ask) -> Foresight | None:  # noqa: ARG002 - the seam's signature
        """Return nothing."""
        return None

    def plan(
        self,
        ask: Ask,
        vector: NDArray[np.float32] | None,  # noqa: ARG002 - the seam's signature
        cached_tokens: Cached = NOTHING,  # noqa: ARG002 - the seam's signature
        foreseen: Foreseen | None = None,  # noqa: ARG002 - the seam's signature
    ) -> Plan:
        """Return the one model; see `Strategy.plan`."""
        eligible_of(ask, [self._candidate])
        return _straight(self._candidate.model, PlanReason.PINNED)


class Cascade:
    """A route's ladder with its judges.

    One judged rung is tried where its calibration says that this pays, since its bound was made for exactly these
    questions. Several are held to bounds that hold for any part of their answers (`Promise.is_shared`), so the
    cheapest of all their sequences is free to be chosen, in dollars: start and escalation at once. With a trained
    artefact one judged rung is held to such bounds as well, since the artefact's choice of questions was no part of its
    calibration; what the artefact expects of a prompt then moves the chance that an answer is kept, so that a hard one
    starts high. It never loosens what a judge keeps.

    Args:
        ladder: the models, cheapest first; the last is the baseline.
        judged: the rungs whose answers may be kept, in the ladder's order; none when no calibration keeps the promise.
        estimator: what each rung is expected to do.
        sight: the route's trained artefact; None without one.
    """

    def __init__(
        self,
        ladder: Sequence[Candidate],
        *,
        judged: Sequence[Judged],
        estimator: Estimator,
        sight: Sight | None = None,
    ) -> None:
        self._ladder = tuple(ladder)
        self._judged = tuple(judged)
        self._estimator = estimator
        self._sight = sight

    @property
    def judged(self) -> tuple[Judged, ...]:
        """Return the rungs whose answers may be kept."""
        return self._judged

    def tightened(self, max_loss: float) -> Cascade:
        """Return the same ladder under a smaller loss, which its judges share; rungs that cannot keep it drop out.

        Args:
            max_loss: in [0, 1); a larger one than the route's own changes nothing.
        """
        share = max_loss if self._is_joint else max_loss / max(1, len(self._judged))
        judged = [
            replace(each, judge=judge, turns=each.turns if judge is each.judge else min(each.turns, judge.turns))
            for each in self._judged
            if isinstance(judge := each.judge.tightened(share), Judge)
        ]
        return Cascade(self._ladder, judged=judged, estimator=self._estimator, sight=self._sight)

    @property
    def _is_joint(self) -> bool:
        return any(each.judge.ladder for each in self._judged)

    def at_least(self, threshold: float) -> Cascade:
        """Return the same ladder with judges that keep no answer of a confidence below `threshold`."""
        judged = [replace(each, judge=each.judge.at_least(threshold)) for each in self._judged]
        return Cascade(self._ladder, judged=judged, estimator=self._estimator, sight=self._sight)

    def taking(self, *, turns: int | None = None, tools: bool | None = None) -> Cascade:
        """Return the same ladder for other forms of request than its calibrations have seen.

        Args:
            turns: the longest conversation whose answers are judged; 1: none is. None: as they have seen.
            tools: whether those of requests with tools are. None: as they have seen.
        """
        judged = [
            replace(
                each,
                turns=each.turns if turns is None else turns,
                judge=each.judge if tools is None else each.judge.taking_tools(tools),
            )
            for each in self._judged
        ]
        return Cascade(self._ladder, judged=judged, estimator=self._estimator, sight=self._sight)

    def needs_vector(self, ask: Ask) -> bool:
        """Tell whether the embedding will be looked at."""
        return bool(self._judged) and any(self._form(ask, each) is None for each in self._judged)

    def foresight(self, ask: Ask) -> Foresight | None:
        """Return the artefact's, where a judge will look at the question."""
        return self._sight.foresight if self._sight is not None and self.needs_vector(ask) else None

    def plan(
        self,
        ask: Ask,
        vector: NDArray[np.float32] | None,
        cached_tokens: Cached = NOTHING,
        foreseen: Foreseen | None = None,
    ) -> Plan:
        """Return the plan; see `Strategy.plan`."""
        eligible = eligible_of(ask, self._ladder)
        top = eligible[-1].model
        if top != self._ladder[-1].model:
            return _straight(top, PlanReason.BASELINE_INELIGIBLE)
        if len(self._ladder) == 1:
            return _straight(top, PlanReason.ONLY_RUNG)
        if not self._judged:
            return _straight(top, PlanReason.UNCALIBRATED)
        able = {candidate.model: candidate for candidate in eligible}
        looks = tuple(self._look(ask, vector, each, able.get(each.model)) for each in self._judged)
        question = Question(
            ask=ask,
            vector=vector,
            looks=[look for look in looks if look.reason is PlanReason.CASCADE],
            baseline=top,
            input_tokens=estimate_input_tokens(ask),
            cached_tokens=cached_tokens,
        )
        if self._sight is None or foreseen is None:
            return self._choose(question, looks)
        known = foreseen if self._sight.admits(foreseen) else None
        plan = self._choose(replace(question, foreseen=known), looks)
        return replace(plan, artefact=self._sight.foresight.name, foreseen=foreseen)

    def _choose(self, question: Question, looks: tuple[Look, ...]) -> Plan:
        """Return the cheapest sequence of the rungs that may be tried."""
        top, free = question.baseline, question.looks
        if not free:
            # Of several reasons the one that got farthest: a question that was looked at says more than a form.
            why = max(looks, key=lambda look: _DEPTH.index(look.reason))
            return replace(_straight(top, why.reason, task=why.task), looks=looks)
        prospects = self._estimator.prospects(question)
        ways = sorted(_alternatives(prospects), key=_by_cost)
        is_any_part = any(each.judge.promise.is_shared for each in self._judged)
        is_bound = not is_any_part and not question.cached_tokens
        if self._is_joint and not is_any_part:
            # A session's cached prefix may send it to the baseline at once, and to no other part of the ladder.
            longest = _longest(ways)
            ways = [way for way in ways if way is longest or len(way.models) == 1]
        best = _longest(ways) if is_bound or any(way.cost_nusd is None for way in ways) else ways[0]
        tasks = {look.model: look.task for look in free}
        rungs = tuple(Rung(model=m, is_judged=m != top, task=tasks.get(m)) for m in best.models)
        reason = PlanReason.CASCADE
        if len(rungs) == 1:
            reason = PlanReason.SESSION if question.cached_tokens.get(top) else PlanReason.SMALL_DOES_NOT_PAY
        return Plan(
            rungs=rungs,
            reason=reason,
            task=rungs[0].task or free[0].task,
            looks=looks,
            alternatives=tuple(ways),
            input_tokens=question.input_tokens,
            output_tokens=expected_output_tokens(question.ask),
        )

    def _look(self, ask: Ask, vector: NDArray[np.float32] | None, each: Judged, candidate: Candidate | None) -> Look:
        """Return whether a question may be tried at a judged rung, and what was seen of it."""
        threshold = each.judge.promise.threshold
        if candidate is None or not each.judge.needs <= candidate.capabilities:
            return Look(model=each.model, reason=PlanReason.SMALL_INELIGIBLE, threshold=threshold)
        if (reason := self._form(ask, each)) is not None:
            return Look(model=each.model, reason=reason, threshold=threshold)
        if vector is None:
            return Look(model=each.model, reason=PlanReason.NO_VECTOR, threshold=threshold)
        place = each.judge.place(vector)
        if isinstance(place, Outside):
            return Look(
                model=each.model,
                reason=PlanReason.OUTSIDE,
                threshold=threshold,
                similarity=place.similarity,
                cutoff=place.cutoff,
            )
        return Look(
            model=each.model,
            reason=PlanReason.CASCADE if place.start_small else PlanReason.SMALL_DOES_NOT_PAY,
            threshold=threshold,
            task=place.name,
            similarity=place.similarity,
            cutoff=each.judge.cutoff,
            keep_rate=place.keep_rate,
            loss=each.judge.loss_when_kept,
        )

    @staticmethod
    def _form(ask: Ask, each: Judged) -> PlanReason | None:
        """Tell why the request's form is none that the calibration speaks for: one plain question, one answer."""
        turns = turns_of(ask)
        is_plain = all(message.is_plain for message in ask.messages)
        has_tools = Capability.TOOLS in ask.needs
        # Calibrations have seen tools in single questions only.
        is_strange = has_tools and (turns > 1 or not each.judge.speaks_for_tools)
        is_long = turns < 1 or turns > each.turns
        if ask.surface is not Surface.CHAT or ask.choices != 1 or is_long or not is_plain or is_strange:
            return PlanReason.FORM
        temperature = 1.0 if ask.temperature is None else ask.temperature  # OpenAI's default
        return PlanReason.TEMPERATURE if temperature > each.temperature else None


class Tables:
    """The estimator that needs no training: keep rates and losses of the calibrations, prices of the book."""

    def __init__(self, judged: Sequence[Judged], costs: Costs) -> None:
        self._judged = {each.model: each for each in judged}
        self._costs = costs

    def prospects(self, question: Question) -> Sequence[Prospect]:
        """Return the rungs' prospects; see `Estimator.prospects`."""
        output_tokens = expected_output_tokens(question.ask)
        qualities = [self._judged[look.model].judge.large_quality for look in question.looks]
        top_quality = min(qualities) if qualities else None
        found = []
        for look in question.looks:
            each = self._judged[look.model]
            own_tokens = max(1, round(output_tokens / each.length_ratio))
            is_whole = question.ask.wants_json or Capability.TOOLS in question.ask.needs or each.judge.reads_whole
            is_cut = question.ask.is_stream and not is_whole
            told_tokens = min(own_tokens, each.window_tokens) if is_cut else own_tokens
            found.append(
                Prospect(
                    model=look.model,
                    keep=look.keep_rate or 0.0,
                    quality=None if top_quality is None else top_quality - (look.loss or 0.0),
                    kept_nusd=self._cost(question, look.model, own_tokens, signal=each.judge.signal),
                    rejected_nusd=self._cost(question, look.model, told_tokens, signal=each.judge.signal),
                )
            )
        whole = self._cost(question, question.baseline, output_tokens)
        found.append(
            Prospect(model=question.baseline, keep=1.0, quality=top_quality, kept_nusd=whole, rejected_nusd=whole)
        )
        return found

    def _cost(
        self, question: Question, model: ModelId, output_tokens: int, *, signal: Signal = Signal.TEXT
    ) -> float | None:
        """Return what an attempt is expected to cost, with that of asking the model again where its judge wants it."""
        again = extra_tokens(signal, input_tokens=question.input_tokens, output_tokens=output_tokens)
        return self._costs.expected_nusd(
            model,
            input_tokens=question.input_tokens + again[0],
            cached_input_tokens=min(question.input_tokens, question.cached_tokens.get(model, 0)),
            output_tokens=output_tokens + again[1],
        )


def turns_of(ask: Ask) -> int:
    """Return how many messages a request has beside its instructions."""
    return sum(message.role not in {"system", "developer"} for message in ask.messages)


def expected_output_tokens(ask: Ask) -> int:
    """Return how long an answer is taken to be: the client's cap where it is below what most answers have."""
    return min(ask.max_output_tokens or _OUTPUT_TOKENS, _OUTPUT_TOKENS)


def _alternatives(prospects: Sequence[Prospect]) -> list[Alternative]:
    """Return every sequence of rungs that ends with the baseline."""
    *small, top = prospects[-_MOST_RUNGS:]
    return [_alternative((*chosen, top)) for count in range(len(small) + 1) for chosen in combinations(small, count)]


def _alternative(rungs: Sequence[Prospect]) -> Alternative:
    """Return what a sequence is expected to cost and to be worth: each rung is paid for when those below gave up."""
    reached, cost, quality = 1.0, 0.0, 0.0
    is_priced = is_rated = True
    for rung in rungs:
        if rung.kept_nusd is None or rung.rejected_nusd is None:
            is_priced = False
        else:
            cost += reached * (rung.keep * rung.kept_nusd + (1 - rung.keep) * rung.rejected_nusd)
        if rung.quality is None:
            is_rated = False
        else:
            quality += reached * rung.keep * rung.quality
        reached *= 1 - rung.keep
    models = tuple(rung.model for rung in rungs)
    return Alternative(models=models, cost_nusd=cost if is_priced else None, quality=quality if is_rated else None)


def _by_cost(way: Alternative) -> tuple[bool, float, int]:
    return (way.cost_nusd is None, way.cost_nusd or 0.0, len(way.models))


def _longest(ways: Sequence[Alternative]) -> Alternative:
    return max(ways, key=lambda way: len(way.models))


_MOST_RUNGS = 7
"""Sixty-four sequences; a longer ladder is weighed from its upper end."""

_DEPTH = (
    PlanReason.SMALL_INELIGIBLE,
    PlanReason.FORM,
    PlanReason.TEMPERATURE,
    PlanReason.NO_VECTOR,
    PlanReason.OUTSIDE,
    PlanReason.SMALL_DOES_NOT_PAY,
)


@lru_cache(maxsize=256)
def _straight(model: ModelId, reason: PlanReason, *, task: str | None = None) -> Plan:
    return Plan(rungs=(Rung(model=model, is_judged=False),), reason=reason, task=task)


def eligible_of(ask: Ask, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that can do what a request needs, in their order.

    Raises:
        NoEligibleModel: there is none.
    """
    input_tokens = estimate_input_tokens(ask)
    room = input_tokens + (ask.max_output_tokens or _OUTPUT_TOKENS)
    eligible = [
        c for c in candidates if ask.needs <= c.capabilities and (c.context_tokens is None or room <= c.context_tokens)
    ]
    if not eligible:
        raise NoEligibleModel(ask.needs, candidates, input_tokens)
    return eligible
