"""Routes whose trained artefact judges the answers too: from the request to its row, and every reason to refuse it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backends.words import JsonValue
from tests.router.foreseeing import a_judging_artefact, a_promise
from tests.served.world import LARGE_NAME, SMALL_NAME, Served, a_policy, serving
from tests.upstream import UNSURE, Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these

TWO = (SMALL_NAME, LARGE_NAME)
THREE = (SMALL_NAME, "mid-7b", LARGE_NAME)
HARD, CUT = "a hard one", "an endless one"
UNSURE_ONE = says("perhaps not this one", logprob=UNSURE)
SMALL = {
    "": says("a small answer in a few words"),
    HARD: UNSURE_ONE,
    CUT: says("a small answer without end", finish="length"),
}
QUALITY = {"max_loss": 0.05, "confidence": 0.9}
WHY = {"x-faregate-explain": "true"}


def route(name: str, artefact: str, *ladder: str, **fields: JsonValue) -> JsonValue:
    rungs = list(ladder or ("small", "large"))
    router = {"artefact": artefact, **fields.pop("router", {})}
    return {"name": name, "match": {"model": f"{name}-alias"}, "ladder": rungs, "router": router, **fields}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    place = tmp_path_factory.mktemp("judging")
    promise = a_promise(max_loss=0.05, setting=1)
    files = {
        "two.json": a_judging_artefact(TWO, promise=promise),
        "none.json": a_judging_artefact(TWO, promise=a_promise(max_loss=0.05, setting=0)),
        "passing.json": a_judging_artefact(THREE, promise=promise),
        "stepping.json": a_judging_artefact(THREE, promise=promise, worth_of_next=1.0),
        "open.json": a_judging_artefact(TWO, promise=None),
        "strange.json": a_judging_artefact(TWO, promise=promise, signal=None),
        "other.json": a_judging_artefact(("a", "b"), promise=promise),
    }
    for name, artefact in files.items():
        (place / name).write_text(artefact.dump())
    (place / "changed.json").write_text(files["two.json"].dump().replace('"setting":1', '"setting":0'))
    async with (
        Upstream(SMALL) as small,
        Upstream({"": says("a middle answer")}) as middle,
        Upstream({"": says("the large answer")}) as large,
    ):
        policy = a_policy([large.url], [small.url])
        models, pools = policy["models"], policy["pools"]
        models["middle"] = {**models["small"], "name": "mid-7b", "pool": "middle"}
        pools["middle"] = {**pools["small"], "endpoints": [middle.url]}
        models["mute"] = {**models["small"], "capabilities": ["chat"]}
        policy["routes"] = [
            route("two", "two.json", quality=QUALITY),
            route("none", "none.json", quality=QUALITY),
            route("free", "two.json"),
            route("passing", "passing.json", "small", "middle", "large", quality=QUALITY),
            route("stepping", "stepping.json", "small", "middle", "large", quality=QUALITY),
            route("audited", "two.json", quality={**QUALITY, "audit": {"share": 1}}),
            route("both", "two.json", quality={**QUALITY, "calibration": "judge.json"}),
            route("strict", "two.json", quality={**QUALITY, "max_loss": 0.01}),
            route("open", "open.json", quality=QUALITY),
            route("strange", "strange.json", quality=QUALITY),
            route("other", "other.json", quality=QUALITY),
            route("changed", "changed.json", quality=QUALITY),
            route("silent", "two.json", "mute", "large", quality=QUALITY),
            route("texts", "two.json", quality={**QUALITY, "signals": {"small": "text"}}),
            route("gain", "two.json", router={"least_gain": 0.2}),
        ]
        async with serving(place, policy) as served:
            yield served


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("model", "question", "path"),
    [
        ("two", "easy", "small"),
        ("two", HARD, "small>large"),
        ("two", CUT, "small>large"),  # no record's answer was cut
        ("none", "easy", "small>large"),  # the threshold decides
        ("free", "easy", "small"),
        ("passing", HARD, "small>large"),  # the middle one is not worth its price
        ("stepping", HARD, "small>middle"),
        ("both", HARD, "small>large"),
    ],
)
async def test_answers_are_kept_or_left_for_the_rung_that_is_worth_most(
    gateway: Served, model: str, question: str, path: str, stream: bool
):
    seen = await gateway.ask(question, model=model, stream=stream)
    rows = await gateway.rows_of(seen)
    *rejected, answer = path.split(">")
    assert (seen.status, seen.headers["x-faregate-path"]) == (200, path)
    assert [(c["model"], c["kind"]) for c in rows.charges] == [*((m, "rejected") for m in rejected), (answer, "answer")]
    assert rows.requests[0]["cost_nusd"] == sum(c["cost_nusd"] for c in rows.charges)


@pytest.mark.parametrize("model", ["strict", "open", "strange", "other", "changed", "silent", "texts", "gain"])
async def test_an_artefact_that_does_not_fit_leaves_the_baseline(gateway: Served, model: str):
    assert (await gateway.ask("easy", model=model)).headers["x-faregate-path"] == "large"


async def test_what_was_weighed_is_told_also_in_the_books(gateway: Served):
    seen = await gateway.ask(HARD, model="passing", headers=WHY)
    rows = await gateway.rows_of(seen)
    told, kept = (json.loads(t) for t in (seen.headers["x-faregate-explain"], rows.requests[0]["decision"]))
    judge = kept["judges"]["small"]
    assert told["judge"]["goes_to"] == judge["goes_to"] == "large"
    assert (judge["kept"], judge["window"], judge["reason"]) == (False, "whole", "below_threshold")
    assert [way["model"] for way in judge["ways"]] == ["small", "middle", "large"]
    assert judge["ways"][0]["quality"] < judge["ways"][2]["quality"]
    assert rows.requests[0]["confidence"] == pytest.approx(judge["confidence"], abs=1e-3)


async def test_clients_are_not_shown_the_log_probabilities_it_weighs(gateway: Served):
    seen = await gateway.ask("easy", model="two", stream=True)
    assert not any(choice.get("logprobs") for chunk in seen.chunks for choice in chunk["choices"])


async def test_a_client_that_wants_less_loss_than_its_threshold_keeps_gets_the_baseline(gateway: Served):
    for asked, path in (("max_loss=0.05", "small"), ("max_loss=0.01", "large")):
        seen = await gateway.ask("easy", model="two", headers={"x-faregate-quality": asked})
        assert seen.headers["x-faregate-path"] == path


async def test_what_its_judge_keeps_is_audited(gateway: Served):
    seen = await gateway.ask("easy and audited", model="audited")
    await gateway.opened.gateway.parts.auditor.settled()
    rows = await gateway.rows_of(seen)
    assert [(row["model"], row["kind"]) for row in rows.charges] == [("small", "answer"), ("large", "audit")]


async def test_each_refusal_says_why_and_alarms(gateway: Served):
    ready = (await gateway.send("/health/readiness", method="GET")).json
    page = (await gateway.send("/metrics", method="GET")).body.decode()
    reasons = {one["route"]: one["reason"] for one in ready["refused_artefacts"]}
    expected = {
        "open": "holds no threshold",
        "strange": "not known to be the answers' mean log-probability",
        "other": "for the ladder a, b",
        "changed": "was changed or cut",
        "silent": "models.mute is not said to tell log-probabilities",
        "texts": "and the policy by text",
        "gain": "`least_gain` is for artefacts of",
    }
    assert set(reasons) == set(expected)
    assert [name for name, said in expected.items() if said not in reasons[name]] == []
    assert 'faregate_artefact_state{route="open",state="refused"} 1.0' in page


async def test_calibrations_beside_it_judge_and_that_is_said(gateway: Served):
    lanes = gateway.opened.gateway.parts.lanes
    assert lanes["both"].judges["small"].signal == "logprobs"
    assert lanes["both"].judges["small"].promise.is_shared  # of any part of the answers: the artefact chooses
    assert any("route both: its calibrations judge" in said for said in gateway.opened.warnings)
    assert any("route strict: its artefact chooses nothing" in said for said in gateway.opened.warnings)
