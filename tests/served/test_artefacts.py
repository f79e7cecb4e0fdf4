"""Routes whose trained artefact chooses the rung: what is served, booked and told, and what a refused one does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backends.words import JsonValue
from tests.router.foreseeing import a_promise, an_artefact
from tests.served.world import LARGE_NAME, SMALL_NAME, Served, a_policy, serving
from tests.upstream import Upstream, says, unused_url

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these

LADDER = (SMALL_NAME, LARGE_NAME)
WHY = {"x-faregate-explain": "true"}
QUALITY = {"max_loss": 0.05, "confidence": 0.9}


def route(name: str, artefact: str, **fields: JsonValue) -> JsonValue:
    return {"name": name, "match": {"model": f"{name}-alias"}, "ladder": ["small", "large"], **fields} | {
        "router": {"artefact": artefact}
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    place = tmp_path_factory.mktemp("artefacts")
    promise = a_promise(max_loss=0.05, setting=1)
    files = {
        "easy.json": an_artefact(0.9, 0.91, ladder=LADDER),
        "hard.json": an_artefact(0.02, 0.9, ladder=LADDER, means=(0.7, 0.9)),
        "strange.json": an_artefact(0.9, 0.9, ladder=LADDER, cutoff=10.0),
        "own.json": an_artefact(0.2, 0.9, ladder=LADDER, promise=promise),
        "down.json": an_artefact(0.9, 0.9, ladder=("down-1b", LARGE_NAME)),
        "other.json": an_artefact(0.9, 0.9, ladder=("a", "b")),
    }
    for name, artefact in files.items():
        (place / name).write_text(artefact.dump())
    (place / "cut.json").write_text(files["easy.json"].dump()[:500])
    async with Upstream({"": says("small says so")}) as small, Upstream({"": says("large says so")}) as large:
        policy = a_policy([large.url], [small.url])
        policy["models"]["down"] = {**policy["models"]["small"], "name": "down-1b", "pool": "down"}
        policy["pools"]["down"] = {**policy["pools"]["small"], "endpoints": [unused_url()]}
        policy["routes"] = [
            route("easy", "easy.json"),
            route("cached", "easy.json", cache={"semantic": {"max_error": 0.05}, "exact": {}}),
            route("hard", "hard.json"),
            route("strange", "strange.json"),
            route("own", "own.json", quality=QUALITY),
            route("audited", "own.json", quality={**QUALITY, "audit": {"share": 1}}),
            route("judged", "hard.json", quality={**QUALITY, "calibration": "judge.json"}),
            route("other", "other.json"),
            route("cut", "cut.json", quality={**QUALITY, "calibration": "judge.json"}),
            route("off", "none"),
            {**route("broken", "down.json"), "ladder": ["down", "large"]},
        ]
        async with serving(place, policy) as served:
            yield served


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("easy", "small"),
        ("cached", "small"),
        ("hard", "large"),
        ("strange", "large"),
        ("own", "small"),  # its threshold says so, whatever it expects
        ("judged", "large"),  # the judged rung would only cost
        ("other", "large"),  # refused: static, and without calibrations that is the baseline
        ("cut", "small"),  # refused: static, and judged
        ("off", "large"),
    ],
)
async def test_an_artefact_chooses_where_it_may(gateway: Served, model: str, path: str):
    seen = await gateway.ask("What is it?", model=model)
    rows = await gateway.rows_of(seen)
    assert seen.headers["x-faregate-path"] == path
    assert [(row["model"], row["kind"]) for row in rows.charges] == [(path, "answer")]


async def test_a_decision_tells_what_was_expected_and_weighed_also_in_the_books(gateway: Served):
    seen = await gateway.ask("And this?", model="easy", headers=WHY)
    rows = await gateway.rows_of(seen)
    told, kept = (json.loads(t)["plan"] for t in (seen.headers["x-faregate-explain"], rows.requests[0]["decision"]))
    assert told["reason"] == kept["reason"] == "artefact_expects_enough"
    assert told["artefact"]["qualities"] == [0.9, 0.91]
    assert (told["artefact"]["name"], told["artefact"]["outside"]) == ("easy.json", False)
    assert [way["rungs"] for way in told["alternatives"]] == [["small"], ["large"]]
    assert told["alternatives"][0]["cost_usd"] < told["alternatives"][1]["cost_usd"]
    assert told["looks"][0]["threshold"] == 0.1


async def test_a_prompt_unlike_the_training_says_how_unlike(gateway: Served):
    seen = await gateway.ask("What is that?", model="strange", headers=WHY)
    told = json.loads(seen.headers["x-faregate-explain"])["plan"]
    assert (told["reason"], told["artefact"]["outside"]) == ("prompt_unlike_artefact", True)
    assert told["artefact"]["similarity"] < told["artefact"]["cutoff"]
    assert told["artefact"]["qualities"] is None
    assert told["artefact"]["route_outside"] == 1.0


async def test_when_the_chosen_model_fails_the_baseline_answers(gateway: Served):
    seen = await gateway.ask("What is it?", model="broken")
    assert (seen.status, seen.headers["x-faregate-path"]) == (200, "large")


async def test_a_client_that_wants_less_loss_than_nothing_promised_gets_the_baseline(gateway: Served):
    seen = await gateway.ask("What is it now?", model="easy", headers={"x-faregate-quality": "max_loss=0.01"})
    assert seen.headers["x-faregate-path"] == "large"


async def test_what_an_artefact_lets_through_is_audited_like_any_small_answer(gateway: Served):
    seen = await gateway.ask("What is it again?", model="audited")
    await gateway.opened.gateway.parts.auditor.settled()
    rows = await gateway.rows_of(seen)
    assert [(row["model"], row["kind"]) for row in rows.charges] == [("small", "answer"), ("large", "audit")]


async def test_a_refused_artefact_alarms_and_its_route_goes_on(gateway: Served):
    ready = (await gateway.send("/health/readiness", method="GET")).json
    page = (await gateway.send("/metrics", method="GET")).body.decode()
    assert {one["route"] for one in ready["refused_artefacts"]} == {"other", "cut"}
    assert 'faregate_artefact_state{route="cut",state="refused"} 1.0' in page
    assert 'faregate_artefact_state{route="easy",state="serving"} 1.0' in page
    assert 'faregate_artefact_outside_share{route="easy"} 0.0' in page
    warned = [one for one in gateway.opened.warnings if "artefact is refused" in one]
    assert ["cut short" in warned[1], "ladder a, b" in warned[0]] == [True, True]


async def test_a_judge_beside_an_artefact_is_held_to_bounds_for_any_part(gateway: Served):
    lanes = gateway.opened.gateway.parts.lanes
    assert lanes["judged"].judges["small"].promise.is_shared
    assert not lanes["cut"].judges["small"].promise.is_shared
