"""Conversations: asked, graded and judged like questions, but held to a bound of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backends.clock import SystemClock
from backends.words import JsonValue
from gateway.prepare import lanes, price_book
from policies.loader import load_policy
from router.judge import WHOLE, Calibration, Judge, NoThreshold, Rates, Signal
from router.strategy import PlanReason
from router.train_judge import CONVERSATIONS, Pairs, fit, pair
from router.train_outcomes import Outcome, TrainingError, Turn, outcome_of, read_outcomes, read_questions, write_outcome
from tests.router.test_strategy import HERE, TURNS, ask
from tests.served.world import a_judge, a_policy, write_policy
from tests.test_judge import SURE, embed, outcome

EARLIER = (Turn(role="user", content="Hello"), Turn(role="assistant", content="Hi"))


def asked(*, lost: float, conversations: int = 250) -> Pairs:
    """Return 500 sure small answers, all as good as the large ones but for this share of the conversations'."""
    small = []
    for index in range(500):
        is_longer = index < conversations
        is_lost = is_longer and (index * 37) % 100 < 100 * lost  # spread over the topics
        one = outcome(index, "small", quality=float(not is_lost and index % 50 > 0), token=SURE)
        small.append(replace(one, earlier=EARLIER if is_longer else ()))
    large = [replace(one, model="large", quality=1.0, output_tokens=60) for one in small]
    return Pairs(small=small, large=large)


def calibration(pairs: Pairs) -> Calibration:
    rates = Rates(uncached_input_s=0.01, output_s=0.03)
    return fit(
        pairs, small_rates=rates, large_rates=Rates(uncached_input_s=0.03, output_s=0.09), embed=embed,
        embedder="fake", made="2026-11-21", source="made up", grid=(0.1,),
        signal=Signal.TEXT,
    )  # fmt: skip


def test_conversations_that_lose_as_little_as_questions_are_promised_too():
    made = calibration(asked(lost=0.0))
    assert made.turns == 3
    assert {WHOLE, f"{CONVERSATIONS}{WHOLE}"} <= set(made.steps[0].windows)
    assert isinstance(made.judge(max_loss=0.1, confidence=0.9), Judge)


def test_conversations_that_lose_more_are_not_hidden_by_questions_that_do_not():
    made = calibration(asked(lost=0.2))
    alone = made.steps[-1].windows
    assert alone[f"{CONVERSATIONS}{WHOLE}"].mean_loss > 5 * alone[WHOLE].mean_loss
    assert isinstance(made.judge(max_loss=0.13, confidence=0.9), NoThreshold)


def test_a_few_conversations_are_no_calibration_of_them():
    few = asked(lost=0.0, conversations=20)
    with pytest.raises(TrainingError, match=r"20 of 500 questions are conversations; .* at least 200"):
        pair(few.small, few.large)


def test_the_same_last_words_after_something_else_are_another_question():
    first = outcome(0, "small", quality=1.0, token=SURE)
    assert first.whole != replace(first, earlier=EARLIER).whole


def question(**fields: JsonValue) -> str:
    return json.dumps({"key": "k", "task": "t", "prompt": "And then?", "answers": ["42"], **fields}) + "\n"


def test_a_conversation_survives_its_files(tmp_path: Path):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    (tmp_path / "q.jsonl").write_text(question(earlier=turns))
    read = read_questions(tmp_path / "q.jsonl")[0]
    reply = outcome(0, "small", quality=1.0, token=SURE)

    graded = outcome_of(read, reply, model="small")  # type: ignore[arg-type]  # what is read of a reply, it has
    (tmp_path / "o.jsonl").write_text(write_outcome(graded))

    again: list[Outcome] = read_outcomes(tmp_path / "o.jsonl")
    assert (read.earlier, again[0].whole, again[0].turns) == (EARLIER, read.whole, 3)


@pytest.mark.parametrize(
    ("earlier", "said"),
    [
        (["Hello"], "is a list of"),
        ([{"role": "user", "content": "Hello"}], "user and assistant take turns"),
        ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], "roles assistant, user"),
    ],
)
def test_turns_that_nobody_could_have_taken_are_refused(tmp_path: Path, earlier: JsonValue, said: str):
    (tmp_path / "q.jsonl").write_text(question(earlier=earlier))
    with pytest.raises(TrainingError, match=said):
        read_questions(tmp_path / "q.jsonl")


@pytest.mark.parametrize(("turns", "reason"), [(1, PlanReason.FORM), (3, PlanReason.CASCADE), (5, PlanReason.CASCADE)])
def test_a_route_judges_conversations_as_long_as_its_calibrations(tmp_path: Path, turns: int, reason: PlanReason):
    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:1/v1"]))
    (tmp_path / "judge.json").write_text(replace(a_judge(), turns=turns).dump())
    policy, clock = load_policy(file, {}), SystemClock()
    lane = lanes(policy, price_book(policy, clock.now()), clock)["cascade"].lane

    assert lane.strategy.plan(ask(messages=TURNS), HERE).reason is reason
