"""Requests that are known again: exactly the same bytes on the same path, and no more of them than have room."""

from backends.asks import parse_ask
from backends.words import Surface
from gateway.repeats import Repeats


def a_body(text: str) -> bytes:
    return b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % text.encode()


def learned(*bodies: bytes, max_bytes: int = 10_000) -> Repeats:
    repeats = Repeats(max_bytes)
    for body in bodies:
        repeats.learn(Surface.CHAT, body, parse_ask(Surface.CHAT, body))
    return repeats


def test_the_same_bytes_are_the_same_request():
    body = a_body("x" * 500)
    found = learned(body).find(Surface.CHAT, bytes(bytearray(body)))
    assert found is not None
    assert found.ask == parse_ask(Surface.CHAT, body)


def test_other_bytes_in_the_middle_are_another_request():
    repeats = learned(a_body("x" * 250 + "a" + "x" * 250))
    assert repeats.find(Surface.CHAT, a_body("x" * 250 + "b" + "x" * 250)) is None


def test_another_path_is_another_request():
    assert learned(a_body("x")).find(Surface.COMPLETIONS, a_body("x")) is None


def test_those_used_longest_ago_make_room():
    first, second, third = (a_body(text * 100) for text in "abc")
    repeats = learned(first, second, max_bytes=2 * len(first))
    repeats.find(Surface.CHAT, first)
    repeats.learn(Surface.CHAT, third, parse_ask(Surface.CHAT, third))
    assert [repeats.find(Surface.CHAT, body) is not None for body in (first, second, third)] == [True, False, True]


def test_one_that_is_learned_twice_takes_its_room_once():
    first, second = a_body("a" * 100), a_body("b" * 100)
    repeats = learned(first, first, second, max_bytes=2 * len(first))
    assert repeats.find(Surface.CHAT, first) is not None
