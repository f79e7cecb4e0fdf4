"""Three rungs, two of them judged: how far a request climbs, what its client may tighten, and what it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from router.judge import TEXT_FEATURES, Signal
from tests.served.world import Served, a_judge, a_policy, serving
from tests.upstream import UNSURE, Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these

UNSURE_ONE = says("perhaps not this one at all", logprob=UNSURE)
HARD, HARDER = "not for the small one", "nor for the middle one"
SMALL = {"": says("a small answer in a few words"), HARD: UNSURE_ONE, HARDER: UNSURE_ONE}
MIDDLE = {"": says("a middle answer in a few words"), HARDER: UNSURE_ONE}
LARGE = {"": says("the large answer of several words")}
WHY = {"x-faregate-explain": "true"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    place = tmp_path_factory.mktemp("ladders")
    for name, model in (("first.json", "tiny-1b"), ("second.json", "mid-7b")):
        (place / name).write_text(a_judge(small=model).dump())
    async with Upstream(SMALL) as small, Upstream(MIDDLE) as middle, Upstream(LARGE) as large:
        policy = a_policy([large.url], [small.url])
        price = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 6, "cached_input_usd_per_mtok": 0.3}
        policy["models"]["middle"] = {**policy["models"]["small"], "name": "mid-7b", "pool": "middle", "price": price}
        policy["pools"]["middle"] = {**policy["pools"]["small"], "endpoints": [middle.url]}
        quality = {"max_loss": 0.05, "confidence": 0.9, "calibrations": ["second.json", "first.json"]}
        policy["routes"] = [{**policy["routes"][2], "ladder": ["small", "middle", "large"], "quality": quality}]
        async with serving(place, policy) as served:
            yield served


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("question", "path"),
    [("easy", "small"), (HARD, "small>middle"), (HARDER, "small>middle>large")],
)
async def test_every_judged_rung_may_keep_its_answer(gateway: Served, question: str, path: str, stream: bool):
    seen = await gateway.ask(question, model="auto", stream=stream)
    rows = await gateway.rows_of(seen)
    *rejected, answer = path.split(">")
    assert (seen.headers["x-faregate-path"], seen.text.split()[1]) == (path, answer)
    assert [(c["model"], c["kind"]) for c in rows.charges] == [*((m, "rejected") for m in rejected), (answer, "answer")]
    assert rows.requests[0]["cost_nusd"] == sum(c["cost_nusd"] for c in rows.charges)


async def test_a_decision_tells_what_it_saw_expected_and_weighed(gateway: Served):
    seen = await gateway.ask(HARD, model="auto", headers=WHY)
    rows = await gateway.rows_of(seen)
    told, kept = (json.loads(t) for t in (seen.headers["x-faregate-explain"], rows.requests[0]["decision"]))
    assert kept["plan"] == told["plan"]
    plan = told["plan"]
    assert [look["threshold"] for look in plan["looks"]] == [0.5, 0.5]
    assert plan["features"]["needs"] == ["chat"]
    assert plan["alternatives"][0]["rungs"] == plan["rungs"] == ["small", "middle", "large"]
    assert [way["cost_usd"] for way in plan["alternatives"]] == sorted(way["cost_usd"] for way in plan["alternatives"])
    assert all(0.7 < way["quality"] <= 0.8 for way in plan["alternatives"])
    assert {model: judge["kept"] for model, judge in told["judges"].items()} == {"small": False, "middle": True}


@pytest.mark.parametrize(
    ("asked", "path"), [("max_loss=0.9", "small"), ("max_loss=0.03", "small"), ("max_loss=0", "large")]
)
async def test_a_client_may_only_tighten_the_loss(gateway: Served, asked: str, path: str):
    seen = await gateway.ask("easy", model="auto", headers={"x-faregate-quality": asked})
    assert (seen.status, seen.headers["x-faregate-path"]) == (200, path)


@pytest.mark.parametrize("asked", ["", "max_loss=1", "max_loss=-0.1", "max_loss=nan", "best"])
async def test_a_quality_that_says_nothing_is_refused(gateway: Served, asked: str):
    seen = await gateway.ask("easy", model="auto", headers={"x-faregate-quality": asked})
    assert seen.status == 400
    assert "expected max_loss=NUMBER" in seen.error["message"]


async def test_a_pinned_model_answers_whatever_the_quality(gateway: Served):
    seen = await gateway.ask("easy", model="small", headers={"x-faregate-quality": "max_loss=0"})
    assert seen.headers["x-faregate-path"] == "small"


async def test_a_conversation_stays_where_its_prompt_is_cached(gateway: Served):
    rules = {"role": "system", "content": "follow the rules " * 2000}

    async def ask(question: str, model: str, **headers: str) -> str:
        body = {"model": model, "temperature": 0, "max_tokens": 8}
        body["messages"] = [rules, {"role": "user", "content": question}]
        seen = await gateway.send("/v1/chat/completions", body, headers=headers)
        return seen.headers["x-faregate-path"]

    session = {"x-faregate-session": "s1"}
    assert await ask("begin", "large", **session) == "large"
    assert await ask("easy", "auto") == "small"
    assert await ask("easy", "auto", **session) == "small"  # 7 tokens, as this upstream counts them, save nothing


async def test_a_model_without_logprobs_is_judged_by_its_whole_answer(tmp_path: Path):
    hedged = says("perhaps it might be that I think")
    windows = tuple(
        replace(
            w,
            weights=tuple(-9.0 if n == "log_hedges" else 0.0 for n in TEXT_FEATURES),
            centre=(0.0,) * 8,
            scale=(1.0,) * 8,
        )
        for w in a_judge().windows
        if w.tokens is None
    )
    made = replace(a_judge(), signal=Signal.TEXT, max_characters=1000, windows=windows)
    (tmp_path / "text.json").write_text(made.dump())
    async with Upstream({"": says("a small answer in a few words"), HARD: hedged}) as small, Upstream(LARGE) as large:
        policy = a_policy([large.url], [small.url])
        policy["models"]["small"]["capabilities"] = ["chat"]
        policy["routes"] = [policy["routes"][2]]
        policy["routes"][0]["quality"]["calibration"] = "text.json"
        async with serving(tmp_path, policy) as gateway:
            paths = [
                (await gateway.ask(question, model="auto", stream=True)).headers["x-faregate-path"]
                for question in ("easy", HARD)
            ]
    assert paths == ["small", "small>large"]
    assert not any("logprobs" in request.json for request in small.requests)
