"""The demo's questions, written for it; none of them is in a calibration.

They show the mechanism: easy and hard questions, exact repeats, paraphrases, near-misses that must not hit, an answer
in JSON, streams. Their mix is made for showing, so the savings they bring say nothing about anybody's traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backends.words import JsonValue


class Kind(StrEnum):
    """What a question is there to show."""

    EASY = "easy"
    HARD = "hard"
    REPEAT = "repeat"
    PARAPHRASE = "paraphrase"
    NEAR_MISS = "near-miss"
    JSON = "json"
    AGAIN = "again"
    """Asked before, now past the caches (`no-store`) and in the other form: stream and collected text must be equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request of the workload; streamed answers are asked for with their usage."""

    kind: Kind
    text: str
    is_stream: bool = False
    schema: JsonValue | None = None


_SENTENCE = "Answer in one short sentence."

_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}


def _ask(kind: Kind, text: str, *, stream: bool = False) -> Question:
    return Question(kind=kind, text=f"{text} {_SENTENCE}", is_stream=stream)


def _again(text: str, *, stream: bool) -> Question:
    return Question(kind=Kind.AGAIN, text=f"{text} {_SENTENCE}", is_stream=stream)


def _extract(text: str, *, kind: Kind = Kind.JSON, stream: bool = False) -> Question:
    prompt = f"Extract the person's name, age and city as JSON: {text}"
    return Question(kind=kind, text=prompt, is_stream=stream, schema=_PERSON)


WORKLOAD: tuple[Question, ...] = (
    _ask(Kind.EASY, "What is the capital of France?"),
    _ask(Kind.EASY, "Who wrote Hamlet?", stream=True),
    _ask(Kind.EASY, "What is the chemical symbol of gold?"),
    _ask(Kind.EASY, "What is the largest planet in the Solar System?", stream=True),
    _ask(Kind.HARD, "A train leaves at 14:35 and arrives at 17:20. How many minutes does the trip take?"),
    _ask(Kind.HARD, "What is 47 times 86?", stream=True),
    _extract("Maria Lopez is 34 years old and lives in Lisbon."),
    _ask(Kind.REPEAT, "What is the capital of France?"),
    _ask(Kind.REPEAT, "Who wrote Hamlet?", stream=True),
    _ask(Kind.NEAR_MISS, "What is the capital of Italy?"),
    _ask(Kind.NEAR_MISS, "Who wrote Macbeth's source, the Chronicles?"),
    _ask(Kind.PARAPHRASE, "What's the capital city of France?"),
    _ask(Kind.PARAPHRASE, "Who was the author of Hamlet?", stream=True),
    _ask(Kind.EASY, "What is the boiling point of water at sea level in degrees Celsius?"),
    _ask(Kind.NEAR_MISS, "What is the freezing point of water at sea level in degrees Celsius?"),
    _ask(Kind.EASY, "What is 17 + 25?", stream=True),
    _ask(Kind.NEAR_MISS, "What is 17 + 26?"),
    _ask(Kind.REPEAT, "What is 17 + 25?"),
    _ask(Kind.HARD, "Anna has 3 boxes with 12 pencils each and gives away 17 pencils. How many pencils are left?"),
    _ask(Kind.EASY, "What does the HTTP status code 404 mean?", stream=True),
    _ask(Kind.NEAR_MISS, "What does the HTTP status code 403 mean?"),
    _ask(Kind.PARAPHRASE, "What is the meaning of the HTTP status code 404?"),
    _ask(Kind.EASY, "What is the capital of Japan?", stream=True),
    _ask(Kind.NEAR_MISS, "What is the capital of Canada?"),
    _ask(Kind.HARD, "What is 3 to the power of 7?"),
    _ask(Kind.HARD, "How many seconds are there in 2 hours and 15 minutes?", stream=True),
    _extract("John Smith, 52, moved to Toronto last year.", stream=True),
    _extract("Maria Lopez is 34 years old and lives in Lisbon.", kind=Kind.REPEAT),
    _ask(Kind.EASY, "Who wrote the novel 1984?"),
    _ask(Kind.PARAPHRASE, "Who is the author of the novel 1984?"),
    _ask(Kind.NEAR_MISS, "Who wrote the novel 2001: A Space Odyssey?", stream=True),
    _ask(Kind.EASY, "What is the chemical symbol of iron?"),
    _ask(Kind.NEAR_MISS, "What is the chemical symbol of silver?"),
    _ask(Kind.REPEAT, "What is the chemical symbol of gold?", stream=True),
    _ask(Kind.PARAPHRASE, "What is the chemical symbol for gold?"),
    _ask(Kind.HARD, "What is the square root of 1764?"),
    _ask(Kind.EASY, "What is the opposite of 'ancient'?"),
    _ask(Kind.EASY, "How many days does a leap year have?", stream=True),
    _ask(Kind.NEAR_MISS, "How many days does a common year have?"),
    _ask(Kind.HARD, "A shirt costs 80 euros and is reduced by 15 percent. What does it cost now?"),
    _ask(Kind.REPEAT, "What is the largest planet in the Solar System?"),
    _ask(Kind.PARAPHRASE, "Which planet is the largest in the Solar System?"),
    _ask(Kind.NEAR_MISS, "What is the smallest planet in the Solar System?"),
    _ask(Kind.EASY, "What is 12 times 12?"),
    _ask(Kind.HARD, "Write a haiku about an invoice.", stream=True),
    _ask(Kind.REPEAT, "How many days does a leap year have?", stream=True),
    _again("What is the capital of Japan?", stream=False),
    _again("What is the square root of 1764?", stream=True),
)
