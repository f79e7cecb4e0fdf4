"""The demo's larger model as the verifier of a semantic cache: asked for real, with what ships for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from backends.embedder import MiniLM
from backends.fetch import LARGE
from backends.llamacpp import LocalServer, free_port, serve
from backends.words import JsonValue
from semantic_cache.acceptance import Acceptance
from semantic_cache.verifier import request_for
from tests.models.test_llamacpp import CACHE
from tests.served.world import Served, a_policy, serving
from tests.upstream import Upstream, says

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

ASKED = "How do I report a lost library card?"
REPEAT = "My library card has gone missing. Who do I tell?"
TRAP = "How do I report a lost library book?"


@pytest_asyncio.fixture
async def verifier(tmp_path: Path) -> AsyncIterator[LocalServer]:
    file = LARGE.path_in(CACHE)
    if not file.is_file():
        pytest.skip("the larger model is not in the cache; `faregate demo` fetches it")
    async with serve(file, "large", port=free_port(), log=tmp_path / "log", context_tokens=4096) as server:
        # Reads the instruction and the examples, which the prompt cache then has: up to a minute on a busy machine.
        async with httpx.AsyncClient(timeout=300, trust_env=False) as client:
            content = request_for("What is a lamp?", "What is a kettle?", model="large")
            await client.post(f"{server.base_url}/chat/completions", content=content)
        yield server


def verified(large: Upstream, verifier: LocalServer) -> JsonValue:
    """Return a policy whose cached route asks the real model, by the thresholds that ship for it."""
    policy = a_policy([large.url], [verifier.base_url])
    policy["models"]["small"]["name"] = LARGE.path_in(CACHE).stem
    policy["routes"][1]["cache"]["semantic"] = {
        "max_error": 0.01,
        "ttl": "1h",
        "verifier": {
            "model": "small",
            "calibration": LARGE.path_in(CACHE).stem,
            "wait": "always",
            "timeout_ms": 60_000,
            "usd_per_day": 10,
        },
    }
    return policy


async def path_of(gateway: Served, question: str) -> tuple[str, list[JsonValue]]:
    """Ask, and return the answer's path and the charges of the request's questions to the verifier."""
    seen = await gateway.ask(question, model="cached")
    rows = await gateway.rows_of(seen)
    await gateway.stored()
    return seen.headers["x-faregate-path"], [row for row in rows.charges if row["kind"] == "verifier"]


async def test_a_repeat_in_other_words_is_served_by_the_models_word_and_a_trap_is_not(
    tmp_path: Path, verifier: LocalServer
):
    embedder = MiniLM.load()
    acceptance = Acceptance.load(states=embedder.states)
    async with (
        Upstream({"": says("Fill in the form.")}) as large,
        serving(tmp_path, verified(large, verifier), acceptance=acceptance) as gateway,
    ):
        assert await path_of(gateway, ASKED) == ("large", [])
        served, asked = await path_of(gateway, REPEAT)
        refused, asked_too = await path_of(gateway, TRAP)

    assert (served, refused) == ("cache:semantic", "large")
    assert [len(asked), len(asked_too)] == [1, 1]
    assert min(charge["cost_nusd"] for charge in asked + asked_too) > 0
