"""A chat stream's events gathered into the whole answer, as a client that does not stream would have got it.

Rules:
- Nothing a stream says is lost: what cannot be put together with certainty makes the answer unfit to be stored.
- Pieces of text (content, reasoning, refusal, arguments of calls) are joined; tool calls go by their index.
- Any other field, known here or not, may be said once, or again with the same value, or as objects whose fields do not
  disagree; null says nothing. Whether other values replace or continue one another, nobody can tell.
- `usage` is the caller's to say, and what providers pad events with (`obfuscation`) says nothing.

Source of the rules for calls: OpenAI's API reference, "chat.completion.chunk".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from backends.words import JsonValue

_encode = msgspec.json.encode

KEPT_CHARACTERS: Final = 2**20
"""The most of a stream that is kept for the caches; no model writes as much, and memory has to be bounded."""

_NULL: Final = msgspec.Raw(b"null")
_TEXTS: Final = frozenset({"content", "reasoning_content", "reasoning", "refusal"})
_OF_EACH_EVENT: Final = frozenset({"id", "created", "model", "system_fingerprint", "service_tier"})
_ELSEWHERE: Final = frozenset({"object", "choices", "usage", "obfuscation"})

Fields: TypeAlias = dict[str, msgspec.Raw]
_fields: Final = msgspec.json.Decoder(Fields).decode
_rows: Final = msgspec.json.Decoder(list[Fields]).decode
_text: Final = msgspec.json.Decoder(str).decode
_number: Final = msgspec.json.Decoder(int).decode


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning_content: None = None
    reasoning: None = None


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    delta: _Delta
    index: Literal[0] = 0
    finish_reason: str | None = None
    logprobs: msgspec.Raw = _NULL


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """An event of choice 0 with nothing but text: nearly all are, and are read in a microsecond."""

    object: Literal["chat.completion.chunk"]
    choices: Annotated[list[_Choice], msgspec.Meta(max_length=1)]
    id: msgspec.Raw = _NULL
    created: msgspec.Raw = _NULL
    model: msgspec.Raw = _NULL
    system_fingerprint: msgspec.Raw = _NULL
    service_tier: msgspec.Raw = _NULL
    usage: msgspec.Raw = _NULL
    obfuscation: msgspec.Raw = _NULL


_plain: Final = msgspec.json.Decoder(_Plain).decode


class Unclear(Exception):
    """Two events say what cannot be put together."""


class Gathering:
    """The answer of a stream, as far as it has come."""

    def __init__(self) -> None:
        self._said: dict[int, _Said] = {}
        self._others: Fields = {}
        self._last: bytes = b""
        self._run_of: bytes | None = None
        self._size = 0
        self._is_clear = True

    def take(self, payload: bytes) -> None:
        """Take an event's JSON in."""
        self._last, self._run_of = payload, None
        self._read(payload, None)

    def take_run(self, payload: bytes, content: str) -> None:
        """Take in events in a row that are `payload` but for the text of choice 0, which is `content` in all."""
        self._last = payload
        if self._run_of is payload:
            self._add(0, "content", content)
        else:
            self._read(payload, content)
            self._run_of = payload

    def body(self, usage: JsonValue) -> bytes | None:
        """Return the whole answer's JSON; None when it is no chat answer, is unclear or too large, or has no end.

        Args:
            usage: OpenAI's usage object for the answer.
        """
        if not self._is_clear or not self._said or any(said.finish_reason is None for said in self._said.values()):
            return None
        head: dict[str, JsonValue] = {
            name: value for name, value in _fields(self._last).items() if name in _OF_EACH_EVENT
        }
        try:
            choices = [self._said[index].choice(index) for index in sorted(self._said)]
        except Unclear:
            return None
        return _encode({**head, "object": "chat.completion", **self._others, "choices": choices, "usage": usage})

    def _read(self, payload: bytes, content: str | None) -> None:
        if not self._is_clear:
            return
        try:
            plain = _plain(payload)
        except msgspec.ValidationError:
            self._read_closely(payload, content)
            return
        for choice in plain.choices:
            said = self._of(0)
            said.finish_reason = choice.finish_reason or said.finish_reason
            text = choice.delta.content if content is None else content
            if text is not None:
                self._add(0, "content", text)

    def _read_closely(self, payload: bytes, content: str | None) -> None:
        self._grow(len(payload))
        try:
            fields = _fields(payload)
            self._is_clear = bytes(fields.get("object", _NULL)) == b'"chat.completion.chunk"'
            for choice in _rows(fields.get("choices", msgspec.Raw(b"[]"))):
                index = _number(choice.pop("index", msgspec.Raw(b"0")))
                self._take_choice(index, choice, content if index == 0 else None)
            for name, value in fields.items():
                if name not in _OF_EACH_EVENT and name not in _ELSEWHERE:
                    _say(self._others, name, value)
        except (Unclear, msgspec.MsgspecError, RecursionError):
            self._is_clear = False

    def _take_choice(self, index: int, choice: Fields, content: str | None) -> None:
        said = self._of(index)
        finish = choice.pop("finish_reason", _NULL)
        if bytes(finish) != b"null":
            said.finish_reason = _text(finish)
        choice.pop("logprobs", None)  # the gateway's own; a stream whose client asked for them is not gathered
        for name, value in _fields(choice.pop("delta", msgspec.Raw(b"{}"))).items():
            if name == "content" and content is not None:
                self._add(index, name, content)
            elif name in _TEXTS and bytes(value).startswith(b'"'):
                self._add(index, name, _text(value))
            elif bytes(value) != b"null":
                said.take(name, value)
        for name, value in choice.items():
            _say(said.others, name, value)

    def _add(self, index: int, name: str, text: str) -> None:
        self._grow(len(text))
        if self._is_clear:
            self._of(index).texts.setdefault(name, []).append(text)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > KEPT_CHARACTERS:
            self._is_clear = False
            self._said.clear()
            self._others.clear()

    def _of(self, index: int) -> _Said:
        return self._said.setdefault(index, _Said())


class _Said:
    """What one choice has said."""

    __slots__ = ("_calls", "_function_call", "_message", "finish_reason", "others", "texts")

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.finish_reason: str | None = None
        self.others: Fields = {}
        self._message: Fields = {}
        self._calls: dict[int, _Call] = {}
        self._function_call: _Call | None = None

    def take(self, name: str, value: msgspec.Raw) -> None:
        """Take in a field of the message."""
        if name in self.texts:  # text first, and then something else of that name
            raise Unclear
        if name == "function_call":
            self._function_call = self._function_call or _Call()
            self._function_call.take({"function": value})
        elif name == "tool_calls":
            for call in _rows(value):
                if "index" not in call:
                    raise Unclear
                self._calls.setdefault(_number(call.pop("index")), _Call()).take(call)
        else:
            _say(self._message, name, value)

    def choice(self, index: int) -> dict[str, JsonValue]:
        """Return the whole choice."""
        if self.texts.keys() & self._message.keys():
            raise Unclear
        texts = {name: "".join(parts) for name, parts in self.texts.items()}
        has_calls = bool(self._calls or self._function_call)
        content = self._message.get("content", texts.pop("content", None) or (None if has_calls else ""))
        message: dict[str, JsonValue] = {"role": "assistant", "content": content, **texts, **self._message}
        if self._calls:
            message["tool_calls"] = [self._calls[place].whole() for place in sorted(self._calls)]
        if self._function_call is not None:
            message["function_call"] = self._function_call.function()
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason,
            **self.others,
        }


class _Call:
    """A call of a tool, whose arguments come in pieces."""

    __slots__ = ("_arguments", "_fields", "_function")

    def __init__(self) -> None:
        self._fields: Fields = {}
        self._function: Fields = {}
        self._arguments: list[str] = []

    def take(self, fields: Mapping[str, msgspec.Raw]) -> None:
        """Take in a piece."""
        for name, value in fields.items():
            if name != "function":
                _say(self._fields, name, value)
            elif bytes(value) != b"null":
                function = _fields(value)
                arguments = function.pop("arguments", _NULL)
                if bytes(arguments) != b"null":
                    self._arguments.append(_text(arguments))
                for inner, stated in function.items():
                    _say(self._function, inner, stated)

    def whole(self) -> dict[str, JsonValue]:
        """Return the call."""
        return {**self._fields, "function": self.function()}

    def function(self) -> dict[str, JsonValue]:
        """Return what is called."""
        return {**self._function, "arguments": "".join(self._arguments)}


def _say(said: Fields, name: str, value: msgspec.Raw) -> None:
    """Note a field's value.

    Raises:
        Unclear: it had another.
    """
    if bytes(value) == b"null":
        return
    old = said.get(name)
    if old is None:
        said[name] = msgspec.Raw(bytes(value))  # a copy: it would keep its whole event
    elif old != value:
        said[name] = msgspec.Raw(_encode(_united(msgspec.json.decode(old), msgspec.json.decode(value))))


def _united(old: JsonValue, new: JsonValue) -> JsonValue:
    if old == new:
        return old
    if not isinstance(old, dict) or not isinstance(new, dict):
        raise Unclear
    shared = {name: _united(old[name], new[name]) for name in old.keys() & new.keys()}
    return {**old, **new, **shared}
