"""Which models may answer a request, in which order: the seam `Strategy` and its two implementations.

A route's `Cascade` starts on the small rung only where a calibration says that keeping its answers pays and keeps the
route's promise; everything else goes to the baseline at once. `Pinned` is for clients that name a catalog model.
Strategies return facts and raise nothing but `NoEligibleModel`; they do no I/O and cost microseconds.

Contract of `Strategy` (tests/contracts/test_strategy.py runs it against every implementation):
- a plan has at least one rung, each of which can do what the request needs; the last rung is never judged;
- rungs come in the ladder's order, none twice; equal questions get equal plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backends.asks import estimate_input_tokens
from backends.words import Ask, Capability, ModelId, Surface
from router.judge import Judge, Outside

_OUTPUT_TOKENS = 256
"""Room kept in a model's context for an answer whose length the client did not cap."""


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
    BUDGET_DEGRADED = "budget_degraded"
    """No strategy's own: the gateway's, where a budget has room for a cheaper rung only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model of the catalog as a strategy sees it; `context_tokens` None means that its limit is not known."""

    model: ModelId
    capabilities: frozenset[Capability]
    context_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of a plan. A judged rung's answer is sent only when the judge keeps it."""

    model: ModelId
    is_judged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The rungs to try, first to last, and why."""

    rungs: tuple[Rung, ...]
    reason: PlanReason
    task: str | None = None


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

    def plan(self, ask: Ask, vector: NDArray[np.float32] | None) -> Plan:
        """Return the plan.

        Args:
            ask: the parsed request.
            vector: float32[d] of unit length, the last user text's embedding; None when there is none.

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

    def plan(self, ask: Ask, vector: NDArray[np.float32] | None) -> Plan:  # noqa: ARG002 - the seam's signature
        """Return the one model; see `Strategy.plan`."""
        _eligible(ask, [self._candidate])
        return _straight(self._candidate.model, PlanReason.PINNED)


class Cascade:
    """A route's ladder with its judge.

    Args:
        ladder: the models, cheapest first; the last is the baseline.
        small: the rung that the judge is calibrated for; None when there is no judge.
        judge: decides about the small rung's answers; None when no calibration keeps the route's promise.
        temperature: the highest temperature that the calibration speaks for.
    """

    def __init__(
        self, ladder: Sequence[Candidate], *, small: ModelId | None, judge: Judge | None, temperature: float
    ) -> None:
        self._ladder = tuple(ladder)
        self._small = small
        self._judge = judge
        self._temperature = temperature

    def needs_vector(self, ask: Ask) -> bool:
        """Tell whether the embedding will be looked at."""
        return self._judge is not None and self._form(ask) is None

    def plan(  # noqa: PLR0911 - guard clauses, one a reason
        self, ask: Ask, vector: NDArray[np.float32] | None
    ) -> Plan:
        """Return the plan; see `Strategy.plan`."""
        eligible = _eligible(ask, self._ladder)
        top = eligible[-1].model
        if top != self._ladder[-1].model:
            return _straight(top, PlanReason.BASELINE_INELIGIBLE)
        if len(self._ladder) == 1:
            return _straight(top, PlanReason.ONLY_RUNG)
        if self._judge is None:
            return _straight(top, PlanReason.UNCALIBRATED)
        small = next((c for c in eligible if c.model == self._small), None)
        if small is None or Capability.LOGPROBS not in small.capabilities:
            return _straight(top, PlanReason.SMALL_INELIGIBLE)
        if (reason := self._form(ask)) is not None:
            return _straight(top, reason)
        if vector is None:
            return _straight(top, PlanReason.NO_VECTOR)
        place = self._judge.place(vector)
        if isinstance(place, Outside):
            return _straight(top, PlanReason.OUTSIDE)
        if not place.start_small:
            return _straight(top, PlanReason.SMALL_DOES_NOT_PAY, task=place.name)
        rungs = (Rung(model=small.model, is_judged=True), Rung(model=top, is_judged=False))
        return Plan(rungs=rungs, reason=PlanReason.CASCADE, task=place.name)

    def _form(self, ask: Ask) -> PlanReason | None:
        """Tell why the request's form is none that the calibration speaks for: one plain question, one answer."""
        turns = sum(message.role not in {"system", "developer"} for message in ask.messages)
        is_plain = all(message.is_plain for message in ask.messages)
        has_tools = Capability.TOOLS in ask.needs
        if ask.surface is not Surface.CHAT or ask.choices != 1 or turns != 1 or not is_plain or has_tools:
            return PlanReason.FORM
        temperature = 1.0 if ask.temperature is None else ask.temperature  # OpenAI's default
        return PlanReason.TEMPERATURE if temperature > self._temperature else None


def _straight(model: ModelId, reason: PlanReason, *, task: str | None = None) -> Plan:
    return Plan(rungs=(Rung(model=model, is_judged=False),), reason=reason, task=task)


def _eligible(ask: Ask, candidates: Sequence[Candidate]) -> list[Candidate]:
    input_tokens = estimate_input_tokens(ask)
    room = input_tokens + (ask.max_output_tokens or _OUTPUT_TOKENS)
    eligible = [
        c for c in candidates if ask.needs <= c.capabilities and (c.context_tokens is None or room <= c.context_tokens)
    ]
    if not eligible:
        raise NoEligibleModel(ask.needs, candidates, input_tokens)
    return eligible
