"""Conversations and questions with tools: kept below the baseline once their own verdicts say so, and only then."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from backends.words import JsonValue
from gateway.cli import main
from gateway.verdicts import FILE_NAME
from tests.served.test_audits import audited
from tests.served.world import Served, a_judge, serving
from tests.upstream import Act, Received, Upstream, says

pytestmark = pytest.mark.asyncio

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
MANY = 14
"""Verdicts that certify a loss of .3 at 90 % when none has lost anything."""


def conversation(number: int, *, turns: int = 3) -> JsonValue:
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}] * (turns // 2)
    return {"messages": [*earlier, {"role": "user", "content": f"And what is {number}?"}]}


def with_tools(number: int | str) -> JsonValue:
    return {"messages": [{"role": "user", "content": f"What is {number}?"}], "tools": [TOOL]}


async def asked(gateway: Served, body: JsonValue) -> str:
    """Ask, wait for the audit, and return the path."""
    seen = await gateway.send("/v1/chat/completions", {"model": "auto", "temperature": 0, **body})
    await gateway.rows_of(seen)
    await gateway.opened.gateway.parts.auditor.settled()
    return seen.headers["x-faregate-path"]


def kinds(place: Path) -> dict[str, JsonValue]:
    told = CliRunner().invoke(main, ["report", "--policy", str(place / "policy.yaml"), "--quality", "--json"])
    assert told.exit_code == 0, told.output
    return {row["kind"]: row for row in json.loads(told.stdout)["kinds"] if row["route"] == "cascade"}


def by_hand(place: Path, subject: str) -> tuple[int, str]:
    options = ["--policy", str(place / "policy.yaml"), "--route", "cascade", "--from-ledger", "--subject", subject]
    said = CliRunner().invoke(main, ["calibrate", *options])
    return said.exit_code, said.stdout


@pytest.mark.parametrize(("kind", "ask"), [("conversation", conversation), ("tools", with_tools)])
async def test_a_kind_is_answered_below_the_baseline_once_its_own_verdicts_keep_the_promise(
    tmp_path: Path, kind: str, ask: type[object]
):
    async with (
        Upstream({"": says("it is certainly 8")}) as small,
        Upstream({"": says("it is certainly 8")}) as large,
        serving(tmp_path, audited(large, small, max_loss=0.3)) as gateway,
    ):
        paths = [await asked(gateway, ask(number)) for number in range(MANY)]  # type: ignore[call-arg]
        other = with_tools(90) if kind == "conversation" else conversation(90)
        others = await asked(gateway, other)
        last = await asked(gateway, conversation(91, turns=5)) if kind == "conversation" else "large"
        report = kinds(tmp_path)
        with closing(sqlite3.connect(gateway.folder / FILE_NAME)) as db:
            paid_from = db.execute("SELECT subject FROM spent WHERE nusd > 0").fetchall()
    assert paths[0] == "large"
    assert paths[-1] == "small"
    assert paid_from == [("route",)]  # one day's money for all kinds
    assert others == last == "large"  # neither another kind nor a longer conversation is spoken for
    row = report[kind]
    assert (row["kept_below_baseline"], row["state"], row["loss"]) == (True, "certified", 0.0)
    assert row["bound"] <= 0.3
    assert 0 < row["not_served"] < row["n"]
    assert report["single"]["n"] == 0


def wrong_in_conversations(received: Received) -> Act:
    return says("it is certainly 7") if len(received.json["messages"]) > 1 else says("it is certainly 8")


async def test_a_kind_whose_answers_lose_stays_with_the_baseline_and_questions_do_not_suffer(tmp_path: Path):
    async with (
        Upstream(wrong_in_conversations) as small,
        Upstream({"": says("it is certainly 8")}) as large,
        serving(tmp_path, audited(large, small, max_loss=0.3)) as gateway,
    ):
        paths = [await asked(gateway, conversation(number)) for number in range(MANY)]
        single = await asked(gateway, {"messages": [{"role": "user", "content": "What is it?"}]})
        report = kinds(tmp_path)
    status, said = by_hand(tmp_path, "conversation")
    assert set(paths) == {"large"}
    assert single == "small"
    assert (report["conversation"]["loss"], report["conversation"]["state"]) == (1.0, "breached")
    assert (report["single"]["loss"], report["single"]["n"]) == (0.0, 1)
    assert (status, "nothing was changed" in said) == (1, True)


async def test_a_calibrated_kind_that_breaks_its_promise_is_closed_alone(tmp_path: Path):
    async with (
        Upstream(wrong_in_conversations) as small,
        Upstream({"": says("it is certainly 8")}) as large,
    ):
        policy = audited(large, small, max_loss=0.3)
        policy["routes"][2]["quality"]["calibration"] = "longer.json"
        (tmp_path / "longer.json").write_text(replace(a_judge(), turns=3).dump())
        async with serving(tmp_path, policy) as gateway:
            for number in range(24):  # so that the route as a whole keeps its promise
                await asked(gateway, {"messages": [{"role": "user", "content": f"What is {number}?"}]})
            paths = [await asked(gateway, conversation(number)) for number in range(MANY)]
            single = await asked(gateway, {"messages": [{"role": "user", "content": "What is it?"}]})
        assert kinds(tmp_path)["conversation"]["kept_below_baseline"] is False
    assert (paths[0], paths[-1], single) == ("small", "large", "small")


def mended_later(received: Received) -> Act:
    return says("it is certainly 7" if "Early" in received.text else "it is certainly 8")


async def test_a_kind_that_broke_is_opened_again_by_hand_by_what_was_seen_since(tmp_path: Path):
    async with (
        Upstream(mended_later) as small,
        Upstream({"": says("it is certainly 8")}) as large,
        serving(tmp_path, audited(large, small, max_loss=0.3)) as gateway,
    ):
        early = [await asked(gateway, with_tools(f"Early {number}")) for number in range(8)]  # breaks it
        refused = by_hand(tmp_path, "tools")
        late = [await asked(gateway, with_tools(number)) for number in range(MANY)]
        opened = by_hand(tmp_path, "tools")
        await gateway.opened.gateway.parts.auditor.refresh()
        after = [await asked(gateway, with_tools(number)) for number in range(MANY, MANY + 2)]
    assert {*early, *late} == {"large"}
    assert (refused[0], opened[0]) == (1, 0)
    assert "questions with tools are kept below the baseline" in opened[1]
    assert after == ["small", "small"]
