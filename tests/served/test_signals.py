"""A small model without log-probabilities: asked again about its answer, paid for, and kept or climbed from by that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from backends.clock import SystemClock
from backends.words import JsonValue
from gateway.ledger.judging import judging_lines
from gateway.prepare import lanes, price_book
from gateway.verdicts import Verdicts
from policies.loader import load_policy
from policies.signals import Signal
from router.judge import TEXT_FEATURES, TOOLS, Calibration
from router.probe import PROBED, method_of
from tests.served.world import Served, a_judge, a_policy, serving
from tests.upstream import Act, Received, Says, Upstream, refuses, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}
RIGHT_CALL = '{"city": "Oslo"}'
BAD_CALLS = {
    "other arguments": ("weather", '{"city": 7}'),
    "no json": ("weather", '{"city": '),
    "other tool": ("traffic", RIGHT_CALL),
}


def call(name: str, arguments: str) -> Says:
    return Says(
        tool_calls=({"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}},),
        finish="tool_calls",
    )


def small_script(received: Received) -> Act:
    """Answer wrongly where the question says so, and tell in a self-check whether the answer was right."""
    body = received.json
    if "Is the answer correct" in received.text:
        if "broken check" in received.text:
            return refuses(500, "down")
        if "unclear check" in received.text:
            return says("Perhaps.")
        return says("No." if "secretly wrong" in received.text or "Bergen" in received.text else "Yes")
    if body.get("tools"):
        known = {"right call": ("weather", RIGHT_CALL), "doubted call": ("weather", '{"city": "Bergen"}'), **BAD_CALLS}
        return call(*known[received.text])
    if body["temperature"] == 0.7:
        second = {"doubted": "something else with 9 in it", "json": '{"b": [1], "a": 2}', "mute": ""}
        return says(second.get(received.text, "It is **12 KM**."))
    first = {"doubted": "it is secretly wrong", "json": '{"a": 2, "b": [1]}'}
    return says(first.get(received.text, "it is 12 km"))


def a_signal_judge(signal: Signal, *, has_logprobs: bool = False, has_tools: bool = False) -> Calibration:
    """Return a calibration that keeps answers whose first probed feature is positive; of text, all of them."""
    names = (*TEXT_FEATURES[:-1], *PROBED.get(signal, ()), "task_prior")
    steered = {name: (8.0 if name == PROBED.get(signal, ("",))[0] else 0.0) for name in names}
    made = a_judge()
    whole = replace(
        made.windows[0],
        weights=tuple(steered.values()),
        centre=tuple(0.5 if name == "says_the_same" else 0.0 for name in names),
        scale=tuple(1.0 for _ in names),
        intercept=0.0 if signal.asks_again else 4.0,
    )
    windows = (whole, *((replace(whole, name=TOOLS),) if has_tools else ()))
    kept = made.steps[0].windows["whole"]
    step = replace(made.steps[0], windows={window.name: kept for window in windows})
    method = method_of(signal, has_logprobs=has_logprobs)
    return replace(made, signal=signal, method=method, max_characters=1000, windows=windows, steps=(step,))


def without_logprobs(policy: JsonValue) -> JsonValue:
    policy["models"]["small"]["capabilities"] = ["chat", "json_schema", "tools"]
    base = policy["routes"][2]
    policy["routes"] = [
        {
            **base,
            "name": signal,
            "match": {"model": f"{signal}-alias"},
            "quality": {**base["quality"], "calibration": f"{signal}.json", "signals": {"small": signal}},
        }
        for signal in ("self_check", "agreement", "text")
    ]
    return policy


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Upstream, Upstream, Served]]:
    place = tmp_path_factory.mktemp("signals")
    for signal in (Signal.SELF_CHECK, Signal.AGREEMENT, Signal.TEXT):
        made = a_signal_judge(signal, has_tools=signal is not Signal.AGREEMENT)
        (place / f"{signal}.json").write_text(made.dump())
    async with (
        Upstream(small_script) as small,
        Upstream({"": says("the large answer of several words")}) as large,
        serving(place, without_logprobs(a_policy([large.url], [small.url]))) as gateway,
    ):
        yield small, large, gateway


@pytest.fixture
def small(shared: tuple[Upstream, Upstream, Served]) -> Upstream:
    shared[0].requests.clear()
    return shared[0]


@pytest.fixture
def gateway(shared: tuple[Upstream, Upstream, Served]) -> Served:
    return shared[2]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("signal", "kind"), [("self_check", "self_check"), ("agreement", "sample")])
async def test_an_answer_its_own_model_stands_by_is_kept(gateway: Served, signal: str, kind: str, stream: bool):
    seen = await gateway.ask("sure", model=signal, stream=stream)
    rows = await gateway.rows_of(seen)
    (request,) = rows.requests
    assert (seen.text, seen.headers["x-faregate-path"]) == ("it is 12 km", "small")
    assert {(c["kind"], c["model"]) for c in rows.charges} == {("answer", "small"), (kind, "small")}
    assert request["cost_nusd"] == sum(c["cost_nusd"] for c in rows.charges)
    assert request["baseline_nusd"] == 150_000  # of the answer alone: 7 tokens in and 4 out


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("signal", "kind"), [("self_check", "self_check"), ("agreement", "sample")])
async def test_an_answer_its_own_model_doubts_is_climbed_from_unseen(
    gateway: Served, signal: str, kind: str, stream: bool
):
    seen = await gateway.ask("doubted", model=signal, stream=stream)
    rows = await gateway.rows_of(seen)
    assert (seen.text, seen.headers["x-faregate-path"]) == ("the large answer of several words", "small>large")
    assert b"secretly" not in seen.body
    assert [(c["attempt"], c["kind"], c["model"]) for c in sorted(rows.charges, key=lambda c: c["attempt"])] == [
        (0, "rejected", "small"),
        (1, kind, "small"),
        (2, "answer", "large"),
    ]


async def test_two_samples_of_the_same_json_agree_whatever_its_order(gateway: Served):
    seen = await gateway.ask("json", model="agreement", response_format={"type": "json_object"})
    assert (seen.headers["x-faregate-path"], seen.json["choices"][0]["message"]["content"]) == (
        "small",
        '{"a": 2, "b": [1]}',
    )


async def test_the_second_sample_is_the_same_request_at_a_temperature(gateway: Served, small: Upstream):
    await gateway.ask("sure", model="agreement", stream=True, seed=7, max_tokens=50)
    first, second = (received.json for received in small.requests)
    assert (second["temperature"], second["max_tokens"]) == (0.7, 50)
    assert second["messages"] == first["messages"]
    assert second.keys().isdisjoint({"seed", "stream", "stream_options", "logprobs"})


@pytest.mark.parametrize(
    ("question", "kinds"),
    [("broken check", ["answer", "rejected"]), ("unclear check", ["answer", "rejected", "self_check"])],
)
async def test_without_a_usable_word_the_answer_is_not_kept(gateway: Served, question: str, kinds: list[str]):
    seen = await gateway.ask(question, model="self_check", headers={"x-faregate-explain": "1"})
    rows = await gateway.rows_of(seen)
    assert seen.headers["x-faregate-path"] == "small>large"
    assert json.loads(seen.headers["x-faregate-explain"])["judge"]["reason"] == "not_asked_again"
    assert sorted(c["kind"] for c in rows.charges) == kinds


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("signal", ["self_check", "text"])
async def test_a_call_that_fits_its_tool_is_kept_whole(gateway: Served, signal: str, stream: bool):
    seen = await gateway.ask("right call", model=signal, stream=stream, tools=[TOOL])
    assert (seen.headers["x-faregate-path"], b"Oslo" in seen.body) == ("small", True)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("question", [*BAD_CALLS, "doubted call"])
async def test_a_call_that_does_not_fit_or_is_doubted_is_never_seen(gateway: Served, question: str, stream: bool):
    seen = await gateway.ask(question, model="self_check", stream=stream, tools=[TOOL])
    assert (seen.headers["x-faregate-path"], seen.text) == ("small>large", "the large answer of several words")
    assert b"tool_calls" not in seen.body


async def test_tools_go_to_the_baseline_where_the_calibration_has_seen_none(gateway: Served, small: Upstream):
    seen = await gateway.ask("right call", model="agreement", tools=[TOOL])
    (request,) = (await gateway.rows_of(seen)).requests
    assert (seen.headers["x-faregate-path"], request["plan_reason"]) == ("large", "form_outside_calibration")
    assert small.requests == []


async def test_what_judging_cost_is_told_with_the_answer_and_added_up(gateway: Served):
    before = datetime.now(UTC)
    asks = [await gateway.ask(q, model="self_check", headers={"x-faregate-explain": "1"}) for q in ("sure", "doubted")]
    rows = await gateway.rows_of(*asks)
    kept, dropped = (json.loads(seen.headers["x-faregate-explain"])["judge"] for seen in asks)
    (line,) = judging_lines(gateway.folder, before)
    metrics = (await gateway.send("/metrics", method="GET")).body.decode()
    rejected, checked = (
        sum(c["cost_nusd"] for c in rows.charges if c["kind"] == k) for k in ("rejected", "self_check")
    )
    assert (kept["dropped_tokens"], dropped["dropped_tokens"]) == (0, 4)
    assert 0 < dropped["weighed_ms"] < dropped["asked_ms"] < dropped["held_ms"]
    assert (line.route, line.model, line.judged, line.kept, line.dropped_tokens) == ("self_check", "small", 2, 1, 4)
    assert line.held_ms == pytest.approx((kept["held_ms"] + dropped["held_ms"]) / 2)
    assert (line.dropped_nusd, line.asked_nusd) == (rejected, checked)
    assert 'faregate_dropped_tokens_total{model="small",route="self_check"}' in metrics


@pytest.mark.parametrize("stream", [True, False])
async def test_a_kept_call_is_audited_as_a_call(tmp_path: Path, stream: bool):
    (tmp_path / "text.json").write_text(a_signal_judge(Signal.TEXT, has_tools=True).dump())
    async with (
        Upstream(small_script) as small,
        Upstream({"": call("weather", '{ "city":"Oslo" }')}) as large,
    ):
        policy = without_logprobs(a_policy([large.url], [small.url]))
        policy["routes"] = policy["routes"][2:]
        policy["routes"][0]["quality"]["audit"] = {"share": 1.0, "usd_per_day": 1000}
        async with serving(tmp_path, policy) as gateway:
            seen = await gateway.ask("right call", model="text", stream=stream, tools=[TOOL])
            await gateway.rows_of(seen)
            await gateway.opened.gateway.parts.auditor.settled()
            with closing(Verdicts.read(gateway.folder)) as verdicts:
                found = [(row["origin"], row["loss"], row["how"]) for row in verdicts.rows()]
    assert found == [("small", 0.0, "exact")]


async def test_a_budget_without_room_for_the_check_has_the_answer_climbed_from(tmp_path: Path):
    (tmp_path / "self_check.json").write_text(a_signal_judge(Signal.SELF_CHECK).dump())
    async with (
        Upstream(small_script) as small,
        Upstream({"": says("the large answer of several words")}) as large,
    ):
        policy = without_logprobs(a_policy([large.url], [small.url]))
        policy["routes"] = policy["routes"][:1]
        policy["tenants"] = [{"id": "acme", "budget": {"usd": 0.0043, "per": "month"}}]
        async with serving(tmp_path, policy) as gateway:
            seen = await gateway.ask("sure", model="self_check", max_tokens=100)
            rows = await gateway.rows_of(seen)
    assert seen.headers["x-faregate-path"] == "small>large"
    assert [c["kind"] for c in rows.charges] == ["rejected", "answer"]


@pytest.mark.parametrize(
    ("made", "has_logprobs", "says_why"),
    [
        (Signal.TEXT, False, "weighed by self_check, and its calibration was made with text"),
        (Signal.SELF_CHECK, True, 'asked again as "self_check/1 by word"'),
    ],
)
async def test_a_threshold_of_another_signal_is_not_used(
    tmp_path: Path, made: Signal, has_logprobs: bool, says_why: str
):
    (tmp_path / "self_check.json").write_text(a_signal_judge(made, has_logprobs=has_logprobs).dump())
    policy = without_logprobs(a_policy(["http://127.0.0.1:9/v1"]))
    policy["routes"] = policy["routes"][:1]
    (tmp_path / "policy.yaml").write_text(json.dumps(policy))
    loaded, clock = load_policy(tmp_path / "policy.yaml", {}), SystemClock()
    lane = lanes(loaded, price_book(loaded, clock.now()), clock)["self_check"]
    assert lane.lane.judges == {}
    assert any(says_why in warning for warning in lane.warnings)
