"""From a policy to what the way needs: rates, candidates and lanes; `faregate check` stops here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from backends.embedder import EMBEDDER_ID
from backends.prices import PriceBook, PriceError, Rates, override_rates, pool_rates, provider_rates
from backends.words import ModelId
from gateway.journey import Lane, OutputRatio
from policies.schema import Model, Policy, Route
from router.judge import Calibration, CalibrationError, Judge, NoThreshold
from router.strategy import Candidate, Cascade


class PolicyUnusable(Exception):
    """The policy is well-formed but asks for what is not there; `mistakes` says each with its remedy."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLane:
    """A lane and what an operator should know of it."""

    lane: Lane
    promise: str
    warnings: tuple[str, ...] = ()


def price_book(policy: Policy, at: datetime) -> PriceBook:
    """Return every model's rates: the policy's own price, else its pool's, else the provider's list.

    Raises:
        PolicyUnusable: a model has no price.
    """
    rates: dict[ModelId, Rates] = {}
    mistakes: list[str] = []
    for model_id, model in policy.models.items():
        try:
            rates[model_id] = _rates(policy, model, at)
        except PriceError as error:
            mistakes.append(f"models.{model_id}: {error}; give it a `price` in the policy")
    if mistakes:
        raise PolicyUnusable(mistakes)
    return PriceBook(rates=rates)


def candidates(policy: Policy) -> dict[ModelId, Candidate]:
    """Return the catalog as strategies see it."""
    return {
        model_id: Candidate(model=model_id, capabilities=model.capabilities, context_tokens=model.context_tokens)
        for model_id, model in policy.models.items()
    }


def lanes(policy: Policy, book: PriceBook) -> dict[str, PreparedLane]:
    """Return every route made ready, by its name.

    Raises:
        PolicyUnusable: a calibration cannot be read or speaks for other models.
    """
    known = candidates(policy)
    mistakes: list[str] = []
    prepared: dict[str, PreparedLane] = {}
    for route in policy.routes:
        try:
            prepared[route.name] = _lane(policy, route, known, book)
        except CalibrationError as error:
            mistakes.append(f"routes.{route.name}.quality.calibration: {error}")
    if mistakes:
        raise PolicyUnusable(mistakes)
    return prepared


def _rates(policy: Policy, model: Model, at: datetime) -> Rates:
    if (price := model.price) is not None:
        stated = {
            "input": price.input_usd_per_mtok,
            "cached_input": price.cached_input_usd_per_mtok,
            "cache_write": price.cache_write_usd_per_mtok,
            "output": price.output_usd_per_mtok,
            "reasoning": price.reasoning_usd_per_mtok,
        }
        given = {name: usd for name, usd in stated.items() if usd is not None}
        return override_rates(given, usd_per_request=price.usd_per_request)
    pool = policy.pools[model.pool] if model.pool is not None else None
    if pool is not None and pool.throughput is not None:
        return pool_rates(
            usd_per_hour=pool.usd_per_hour,
            input_tokens_per_s=pool.throughput.input_tokens_per_s,
            cached_input_tokens_per_s=pool.throughput.cached_input_tokens_per_s,
            output_tokens_per_s=pool.throughput.output_tokens_per_s,
        )
    return provider_rates(model.provider or "", model.name, at)


def _lane(policy: Policy, route: Route, known: Mapping[ModelId, Candidate], book: PriceBook) -> PreparedLane:
    baseline = route.ladder[-1]
    judged = _judged(policy, route)
    warnings = list(judged.warnings)
    unused = [model for model in route.ladder[:-1] if judged.judge is None or model != judged.small]
    if unused:
        warnings.append(
            f"route {route.name}: {', '.join(unused)} answers nothing, since no calibration says when its answers are "
            "good enough; make one with `faregate calibrate`"
        )
    strategy = Cascade(
        [known[model] for model in route.ladder],
        small=judged.small,
        judge=judged.judge,
        temperature=judged.temperature,
    )
    lane = Lane(
        route=route,
        strategy=strategy,
        baseline=baseline,
        baseline_rates=book.of(baseline),
        answers=(route.name, *(f"{model}={policy.models[model].name}" for model in route.ladder)),
        judge=judged.judge,
        output_ratio=judged.output_ratio,
    )
    return PreparedLane(lane=lane, promise=judged.promise, warnings=tuple(warnings))


_SAME_LENGTH = OutputRatio()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What a route's calibration gives it; without a judge everything goes to the baseline."""

    promise: str
    small: ModelId | None = None
    judge: Judge | None = None
    temperature: float = 0.0
    output_ratio: OutputRatio = _SAME_LENGTH
    warnings: tuple[str, ...] = ()


def _judged(policy: Policy, route: Route) -> _Judged:
    """Return what the route's calibration gives it.

    Raises:
        CalibrationError: the calibration cannot be read, or places questions with another embedder.
    """
    nothing = "baseline only" if len(route.ladder) > 1 else "one model"
    file = policy.calibration_file(route)
    if route.quality is None or file is None:
        return _Judged(promise=nothing)
    calibration = Calibration.load(file)
    if calibration.embedder != EMBEDDER_ID:
        raise CalibrationError(
            f"it was made with the embedder {calibration.embedder}, and this version has {EMBEDDER_ID}; "
            "make it again with `faregate calibrate`"
        )
    names = {policy.models[model].name: model for model in route.ladder[:-1]}
    baseline = policy.models[route.ladder[-1]].name
    if calibration.small not in names or calibration.large != baseline:
        # Safe, so no refusal: without a judge that speaks for its models the route answers with its baseline.
        warning = (
            f"route {route.name}: its calibration was made for {calibration.small} below {calibration.large}, and the "
            f"ladder has {', '.join(names)} below {baseline}"
        )
        return _Judged(promise=nothing, warnings=(warning,))
    stated = route.quality
    answer = calibration.judge(max_loss=stated.max_loss, confidence=stated.confidence)
    if isinstance(answer, NoThreshold):
        return _Judged(promise=nothing, warnings=(f"route {route.name}: {answer.reason}",))
    ratio = calibration.output_ratio
    return _Judged(
        promise=f"loss ≤ {stated.max_loss:g} at {stated.confidence:.0%} (prior, n={calibration.questions})",
        small=names[calibration.small],
        judge=answer,
        temperature=calibration.temperature,
        output_ratio=OutputRatio(low=ratio.p10, middle=ratio.p50, high=ratio.p90),
    )
