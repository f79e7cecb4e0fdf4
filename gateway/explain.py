"""Why a request took its way, as JSON without any of its text: the header `x-faregate-explain` and the request row.

Features (what was looked at), predictions and thresholds of each judged rung, the ways that were weighed with their
expected cost and quality, and what the judges said.
"""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from backends.prices import usd
from backends.words import Ask, JsonValue
from gateway.journey import Journey, Judging
from router.judge import Verdict
from router.strategy import Alternative, Look, Plan

_encode = msgspec.json.encode
_MOST_WAYS = 6
"""The cheapest, so that a header stays one; a plan is nearly always among them."""


def explanation(journey: Journey) -> str:
    """Return why the request took its way, as one line of JSON."""
    verdict = journey.verdict
    story: dict[str, JsonValue] = {
        "cache": {tier: _lookup(lookup) for tier, lookup in journey.lookups.items()},
        "plan": None if journey.plan is None else _plan(journey, journey.plan),
        "judge": None if verdict is None else _verdict(verdict, journey.judgings[-1]),
        "attempts": [{"model": a.model.id, "kind": a.kind} for a in journey.attempts],
    }
    if len(journey.verdicts) > 1:
        story["judges"] = _verdicts(journey)
    return _encode(story).decode()


def decision(journey: Journey) -> str | None:
    """Return what was decided and why, for the request's row; None where nothing was to be decided."""
    plan = journey.plan
    if plan is None or not plan.looks:
        return None
    story = {"plan": _plan(journey, plan), "judges": _verdicts(journey)}
    return _encode(story).decode()


def _plan(journey: Journey, plan: Plan) -> JsonValue:
    story: dict[str, JsonValue] = {
        "reason": plan.reason,
        "task": plan.task,
        "rungs": [rung.model for rung in plan.rungs],
    }
    if journey.max_loss is not None:
        story["max_loss"] = journey.max_loss
    if plan.artefact is not None:
        story["artefact"] = _artefact(journey, plan)
    if plan.looks:
        story["features"] = _features(journey.ask, plan)
        story["looks"] = [_look(look) for look in plan.looks]
    if plan.alternatives:
        story["alternatives"] = [_way(way) for way in plan.alternatives[:_MOST_WAYS]]
    if journey.cached_tokens:
        story["cached_tokens"] = dict(journey.cached_tokens)
    return story


def _features(ask: Ask | None, plan: Plan) -> JsonValue:
    if ask is None:
        return None
    return {
        "surface": ask.surface,
        "turns": len(ask.messages),
        "needs": sorted(ask.needs),
        "temperature": ask.temperature,
        "stream": ask.is_stream,
        "input_tokens": plan.input_tokens,
        "output_tokens": plan.output_tokens,
    }


def _artefact(journey: Journey, plan: Plan) -> JsonValue:
    """Return what the route's trained artefact expects, and how much of the route's traffic it does not know."""
    story: dict[str, JsonValue] = {"name": plan.artefact}
    foreseen, lane = plan.foreseen, journey.lane
    if foreseen is not None:
        story["similarity"], story["cutoff"] = _short(foreseen.similarity), _short(foreseen.cutoff)
        story["outside"] = foreseen.is_outside
        story["qualities"] = None if foreseen.is_outside else [_short(quality) for quality in foreseen.qualities]
    if lane is not None and lane.sight is not None:
        story["route_outside"] = _short(lane.sight.gate.share_outside)
    return story


def _look(look: Look) -> JsonValue:
    return {name: _short(value) for name, value in asdict(look).items() if value is not None}


def _way(way: Alternative) -> JsonValue:
    return {
        "rungs": way.models,
        "cost_usd": None if way.cost_nusd is None else float(usd(round(way.cost_nusd))),
        "quality": _short(way.quality),
    }


def _verdicts(journey: Journey) -> JsonValue:
    judged = zip(journey.verdicts, journey.judgings, strict=True)
    return {model: _verdict(verdict, cost) for (model, verdict), cost in judged}


def _verdict(verdict: Verdict, cost: Judging) -> JsonValue:
    story: dict[str, JsonValue] = {
        "confidence": round(verdict.confidence, 4),
        "kept": verdict.is_kept,
        "window": verdict.window,
        "reason": verdict.reason,
        "held_ms": round(cost.held_ms, 3),
        "asked_ms": round(cost.asked_ms, 3),
        "weighed_ms": round(cost.weighed_ms, 3),
        "dropped_tokens": cost.dropped_tokens,
    }
    if verdict.goes_to is not None:
        story["goes_to"] = verdict.goes_to
    if verdict.ways:
        # Dollars as the records' prices had them, which is what the threshold was certified with.
        story["ways"] = [
            {"model": way.model, "quality": _short(way.quality), "usd": float(f"{way.usd:.3g}")} for way in verdict.ways
        ]
    return story


def _short(value: JsonValue) -> JsonValue:
    return round(value, 4) if isinstance(value, float) else value


def _lookup(lookup: object) -> str:
    parts = [type(lookup).__name__.lower()]
    parts += [str(value) for name in ("reason", "detail") if (value := getattr(lookup, name, None))]
    return ":".join(parts)
