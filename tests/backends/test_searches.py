"""How many searches a request is held for."""

from __future__ import annotations

import json

import msgspec
import pytest

from backends.asks import parse_ask
from backends.searches import most_searches
from backends.words import Ask, JsonValue, Surface

FUNCTION = {"type": "function", "function": {"name": "search", "parameters": {}}}
HOSTED = {"type": "web_search_20250305", "name": "web_search"}


def chat(**fields: JsonValue) -> Ask:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields}
    return parse_ask(Surface.CHAT, json.dumps(body).encode())


def most(ask: Ask, *, is_unasked: bool = False, **added: JsonValue) -> int:
    fields = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in added.items()}
    return most_searches(ask, fields, most=5, is_unasked=is_unasked)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [FUNCTION]},
        {"web_search_options": None},
        {"enable_search": False},
        {"plugins": []},
        {"search_parameters": {"mode": "off"}},
        {"tools": [HOSTED | {"max_uses": 0}]},
    ],
)
def test_a_request_that_asks_for_no_search_is_held_for_none(fields: dict[str, JsonValue]):
    assert most(chat(**fields)) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"web_search_options": {}},
        {"enable_search": True},
        {"plugins": [{"id": "web"}]},
        {"search_parameters": {}},
        {"search_parameters": 7},
        {"tools": [HOSTED]},
        {"tools": [{"google_search": {}}]},
        {"tools": [{"type": "web_search", "max_uses": "many"}]},
        {"tools": [HOSTED, HOSTED | {"max_uses": 9}]},
    ],
)
def test_a_request_that_asks_for_searches_is_held_for_as_many_as_an_answer_may_have(fields: dict[str, JsonValue]):
    assert most(chat(**fields)) == 5


def test_every_choice_may_search_and_the_request_may_say_how_often():
    assert most(chat(tools=[FUNCTION, HOSTED | {"max_uses": 2}], n=3)) == 6


def test_a_model_that_searches_unasked_or_by_its_parameters_is_held_for_searches():
    assert (most(chat(), is_unasked=True), most(chat(), web_search_options={})) == (5, 5)
