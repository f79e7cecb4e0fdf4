"""Every error that can reach a client has its row in the one table that turns errors into HTTP."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from backends import errors as floor
from backends.errors import AskInvalid, BackendError
from gateway.errors import FlightLost, Refused, problem_of


def family(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


def an_example(kind: type[Exception]) -> Exception:
    """Make an error with some value for each argument that has no default."""
    values = {"str": "words", "int": 418, "float": 1.5, "Sequence[str]": ["a"], "str | None": None}
    needed = [
        (name, parameter)
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    places = [values[str(p.annotation)] for _, p in needed if p.kind is not p.KEYWORD_ONLY]
    named = {name: values[str(p.annotation)] for name, p in needed if p.kind is p.KEYWORD_ONLY}
    return kind(*places, **named)


_ROOTS = (BackendError, Refused, AskInvalid, FlightLost)
CLASSES = [kind for root in _ROOTS for kind in family(root) if kind is not Refused]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_a_client_can_cause_or_meet_has_a_row(kind: type[Exception]):
    problem = problem_of(an_example(kind))
    assert problem.code != "internal_error"
    assert 400 <= problem.status < 600
    assert problem.message


def test_what_nobody_foresaw_tells_nothing_of_itself():
    problem = problem_of(ValueError("sk-secret and a prompt"))
    assert (problem.status, problem.code) == (500, "internal_error")
    assert b"secret" not in problem.body()


def test_the_tree_at_the_head_of_the_file_names_every_class():
    assert all(kind.__name__ in (floor.__doc__ or "") for kind in family(BackendError))
