"""How many real-shaped answers are priced right: ours beside genai-prices' own reading of them.

Usage: python -m load_tests.compare_usage [--names]

Both use genai-prices' rates; what differs is who reads the usage. An answer is right when its cost is that of the
table (`tests/usage_shapes.py`) to the nano-dollar, as marked when it is said to be an estimate or unknown, and else as
wrong. genai-prices is given the flavour of each answer (any that fits counts), the last event of a stream, and its
service tier; where it refuses, that is a mark.
"""

from __future__ import annotations

import sys
from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal

import genai_prices
import msgspec

from backends.price_list import provider_schedule
from backends.prices import STANDARD_TIERS
from backends.replies import read_chunk, read_whole
from backends.usage import merge_usage
from backends.words import Usage
from gateway.ledger.rows import CostProvenance
from gateway.settlement import charged
from policies.schema import Stated
from tests.usage_shapes import SHAPES, Shape

_FLAVOURS = ("default", "chat", "responses", "embeddings", "images", "anthropic", "gemini", "converse")


def main() -> None:
    """Print the counts, and with `--names` what each answer came to."""
    ours, theirs = Counter[str](), Counter[str]()
    for shape in SHAPES:
        mine, their = our_verdict(shape), their_verdict(shape)
        ours[mine] += 1
        theirs[their] += 1
        if "--names" in sys.argv:
            print(f"{mine:8} {their:8} {shape.provider:12} {shape.name}")
    for name, verdicts in (("faregate", ours), ("genai-prices", theirs)):
        said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        print(f"{name}: of {len(SHAPES)} answers {said}")


def our_verdict(shape: Shape) -> str:
    """Return what the gateway's own way makes of an answer."""
    usage: Usage | None = None
    tier: str | None = None
    read = read_whole if len(shape.events) == 1 else read_chunk
    for payload in shape.payloads:
        event = read(payload)
        tier = event.tier or (event.usage.tier if event.usage else None) or tier
        usage = merge_usage(usage, event.usage) if event.usage is not None else usage
    if usage is None:
        return "marked"
    tier = "" if tier is None or tier in STANDARD_TIERS else tier
    rates = provider_schedule(shape.provider, shape.model).at(shape.at, usage.total_input_tokens, tier)
    stated = Stated.TRUST if shape.provider == "openrouter" else None
    cost, provenance = charged(usage, rates, tier=tier, stated=stated)
    if provenance in {CostProvenance.ESTIMATED, CostProvenance.UNKNOWN}:
        return "marked"
    return "right" if cost == shape.cost_nusd else "wrong"


def their_verdict(shape: Shape) -> str:
    """Return what genai-prices' extraction and calculation make of an answer, at their best."""
    costs = [cost for flavour in _flavours(shape) if (cost := _their_cost(shape, flavour)) is not None]
    if not costs:
        return "marked"
    if shape.cost_nusd is None:
        return "wrong"  # it invents what nobody can tell
    return "right" if shape.cost_nusd in costs else "wrong"


def _flavours(shape: Shape) -> tuple[str, ...]:
    return _FLAVOURS if shape.extractor is None else (shape.extractor, "default")


def _their_cost(shape: Shape, flavour: str) -> int | None:
    event = msgspec.json.decode(shape.payloads[-1])
    tier = event.get("service_tier")
    context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier} if tier is not None else None
    event.setdefault("model", shape.model)
    event.setdefault("modelVersion", shape.model)
    try:
        found = genai_prices.extract_usage(event, provider_id=shape.provider, api_flavor=flavour)
        priced = genai_prices.calc_price(
            found.usage,
            shape.model,
            provider_id=shape.provider,
            genai_request_timestamp=shape.at,
            price_context=context,
        )
    except (ValueError, LookupError, TypeError):
        return None
    return int((priced.total_price * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


if __name__ == "__main__":
    main()
