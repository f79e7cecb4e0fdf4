"""What must hold between the parts of a policy: every name leads somewhere, every model has a price, every route a use.

The checks take whatever parts could be read, so that a mistake in one part does not hide the mistakes of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol

from backends.prices import STANDARD_TIERS
from backends.words import Capability
from policies.schema import AUTO, EMBEDDED, NO_ARTEFACT, BackendKind
from policies.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from policies.document import Location
    from policies.schema import (
        Audit,
        BudgetRule,
        CacheStore,
        Limits,
        Model,
        Pool,
        Price,
        Retries,
        RevenueRule,
        Route,
        Tenant,
        Timeouts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The parts of a policy that could be read, at their places; names also of those that could not.

    `routes`, `tenants`, `revenue` and `budgets` are keyed by their index. `timeouts` and `retries` are None where they
    could not be read.
    """

    model_names: tuple[str, ...]
    pool_names: tuple[str, ...]
    models: Mapping[str, Model]
    pools: Mapping[str, Pool]
    routes: Mapping[int, Route]
    tenants: Mapping[int, Tenant]
    revenue: Mapping[int, RevenueRule]
    budgets: Mapping[int, BudgetRule]
    has_all_tenants: bool
    has_all_routes: bool
    timeouts: Timeouts | None
    retries: Retries | None
    limits: Limits | None
    cache_store: CacheStore | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake at its location; `at_key` points at the entry's key, not at its value."""

    location: Location
    message: str
    at_key: bool = False


class Files(Protocol):
    """Where what a policy names must lie, by its name there."""

    def calibration(self, name: str) -> Path:
        """Return the file of a judge's calibration."""
        ...

    def artefact(self, name: str) -> Path:
        """Return the file of a trained artefact."""
        ...

    def verifier(self, name: str) -> Path:
        """Return the file of a verifier's calibration."""
        ...


def check_references(draft: Draft, files: Files) -> Iterator[Finding]:
    """Yield what does not hold between the parts.

    Args:
        draft: the parts that could be read.
        files: from a name in the policy to the file it must be.
    """
    if AUTO in draft.model_names:
        message = f'"{AUTO}" is what a client asks for when the policy shall choose; take another name'
        yield Finding(("models", AUTO), message, at_key=True)
    for name, model in draft.models.items():
        yield from _check_model(name, model, draft)
    for name, pool in draft.pools.items():
        yield from _check_pool(name, pool)
    for index, route in draft.routes.items():
        yield from _check_ladder(index, route, draft)
        yield from _check_quality(index, route, files.calibration)
        yield from _check_signals(index, route, draft)
        yield from _check_router(index, route, files.artefact)
        yield from _check_cache(index, route)
        yield from _check_audits(index, route, draft)
        yield from _check_verifier(index, route, draft, files.verifier)
        yield from _check_match(index, route, draft)
        yield from _check_reach(index, route, draft)
    for index, rule in draft.revenue.items():
        yield from _check_revenue(index, rule, draft)
    yield from _check_unique(("tenants", "id"), {i: t.id for i, t in draft.tenants.items()})
    yield from _check_unique(("routes", "name"), {i: r.name for i, r in draft.routes.items()})
    for index, budget in draft.budgets.items():
        yield from _check_budget(index, budget, draft)
    yield from _check_unique(("budgets", "name"), {i: b.name for i, b in draft.budgets.items()})
    if draft.cache_store is not None:
        yield from _check_cache_store(draft.cache_store, draft)
    if draft.timeouts is not None:
        yield from _check_timeouts(draft.timeouts)
        if draft.retries is not None:
            yield from _check_retries(draft.retries, draft.timeouts)
    if draft.limits is not None:
        yield from _check_limits(draft.limits)


def unknown(what: str, value: str, known: Iterable[str], whose: str) -> str:
    """Return the text about a name nobody knows: what is allowed, and the nearest of it."""
    names = list(dict.fromkeys(known))
    listed = ", ".join(names) if names else "none"
    return f'unknown {what} "{value}"; {whose}: {listed}{did_you_mean(value, names)}'


def did_you_mean(value: str, known: Collection[str]) -> str:
    """Return `; did you mean "…"?` when something known resembles `value`, else an empty text."""
    lowered = {name.lower(): name for name in known}
    near = get_close_matches(value.lower(), lowered, n=1, cutoff=0.6)
    return f'; did you mean "{lowered[near[0]]}"?' if near else ""


def _check_model(name: str, model: Model, draft: Draft) -> Iterator[Finding]:
    at: Location = ("models", name)
    yield from _check_prices(at, model, draft)
    yield from _check_equivalents(at, name, model, draft)
    if model.parameters and model.capabilities.isdisjoint({Capability.CHAT, Capability.COMPLETIONS}):
        message = "parameters are sent with chats and completions, and this model answers neither; delete them"
        yield Finding((*at, "parameters"), message)
    if model.pool is None:
        yield from _check_remote(at, model)
        return
    if model.pool not in draft.pool_names:
        yield Finding((*at, "pool"), unknown("pool", model.pool, draft.pool_names, "pools has"))
    for key, remedy in (
        ("base_url", "say where in either `pool` or `base_url`"),
        ("api_key", "a pool's secret is the pool's `api_key`"),
        ("provider", "a pool is priced by its own `usd_per_hour` and `throughput`"),
    ):
        if getattr(model, key) is not None:
            yield Finding((*at, key), f"`{key}` has no effect on a model with a pool; {remedy}", at_key=True)
    pool = draft.pools.get(model.pool)
    if pool is not None and pool.throughput is None and model.price is None:
        missing = f'nothing prices "{name}": give pools.{model.pool} a `throughput`, or this model a `price`'
        yield Finding((*at, "pool"), missing)


def _check_equivalents(at: Location, name: str, model: Model, draft: Draft) -> Iterator[Finding]:
    for index, other in enumerate(model.equivalents):
        here: Location = (*at, "equivalents", index)
        if other not in draft.model_names:
            yield Finding(here, unknown("model", other, draft.model_names, "the catalog has"))
        elif other == name:
            yield Finding(here, f'"{name}" cannot stand in for itself; name another model, or delete it here')
        elif other in model.equivalents[:index]:
            yield Finding(here, f'"{other}" is listed twice; list each equivalent once')
        elif (stand_in := draft.models.get(other)) is not None:
            yield from _check_equivalent(here, name, model, stand_in)


def _check_equivalent(here: Location, name: str, model: Model, stand_in: Model) -> Iterator[Finding]:
    if missing := sorted(model.capabilities - stand_in.capabilities):
        message = (
            f'it cannot do all that "{name}" can: {", ".join(missing)} missing; '
            "add them to its `capabilities` if it can, or name another model"
        )
        yield Finding(here, message)
    if stand_in.context_tokens < model.context_tokens:
        message = (
            f'its context_tokens ({stand_in.context_tokens}) are fewer than those of "{name}" '
            f"({model.context_tokens}); name a model with at least as many"
        )
        yield Finding(here, message)


def _check_remote(at: Location, model: Model) -> Iterator[Finding]:
    if model.base_url is None:
        kinds = f"`backend: {model.backend}` needs `pool` or `base_url`; only `{BackendKind.OPENAI}` has a default"
        yield Finding(at, kinds, at_key=True)
    elif model.provider is None and model.price is None:
        yield Finding(at, f'nothing prices "{at[-1]}": give it a `price`, or the price list\'s `provider`', at_key=True)


def _check_prices(at: Location, model: Model, draft: Draft) -> Iterator[Finding]:
    pool = draft.pools.get(model.pool) if model.pool is not None else None
    has_list = model.provider is not None and model.pool is None
    is_many = isinstance(model.price, tuple)
    for index, price in enumerate(model.prices):
        place: Location = (*at, "price", index) if is_many else (*at, "price")
        has_base = has_list or (model.pool is not None and (pool is None or pool.throughput is not None))
        yield from _check_price(place, price, has_list=has_list, has_base=has_base)
        if is_many and index:
            yield from _check_succession(place, model.prices[index - 1], price)
        if price.stated != model.prices[0].stated:
            yield Finding(
                (*place, "stated"), "one model's prices all treat what its provider states alike; say the same"
            )


def _check_price(at: Location, price: Price, *, has_list: bool, has_base: bool) -> Iterator[Finding]:
    has_input, has_output = price.input_usd_per_mtok is not None, price.output_usd_per_mtok is not None
    if has_input != has_output:
        missing = "output_usd_per_mtok" if has_input else "input_usd_per_mtok"
        yield Finding(
            at, f"`{missing}` is missing: give both, or neither to start from the provider's list", at_key=True
        )
    elif not has_input and not has_base:
        need = "nothing else prices this model: give `input_usd_per_mtok` and `output_usd_per_mtok`"
        yield Finding(at, need, at_key=True)
    if price.discount is not None and (has_input or not has_list):
        why = "this price states its own" if has_input else "the model has no `provider` with one"
        yield Finding(
            (*at, "discount"), f"a discount is a share off the provider's list, and {why}; delete one of them"
        )
    if price.tiers and not has_input:
        yield Finding(
            (*at, "tiers"), "`tiers` stand above a price of one's own: give `input_usd_per_mtok` and its output"
        )
    for index, tier in enumerate(price.tiers):
        before = price.tiers[index - 1].above_input_tokens if index else 0
        if tier.above_input_tokens <= before:
            place = (*at, "tiers", index, "above_input_tokens")
            yield Finding(
                place, f"tiers ascend, and {tier.above_input_tokens} is not above {before}; put them in order"
            )
        if not tier.usd_per_mtok:
            yield Finding((*at, "tiers", index), "this tier prices nothing; give it at least one class, or delete it")
    for name in sorted(STANDARD_TIERS.intersection(price.service_tiers)):
        yield Finding(
            (*at, "service_tiers", name), f'"{name}" is the standard tier, whose prices are the others; delete it'
        )
    if price.valid_from is not None and price.valid_to is not None and price.valid_to <= price.valid_from:
        said = (
            f"it ends at {price.valid_to:%Y-%m-%d %H:%M} UTC, not after it begins ({price.valid_from:%Y-%m-%d %H:%M})"
        )
        yield Finding((*at, "valid_to"), f"{said}; `valid_to` is excluded and later than `valid_from`")


def _check_succession(at: Location, before: Price, after: Price) -> Iterator[Finding]:
    """Yield what is wrong between two prices of a list: each begins where the one above it ends."""
    if after.valid_from is None:
        yield Finding(at, "`valid_from` is missing: every price but the first says when it begins", at_key=True)
    elif before.valid_to is None or after.valid_from < before.valid_to:
        end = "never ends" if before.valid_to is None else f"ends at {before.valid_to:%Y-%m-%d %H:%M} UTC"
        said = f"two prices overlap: the one above {end}"
        yield Finding((*at, "valid_from"), f"{said}; end it where this one begins (its `valid_to` is excluded)")
    elif after.valid_from > before.valid_to:
        said = f"there is a gap: the price above ends at {before.valid_to:%Y-%m-%d %H:%M} UTC"
        yield Finding((*at, "valid_from"), f"{said}; begin this one there, or end that one here")


def _check_pool(name: str, pool: Pool) -> Iterator[Finding]:
    for index, endpoint in enumerate(pool.endpoints):
        if endpoint in pool.endpoints[:index]:
            yield Finding(("pools", name, "endpoints", index), f'"{endpoint}" is listed twice; list each replica once')
    known: dict[str, int] = {}
    cards: dict[int | str, str] = {}
    for index, replica in enumerate(pool.replicas):
        at: Location = ("pools", name, "replicas", index)
        if replica.endpoint not in pool.endpoints:
            message = unknown("endpoint", replica.endpoint, pool.endpoints, f"pools.{name}.endpoints has")
            yield Finding((*at, "endpoint"), message)
        if replica.endpoint in known:
            first = known[replica.endpoint]
            yield Finding((*at, "endpoint"), f'"{replica.endpoint}" is described by replicas[{first}] too; keep one')
        known.setdefault(replica.endpoint, index)
        for place, gpu in enumerate(replica.gpus):
            if gpu in cards:
                message = f"gpu {gpu} is {cards[gpu]}'s already; its energy would be counted twice"
                yield Finding((*at, "gpus", place), message)
            cards.setdefault(gpu, replica.endpoint)


def _check_ladder(index: int, route: Route, draft: Draft) -> Iterator[Finding]:
    at: Location = ("routes", index)
    for rung, model in enumerate(route.ladder):
        if model not in draft.model_names:
            yield Finding((*at, "ladder", rung), unknown("model", model, draft.model_names, "the catalog has"))
        if model in route.ladder[:rung]:
            yield Finding((*at, "ladder", rung), f'"{model}" is on this ladder twice; list each rung once')
    if route.baseline not in route.ladder:
        message = unknown("baseline", route.baseline, route.ladder, "the ladder has")
        yield Finding((*at, "baseline"), message)
    elif route.baseline != route.ladder[-1]:
        last = route.ladder[-1]
        message = (
            f'the baseline "{route.baseline}" is not the last rung; put it last on the ladder, or make it "{last}"'
        )
        yield Finding((*at, "baseline"), message)


def _check_quality(index: int, route: Route, calibrations: Callable[[str], Path]) -> Iterator[Finding]:
    at: Location = ("routes", index, "quality")
    if route.quality is None:
        return
    if len(route.ladder) == 1:
        yield Finding(at, "a ladder of one rung loses nothing; add a cheaper rung, or delete `quality`", at_key=True)
    quality = route.quality
    if quality.calibration is not None and quality.calibrations:
        message = "`calibration` and `calibrations` say the same of one rung and of several; give one of them"
        yield Finding((*at, "calibrations"), message, at_key=True)
    if len(quality.calibrations) > max(1, len(route.ladder) - 1):
        message = (
            f"{len(quality.calibrations)} calibrations for {len(route.ladder) - 1} rungs below the baseline; "
            "give at most one for each"
        )
        yield Finding((*at, "calibrations"), message, at_key=True)
    places: list[tuple[Location, str]] = [
        ((*at, "calibrations", i), name) for i, name in enumerate(quality.calibrations)
    ]
    if quality.calibration is not None:
        places.append(((*at, "calibration"), quality.calibration))
    for place, name in places:
        file = calibrations(name)
        if not file.is_file():
            shipped = sorted(path.stem for path in calibrations("any").parent.glob("*.json"))
            yield Finding(place, unknown("calibration", name, shipped, f"there is no file {file}; shipped ones"))
        if quality.calibrations.count(name) > 1:
            yield Finding(place, f'"{name}" is listed twice; list each calibration once')


def _check_signals(index: int, route: Route, draft: Draft) -> Iterator[Finding]:
    signals = route.quality.signals if route.quality is not None else {}
    for name, signal in signals.items():
        at: Location = ("routes", index, "quality", "signals", name)
        if name not in route.ladder[:-1]:
            below = route.ladder[:-1]
            yield Finding(at, unknown("rung", name, below, "only rungs below the baseline are judged"), at_key=True)
        model = draft.models.get(name)
        if signal is Signal.LOGPROBS and model is not None and Capability.LOGPROBS not in model.capabilities:
            message = (
                f'"{name}" has no capability `logprobs`; its answers can be weighed by text, self_check, agreement'
            )
            yield Finding(at, message)


def _check_router(index: int, route: Route, artefacts: Callable[[str], Path]) -> Iterator[Finding]:
    at: Location = ("routes", index, "router")
    name, least_gain = route.router.artefact, route.router.least_gain
    if route.artefact is not None and len(route.ladder) == 1:
        said = "a ladder of one rung leaves an artefact nothing to choose; add a cheaper rung, or delete `router`"
        yield Finding((*at, "artefact"), said, at_key=True)
    if name is not None and name != NO_ARTEFACT:
        file = artefacts(name)
        if not file.is_file():
            known = (NO_ARTEFACT, *sorted(path.stem for path in artefacts("any").parent.glob("*.json")))
            yield Finding((*at, "artefact"), unknown("artefact", name, known, f"there is no file {file}; known names"))
    if least_gain is not None and (route.artefact is None or route.quality is not None):
        said = (
            "`least_gain` is for routes whose artefact chooses without a promise; delete it, or `quality`"
            if route.quality is not None
            else "`least_gain` is for routes with an artefact, and this one has none; name one in `artefact`"
        )
        yield Finding((*at, "least_gain"), said, at_key=True)


def _check_cache(index: int, route: Route) -> Iterator[Finding]:
    cache = route.cache
    if cache.exact is not None or cache.semantic is not None:
        return
    for key in sorted(cache.model_fields_set & {"namespace", "store_refusals", "max_temperature", "flight_wait_s"}):
        place: Location = ("routes", index, "cache", key)
        yield Finding(place, f"`{key}` has no effect without a cache; add `exact` or `semantic`, or delete it")


def _check_cache_store(store: CacheStore, draft: Draft) -> Iterator[Finding]:
    at: Location = ("storage", "cache")
    has_vectors = store.vectors != EMBEDDED
    if has_vectors and not store.is_shared:
        message = "`vectors` in a server go with answers in one: set `at` to a Redis or Valkey, or leave both embedded"
        yield Finding((*at, "vectors"), message)
    if store.vectors_key is not None and not has_vectors:
        yield Finding((*at, "vectors_key"), "`vectors_key` opens a Qdrant server, and `vectors` names none; delete it")
    semantic = [route.name for route in draft.routes.values() if route.cache.semantic is not None]
    if semantic and store.is_shared and not has_vectors:
        message = f"the semantic cache of {semantic[0]} needs shared vectors: give `vectors` a Qdrant server's address"
        yield Finding(at, message)


def _check_audits(index: int, route: Route, draft: Draft) -> Iterator[Finding]:
    quality, semantic = route.quality, route.cache.semantic
    places: tuple[tuple[Location, Audit | None], ...] = (
        (("quality", "audit"), quality.audit if quality is not None else None),
        (("cache", "semantic", "audit"), semantic.audit if semantic is not None else None),
    )
    for place, audit in places:
        if audit is None or audit.judge is None:
            continue
        at: Location = ("routes", index, *place, "judge")
        if audit.judge not in draft.model_names:
            yield Finding(at, unknown("model", audit.judge, draft.model_names, "the catalog has"))
        elif (model := draft.models.get(audit.judge)) is not None and Capability.CHAT not in model.capabilities:
            yield Finding(at, f'"{audit.judge}" cannot chat; name a model with the capability `chat`')


def _check_verifier(index: int, route: Route, draft: Draft, verifiers: Callable[[str], Path]) -> Iterator[Finding]:
    verifier = route.cache.semantic.verifier if route.cache.semantic is not None else None
    if verifier is None:
        return
    at: Location = ("routes", index, "cache", "semantic", "verifier")
    if verifier.model not in draft.model_names:
        yield Finding((*at, "model"), unknown("model", verifier.model, draft.model_names, "the catalog has"))
    elif (model := draft.models.get(verifier.model)) is not None:
        for need in (Capability.CHAT, Capability.LOGPROBS):
            if need not in model.capabilities:
                message = f'"{verifier.model}" lacks `{need}`, without which it cannot be asked; name another model'
                yield Finding((*at, "model"), message)
    file = verifiers(verifier.calibration)
    if not file.is_file():
        shipped = sorted(path.stem for path in verifiers("any").parent.glob("*.json"))
        message = unknown("calibration", verifier.calibration, shipped, f"there is no file {file}; shipped ones")
        yield Finding((*at, "calibration"), message)


def _check_match(index: int, route: Route, draft: Draft) -> Iterator[Finding]:
    at: Location = ("routes", index)
    tenants = [tenant.id for tenant in draft.tenants.values()]
    if route.match.tenant is not None and route.match.tenant not in tenants and draft.has_all_tenants:
        yield Finding(
            (*at, "match", "tenant"), unknown("tenant", route.match.tenant, tenants, "the tenants of the policy")
        )
    if route.name in draft.model_names:
        yield Finding((*at, "name"), f'the catalog has a model "{route.name}"; a client could not tell them apart')
    if route.name == AUTO:
        yield Finding((*at, "name"), f'"{AUTO}" is what a client asks for when the policy shall choose; take another')
    others = [other.name for i, other in draft.routes.items() if i != index]
    if route.match.model in others:
        message = f'"{route.match.model}" is another route\'s name, so asking for it never comes here; take another'
        yield Finding((*at, "match", "model"), message)


def _check_reach(index: int, route: Route, draft: Draft) -> Iterator[Finding]:
    for earlier_index, earlier in draft.routes.items():
        if earlier_index < index and earlier.match.covers(route.match):
            message = (
                f'never reached: route "{earlier.name}" (routes[{earlier_index}]) above takes everything this one '
                "would; move this one above it, or narrow that one's `match`"
            )
            yield Finding(("routes", index), message)
            return


def _check_revenue(index: int, rule: RevenueRule, draft: Draft) -> Iterator[Finding]:
    tenants = [tenant.id for tenant in draft.tenants.values()]
    if rule.tenant is not None and rule.tenant not in tenants and draft.has_all_tenants:
        at: Location = ("revenue", index, "tenant")
        yield Finding(at, unknown("tenant", rule.tenant, tenants, "the tenants of the policy"))


def _check_budget(index: int, budget: BudgetRule, draft: Draft) -> Iterator[Finding]:
    at: Location = ("budgets", index)
    tenants = [tenant.id for tenant in draft.tenants.values()]
    if budget.match.tenant is not None and budget.match.tenant not in tenants and draft.has_all_tenants:
        yield Finding(
            (*at, "match", "tenant"), unknown("tenant", budget.match.tenant, tenants, "the tenants of the policy")
        )
    routes = [route.name for route in draft.routes.values()]
    if budget.match.route is not None and budget.match.route not in routes and draft.has_all_routes:
        yield Finding((*at, "match", "route"), unknown("route", budget.match.route, routes, "the routes of the policy"))
    for place, dimension in enumerate(budget.each):
        if dimension in budget.each[:place]:
            yield Finding((*at, "each", place), f'"{dimension}" is listed twice; list it once')
        elif getattr(budget.match, dimension) is not None:
            fixed = getattr(budget.match, dimension)
            message = f'`match` fixes the {dimension} to "{fixed}", so there is but one; drop it from `each`'
            yield Finding((*at, "each", place), message)


def _check_unique(where: tuple[str, str], names: Mapping[int, str]) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, name in names.items():
        first = seen.setdefault(name, index)
        if first != index:
            message = f'"{name}" is taken by {where[0]}[{first}]; take another'
            yield Finding((where[0], index, where[1]), message)


def _check_timeouts(timeouts: Timeouts) -> Iterator[Finding]:
    for key in ("connect_s", "first_byte_s", "idle_s"):
        value: float = getattr(timeouts, key)
        if value > timeouts.total_s:
            message = f"{key} ({value:g}) is longer than total_s ({timeouts.total_s:g}), so it never applies; lower it"
            yield Finding(("timeouts", key), message)


def _check_retries(retries: Retries, timeouts: Timeouts) -> Iterator[Finding]:
    is_stated = "max_wait_s" in retries.model_fields_set  # the default is cut off by any deadline, and is no mistake
    if is_stated and retries.max_wait_s > timeouts.total_s:
        message = (
            f"max_wait_s ({retries.max_wait_s:g}) is longer than timeouts.total_s ({timeouts.total_s:g}), so no wait "
            "can last so long; lower it"
        )
        yield Finding(("retries", "max_wait_s"), message)


def _check_limits(limits: Limits) -> Iterator[Finding]:
    least = max(limits.max_body_bytes, limits.max_answer_bytes)
    if limits.max_buffered_bytes < least:
        is_stated = "max_buffered_bytes" in limits.model_fields_set
        message = (
            f"max_buffered_bytes ({limits.max_buffered_bytes}) has no room for the largest body or answer ({least}), "
            "so that one is always refused; raise it, or lower max_body_bytes or max_answer_bytes"
        )
        yield Finding(("limits", "max_buffered_bytes") if is_stated else ("limits",), message)
