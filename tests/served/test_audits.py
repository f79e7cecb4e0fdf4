"""Audits of served answers: asked after the answer, booked to its request, and acted on when a promise is breached."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backends.words import JsonValue
from gateway.verdicts import FILE_NAME, RECALIBRATED, Event, Verdicts
from tests.router.foreseeing import a_judging_artefact, a_promise
from tests.served.test_budgets import metric
from tests.served.world import LARGE_NAME, SMALL_NAME, Served, a_policy, an_acceptance, read_rows, serving
from tests.upstream import UNSURE, Act, Received, Upstream, says

pytestmark = pytest.mark.asyncio

ALL = {"share": 1.0, "usd_per_day": 1000}


def audited(large: Upstream, small: Upstream, *, max_loss: float = 0.05, **changes: JsonValue) -> JsonValue:
    """Return the tests' policy with every kept small answer and every semantic hit audited."""
    policy = a_policy([large.url], [small.url])
    _, cached, cascade = policy["routes"]
    cascade["quality"] |= {"max_loss": max_loss, "audit": ALL | changes}
    cached["cache"]["semantic"]["audit"] = ALL | changes
    return policy


async def asked(gateway: Served, *questions: str, model: str = "auto", **fields: JsonValue) -> list[str]:
    """Ask one after another, each when the one before is stored and audited, and return their paths."""
    paths = []
    for question in questions:
        seen = await gateway.ask(question, model=model, **fields)
        await gateway.stored()
        await gateway.rows_of(seen)  # what is booked has been offered
        await gateway.opened.gateway.parts.auditor.settled()
        paths.append(seen.headers["x-faregate-path"])
    return paths


def verdicts(gateway: Served) -> list[tuple[JsonValue, ...]]:
    with closing(sqlite3.connect(gateway.folder / FILE_NAME)) as db:
        return db.execute("SELECT origin, served, loss, how FROM verdicts ORDER BY id").fetchall()


def audit_charges(folder: Path) -> list[tuple[JsonValue, ...]]:
    return [(c["model"], c["attempt"], c["route"]) for c in read_rows(folder).charges if c["kind"] == "audit"]


async def test_a_kept_small_answer_is_compared_with_the_baselines_and_booked_to_its_request(tmp_path: Path):
    async with (
        Upstream({"": says("It is 12 km.")}) as small,
        Upstream({"": says("it is **12 km**")}) as large,
        serving(tmp_path, audited(large, small)) as gateway,
    ):
        assert await asked(gateway, "How far?", stream=True) == ["small"]
        assert await asked(gateway, "How far is it?") == ["small"]
        requests = (await gateway.rows(2)).requests
        assert verdicts(gateway) == [("small", "small", 0.0, "normalised")] * 2
        assert [r.json.keys() & {"stream", "stream_options", "logprobs"} for r in large.requests] == [set(), set()]
        assert await metric(gateway, 'faregate_audits_total{origin="small",result="normalised",route="cascade"}') == 2
    assert audit_charges(tmp_path / "data") == [("large", 1, "cascade")] * 2
    kept = [c["cost_nusd"] for c in read_rows(tmp_path / "data").charges if c["kind"] == "answer"]
    assert [request["cost_nusd"] for request in requests] == kept


COMPARED = {
    "the same JSON": ('{"n": 1, "m": [2]}', '{"m":[2],"n":1}', (0.0, "json")),
    "other JSON": ('{"n": 1}', '{"n": 2}', (1.0, "json")),
    "another number": ("The tower is 300 m high.", "The tower is 330 m high.", (1.0, "embedding")),
    "other words": ("The capital of France is Paris.", "Paris is the capital of France.", (0.0, "embedding")),
}


async def test_answers_are_compared_by_what_they_say(tmp_path: Path):
    async with (
        Upstream({question: says(small) for question, (small, _, _) in COMPARED.items()}) as small,
        Upstream({question: says(large) for question, (_, large, _) in COMPARED.items()}) as large,
        serving(tmp_path, audited(large, small)) as gateway,
    ):
        await asked(gateway, *COMPARED)
        assert [row[2:] for row in verdicts(gateway)] == [expected for _, _, expected in COMPARED.values()]


async def test_a_judge_model_is_asked_where_the_texts_differ_whatever_their_order(tmp_path: Path):
    def large_script(received: Received) -> Act:
        if "<answer_a>" not in received.text:
            return says("Bananas are berries indeed.")
        first = re.search(r"<answer_a>\n(.*)\n</answer_a>", received.text)
        return says("Answer A" if first is not None and first[1].startswith("Bananas") else "B.")

    async with (
        Upstream({"": says("No fruit is a berry.")}) as small,
        Upstream(large_script) as large,
        serving(tmp_path, audited(large, small, judge="large")) as gateway,
    ):
        await asked(gateway, "one?", "two?", "three?", "four?")
        assert [row[2:] for row in verdicts(gateway)] == [(1.0, "judge")] * 4
    assert [model for model, _, _ in audit_charges(tmp_path / "data")] == ["large"] * 8


async def test_the_baselines_own_answers_are_not_audited(tmp_path: Path):
    async with (
        Upstream({"": says("perhaps so or not so", logprob=UNSURE)}) as small,
        Upstream({"": says("the large answer")}) as large,
        serving(tmp_path, audited(large, small)) as gateway,
    ):
        assert await asked(gateway, "a", "b") == ["small>large", "small>large"]
        assert await asked(gateway, "a", model="large") == ["large"]
        assert verdicts(gateway) == []
        assert len(large.requests) == 3


async def test_without_money_for_the_day_nothing_is_audited(tmp_path: Path):
    async with (
        Upstream({"": says("yes it is")}) as small,
        Upstream({"": says("no it is not")}) as large,
        serving(tmp_path, audited(large, small, usd_per_day=0.0001)) as gateway,
    ):
        await asked(gateway, "a", "b", "c")
        assert (verdicts(gateway), large.requests) == ([], [])
    assert audit_charges(tmp_path / "data") == []


async def test_audits_draw_from_the_budget_of_the_request_they_look_at(tmp_path: Path):
    budget = {"tenants": [{"id": "acme", "budget": {"usd": 1, "per": "month"}}]}
    async with (
        Upstream({"": says("yes it is")}) as small,
        Upstream({"": says("no it is not")}) as large,
        serving(tmp_path, audited(large, small) | budget) as gateway,
    ):
        await asked(gateway, "a", "b", max_tokens=100)
        left = await metric(gateway, "faregate_budget_left_usd")
    charges = read_rows(tmp_path / "data").charges
    assert [c["kind"] for c in charges].count("audit") == 2
    assert round(left * 10**9) == 10**9 - sum(c["cost_nusd"] for c in charges)


async def test_a_breached_route_is_answered_by_its_baseline_until_it_is_recalibrated(tmp_path: Path):
    async with (
        Upstream({"": says("it is certainly 7")}) as small,
        Upstream({"": says("it is certainly 8")}) as large,
    ):
        policy = audited(large, small)
        async with serving(tmp_path, policy) as gateway:
            paths = await asked(gateway, *(f"What is {n}?" for n in range(12)))
            late = await gateway.ask("What is it now?", model="auto")
            (row,) = (await gateway.rows_of(late)).requests
            readiness = (await gateway.send("/health/readiness", method="GET")).json
            breached = await metric(
                gateway, 'faregate_promise_state{route="cascade",state="breached",subject="route",tenant=""}'
            )
        async with serving(tmp_path, policy) as gateway:
            again = await asked(gateway, "And now?")
            auditor = gateway.opened.gateway.parts.auditor
            ((which, *_), *_) = (each for each in auditor.watched() if each[0].route == "cascade")
            with closing(Verdicts.open(gateway.folder)) as store:
                store.note(Event(promise=which, event=RECALIBRATED, detail="", at=datetime.now(UTC), threshold=0.99))
            await auditor.refresh()
            stricter = await asked(gateway, "And then?")

    assert paths[:8] == ["small"] * 8
    assert (late.headers["x-faregate-path"], row["plan_reason"]) == ("large", "promise_breached")
    assert readiness["breached"] == [{"route": "cascade", "subject": "route", "state": "breached"}]
    assert (readiness["status"], breached) == ("ready", 1)
    assert again == ["large"]
    assert stricter == ["small>large"]


def doubted(received: Received) -> Act:
    """Be wrong, and less sure of it, where the question is hard."""
    return says("it is certainly 7", logprob=-0.5) if "hard" in received.text else says("it is certainly 8")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_breached_route_tries_its_first_rung_unseen_until_a_threshold_keeps_the_promise(
    tmp_path: Path, stream: bool
):
    hard = [f"What is the hard {n}?" for n in range(20)]
    async with (
        Upstream(doubted) as small,
        Upstream({"": says("it is certainly 8")}) as large,
        serving(tmp_path, audited(large, small, max_loss=0.25)) as gateway,
    ):
        broken = await asked(gateway, *hard[:12], stream=stream)
        tried = await asked(gateway, *(f"And {n}?" for n in range(16)), stream=stream)
        healed = await asked(gateway, "Now easy?", hard[-1], stream=stream)
        threshold = await metric(gateway, 'faregate_promise_threshold{route="cascade",subject="route",tenant=""}')
    trials = [row for row in audit_charges(tmp_path / "data") if row[0] == "small"]
    assert broken[:8] == ["small"] * 8
    assert tried[0] == "large"
    assert healed == ["small", "small>large"]
    assert 0.88 < threshold < 0.99
    assert 1 <= len(trials) <= tried.count("large") + broken.count("large")


async def test_a_breached_route_whose_artefact_judges_is_tried_unseen_and_healed_likewise(tmp_path: Path):
    ladder, promise = (SMALL_NAME, LARGE_NAME), a_promise(max_loss=0.25, setting=1)
    (tmp_path / "own.json").write_text(a_judging_artefact(ladder, promise=promise).dump())
    hard = [f"What is the hard {n}?" for n in range(20)]
    async with Upstream(doubted) as small, Upstream({"": says("it is certainly 8")}) as large:
        policy = audited(large, small, max_loss=0.25)
        del policy["routes"][2]["quality"]["calibration"]
        policy["routes"][2]["router"] = {"artefact": "own.json"}
        async with serving(tmp_path, policy) as gateway:
            broken = await asked(gateway, *hard[:12])
            tried = await asked(gateway, *(f"And {n}?" for n in range(16)))
            healed = await asked(gateway, "Now easy?", hard[-1])
    trials = [row for row in audit_charges(tmp_path / "data") if row[0] == "small"]
    assert (broken[:8], tried[0], healed) == (["small"] * 8, "large", ["small", "small>large"])
    assert trials


async def test_what_a_laxer_threshold_kept_is_not_served_from_the_cache_by_a_stricter_one(tmp_path: Path):
    async with Upstream({"": says("it is 7")}) as small, Upstream({"": says("it is 8")}) as large:
        policy = audited(large, small)
        policy["routes"][2]["cache"] = {"exact": {"ttl": "1h"}}
        async with serving(tmp_path, policy) as gateway:
            before = await asked(gateway, "What is it?", "What is it?")
            auditor = gateway.opened.gateway.parts.auditor
            ((which, *_), *_) = (each for each in auditor.watched() if each[0].route == "cascade")
            with closing(Verdicts.open(gateway.folder)) as store:
                store.note(Event(promise=which, event=RECALIBRATED, detail="", at=datetime.now(UTC), threshold=0.99))
            await auditor.refresh()
            after = await asked(gateway, "What is it?", "What is it?")
    assert before == ["small", "cache:exact"]
    assert after[0] != "cache:exact"
    assert after[1] == "cache:exact"


async def test_wrong_hits_of_one_tenant_leave_anothers_cache_alone(tmp_path: Path):
    places = ["moss", "rust", "a chimney", "a kettle", "an oven", "windows", "a carpet", "a fridge", "shoes", "a bike"]
    script = {f"How can I clean {place}?": says(f"Use number {n}.") for n, place in enumerate(places)}
    script |= {f"How do I clean {place}?": says(f"Never use {n * 7 + 30}.") for n, place in enumerate(places)}
    async with Upstream(script) as large, serving(tmp_path, audited(large, large)) as gateway:
        await asked(gateway, *(f"How {word} I clean {p}?" for p in places for word in ("do", "can")), model="cached")
        auditor = gateway.opened.gateway.parts.auditor
        states = {which.space: state for which, _, state, _ in auditor.watched() if which.route == "cached"}
        pair = ("How do I clean teak?", "How can I clean teak?")
        others = await asked(gateway, *pair, model="cached", tenant="other")
    assert states == {"acme": "breached", "other": "prior"}
    assert others == ["large", "cache:semantic"]


SIMILAR = (("How do I clean", "?"), ("Tell me how", " can be removed"))
MOSS = ("How do I clean moss?", "Tell me how moss can be removed")
"""Alike, and not alike enough to share an answer."""


@pytest.mark.parametrize(("second", "loss"), [("Scrape it **off**", 0.0), ("Use 7 litres of water.", 1.0)])
async def test_an_answer_that_a_laxer_cache_might_have_spared_is_compared_with_the_stored_one(
    tmp_path: Path, second: str, loss: float
):
    async with (
        Upstream({MOSS[0]: says("Scrape it off."), MOSS[1]: says(second)}) as large,
        serving(tmp_path, audited(large, large)) as gateway,
    ):
        paths = await asked(gateway, *MOSS, model="cached")
        with closing(Verdicts.read(gateway.folder)) as store:
            (row,) = store.rows()
        auditor = gateway.opened.gateway.parts.auditor
        standing = next(s for which, _, _, s in auditor.watched() if which.space == "acme")
    assert paths == ["large", "large"]
    assert (row["origin"], row["loss"], row["probability"], row["setup"]) == ("grey", loss, 1.0, "")
    assert 0.6 < row["similarity"] < 0.8
    assert row["confidence"] < 0.5
    assert standing is not None
    assert standing.n == 0  # nothing of it was served


async def test_pairs_that_say_the_same_loosen_a_cache_as_far_as_they_keep_its_promise(tmp_path: Path):
    asks = [f"{how} {thing}{tail}" for thing in ("moss", "rust", "soot", "mould") for how, tail in SIMILAR]
    async with Upstream({"": says("Scrape it off.")}) as large:
        policy = audited(large, large)
        policy["routes"][1]["cache"]["semantic"] |= {"max_error": 0.3, "confidence": 0.6}
        lax = an_acceptance((0.001, 0.5))
        async with serving(tmp_path, policy, acceptance=lax) as gateway:
            first = await asked(gateway, *asks, model="cached")
            later = await asked(gateway, *(ask.replace("moss", "lime") for ask in asks[: len(SIMILAR)]), model="cached")
    assert first[1] == "large"
    assert later == ["large", "cache:semantic"]


async def test_wrong_semantic_hits_close_the_tier_and_right_ones_do_not(tmp_path: Path):
    places = ["moss", "rust", "a chimney", "a kettle", "an oven", "windows", "a carpet", "a fridge", "shoes", "a bike"]
    script = {f"How can I clean {place}?": says(f"Use number {n}.") for n, place in enumerate(places)}
    script |= {f"How do I clean {place}?": says(f"Never use {n * 7 + 30}.") for n, place in enumerate(places)}
    async with (
        Upstream(script) as large,
        serving(tmp_path, audited(large, large)) as gateway,
    ):
        asks = [f"How {word} I clean {place}?" for place in places for word in ("do", "can")]
        hits = (await asked(gateway, *asks, model="cached"))[1::2]
        last = await asked(gateway, "How do I clean teak?", "How can I clean teak?", model="cached")
        rows = [row for row in verdicts(gateway) if row[0] != "grey"]
    assert {row[0] for row in rows} == {"semantic"}
    assert len(rows) >= 8
    assert hits[:8] == ["cache:semantic"] * 8
    assert last == ["large", "large"]
