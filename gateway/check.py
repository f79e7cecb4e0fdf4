"""`faregate check`: a policy's prices and promises, as they would be served."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backends.clock import SystemClock
from backends.prices import FEMTO_PER_USD, PriceBook
from gateway.prepare import PolicyUnusable, PreparedLane, lanes, price_book
from policies.schema import Policy
from semantic_cache.acceptance import Acceptance


def check_policy(policy: Policy, file: Path, *, as_json: bool) -> int:
    """Print what a loaded policy would serve, or what it lacks; return the exit status."""
    try:
        book = price_book(policy, SystemClock().now())
        prepared = lanes(policy, book)
    except PolicyUnusable as error:
        if as_json:
            print(json.dumps({"ok": False, "mistakes": error.mistakes}))  # noqa: T201 - the command's output
        for mistake in [] if as_json else error.mistakes:
            Console(stderr=True).print(f"{file}: {mistake}", markup=False, highlight=False)
        return 1
    if as_json:
        print(json.dumps(_facts(policy, book, prepared)))  # noqa: T201 - the command's output
        return 0
    _show(policy, file, book, prepared)
    return 0


def _show(policy: Policy, file: Path, book: PriceBook, prepared: dict[str, PreparedLane]) -> None:
    console, now = Console(), SystemClock().now()
    models = Table("model", "sent as", "where", "input $/M", "cached $/M", "output $/M", "price from", title="Models")
    for model_id, model in policy.models.items():
        rates = book.rates_at(model_id, now)
        prices = [_per_million(rate) for rate in (rates.input, rates.cached_input, rates.output)]
        models.add_row(model_id, model.name, ", ".join(policy.endpoints_of(model_id)), *prices, rates.source)
    console.print(models)
    routes = Table("route", "ladder", "baseline", "promise", "caches", title="Routes, first match wins")
    for route in policy.routes:
        tiers = [name for name in ("exact", "semantic") if getattr(route.cache, name) is not None]
        routes.add_row(
            route.name,
            " > ".join(route.ladder),
            route.baseline,
            prepared[route.name].promise,
            ", ".join(tiers) or "off",
        )
    console.print(routes)
    for warning in _warnings(policy, prepared):
        console.print(f"warning: {warning}", markup=False, highlight=False)
    console.print(f"{file}: no mistakes; policy {policy.digest[:12]}", highlight=False)


def _facts(policy: Policy, book: PriceBook, prepared: dict[str, PreparedLane]) -> dict[str, object]:
    now = SystemClock().now()
    return {
        "ok": True,
        "policy_digest": policy.digest,
        "price_digest": book.digest,
        "models": {
            model_id: {
                "name": model.name,
                "rates": json.loads(book.of(model_id).plan_at(now)[""].as_json()),
                "service_tiers": sorted(filter(None, book.of(model_id).plan_at(now))),
            }
            for model_id, model in policy.models.items()
        },
        "routes": {
            name: {"ladder": lane.lane.route.ladder, "promise": lane.promise} for name, lane in prepared.items()
        },
        "warnings": _warnings(policy, prepared),
    }


def _warnings(policy: Policy, prepared: dict[str, PreparedLane]) -> list[str]:
    """Return what is allowed and probably not meant: rungs and caches that will never answer."""
    warnings = [warning for lane in prepared.values() for warning in lane.warnings]
    acceptance = Acceptance.load()
    for route in policy.routes:
        semantic = route.cache.semantic
        if semantic is not None and acceptance.threshold(semantic.max_error) is None:
            warnings.append(
                f"route {route.name}: the shipped calibration of the semantic cache cannot keep max_error "
                f"{semantic.max_error:g}, so that tier answers nothing; the smallest it can keep is 0.03"
            )
    return warnings


def _per_million(femto_per_token: int) -> str:
    return f"{femto_per_token * 1_000_000 / FEMTO_PER_USD:.4f}"
