"""Questions that offer tools, with checkable answers: `python -m router.train_tools > tools.jsonl`.

Four kinds in equal parts, shuffled, so that any prefix is a fair sample:
- `tools-call`: one of the tools offered is right, and every argument stands in the prompt;
- `tools-two`: the same tool is right twice, for two things that the prompt names;
- `tools-none`: the answer stands in the prompt, and no tool is of any use;
- `tools-impossible`: none of the tools does what is asked; right is to say so and to call nothing.

Rules: as of `router.train_questions`; every argument is copied from the prompt as it stands there (names, whole
numbers, times as HH:MM, dates as YYYY-MM-DD, one of the values that the schema lists), so that no form of writing is a
matter of taste. Computed and written here (Apache-2.0).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TypeAlias

import click

from backends.words import JsonValue
from router.train_outcomes import Question

SEED = 20261121
COUNT = 240
"""More than a calibration wants of a form (200)."""

Arguments: TypeAlias = dict[str, str | int]
Request: TypeAlias = tuple[str, Arguments]
"""What is asked for, and the arguments of the one call that is right."""

_OFFERED = 3
_CITIES = ("Lisbon", "Lahore", "Chengdu", "Kazan", "Boston", "Beirut", "Oslo", "Osaka", "Prague", "Leeds", "Dakar")
_NAMES = ("Maria", "Ahmed", "Chen", "Olga", "David", "Fatima", "Lars", "Yuki", "Carlos", "Nina", "Amara", "Ivan")
_GOODS = ("notebook", "keyboard", "lamp", "backpack", "monitor", "chair", "kettle", "jacket")
_CURRENCIES = ("USD", "EUR", "JPY", "GBP", "CHF", "INR")
_ROOMS = ("kitchen", "bedroom", "office", "garage", "hallway")
_LANGUAGES = ("French", "German", "Spanish", "Japanese", "Turkish")
_PHRASES = ("good morning", "thank you", "where is the station", "I am hungry", "see you tomorrow")
_NO_TOOL = (
    "cannot",
    "can't",
    "unable",
    "not able",
    "don't have",
    "do not have",
    "no tool",
    "none of the",
    "not possible",
)
"""How one says that something cannot be done."""


def questions(seed: int = SEED, count: int = COUNT) -> list[Question]:
    """Return so many questions, a fourth of each kind, in a shuffled order that the seed gives."""
    rows: list[Question] = []
    for place, (kind, make) in enumerate(_KINDS.items()):
        draw = random.Random(f"{seed}:{kind}")  # noqa: S311 - draws questions, guards nothing
        known: dict[str, Question] = {}
        while len(known) < (count + len(_KINDS) - 1 - place) // len(_KINDS):
            drawn = make(draw, f"{kind}-{len(known):03d}")
            known.setdefault(drawn.prompt, drawn)
        rows += known.values()
    random.Random(f"{seed}:tools").shuffle(rows)  # noqa: S311 - as above
    return rows


def _call(draw: random.Random, key: str) -> Question:
    tool = draw.choice(list(_REQUESTS))
    text, arguments = _REQUESTS[tool](draw)
    return _question(key, text, _offer(draw, tool), [{"name": tool, "arguments": arguments}])


def _two(draw: random.Random, key: str) -> Question:
    tool, form, values = draw.choice(_PAIRS)
    one, two = draw.sample(values, 2)
    name = next(iter(_TOOLS[tool]))
    calls = [{"name": tool, "arguments": {name: value}} for value in (one, two)]
    answers = (json.dumps(calls), json.dumps(calls[::-1]))  # in whichever order
    return Question(key=key, task="tools-two", prompt=form.format(one, two), answers=answers, tools=_offer(draw, tool))


def _none(draw: random.Random, key: str) -> Question:
    one, two = draw.sample(_NAMES, 2)
    first, second = draw.sample(range(20, 80), 2)
    here, there = draw.sample(_CITIES, 2)
    text = f"{one} is {first} and lives in {here}. {two} is {second} and lives in {there}."
    asked, right, other = draw.choice(
        (
            (f"Where does {two} live?", there, here),
            (f"How old is {one}?", str(first), str(second)),
            (f"Who lives in {there}?", two, one),
        )
    )
    prompt = f"{text} {asked} Answer in one short sentence."
    return Question(
        key=key, task="tools-none", prompt=prompt, answers=(right,), wrong=(other,), tools=_offer(draw, None)
    )


def _impossible(draw: random.Random, key: str) -> Question:
    tool = draw.choice(list(_REQUESTS))
    text, _ = _REQUESTS[tool](draw)
    prompt = f"{text} If no tool can do that, say so in one short sentence."
    return Question(
        key=key, task="tools-impossible", prompt=prompt, answers=_NO_TOOL, tools=_offer(draw, None, without=tool)
    )


_KINDS: dict[str, Callable[[random.Random, str], Question]] = {
    "tools-call": _call,
    "tools-two": _two,
    "tools-none": _none,
    "tools-impossible": _impossible,
}


def _question(key: str, text: str, tools: JsonValue, calls: list[dict[str, JsonValue]]) -> Question:
    return Question(key=key, task=key.rpartition("-")[0], prompt=text, answers=(json.dumps(calls),), tools=tools)


def _offer(draw: random.Random, right: str | None, *, without: str | None = None) -> JsonValue:
    others = draw.sample([name for name in _TOOLS if name not in {right, without}], _OFFERED)
    names = [right, *others[1:]] if right is not None else others
    draw.shuffle(names)
    return [_tool(name) for name in names]


def _tool(name: str) -> JsonValue:
    properties = dict(_TOOLS[name])
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": _DESCRIPTIONS[name],
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }


_TEXT: JsonValue = {"type": "string"}
_WHOLE: JsonValue = {"type": "integer"}
_TIME: JsonValue = {"type": "string", "description": "HH:MM"}
_DATE: JsonValue = {"type": "string", "description": "YYYY-MM-DD"}
_CURRENCY: JsonValue = {"type": "string", "enum": list(_CURRENCIES)}
_TOOLS: dict[str, Mapping[str, JsonValue]] = {
    "get_weather": {"city": _TEXT},
    "convert_currency": {"amount": _WHOLE, "source": _CURRENCY, "target": _CURRENCY},
    "set_timer": {"minutes": _WHOLE},
    "find_order": {"order_number": _WHOLE},
    "book_table": {"restaurant": _TEXT, "people": _WHOLE, "time": _TIME},
    "add_event": {"title": _TEXT, "date": _DATE},
    "set_heating": {"room": {"type": "string", "enum": list(_ROOMS)}, "degrees": _WHOLE},
    "check_stock": {"product": _TEXT},
    "translate": {"text": _TEXT, "language": _TEXT},
}
_DESCRIPTIONS = {
    "get_weather": "Return the present weather in a city.",
    "convert_currency": "Convert an amount of money at today's rate.",
    "set_timer": "Ring after so many minutes.",
    "find_order": "Return the state of a customer's order.",
    "book_table": "Book a table in a restaurant for today.",
    "add_event": "Put an event of a whole day into the calendar.",
    "set_heating": "Set the heating of a room, in degrees Celsius.",
    "check_stock": "Return how many pieces of a product the warehouse has.",
    "translate": "Translate a text from English.",
}
_PAIRS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("get_weather", "What is the weather like in {} and in {} now?", _CITIES),
    ("check_stock", "How many pieces of the {} and of the {} are in the warehouse?", _GOODS),
)


def _weather(draw: random.Random) -> Request:
    city = draw.choice(_CITIES)
    forms = (
        "What is the weather in {} now?",
        "Do I need an umbrella in {} at the moment?",
        "How warm is it in {} now?",
    )
    return draw.choice(forms).format(city), {"city": city}


def _currency(draw: random.Random) -> Request:
    source, target = draw.sample(_CURRENCIES, 2)
    amount = draw.randint(5, 900)
    text = f"How much is {amount} {source} in {target} today?"
    return text, {"amount": amount, "source": source, "target": target}


def _timer(draw: random.Random) -> Request:
    minutes = draw.randint(2, 90)
    forms = ("Set a timer for {} minutes.", "Please ring in {} minutes.", "Remind me in {} minutes with a bell.")
    return draw.choice(forms).format(minutes), {"minutes": minutes}


def _order(draw: random.Random) -> Request:
    number = draw.randint(10_000, 99_999)
    forms = ("Where is my order {}?", "Has order {} been sent?", "Look up the state of order {}, please.")
    return draw.choice(forms).format(number), {"order_number": number}


def _table(draw: random.Random) -> Request:
    restaurant, people = f"Casa {draw.choice(_NAMES)}", draw.randint(2, 9)
    time = f"{draw.randint(17, 21)}:{draw.choice(('00', '15', '30', '45'))}"
    text = f"Book a table for {people} at {restaurant} at {time}."
    return text, {"restaurant": restaurant, "people": people, "time": time}


def _event(draw: random.Random) -> Request:
    title = f"{draw.choice(_NAMES)}'s birthday"
    date = f"2026-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}"
    return f'Put "{title}" into my calendar on {date}.', {"title": title, "date": date}


def _heating(draw: random.Random) -> Request:
    room, degrees = draw.choice(_ROOMS), draw.randint(16, 25)
    return f"Set the heating in the {room} to {degrees} degrees.", {"room": room, "degrees": degrees}


def _stock(draw: random.Random) -> Request:
    product = draw.choice(_GOODS)
    return f"How many pieces of the {product} does the warehouse have?", {"product": product}


def _translation(draw: random.Random) -> Request:
    text, language = draw.choice(_PHRASES), draw.choice(_LANGUAGES)
    return f'Use a tool to translate "{text}" into {language}.', {"text": text, "language": language}


_REQUESTS: dict[str, Callable[[random.Random], Request]] = {
    "get_weather": _weather,
    "convert_currency": _currency,
    "set_timer": _timer,
    "find_order": _order,
    "book_table": _table,
    "add_event": _event,
    "set_heating": _heating,
    "check_stock": _stock,
    "translate": _translation,
}


@click.command()
@click.option("--seed", default=SEED, show_default=True, help="Another seed draws other questions.")
@click.option("--count", type=click.IntRange(4), default=COUNT, show_default=True, help="How many.")
def main(seed: int, count: int) -> None:
    """Write questions that offer tools to standard output as JSON lines, for `faregate calibrate --questions`."""
    for question in questions(seed, count):
        sys.stdout.write(json.dumps(asdict(question), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
