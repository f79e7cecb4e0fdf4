"""From a policy to what the way needs: rates, candidates and lanes; `faregate check` stops here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from backends.embedder import EMBEDDER_ID
from backends.price_list import provider_schedule
from backends.prices import (
    Day,
    PriceBook,
    PriceError,
    PriceUnknown,
    Rates,
    Schedule,
    Span,
    femto_of,
    mtok_rate,
    overlay,
    override_rates,
    pool_rates,
    scaled,
)
from backends.words import JsonValue, ModelId
from gateway.journey import Lane, OutputRatio
from policies.schema import Model, Policy, Price, Route, Stated
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
    """Return every model's prices: the policy's own while they are valid, else its pool's or the provider's list.

    Raises:
        PolicyUnusable: a model has no price, or none that is valid at `at`.
    """
    schedules: dict[ModelId, Schedule] = {}
    mistakes: list[str] = []
    for model_id, model in policy.models.items():
        try:
            schedules[model_id] = _schedule(policy, model, at)
        except PriceError as error:
            mistakes.append(f"models.{model_id}: {error}; give it a `price` in the policy")
    if mistakes:
        raise PolicyUnusable(mistakes)
    return PriceBook(schedules=schedules)


def stated_use(model: Model) -> Stated | None:
    """Return what becomes of the cost a model's provider states: OpenRouter's is what it charges, to the last digit."""
    said = next((price.stated for price in model.prices if price.stated is not None), None)
    return Stated.TRUST if said is None and model.provider == _STATES_ITS_CHARGE else said


_STATES_ITS_CHARGE = "openrouter"


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


def _schedule(policy: Policy, model: Model, at: datetime) -> Schedule:
    listed = _listed(policy, model)
    if not model.prices:
        if listed is None:
            raise PriceUnknown("neither a pool's throughput nor a provider's list prices it")
        return listed
    schedule = overlay(listed, [_span(price) for price in model.prices])
    if not schedule.at(at).is_known:
        raise PriceUnknown("none of its prices is valid now, and no list has one")
    return schedule


def _listed(policy: Policy, model: Model) -> Schedule | None:
    """Return what a model costs without a price of the operator's; None when nothing says so and nothing needs to."""
    pool = policy.pools[model.pool] if model.pool is not None else None
    if pool is not None and pool.throughput is not None:
        rates = pool_rates(
            usd_per_hour=pool.usd_per_hour,
            input_tokens_per_s=pool.throughput.input_tokens_per_s,
            cached_input_tokens_per_s=pool.throughput.cached_input_tokens_per_s,
            output_tokens_per_s=pool.throughput.output_tokens_per_s,
        )
        return Schedule.constant(rates)
    if pool is not None or model.provider is None:
        return None
    is_needed = not model.prices or any(price.input_usd_per_mtok is None for price in model.prices)
    try:
        return provider_schedule(model.provider, model.name)
    except PriceUnknown:
        if is_needed:
            raise
        return None  # a model too new for the list, that the operator prices


def _span(price: Price) -> Span:
    def make(listed: Day | None) -> Day:
        if price.input_usd_per_mtok is None:
            if listed is None:
                raise PriceUnknown(
                    "a price without `input_usd_per_mtok` starts from a provider's list, and there is none"
                )
            return _with_service_tiers(listed.each(lambda rates: _amended(rates, price)), price)
        own = override_rates(
            price.usd_per_mtok,
            usd_per_request=price.usd_per_request or Decimal(0),
            usd_per_web_search=price.usd_per_web_search,
            tiers={tier.above_input_tokens: tier.usd_per_mtok for tier in price.tiers},
        )
        return _with_service_tiers(Day((0,), ({"": own},)), price)

    return Span(_second(price.valid_from), _second(price.valid_to), make)


def _amended(listed: Rates, price: Price) -> Rates:
    """Return the list's rates less the discount, with what the operator states in place of its classes."""
    rates = listed if price.discount is None else scaled(listed, 1 - price.discount)
    if rates.service_tier:
        return rates  # what is stated is the standard tier's; `service_tiers` has the others
    classes: dict[str, JsonValue] = {name: mtok_rate(usd, name) for name, usd in price.usd_per_mtok.items()}
    fees: dict[str, JsonValue] = {}
    if price.usd_per_request is not None:
        fees["per_request"] = femto_of(price.usd_per_request, "usd_per_request")
    if price.usd_per_web_search is not None:
        fees["web_search"] = femto_of(price.usd_per_web_search, "usd_per_web_search")
    tiers = tuple(replace(tier, **classes) for tier in rates.tiers)
    is_changed = bool(price.discount or classes or fees)
    source = f"{rates.source}, amended by the policy" if is_changed else rates.source
    return replace(rates, tiers=tiers, source=source, **classes, **fees)


def _with_service_tiers(day: Day, price: Price) -> Day:
    plans = []
    for plan in day.plans:
        own = {name: scaled(plan[""], factor, service_tier=name) for name, factor in price.service_tiers.items()}
        plans.append({**plan, **own})
    return Day(day.starts, tuple(plans))


def _second(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


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
        answers=(_standard(route), *(f"{model}={policy.models[model].variant}" for model in route.ladder)),
        judge=judged.judge,
        output_ratio=judged.output_ratio,
    )
    return PreparedLane(lane=lane, promise=judged.promise, warnings=tuple(warnings))


def _standard(route: Route) -> str:
    """Return what, beside its models, makes a route's answers its own: in a namespace, only how good they are."""
    if route.cache.namespace is None:
        return route.name
    quality = route.quality
    return "" if quality is None else f"max_loss={quality.max_loss} confidence={quality.confidence}"


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
    names = {policy.models[model].variant: model for model in route.ladder[:-1]}
    baseline = policy.models[route.ladder[-1]].variant
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
