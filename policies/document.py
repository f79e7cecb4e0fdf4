"""A YAML text as plain values that remember where each of them stands.

- One document, core tags only, no duplicate keys; anchors, aliases and `<<` are followed, within bounds.
- `${NAME}` and `${NAME:-default}` in values come from the environment that is passed in; `$${` is a literal `${`.
- Numbers with a point become `Decimal`, never `float`. What was substituted stays text: a key of digits is no number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from policies.errors import Mistake

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ruamel.yaml.nodes import Node

    from backends.words import JsonValue

Location: TypeAlias = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

MAX_VALUES: Final = 100_000
"""Values a document may hold with its aliases followed; a few lines of nested aliases could otherwise mean billions."""

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset({f"{_TAG}str", f"{_TAG}timestamp"})  # a date means nothing here: it stays as written
_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")


@dataclass(frozen=True, slots=True)
class Place:
    """A line and a column, both from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """What a text holds. `failed` are the locations whose value could not be made and is None in `values`.

    Attributes:
        values: nested dicts, lists, str, int, Decimal, bool, None.
        keys: where the key of a mapping's entry stands.
        places: where a value starts.
        sources: a scalar as it was written, before substitution.
    """

    values: JsonValue = None
    keys: dict[Location, Place] = field(default_factory=dict)
    places: dict[Location, Place] = field(default_factory=dict)
    sources: dict[Location, str] = field(default_factory=dict)
    failed: set[Location] = field(default_factory=set)
    mistakes: list[Mistake] = field(default_factory=list)

    def mistake(self, location: Location, message: str, *, at_key: bool = False) -> Mistake:
        """Return a mistake at a location, or at the nearest one around it that the file shows."""
        for length in range(len(location), -1, -1):
            near = location[:length]
            first, second = (self.keys, self.places) if at_key or length < len(location) else (self.places, self.keys)
            place = first.get(near) or second.get(near)
            if place is not None:
                return Mistake(place.line, place.column, path_text(location), message)
        return Mistake(0, 0, path_text(location), message)

    def has_failed(self, location: Location) -> bool:
        """Tell whether a mistake about this value, or a value around it, has been reported already."""
        return any(location[:length] in self.failed for length in range(len(location) + 1))


# YAML ends a plain value at the brace of `{key: ${NAME}}`, which everybody writes. While the text is parsed, the three
# marks of a variable are private-use characters: one for one, so that lines and columns stay true.
_MARKS: Final = ("$", "{", "}")
_HIDDEN: Final = ("\ue000", "\ue001", "\ue002")
_PLAIN_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*(?::-[^{}\n]*)?)\}")
_SHOW = str.maketrans(dict(zip(_HIDDEN, _MARKS, strict=True)))


def _hide(text: str) -> str:
    if any(mark in text for mark in _HIDDEN):
        return text
    return _PLAIN_VARIABLE.sub(lambda match: f"{_HIDDEN[0]}{_HIDDEN[1]}{match[1]}{_HIDDEN[2]}", text)


def path_text(location: Location) -> str:
    """Return a location as people write it: `routes[0].ladder[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def read_document(text: str, environ: Mapping[str, str]) -> Document:
    """Return what a YAML text holds; mistakes are collected, none is raised."""
    document = Document()
    try:
        root = YAML(typ="safe", pure=True).compose(_hide(text))
    except (MarkedYAMLError, ReaderError) as error:
        document.mistakes.append(_syntax_mistake(error, text))
        return document
    except (YAMLError, RecursionError, ValueError) as error:
        document.mistakes.append(Mistake(1, 1, "", f"not a YAML document: {str(error) or type(error).__name__}"))
        return document
    if root is None:
        document.mistakes.append(Mistake(1, 1, "", "the policy is empty; start from policies/default.yaml"))
        return document
    document.values = _Reader(document, environ).read(root, ())
    return document


def _syntax_mistake(error: MarkedYAMLError | ReaderError, text: str) -> Mistake:
    if isinstance(error, ReaderError):
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1) + 1
        return Mistake(before.count("\n") + 1, column, "", "not YAML: a control character stands here; delete it")
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    said = " ".join(part for part in (error.context, error.problem) if part).translate(_SHOW)
    return Mistake(line, column, "", f"not YAML: {said}")


class _TooManyValuesError(Exception):
    """Aliases make the document larger than it may be."""


class _Reader:
    """One pass over the nodes of a document."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._count = 0
        self._open: list[int] = []

    def read(self, root: Node, location: Location) -> JsonValue:
        """Return the node's value, or None after reporting that aliases make it too large."""
        try:
            return self._value(root, location)
        except _TooManyValuesError:
            self._fail(location, f"more than {MAX_VALUES} values once aliases are followed; write fewer aliases")
            return None

    def _fail(self, location: Location, message: str) -> None:
        self._document.failed.add(location)
        self._document.mistakes.append(self._document.mistake(location, message))

    def _count_one(self) -> None:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _TooManyValuesError

    def _value(self, node: Node, location: Location) -> JsonValue:
        self._count_one()
        self._document.places[location] = _place(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node, location)
        if id(node) in self._open:
            self._fail(location, "an alias inside its own anchor; write the value out")
            return None
        self._open.append(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, location)
            if isinstance(node, SequenceNode):
                return self._sequence(node, location)
            return self._refuse_tag(node, location)
        finally:
            self._open.pop()

    def _sequence(self, node: SequenceNode, location: Location) -> JsonValue:
        if node.tag != f"{_TAG}seq":
            return self._refuse_tag(node, location)
        return [self._value(item, (*location, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: MappingNode, location: Location) -> JsonValue:
        if node.tag != f"{_TAG}map":
            return self._refuse_tag(node, location)
        values: dict[str, JsonValue] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node, is_own in self._entries(node, location):
            key = str(key_node.value)
            inner = (*location, key)
            if is_own and key in first_lines:
                line = first_lines[key]
                duplicate = f'duplicate key "{key}", first on line {line}; keep one of them'
                place = _place(key_node)
                self._document.mistakes.append(Mistake(place.line, place.column, path_text(inner), duplicate))
                continue
            if is_own:
                first_lines[key] = _place(key_node).line
            self._document.keys[inner] = _place(key_node)
            values[key] = self._value(value_node, inner)
        return values

    def _entries(self, node: MappingNode, location: Location) -> Iterator[tuple[ScalarNode, Node, bool]]:
        """Yield key, value and whether the key is the mapping's own; merged ones come first and once.

        Own keys win over merged ones, and earlier merged mappings over later ones (YAML's merge key, 1.1).
        """
        own: list[tuple[ScalarNode, Node]] = []
        merged: dict[str, tuple[ScalarNode, Node]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                place = _place(key_node)
                complex_key = "a key that is a list or a mapping; keys are plain words"
                self._document.mistakes.append(Mistake(place.line, place.column, path_text(location), complex_key))
            elif key_node.tag == f"{_TAG}merge":
                for key, entry in self._merged(value_node, (*location, "<<")):
                    merged.setdefault(key, entry)
            else:
                own.append((key_node, value_node))
        own_keys = {str(key_node.value) for key_node, _ in own}
        for key, (key_node, value_node) in merged.items():
            if key not in own_keys:
                yield key_node, value_node, False
        for key_node, value_node in own:
            yield key_node, value_node, True

    def _merged(self, node: Node, location: Location) -> Iterator[tuple[str, tuple[ScalarNode, Node]]]:
        parts = node.value if isinstance(node, SequenceNode) else [node]
        for part in parts:
            self._count_one()
            if not isinstance(part, MappingNode) or id(part) in self._open:
                self._document.places[location] = _place(node)
                self._fail(location, "`<<` takes an alias of a mapping, or a list of such aliases")
                continue
            self._open.append(id(part))
            for key_node, value_node, _ in self._entries(part, location):
                self._count_one()
                yield str(key_node.value), (key_node, value_node)
            self._open.pop()

    def _scalar(self, node: ScalarNode, location: Location) -> JsonValue:
        text = str(node.value).translate(_SHOW)
        self._document.sources[location] = text
        if node.tag in _TEXT_TAGS:
            return self._substituted(text, location)
        if node.tag == f"{_TAG}null":
            return None
        if node.tag == f"{_TAG}bool":
            return text.lower() == "true"
        if node.tag in {f"{_TAG}int", f"{_TAG}float"}:
            return self._number(node, location)
        return self._refuse_tag(node, location)

    def _number(self, node: ScalarNode, location: Location) -> JsonValue:
        text = str(node.value).replace("_", "")
        try:
            if node.tag == f"{_TAG}int":
                return int(text, 0) if re.match(r"[-+]?0[box]", text) else int(text)
            number = Decimal(text)
        except (ValueError, InvalidOperation):
            number = Decimal("NaN")  # `.inf`, `.nan`, and thousands of digits
        if not number.is_finite():
            self._fail(location, f'"{node.value}" is no number to compute with; write it in digits')
            return None
        return number

    def _refuse_tag(self, node: Node, location: Location) -> None:
        tag = str(node.tag).replace(_TAG, "!!")
        self._fail(location, f'the tag "{tag}" is not allowed; write the value without a tag')

    def _substituted(self, text: str, location: Location) -> str | None:
        problems: list[str] = []

        def replace(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if match[0] == "$${":
                return "${"
            if name is None:
                problems.append("a `${` that is no `${NAME}` or `${NAME:-default}`; write `$${` for a literal `${`")
                return ""
            value = self._environ.get(name, "")
            if value or default is not None:
                return value or default
            state = "empty" if name in self._environ else "not set"
            problems.append(f'the environment variable {name} is {state}; run: export {name}="…"')
            return ""

        result = _VARIABLE.sub(replace, text)
        for problem in problems:
            self._fail(location, problem)
        return None if problems else result


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
