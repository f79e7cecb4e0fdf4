"""A ladder with two judged rungs, from outcome records by `faregate calibrate` to what is served and booked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from backends.words import JsonValue
from gateway.cli import main
from policies.sealed import seal
from tests.router.outcomes import rows, write
from tests.served.world import LARGE_NAME, SMALL_NAME, Served, a_policy, serving, write_policy
from tests.upstream import UNSURE, Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these

MIDDLE_NAME = "mid-7b"
NOWHERE = "http://127.0.0.1:9/v1"
HARD, HARDER = (f"topic5 word5 about thing5, question number {n}" for n in (9001, 9002))
EASY = "topic5 word5 about thing5, question number 9003"
UNSURE_ONE = says("perhaps not this one", logprob=UNSURE)
FILES = ["fitted-small.json", "fitted-middle.json"]


def a_ladder(small: str, middle: str, large: str, **quality: JsonValue) -> JsonValue:
    policy = a_policy([large], [small])
    price = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 3}
    policy["models"]["middle"] = {**policy["models"]["small"], "name": MIDDLE_NAME, "pool": "middle", "price": price}
    policy["pools"]["middle"] = {**policy["pools"]["small"], "endpoints": [middle]}
    stated = {"max_loss": 0.1, "confidence": 0.9, **quality}
    policy["routes"] = [{**policy["routes"][2], "ladder": ["small", "middle", "large"], "quality": stated}]
    return policy


def calibrated(place: Path, policy: JsonValue, *more: str) -> Result:
    records = place / "records.jsonl"
    if not records.exists():
        made = rows(420, models=(SMALL_NAME, MIDDLE_NAME, LARGE_NAME))
        write(records, [{**row, "signal": min(row["signal"], -0.01)} for row in made])
    options = ["--policy", str(write_policy(place, policy)), "--route", "cascade", "--out", str(place / "fitted.json")]
    files = ["--outcomes", str(records), "--vectors", str(place / "v.npz")]
    return CliRunner().invoke(main, ["calibrate", *options, *files, *more])


def names_in(place: Path) -> set[str]:
    return {file.name for file in place.iterdir()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joint")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(place: Path) -> AsyncIterator[Served]:
    made = calibrated(place, a_ladder(NOWHERE, NOWHERE, NOWHERE))
    assert made.exit_code == 0, made.output
    async with (
        Upstream({"": says("a small answer"), HARD: UNSURE_ONE, HARDER: UNSURE_ONE}) as small,
        Upstream({"": says("a middle answer"), HARDER: UNSURE_ONE}) as middle,
        Upstream({"": says("the large answer")}) as large,
        serving(place, a_ladder(small.url, middle.url, large.url, calibrations=FILES)) as served,
    ):
        yield served


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("question", "path"), [(EASY, "small"), (HARD, "small>middle"), (HARDER, "small>middle>large")]
)
async def test_records_make_judges_that_serve_the_whole_ladder(gateway: Served, question: str, path: str, stream: bool):
    seen = await gateway.ask(question, model="auto", stream=stream)
    booked = await gateway.rows_of(seen)
    *rejected, answer = path.split(">")
    assert seen.headers["x-faregate-path"] == path
    assert [(c["model"], c["kind"]) for c in booked.charges] == [
        *((model, "rejected") for model in rejected),
        (answer, "answer"),
    ]
    assert booked.requests[0]["plan_reason"] == "cascade"


async def test_both_judges_of_one_fit_keep_the_same_promise_at_one_threshold(gateway: Served):
    judges = gateway.opened.gateway.parts.lanes["cascade"].judges
    first, second = (judge.promise for judge in judges.values())
    assert (first.threshold, first.bound, first.n) == (second.threshold, second.bound, second.n)
    assert first.bound <= first.max_loss == 0.1
    assert not first.is_shared


async def test_a_client_that_asks_for_less_than_the_ladder_keeps_gets_the_baseline(gateway: Served):
    seen = await gateway.ask(EASY, model="auto", headers={"x-faregate-quality": "max_loss=0.0001"})
    assert seen.headers["x-faregate-path"] == "large"


async def test_a_promise_that_no_threshold_keeps_is_said_with_what_would_and_nothing_is_written(
    gateway: Served,  # noqa: ARG001 - it made the records and their embeddings
    place: Path,
    tmp_path: Path,
):
    for name in ("records.jsonl", "v.npz"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    policy = a_ladder(NOWHERE, NOWHERE, NOWHERE)
    policy["routes"][0]["ladder"] = ["small", "large"]
    said = calibrated(tmp_path, policy, "--max-loss", "0.001")
    assert said.exit_code == 1
    assert "no threshold keeps the promise" in said.stderr
    assert "more records" in said.stderr
    assert said.stdout == ""
    assert "fitted.json" not in names_in(tmp_path)


@pytest.mark.parametrize(
    ("files", "why"),
    [(FILES[:1], "hold together only"), ([FILES[0], "other.json"], "hold together only"), (FILES, "for the ladder")],
)
async def test_judges_fitted_together_serve_together_or_not_at_all(
    gateway: Served,  # noqa: ARG001 - it made the calibrations
    place: Path,
    tmp_path: Path,
    files: list[str],
    why: str,
):
    for name in FILES:
        (tmp_path / name).write_bytes((place / name).read_bytes())
    other = json.loads((place / FILES[1]).read_text())
    (tmp_path / "other.json").write_text(seal({n: v for n, v in other.items() if n != "sha256"} | {"fit": "another"}))
    policy = a_ladder(NOWHERE, NOWHERE, NOWHERE, calibrations=files)
    if why == "for the ladder":
        policy["models"]["large"]["name"] = "another-one"
    said = CliRunner().invoke(main, ["check", "--policy", str(write_policy(tmp_path, policy))])
    assert why in " ".join(said.output.split())
