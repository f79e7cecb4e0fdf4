"""The contract of `Strategy`, for every implementation, over all kinds of requests."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.asks import parse_ask
from backends.words import Ask, Capability, JsonValue, ModelId, Surface
from router.by_prompt import ByPrompt, Foretold
from router.foresight import Foreseen
from router.judge import Judge
from router.strategy import Cached, Candidate, Cascade, Judged, NoEligibleModel, Pinned, Strategy, Tables
from tests.router.foreseeing import a_sight, foreseen
from tests.served.world import Prices, a_judge

LADDER = [
    Candidate(
        model=ModelId("small"),
        capabilities=frozenset({Capability.CHAT, Capability.LOGPROBS, Capability.JSON_SCHEMA}),
        context_tokens=2000,
    ),
    Candidate(
        model=ModelId("middle"),
        capabilities=frozenset({Capability.CHAT, Capability.TOOLS, Capability.LOGPROBS}),
        context_tokens=None,
    ),
    Candidate(
        model=ModelId("large"),
        capabilities=frozenset({Capability.CHAT, Capability.TOOLS, Capability.LOGPROBS}),
        context_tokens=8000,
    ),
]


def judged(model: str, *, is_shared: bool = False, **changes: JsonValue) -> Judged:
    judge = a_judge(**changes).judge(max_loss=0.05, confidence=0.9, is_shared=is_shared)
    assert isinstance(judge, Judge)
    return Judged(model=ModelId(model), judge=judge, temperature=0.0)


def cascade(ladder: list[Candidate], *judges: Judged) -> Cascade:
    return Cascade(ladder, judged=judges, estimator=Tables(judges, Prices(small=1, middle=3, large=10)))


SIGHT = a_sight(means=(0.5, 0.7, 0.9))

STRATEGIES: dict[str, Strategy] = {
    "pinned": Pinned(LADDER[2]),
    "one rung": cascade(LADDER[2:]),
    "uncalibrated": cascade(LADDER),
    "calibrated": cascade(LADDER, judged("small")),
    "cautious": cascade(LADDER, judged("small", start_small=False)),
    "three rungs": cascade(LADDER, judged("small", is_shared=True), judged("middle", is_shared=True)),
    "tightened": cascade(LADDER, judged("small")).tightened(0.02),
    "by prompt": ByPrompt(
        LADDER,
        sight=SIGHT,
        costs=Prices(small=1, middle=3, large=10),
        least_gain=0.1,
        static=cascade(LADDER, judged("small")),
    ),
    "foretold": Cascade(
        LADDER,
        judged=[judged("small", is_shared=True)],
        estimator=Foretold(
            Tables([judged("small", is_shared=True)], Prices(small=1, middle=3, large=10)),
            sight=SIGHT,
            ladder=[candidate.model for candidate in LADDER],
        ),
        sight=SIGHT,
    ),
}


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    fields = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "temperature": st.sampled_from([0, 0.7]),
                "n": st.integers(1, 3),
                "tools": st.just([{"type": "function"}]),
                "logprobs": st.booleans(),
                "max_tokens": st.integers(1, 10_000),
                "response_format": st.just({"type": "json_schema", "json_schema": {"schema": {}}}),
            },
        )
    )
    turns = draw(st.integers(1, 3))
    text = "word " * draw(st.sampled_from([1, 100, 4000, 20_000]))
    body = {"model": "auto", "messages": [{"role": "user", "content": text}] * turns, **fields}
    return parse_ask(Surface.CHAT, json.dumps(body).encode())


@pytest.mark.parametrize("name", list(STRATEGIES))
@given(
    ask=asks(),
    has_vector=st.booleans(),
    cached=st.sampled_from([{}, {ModelId("large"): 5000}]),
    told=st.sampled_from([None, foreseen(0.9, 0.9, 0.9), foreseen(0.1, 0.8, 0.9), foreseen(0.2, 0.3, 0.9)]),
)
def test_a_plan_keeps_the_contract(name: str, ask: Ask, has_vector: bool, cached: Cached, told: Foreseen | None):
    strategy = STRATEGIES[name]
    vector = np.eye(1, 384, dtype=np.float32)[0] if has_vector else None
    by_model = {candidate.model: candidate for candidate in LADDER}
    try:
        plan = strategy.plan(ask, vector, cached, told)
    except NoEligibleModel:
        return
    models = [rung.model for rung in plan.rungs]
    assert models == [m for m in by_model if m in models]  # in the ladder's order, none twice
    assert models
    assert not plan.rungs[-1].is_judged
    assert all(ask.needs <= by_model[model].capabilities for model in models)
    assert strategy.plan(ask, vector, cached, told) == plan
    assert strategy.foresight(ask) is None or strategy.needs_vector(ask)
    assert strategy.needs_vector(ask) or strategy.plan(ask, None, cached) == strategy.plan(ask, vector, cached)
