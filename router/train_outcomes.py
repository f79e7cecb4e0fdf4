"""What the calibration is made of: questions, a model's replies to them, and their grades, as JSON lines.

Rules: a grade is a pure function of question and text, so that outcomes can be graded again; asking is resumable, since
a thousand answers take half an hour on two cores; nothing here speaks HTTP (the asker is passed in).

TrainingError is the family of what goes wrong while training; its message says which file or row to mend.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

from backends.words import JsonValue, TokenLogprob


class TrainingError(Exception):
    """Questions, outcomes or a fit cannot be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A message before the last one of a conversation; `role` is `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        prompt: the text that is answered; of a conversation its last user text.
        earlier: what was said before it, oldest first, each `{"role", "content"}`; empty for a single question.
        answers: accepted strings; for a `schema` the one accepted object as JSON text.
        wrong: strings that make a text wrong whatever else it says: the other choices, where the prompt names them.
        tools: what the model may call, as in a request. An answer is then the calls as JSON, a list of `{"name",
            "arguments"}`; where no call is right, a string as usual.
    """

    key: str
    task: str
    prompt: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    schema: JsonValue | None = None
    tools: JsonValue | None = None
    earlier: tuple[Turn, ...] = ()

    @property
    def whole(self) -> tuple[str, ...]:
        """Return what tells it apart from every other question: all that is said in it."""
        return _whole(self.earlier, self.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one model answered, with the seconds the whole call took and the tokens it read and wrote.

    Attributes:
        is_valid: its JSON fits the schema, its calls fit their tools.
        probe: what asking it again gave (`router.probe.PROBED`); None: nothing, or it was not asked.
        method: how it was asked again; "" when it was not.
        again_input_tokens: what that read; `again_output_tokens` what it wrote.
    """

    text: str
    tokens: tuple[TokenLogprob, ...]
    finish_reason: str | None
    input_tokens: int
    output_tokens: int
    seconds: float
    is_valid: bool = True
    probe: tuple[float, ...] | None = None
    method: str = ""
    again_input_tokens: int = 0
    again_output_tokens: int = 0


Ask: TypeAlias = Callable[[Question], Awaitable[Reply]]
"""Answers one question after its earlier turns: temperature 0, log-probabilities on, with its schema and tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One model's graded reply to one question; `quality` is in [0, 1]. See `Reply` for the rest.

    Attributes:
        mean_logprob: of its tokens, where that is all that is known of them (outcome records); None: `tokens` has them.
    """

    key: str
    task: str
    prompt: str
    model: str
    quality: float
    text: str
    finish_reason: str | None
    input_tokens: int
    output_tokens: int
    seconds: float
    is_json: bool = False
    tokens: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    has_tools: bool = False
    is_valid: bool = True
    probe: tuple[float, ...] | None = None
    method: str = ""
    again_input_tokens: int = 0
    again_output_tokens: int = 0
    earlier: tuple[Turn, ...] = ()
    mean_logprob: float | None = None

    @property
    def whole(self) -> tuple[str, ...]:
        """Return what tells its question apart from every other; see `Question.whole`."""
        return _whole(self.earlier, self.prompt)

    @property
    def turns(self) -> int:
        """Return how many messages its question has."""
        return len(self.earlier) + 1


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a JSONL file in its order.

    Raises:
        TrainingError: a line is not a question, or two share a key.
    """
    rows = [
        Question(
            **{
                **row,
                "answers": tuple(row["answers"]),
                "wrong": tuple(row.get("wrong", ())),
                "earlier": _turns(row.get("earlier", ()), path),
            }
        )
        for row in _json_lines(path, Question)
    ]
    for row in rows:
        if row.tools is not None and row.earlier:
            raise TrainingError(
                f"{path}: question {row.key!r} has `tools` and `earlier` turns; calibrations speak for tools in single "
                "questions only: leave one of the two out"
            )
    if len({row.key for row in rows}) != len(rows):
        raise TrainingError(f"{path} has the same key on two questions; every question needs its own")
    return rows


def read_outcomes(path: Path) -> list[Outcome]:
    """Return the outcomes of a JSONL file in its order.

    Raises:
        TrainingError: a line is not an outcome.
    """
    return [
        Outcome(
            **{
                **row,
                "tokens": tuple(TokenLogprob(logprob, tuple(top)) for logprob, top in row["tokens"]),
                "probe": None if row.get("probe") is None else tuple(row["probe"]),
                "earlier": _turns(row.get("earlier", ()), path),
            }
        )
        for row in _json_lines(path, Outcome)
    ]


def write_outcome(outcome: Outcome) -> str:
    """Return the outcome as one line of JSON with its newline; log-probabilities keep four decimals."""
    row = asdict(outcome)
    row["tokens"] = [[round(token.logprob, 4), [round(value, 4) for value in token.top]] for token in outcome.tokens]
    return json.dumps(row, ensure_ascii=False) + "\n"


async def collect(
    questions: Sequence[Question], *, model: str, ask: Ask, keep: Callable[[Outcome], None]
) -> AsyncIterator[Outcome]:
    """Ask one model the questions in their order; hand each outcome to `keep`, then yield it.

    One question is in flight at a time, so that `seconds` is the time of an unloaded server; two models are asked side
    by side by running two of these. `keep` writes the line (see `write_outcome`); leave out what was asked already.
    """
    for question in questions:
        outcome = outcome_of(question, await ask(question), model=model)
        keep(outcome)
        yield outcome


def outcome_of(question: Question, reply: Reply, *, model: str) -> Outcome:
    """Return the reply with its grade."""
    return Outcome(
        key=question.key,
        task=question.task,
        prompt=question.prompt,
        model=model,
        quality=grade(question, reply.text),
        text=reply.text,
        finish_reason=reply.finish_reason,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        seconds=reply.seconds,
        is_json=question.schema is not None,
        tokens=reply.tokens,
        has_tools=question.tools is not None,
        is_valid=reply.is_valid,
        probe=reply.probe,
        method=reply.method,
        again_input_tokens=reply.again_input_tokens,
        again_output_tokens=reply.again_output_tokens,
        earlier=question.earlier,
    )


def grade(question: Question, text: str) -> float:
    """Tell whether a text gives an accepted answer: 1.0 or 0.0.

    A number must stand as a whole number (12 is neither in 112 nor in 12.5); words match on word boundaries without
    regard to case and accents, but symbols and all-capital answers (Ne, SELECT) as written; JSON by equal fields. With
    tools on offer, calls are compared as JSON, and a text that makes none is right only where a text is; one in which a
    call is written out answers nobody.
    """
    if question.schema is not None or (question.tools is not None and _is_calls(text)):
        return float(_same_json(text, question.answers))
    if question.tools is not None and _WRITTEN_CALL.search(text):
        return 0.0
    is_right = any(_says(text, answer) for answer in question.answers if not _is_calls(answer))
    return float(is_right and not any(_says(text, other) for other in question.wrong))


def is_json(text: str) -> bool:
    """Tell whether a text is JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def _is_calls(text: str) -> bool:
    return text.startswith("[{") and is_json(text)


def _whole(earlier: Sequence[Turn], prompt: str) -> tuple[str, ...]:
    return (*(f"{turn.role}: {turn.content}" for turn in earlier), prompt)


def _turns(rows: JsonValue, path: Path) -> tuple[Turn, ...]:
    try:
        turns = tuple(Turn(role=row["role"], content=row["content"]) for row in rows)
    except (TypeError, KeyError) as error:
        raise TrainingError(f'{path}: `earlier` is a list of {{"role", "content"}}, one for each message') from error
    expected = ("user", "assistant") * len(turns)
    if len(turns) % 2 or any(turn.role != role for turn, role in zip(turns, expected, strict=False)):
        raise TrainingError(
            f"{path}: `earlier` has the roles {', '.join(turn.role for turn in turns)}; user and assistant take turns, "
            "and the last one is an assistant's, since the prompt follows it"
        )
    return turns


def _json_lines(path: Path, row_type: type[Question] | type[Outcome]) -> Iterable[JsonValue]:
    wanted = set(row_type.__dataclass_fields__)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise TrainingError(f"{path} line {number} is not JSON ({error.msg}); delete it and ask again") from error
        if not isinstance(row, dict) or not set(row) <= wanted:
            raise TrainingError(f"{path} line {number} is no {row_type.__name__}; its fields are {sorted(wanted)}")
        yield row


_WRITTEN_CALL = re.compile(r'"name"\s*:.{0,200}"arguments"\s*:', re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\d])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER_WORDS = dict(
    enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), start=2)
)


def _says(text: str, answer: str) -> bool:
    if re.fullmatch(r"-?\d+(\.\d+)?", answer):
        value = Fraction(answer)
        found = _NUMBER.findall(_THOUSANDS.sub("", text.replace("\N{MINUS SIGN}", "-")))
        word = _NUMBER_WORDS.get(int(value)) if value.denominator == 1 else None
        return any(Fraction(number) == value for number in found) or (word is not None and _says(text, word))
    is_exact = answer.isupper() or (len(answer) <= 2 and answer[:1].isupper())
    text, answer = (text, answer) if is_exact else (_folded(text), _folded(answer))
    # A boundary only where the answer has a word character at its edge: "!=" and "O(1)" end in none.
    before = r"(?<!\w)" if re.match(r"\w", answer) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", answer) else ""
    return re.search(before + re.escape(answer) + after, text) is not None


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return "".join(c for c in plain if not unicodedata.combining(c)).casefold()


def _same_json(text: str, answers: Sequence[str]) -> bool:
    try:
        given = json.loads(text)
    except json.JSONDecodeError:
        return False
    return any(_comparable(given) == _comparable(json.loads(answer)) for answer in answers if is_json(answer))


def _comparable(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _comparable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return value.strip().casefold() if isinstance(value, str) else value
