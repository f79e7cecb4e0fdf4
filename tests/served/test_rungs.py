"""Models that differ in their parameters only, on one pool: what is sent and what is booked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.served.world import Served, a_policy, serving
from tests.upstream import Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream({"": says("an answer of five words")}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    policy = a_policy([upstream.url])
    for effort in ("low", "high"):
        policy["models"][f"large@{effort}"] = {**policy["models"]["large"], "parameters": {"reasoning_effort": effort}}
    policy["routes"] = [
        {"name": "low", "match": {"model": "low-alias"}, "ladder": ["large@low"]},
        {"name": "high", "ladder": ["large@low", "large@high"]},
    ]
    async with serving(tmp_path_factory.mktemp("rungs"), policy) as served:
        yield served


@pytest.mark.parametrize(("model", "effort"), [("low", "low"), ("high", "high"), ("large@low", "low")])
async def test_a_rungs_parameters_reach_its_upstream(gateway: Served, upstream: Upstream, model: str, effort: str):
    seen = await gateway.ask(f"to {model}", model=model, reasoning_effort="medium")
    rows = await gateway.rows_of(seen)
    assert upstream.last.json["reasoning_effort"] == effort
    assert upstream.last.json["model"] == "huge-70b"
    assert seen.headers["x-faregate-model"] == f"large@{effort}"
    assert [(c["model"], c["pool"]) for c in rows.charges] == [(f"large@{effort}", "large")]
