"""From a policy to what the way needs: rates, candidates and lanes; `faregate check` stops here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from msgspec.structs import replace

from backends.clock import Clock
from backends.embedder import EMBEDDER_ID
from backends.price_list import provider_schedule
from backends.prices import (
    FEMTO_PER_NANO,
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
from backends.words import Capability, JsonValue, ModelId
from gateway.journey import Lane, OutputRatio
from policies.promise import shared_confidence
from policies.schema import DEFAULT_LEAST_GAIN, Model, Policy, Pool, Price, Route, Stated
from policies.signals import Signal
from router.artefact import ArtefactError
from router.by_prompt import ByPrompt, Foretold
from router.foresight import Foresight, Sight
from router.judge import Calibration, CalibrationError, Judge
from router.probe import method_of
from router.strategy import Candidate, Cascade, Costs, Judged, Tables
from router.weighing import AnswerJudge
from semantic_cache.acceptance import AcceptanceError, shipped_digest
from semantic_cache.verifier import VerifierCalibration, VerifierError


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


def lanes(policy: Policy, book: PriceBook, clock: Clock) -> dict[str, PreparedLane]:
    """Return every route made ready, by its name.

    Raises:
        PolicyUnusable: a calibration cannot be read or speaks for other models.
    """
    known = candidates(policy)
    mistakes: list[str] = []
    prepared: dict[str, PreparedLane] = {}
    for route in policy.routes:
        try:
            prepared[route.name] = _lane(policy, route, known, book, clock)
        except CalibrationError as error:
            mistakes.append(f"routes.{route.name}.quality.calibration: {error}")
        except VerifierError as error:
            mistakes.append(f"routes.{route.name}.cache.semantic.verifier.calibration: {error}")
        except AcceptanceError as error:
            mistakes.append(f"routes.{route.name}.cache.semantic: {error}")
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
            usd_per_hour=_mean_usd_per_hour(pool),
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


def _mean_usd_per_hour(pool: Pool) -> Decimal:
    """Return what a replica's hour costs on average: with spot machines beside others, none's price is the pool's."""
    each = [machine.usd_per_hour for machine in pool.machines]
    return pool.usd_per_hour if set(each) == {pool.usd_per_hour} else sum(each, Decimal(0)) / len(each)


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


def _lane(
    policy: Policy, route: Route, known: Mapping[ModelId, Candidate], book: PriceBook, clock: Clock
) -> PreparedLane:
    baseline = route.ladder[-1]
    seen = _seen(policy, route)
    verdict = _judged(policy, route, is_chosen=seen.sight is not None)
    chosen = _choosing(route, seen, verdict)
    warnings = [*seen.warnings, *verdict.warnings, *chosen.warnings]
    speaking = {rung.judged.model for rung in verdict.rungs}
    unused = [model for model in route.ladder[:-1] if model not in speaking]
    if unused and not chosen.is_by_prompt:
        warnings.append(
            f"route {route.name}: {', '.join(unused)} answers nothing, since no calibration says when its answers are "
            "good enough; make one with `faregate calibrate`"
        )
    verifier, unfit = _verifier(policy, route)
    warnings += [] if unfit is None else [f"route {route.name}: its cache's verifier is not asked: {unfit}"]
    judged = [rung.judged for rung in verdict.rungs]
    answers = (
        _standard(route),
        *(f"{model}={policy.models[model].variant}" for model in route.ladder),
        # What a laxer judge kept is not served by a stricter one.
        *(f"{each.model} kept by {each.judge.certificate}" for each in judged),
    )
    lane = Lane(
        route=route,
        strategy=_strategy(route, chosen, [known[model] for model in route.ladder], judged, BookCosts(book, clock)),
        baseline=baseline,
        baseline_rates=book.of(baseline),
        # What an artefact let through is no answer for a route that has another, or none.
        answers=answers if chosen.sight is None else (*answers, f"artefact={chosen.sight.foresight.digest[:16]}"),
        judges=chosen.judges or {each.model: each.judge for each in judged},
        output_ratios=_ratios_of(route, chosen) or {rung.judged.model: rung.ratio for rung in verdict.rungs},
        verifier=verifier,
        acceptance="" if route.cache.semantic is None else shipped_digest(),
        sight=chosen.sight,
        refused_artefact=seen.refused,
    )
    promise = chosen.promise or verdict.promise
    if seen.refused is not None:
        promise = f"{promise} (artefact refused)"
    return PreparedLane(lane=lane, promise=promise, warnings=tuple(warnings))


def _ratios_of(route: Route, chosen: _Choosing) -> dict[ModelId, OutputRatio]:
    """Return how much longer the baseline's answers were in the records of an artefact that lets rungs answer."""
    if chosen.sight is None or not chosen.is_by_prompt:
        return {}
    told = zip(route.ladder, chosen.sight.foresight.output_ratios, strict=False)
    return {
        model: OutputRatio(low=ratio.p10, middle=ratio.p50, high=ratio.p90)
        for model, ratio in told
        if ratio is not None
    }


def _strategy(
    route: Route, chosen: _Choosing, ladder: Sequence[Candidate], judged: Sequence[Judged], costs: Costs
) -> Cascade | ByPrompt:
    tables = Tables(judged, costs)
    sight = chosen.sight
    if sight is None:
        return Cascade(ladder, judged=judged, estimator=tables)
    if not chosen.is_by_prompt:
        foretold = Foretold(tables, sight=sight, ladder=route.ladder)
        return Cascade(ladder, judged=judged, estimator=foretold, sight=sight)
    static = Cascade(ladder, judged=judged, estimator=tables)
    least_gain = route.router.least_gain
    if least_gain is None and sight.foresight.promise is None:
        least_gain = DEFAULT_LEAST_GAIN
    return ByPrompt(ladder, sight=sight, costs=costs, least_gain=least_gain, static=static)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A route's artefact as read: `refused` tells why it is not used."""

    sight: Sight | None = None
    refused: str | None = None
    warnings: tuple[str, ...] = ()


def _seen(policy: Policy, route: Route) -> _Seen:
    """Read a route's artefact. One that cannot be used is no mistake of the policy: its route does without it."""
    file, name = policy.artefact_file(route), route.artefact
    if file is None or name is None or len(route.ladder) == 1:
        return _Seen()
    ladder = tuple(policy.models[model].variant for model in route.ladder)
    try:
        foresight = Foresight.load(file, name=name, ladder=ladder)
        _check_judging(policy, route, foresight)
        return _Seen(sight=Sight(foresight))
    except ArtefactError as error:
        said = f"route {route.name} runs on its static ladder, since its artefact is refused: {error}"
        return _Seen(refused=str(error), warnings=(said,))


def _check_judging(policy: Policy, route: Route, foresight: Foresight) -> None:
    """Refuse an artefact that judges answers on a route whose answers it cannot judge.

    Raises:
        ArtefactError: a model tells no log-probabilities, or the policy wants another signal or no judge.
    """
    if not foresight.judges_answers or (route.quality is not None and route.quality.artefacts):
        return  # beside calibrations it only chooses
    if route.router.least_gain is not None:
        raise ArtefactError(
            "it judges answers by its own threshold, and `least_gain` is for artefacts of `faregate train --mode"
            " route`; delete `least_gain`, or name such a one"
        )
    for model in route.ladder[:-1]:
        if Capability.LOGPROBS not in policy.models[model].capabilities:
            raise ArtefactError(
                f"it weighs the mean log-probability of {model}'s answers, and models.{model} is not said to tell "
                "log-probabilities; add `logprobs` to its capabilities if it does, or train with --mode route"
            )
        wanted = route.quality.signals.get(model, Signal.LOGPROBS) if route.quality is not None else Signal.LOGPROBS
        if wanted is not Signal.LOGPROBS:
            raise ArtefactError(
                f"it weighs {model}'s answers by their log-probabilities, and the policy by {wanted}; delete "
                f"{model} from `quality.signals`, or name a calibration made with {wanted}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choosing:
    """What an artefact may choose on a route.

    Attributes:
        is_by_prompt: it chooses where a question starts, and which rung answers; else only whether a judged rung is
            tried.
        promise: None where the artefact changes nothing of the route's.
        judges: it decides itself about the answers of these; empty: nothing judges what it lets through.
    """

    sight: Sight | None = None
    judges: Mapping[ModelId, AnswerJudge] = field(default_factory=dict)
    is_by_prompt: bool = False
    promise: str | None = None
    warnings: tuple[str, ...] = ()


def _choosing(route: Route, seen: _Seen, verdict: _Verdict) -> _Choosing:
    """Tell what a route's artefact may choose, without ever weakening what the route promises."""
    sight, stated = seen.sight, route.quality
    if sight is None:
        return _Choosing()
    if stated is None:
        said = (
            f"route {route.name}: promises nothing; its artefact lets {', '.join(route.ladder[:-1])} answer where "
            f"{route.ladder[-1]} is expected to gain little. State `quality` to promise something, or `router: "
            f"{{artefact: none}}` for {route.ladder[-1]} alone"
        )
        promise = f"none (artefact {sight.foresight.name})"
        judges = sight.foresight.judges(route.ladder)
        return _Choosing(sight=sight, is_by_prompt=True, promise=promise, judges=judges, warnings=(said,))
    if verdict.rungs:
        said = (
            f"route {route.name}: its calibrations judge, by bounds for any part of the answers; of its artefact only "
            "what it expects of prompts is used, and neither its judge nor its threshold. Delete `quality."
            "calibration(s)` to have them decide"
        )
        return _Choosing(sight=sight, warnings=(said,) if sight.foresight.judges_answers else ())
    own = sight.foresight.promise
    if stated.artefacts or own is None or own.max_loss > stated.max_loss or own.confidence < stated.confidence:
        holds = "none" if own is None else f"one for a loss of {own.max_loss:g} at {own.confidence:.0%}"
        said = (
            f"route {route.name}: its artefact chooses nothing, since the route promises a loss of "
            f"{stated.max_loss:g} at {stated.confidence:.0%}, and of thresholds of its own it holds {holds}; train it "
            f"with --max-loss {stated.max_loss:g} --confidence {stated.confidence:g}"
        )
        if stated.artefacts:
            said = f"route {route.name}: its artefact chooses nothing, since no calibration of the route can be used"
        return _Choosing(warnings=(said,))
    promise = f"loss ≤ {stated.max_loss:g} at {stated.confidence:.0%} (prior, n={own.n}, artefact)"
    return _Choosing(sight=sight, is_by_prompt=True, promise=promise, judges=sight.foresight.judges(route.ladder))


def _verifier(policy: Policy, route: Route) -> tuple[VerifierCalibration | None, str | None]:
    """Return what tells how far the word of a route's verifier goes, or why it is not asked.

    That it was made for another model, wording or acceptance is no mistake of the policy: a miss is safe.

    Raises:
        VerifierError: the calibration cannot be read.
    """
    semantic = route.cache.semantic
    if semantic is None or semantic.verifier is None:
        return None, None
    calibration = VerifierCalibration.load(policy.verifier_file(semantic.verifier))
    model = policy.models[semantic.verifier.model].variant
    unfit = calibration.mismatch(model=model, weights=semantic.verifier.weights, acceptance=shipped_digest())
    if unfit is None and calibration.point(semantic.max_error) is None:
        unfit = f"none of its thresholds keeps max_error {semantic.max_error:g}"
    return (calibration, None) if unfit is None else (None, unfit)


def _standard(route: Route) -> str:
    """Return what, beside its models, makes a route's answers its own: in a namespace, only how good they are."""
    if route.cache.namespace is None:
        return route.name
    quality = route.quality
    return "" if quality is None else f"max_loss={quality.max_loss} confidence={quality.confidence}"


class BookCosts:
    """Expected costs by the price book, at present prices; see `router.strategy.Costs`."""

    def __init__(self, book: PriceBook, clock: Clock) -> None:
        self._book = book
        self._clock = clock

    def expected_nusd(
        self, model: ModelId, *, input_tokens: int, cached_input_tokens: int, output_tokens: int
    ) -> float | None:
        """Return nano-dollars, or None where nobody knows; see `Costs.expected_nusd`."""
        rates = self._book.of(model).at(self._clock.now(), input_tokens)
        if not rates.is_known:
            return None
        # An expectation, never booked: so a float, and no `Usage`, which would cost more than the rest of a plan.
        femto = (
            (input_tokens - cached_input_tokens) * rates.input
            + cached_input_tokens * rates.cached_input
            + output_tokens * rates.output
            + rates.per_request
        )
        return femto / FEMTO_PER_NANO


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speaking:
    """A rung that a calibration speaks for."""

    judged: Judged
    ratio: OutputRatio


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What a route's calibrations give it; without a judged rung everything goes to the baseline."""

    promise: str
    rungs: tuple[_Speaking, ...] = ()
    warnings: tuple[str, ...] = ()


def _judged(policy: Policy, route: Route, *, is_chosen: bool) -> _Verdict:
    """Return what the route's calibrations give it; `is_chosen`: an artefact chooses which questions they see.

    The loss and the risk of being wrong about it are shared equally by the calibrations the policy names, before any of
    them is read: the parts' losses add up to the whole's, and so do their risks (union bound).

    Raises:
        CalibrationError: a calibration cannot be read, or places questions with another embedder.
    """
    nothing = "baseline only" if len(route.ladder) > 1 else "one model"
    files = policy.calibration_files(route)
    if route.quality is None or not files:
        return _Verdict(promise=nothing)
    stated = route.quality
    names = {policy.models[model].variant: model for model in route.ladder[:-1]}
    calibrations = [_load(file) for file in files]
    apart = _apart(policy, route, calibrations)
    if apart is not None:
        return _Verdict(promise=nothing, warnings=(f"route {route.name}: {apart}",))
    # Fitted together, each holds what the whole ladder loses: nothing is left to share.
    shares = 1 if calibrations[0].fit else len(files)
    rungs: dict[ModelId, _Speaking] = {}
    warnings: list[str] = []
    questions = []
    for calibration in calibrations:
        said = _mismatch(policy, route, calibration, names)
        if said is None and names[calibration.small] in rungs:
            said = f"two of its calibrations were made for {calibration.small}"
        if said is None:
            answer = calibration.judge(
                max_loss=stated.max_loss / shares,
                confidence=shared_confidence(stated.confidence, shares),
                is_shared=shares > 1 or is_chosen,
            )
            if isinstance(answer, Judge):
                model = names[calibration.small]
                rungs[model] = _speaking(route, model, calibration, answer)
                questions.append(calibration.questions)
                continue
            said = answer.reason if len(files) == 1 else f"{names[calibration.small]}: {answer.reason}"
        # Safe, so no refusal: what no judge speaks for answers nothing.
        warnings.append(f"route {route.name}: {said}")
    if not rungs or (calibrations[0].fit and len(rungs) < len(files)):
        return _Verdict(promise=nothing, warnings=tuple(warnings))
    n = min(questions)
    return _Verdict(
        promise=f"loss ≤ {stated.max_loss:g} at {stated.confidence:.0%} (prior, n={n})",
        rungs=tuple(rungs[model] for model in route.ladder if model in rungs),
        warnings=tuple(warnings),
    )


def _apart(policy: Policy, route: Route, calibrations: Sequence[Calibration]) -> str | None:
    """Tell why calibrations that were fitted together cannot be used so; None where they can, or were fitted alone."""
    if not any(calibration.fit for calibration in calibrations):
        return None
    ladder = tuple(policy.models[model].variant for model in route.ladder)
    again = f"make them again with `faregate calibrate --route {route.name}`"
    for calibration in calibrations:
        if calibration.fit and calibration.ladder != ladder:
            return (
                f"its calibrations were fitted together for the ladder {', '.join(calibration.ladder)}, not "
                f"{', '.join(ladder)}; {again}"
            )
    speaking = {calibration.small for calibration in calibrations}
    if len({calibration.fit for calibration in calibrations}) > 1 or speaking != set(ladder[:-1]):
        missing = ", ".join(sorted(set(ladder[:-1]) - speaking)) or "one of another fit"
        return f"its calibrations were fitted together and hold together only: name all of one fit ({missing}); {again}"
    return None


def _load(file: Path) -> Calibration:
    calibration = Calibration.load(file)
    if calibration.embedder != EMBEDDER_ID:
        raise CalibrationError(
            f"it was made with the embedder {calibration.embedder}, and this version has {EMBEDDER_ID}; "
            "make it again with `faregate calibrate`"
        )
    return calibration


def _mismatch(policy: Policy, route: Route, calibration: Calibration, names: Mapping[str, ModelId]) -> str | None:
    """Tell for which other models a calibration was made; None when it fits the ladder."""
    baseline = policy.models[route.ladder[-1]].variant
    if calibration.small in names and calibration.large == baseline:
        return _other_signal(policy, route, names[calibration.small], calibration)
    return (
        f"its calibration was made for {calibration.small} below {calibration.large}, and the "
        f"ladder has {', '.join(names)} below {baseline}"
    )


def _other_signal(policy: Policy, route: Route, model: ModelId, calibration: Calibration) -> str | None:
    """Tell that a calibration's thresholds are on another signal than the route's; None when they are on its."""
    wanted = route.quality.signals.get(model, calibration.signal) if route.quality is not None else calibration.signal
    again = f"make it again with `faregate calibrate --route {route.name} --rung {model}`"
    if calibration.signal is not wanted:
        return (
            f"the policy has {model}'s answers weighed by {wanted}, and its calibration was made with "
            f"{calibration.signal}; {again}"
        )
    has_logprobs = Capability.LOGPROBS in policy.models[model].capabilities
    method = method_of(calibration.signal, has_logprobs=has_logprobs)
    if calibration.method != method:
        return (
            f'{model} is asked again as "{method}", and its calibration was made with "{calibration.method}"; {again}'
        )
    return None


def _speaking(route: Route, model: ModelId, calibration: Calibration, judge: Judge) -> _Speaking:
    ratio = calibration.output_ratio
    return _Speaking(
        judged=Judged(
            model=model,
            judge=judge,
            temperature=calibration.temperature,
            length_ratio=max(ratio.p50, 0.01),
            window_tokens=route.stream.holdback_tokens,
            turns=calibration.turns,
        ),
        ratio=OutputRatio(low=ratio.p10, middle=ratio.p50, high=ratio.p90),
    )
