"""The calibration's questions: reproducible, distinct, none of the demo's, and graded as a person would."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.words import TokenLogprob
from gateway.calibrate import SHIPPED_QUESTIONS
from gateway.demo.workload import WORKLOAD
from router.train_outcomes import (
    Outcome,
    Question,
    Reply,
    TrainingError,
    collect,
    grade,
    read_outcomes,
    read_questions,
    write_outcome,
)
from router.train_questions import questions

SHIPPED = Path("router/questions.jsonl")


def question(*answers: str, wrong: tuple[str, ...] = ()) -> Question:
    return Question(key="k", task="t", prompt="?", answers=answers, wrong=wrong)


def test_the_shipped_questions_are_the_generators():
    assert read_questions(SHIPPED) == questions()


def test_no_question_is_asked_twice():
    rows = read_questions(SHIPPED)

    assert len({row.prompt for row in rows}) == len({row.key for row in rows}) == len(rows) >= 400


@pytest.mark.parametrize(
    "words",
    [
        "capital of France",
        "capital city of Japan",
        "capital of Italy",
        "symbol for gold",
        "symbol Fe",
        "Hamlet",
        "1984",
    ],
)
def test_the_demos_questions_are_left_out(words: str):
    assert not [row.prompt for row in read_questions(SHIPPED) if words in row.prompt]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("17 plus 25 is 42.", "42"),
        ("That makes 1,246 in total.", "1246"),
        ("It costs $30.00.", "30"),
        ("An octopus has three hearts.", "3"),
        ("It is **Bogotá**.", "Bogota"),
        ("The symbol is Ne.", "Ne"),
        ("Use `!=` for that.", "!="),
        ("It takes O(log n) time.", "O(log n)"),
    ],
)
def test_a_right_answer_is_recognised(text: str, answer: str):
    assert grade(question(answer), text) == 1.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The result is 112.", "12"),
        ("It is 12.5 metres.", "12"),
        ("It was -8.", "8"),
        ("He lives in Romeo's house.", "Rome"),
        ("none of these", "Ne"),
        ("You select one.", "SELECT"),
        ("", "Rome"),
    ],
)
def test_a_wrong_answer_is_not_taken_for_a_right_one(text: str, answer: str):
    assert grade(question(answer), text) == 0.0


def test_naming_every_choice_is_no_answer():
    asked = question("positive", wrong=("negative",))

    assert grade(asked, "It is positive.") == 1.0
    assert grade(asked, "It is positive or negative.") == 0.0


@pytest.mark.parametrize(
    ("text", "quality"),
    [('{"age": 30, "name": " ANNA"}', 1.0), ('{"name": "Anna"}', 0.0), ('{"name": "Anna", "age": 30', 0.0)],
)
def test_json_is_graded_by_its_fields(text: str, quality: float):
    asked = Question(key="k", task="json", prompt="?", answers=('{"name": "Anna", "age": 30}',), schema={})

    assert grade(asked, text) == quality


async def test_asking_keeps_every_outcome_with_its_grade():
    async def ask(asked: Question) -> Reply:
        assert (asked.prompt, asked.schema) == ("?", None)
        token = TokenLogprob(-0.1, (-0.1, -2.5))
        return Reply(text="Rome.", tokens=(token,), finish_reason="stop", input_tokens=9, output_tokens=2, seconds=0.5)

    kept: list[Outcome] = []
    seen = [one async for one in collect([question("Rome")], model="small", ask=ask, keep=kept.append)]

    assert kept == seen
    assert (seen[0].quality, seen[0].model, seen[0].is_json) == (1.0, "small", False)


def test_an_outcome_survives_its_file(tmp_path: Path):
    tokens = (TokenLogprob(-0.25, (-0.25, -1.5)), TokenLogprob(-0.5))
    outcome = Outcome(
        key="k", task="t", prompt="?", model="m", quality=1.0, text="é", finish_reason="stop",
        input_tokens=3, output_tokens=2, seconds=0.1, tokens=tokens,
    )  # fmt: skip
    path = tmp_path / "outcomes.jsonl"
    path.write_text(write_outcome(outcome) + write_outcome(replace(outcome, key="l")), encoding="utf-8")

    assert read_outcomes(path) == [outcome, replace(outcome, key="l")]


@pytest.mark.parametrize(("line", "says"), [("{", "line 1 is not JSON"), ('{"a": 1}', "line 1 is no Question")])
def test_a_damaged_line_is_named(tmp_path: Path, line: str, says: str):
    path = tmp_path / "questions.jsonl"
    path.write_text(line + "\n", encoding="utf-8")

    with pytest.raises(TrainingError, match=says):
        read_questions(path)


def test_no_question_of_the_demo_is_in_the_calibration():
    asked = {question.text for question in WORKLOAD}
    assert asked.isdisjoint(question.prompt for question in read_questions(SHIPPED_QUESTIONS))
