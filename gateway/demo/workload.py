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

_LUCY = "Omar is 44, lives in Bergen and is a baker. Lucy is 29, lives in Porto and is a dentist. "
_RITA = "Rita is 51, lives in Hamburg and is a judge. Paul is 23, lives in Athens and is a waiter. "
_CHAIR = 'A customer wrote: "The chair wobbles and one leg is missing." '
_ORDER = "Hi, I am Eva Stein. Please send order 41877 to Vienna by Thursday. "

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "city": {"type": "string"},
        "job": {"type": "string"},
    },
    "required": ["name", "age", "city", "job"],
    "additionalProperties": False,
}


def _ask(kind: Kind, text: str, *, stream: bool = False) -> Question:
    return Question(kind=kind, text=f"{text} {_SENTENCE}", is_stream=stream)


def _again(text: str, *, stream: bool) -> Question:
    return Question(kind=Kind.AGAIN, text=f"{text} {_SENTENCE}", is_stream=stream)


def _extract(text: str, *, kind: Kind = Kind.JSON, stream: bool = False) -> Question:
    prompt = f"Extract the fields name, age, city, job as JSON from this text: {text}"
    return Question(kind=kind, text=prompt, is_stream=stream, schema=_PERSON)


WORKLOAD: tuple[Question, ...] = (
    _ask(Kind.EASY, "What is 36 + 52?"),
    _ask(Kind.EASY, "The shop sells a sofa for $340 and a mirror for $75. What does the mirror cost?", stream=True),
    _ask(Kind.EASY, "What is the capital of France?"),
    _ask(Kind.EASY, "Who wrote Hamlet?", stream=True),
    _ask(Kind.HARD, "What is 47 * 86?", stream=True),
    _ask(Kind.EASY, _LUCY + "Where does Lucy live?"),
    _ask(Kind.REPEAT, "What is the capital of France?"),
    _ask(Kind.NEAR_MISS, "What is 36 + 53?"),
    _ask(Kind.NEAR_MISS, "What is the capital of Italy?"),
    _ask(Kind.PARAPHRASE, "What's the capital city of France?"),
    _ask(Kind.PARAPHRASE, "Who is the author of Hamlet?", stream=True),
    _ask(Kind.NEAR_MISS, "Who wrote Macbeth?"),
    _extract("At 37, Hanna Vogel still works as a baker in Zurich."),
    _ask(Kind.EASY, 'Is this review positive or negative? "This camera is superb, I use it every day."', stream=True),
    _ask(Kind.NEAR_MISS, 'Is this review positive or negative? "This camera is useless, I never use it."'),
    _ask(Kind.EASY, "Can you work out 91 - 38 for me?", stream=True),
    _ask(Kind.REPEAT, "What is 36 + 52?", stream=True),
    _ask(Kind.HARD, "A shirt costs $60 and is reduced by 25%. What does it cost now, in dollars?"),
    _ask(Kind.EASY, "What is the chemical symbol of gold?", stream=True),
    _ask(Kind.NEAR_MISS, "What is the chemical symbol of silver?"),
    _ask(Kind.PARAPHRASE, "What is the chemical symbol for gold?"),
    _ask(Kind.EASY, _RITA + "How old is Paul?"),
    _ask(Kind.NEAR_MISS, _RITA + "How old is Rita?"),
    _ask(Kind.REPEAT, _LUCY + "Where does Lucy live?"),
    _ask(Kind.NEAR_MISS, "The shop sells a sofa for $340 and a mirror for $75. What does the sofa cost?"),
    _ask(Kind.HARD, "Tickets cost $9 for adults and $4 for children. What do 3 adults and 5 children pay in total?"),
    _ask(Kind.EASY, "What is 35% of 80?", stream=True),
    _ask(Kind.NEAR_MISS, "What is 35% of 90?"),
    _ask(Kind.EASY, "What does the HTTP status code 404 mean?"),
    _ask(Kind.NEAR_MISS, "What does the HTTP status code 403 mean?"),
    _ask(Kind.EASY, "The kiosk sells a magazine for $7 and an umbrella for $18. What does the magazine cost?"),
    _extract("At 37, Hanna Vogel still works as a baker in Zurich.", kind=Kind.REPEAT),
    _extract("John Smith, a 52-year-old teacher, moved to Toronto last year.", stream=True),
    _ask(Kind.EASY, "What is the largest planet in the solar system?", stream=True),
    _ask(Kind.PARAPHRASE, "Which planet is the biggest in our solar system?"),
    _ask(Kind.NEAR_MISS, "What is the smallest planet in the solar system?"),
    _ask(Kind.HARD, _CHAIR + "Is this about delivery, quality or price?", stream=True),
    _ask(Kind.HARD, "Tickets cost $12 for adults and $7 for children. What do 4 adults and 3 children pay in total?"),
    _ask(Kind.REPEAT, "What is the chemical symbol of gold?"),
    _ask(Kind.EASY, _ORDER + "On which day should the order arrive?"),
    _ask(Kind.NEAR_MISS, _ORDER + "To which city should the order go?", stream=True),
    _ask(Kind.EASY, "How much is 17 + 25?"),
    _ask(Kind.NEAR_MISS, "How much is 17 + 26?"),
    _ask(Kind.REPEAT, "Can you work out 91 - 38 for me?"),
    _ask(Kind.HARD, "Write a limerick about a lighthouse keeper.", stream=True),
    _again("How much is 17 + 25?", stream=True),
    _again("Can you work out 91 - 38 for me?", stream=False),
)
