"""`faregate check`: a policy's prices and promises, as they would be served."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backends.clock import SystemClock
from backends.prices import FEMTO_PER_USD, PriceBook, usd
from gateway.content.cipher import has_cipher
from gateway.ledger.budgets import BudgetAuthority
from gateway.ledger.errors import LedgerError
from gateway.ledger.pseudonyms import KEY_FILE, Pseudonyms
from gateway.ledger.spent import read_spent
from gateway.prepare import PolicyUnusable, PreparedLane, lanes, price_book
from gateway.spending import caps_of, overspent_warnings, span_of, unknown_warnings
from policies.content import Keep
from policies.schema import Policy
from semantic_cache.acceptance import Acceptance


def check_policy(policy: Policy, file: Path, *, as_json: bool) -> int:
    """Print what a loaded policy would serve, or what it lacks; return the exit status."""
    try:
        book = price_book(policy, SystemClock().now())
        prepared = lanes(policy, book, SystemClock())
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
    if caps := caps_of(policy):
        budgets = Table("budget", "tenant", "each", "cap", "at the cap", "windows of", title="Budgets")
        for cap in caps:
            each = ", ".join(cap.each) or "-"
            budgets.add_row(cap.name, cap.tenant or "all", each, span_of(cap), cap.at_limit, str(cap.zone))
        console.print(budgets)
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
        "budgets": [
            {
                "name": cap.name,
                "tenant": cap.tenant or None,
                "each": list(cap.each),
                "usd": f"{usd(cap.cap_nusd):f}",
                "per": cap.per,
                "at_limit": cap.at_limit,
                "timezone": str(cap.zone),
            }
            for cap in caps_of(policy)
        ],
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
                f"{semantic.max_error:g}, so that tier answers nothing; the smallest it can keep is "
                f"{_smallest(acceptance)}"
            )
    if policy.ledger.content.keep is Keep.ENCRYPTED and not has_cipher():
        warnings.append("ledger.content: encrypted needs the package cryptography; install faregate[content]")
    return [*warnings, *_budget_warnings(policy)]


def _budget_warnings(policy: Policy) -> tuple[str, ...]:
    """Return which budgets are below what the ledger says is spent; nothing is changed."""
    folder, now = Path(policy.storage.folder), SystemClock().now()
    try:
        # Without the key no end user was ever booked, and none of this folder's can be told.
        caps = caps_of(policy, Pseudonyms(folder).of) if (folder / KEY_FILE).exists() else caps_of(policy)
        spent = read_spent(folder, caps, now)
    except LedgerError as error:
        return (f"the budgets cannot be compared with what is spent: {error}",)
    return (*overspent_warnings(BudgetAuthority(caps, now).rebuild(spent.nusd, now)), *unknown_warnings(spent))


def _smallest(acceptance: Acceptance) -> str:
    """Return the smallest max_error with a threshold, in steps of 0.005."""
    kept = (count / 200 for count in range(1, 200) if acceptance.threshold(count / 200) is not None)
    return f"{next(kept, 1.0):g}"


def _per_million(femto_per_token: int) -> str:
    return f"{femto_per_token * 1_000_000 / FEMTO_PER_USD:.4f}"
