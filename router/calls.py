"""Tool calls in an answer: read from its events, and checked against the tools that the request offered.

- An answer's calls are told as text: a JSON list of `{"name", "arguments"}`, the arguments as a value where they are
  JSON. So they can be judged, compared and graded like any other JSON.
- A call is valid when its tool was offered, its arguments are JSON that fits the tool's schema, and the request's
  `tool_choice` and `parallel_tool_calls` allow it. A schema that is none makes every call invalid: nothing can be said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from backends.words import Ask, JsonValue
from router.schemas import fits

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a request lets a model call.

    Attributes:
        schemas: each tool's JSON schema of its arguments, by name; None: any object.
        is_required: an answer without a call is none.
        only: the one tool that may be called; None: any of them.
        is_forbidden: no call may be made.
        is_single: at most one call may be made.
    """

    schemas: Mapping[str, JsonValue] = field(default_factory=dict)
    is_required: bool = False
    only: str | None = None
    is_forbidden: bool = False
    is_single: bool = False

    def takes(self, calls: Sequence[Call]) -> bool:
        """Tell whether an answer with these calls is what the request allows."""
        if not calls:
            return not self.is_required
        if self.is_forbidden or (self.is_single and len(calls) > 1):
            return False
        return all(self._fits(call) for call in calls)

    def _fits(self, call: Call) -> bool:
        if call.name not in self.schemas or self.only not in {None, call.name}:
            return False
        arguments = call.value
        if not isinstance(arguments, dict):
            return False
        schema = self.schemas[call.name]
        return schema is None or fits(arguments, schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as a model wrote it; `arguments` is JSON text, if the model knows how to write any."""

    name: str
    arguments: str

    @property
    def value(self) -> JsonValue:
        """The arguments, decoded; None where they are no JSON. No text at all is an empty object."""
        try:
            return msgspec.json.decode(self.arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            return None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: JsonValue = None
    parameters: JsonValue = None


class _Tool(msgspec.Struct):
    function: _Function | None = None


class _Chosen(msgspec.Struct):
    function: _Function | None = None
    name: str | None = None


class _Offered(msgspec.Struct):
    tools: list[_Tool] | None = None
    functions: list[_Function] | None = None
    tool_choice: str | _Chosen | None = None
    function_call: str | _Chosen | None = None
    parallel_tool_calls: bool | None = None


class _Written(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    tool_calls: list[_Written] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Said | None = None
    message: _Said | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def offer_of(ask: Ask) -> Offer | None:
    """Return what a request offers; None when it offers no tools, or what it offers cannot be read."""
    names = ("tools", "functions", "tool_choice", "function_call", "parallel_tool_calls")
    fields = {name: ask.fields[name] for name in names if name in ask.fields}
    try:
        offered = msgspec.json.decode(_encode(fields), type=_Offered)
    except (msgspec.MsgspecError, RecursionError):
        return None
    functions = [tool.function for tool in offered.tools or ()] + list(offered.functions or ())
    schemas = {each.name: each.parameters for each in functions if each is not None and each.name is not None}
    if not schemas:
        return None
    choice = offered.tool_choice if offered.tool_choice is not None else offered.function_call
    only = None
    if isinstance(choice, _Chosen):
        only = choice.name or (choice.function.name if choice.function is not None else None)
    return Offer(
        schemas=schemas,
        is_required=choice == "required" or isinstance(choice, _Chosen),
        only=only,
        is_forbidden=choice == "none",
        is_single=offered.parallel_tool_calls is False,
    )


def told(calls: Sequence[Call]) -> str:
    """Return calls as JSON text, arguments in one order of their names; "" for none."""
    if not calls:
        return ""
    rows = [{"name": c.name, "arguments": c.arguments if c.value is None else c.value} for c in calls]
    return msgspec.json.encode(rows, order="sorted").decode()


class Calls:
    """Collects the calls of choice 0 from an answer's payloads, streamed in pieces or whole."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    def feed(self, payload: bytes) -> None:
        """Take the JSON of an event; what is no call leaves no trace."""
        try:
            choices = _decode(payload).choices or []
        except (msgspec.MsgspecError, RecursionError):
            return
        said = next((choice.delta or choice.message for choice in choices if choice.index == 0), None)
        if said is None:
            return
        for place, written in enumerate(said.tool_calls or ()):
            self._add(place if written.index is None else written.index, written.function)
        self._add(0, said.function_call)

    def _add(self, place: int, function: _Function | None) -> None:
        if function is None:
            return
        self._names[place] = self._names.get(place, "") + (function.name or "")
        pieces = self._arguments.setdefault(place, [])
        if isinstance(function.arguments, str):
            pieces.append(function.arguments)
        elif function.arguments is not None:
            # Some servers write the arguments as an object, where the protocol has their text.
            pieces.append(_encode(function.arguments).decode())

    def calls(self) -> tuple[Call, ...]:
        """Return what was called so far, in the answer's order."""
        return tuple(
            Call(name=self._names[place], arguments="".join(self._arguments[place])) for place in sorted(self._names)
        )


def told_of(payload: bytes) -> str:
    """Return the calls of a whole answer's JSON as text; "" where it makes none."""
    calls = Calls()
    calls.feed(payload)
    return told(calls.calls())
