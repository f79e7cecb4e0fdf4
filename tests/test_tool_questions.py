"""Questions that offer tools: reproducible, answerable by what they say, and graded as a person would."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from router.train_outcomes import Question, grade
from router.train_questions import questions as text_questions
from router.train_tools import questions

ALL = questions()
CALLING = [one for one in ALL if one.task in {"tools-call", "tools-two"}]


def offered(question: Question) -> set[str]:
    return {tool["function"]["name"] for tool in question.tools}


def test_a_seed_gives_the_same_questions_none_twice_and_as_many_of_each_kind():
    assert questions() == ALL
    assert len({one.prompt for one in ALL}) == len({one.key for one in ALL}) == len(ALL) == 240
    assert set(Counter(one.task for one in ALL).values()) == {60}
    assert not {one.prompt for one in ALL} & {one.prompt for one in text_questions()}


def test_what_is_to_be_called_is_offered_and_every_argument_stands_in_the_prompt():
    for question in CALLING:
        for call in json.loads(question.answers[0]):
            assert call["name"] in offered(question)
            assert all(str(value) in question.prompt for value in call["arguments"].values())


def test_the_right_calls_are_right_in_whichever_order_and_others_are_not():
    for question in CALLING:
        calls = json.loads(question.answers[0])
        assert grade(question, json.dumps(calls[::-1])) == grade(question, json.dumps(calls)) == 1.0
        assert grade(question, json.dumps([*calls, *calls])) == 0.0
        assert grade(question, f"I would call {question.answers[0]} now.") == 0.0


def test_where_no_tool_fits_saying_so_is_right_and_calling_one_is_not():
    for question in (one for one in ALL if one.task == "tools-impossible"):
        name = min(offered(question))
        assert grade(question, "I'm sorry, but none of the tools can do that.") == 1.0
        assert grade(question, json.dumps([{"name": name, "arguments": {}}])) == 0.0


@pytest.mark.parametrize("fence", ["", "```json\n"])
def test_a_call_written_out_as_text_is_no_answer_although_it_holds_the_right_word(fence: str):
    question = next(one for one in ALL if one.task == "tools-none")
    right = question.answers[0]
    assert grade(question, f"It is {right}.") == 1.0
    assert grade(question, f'{fence}{{"name": "get_weather", "arguments": {{"city": "{right}"}}}}') == 0.0
