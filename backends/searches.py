"""How many web searches a request lets a provider run and bill, beside its tokens.

How many there are is the provider's choice: this is a bound by what the policy expects of a model, less what the
request itself caps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from backends.words import Ask

_FIELDS: Final = ("web_search_options", "search_parameters", "plugins", "enable_search")
"""What asks for searches: OpenAI's and Perplexity's, xAI's, OpenRouter's, and Qwen's field."""
_ASKING: Final = frozenset({*_FIELDS, "tools"})
_OFF: Final = frozenset({b"null", b"false", b"[]"})

_THE_CLIENTS: Final = frozenset({"function", "custom"})


class _Tool(msgspec.Struct):
    type: str = ""
    max_uses: int | None = None


class _Parameters(msgspec.Struct):
    mode: str = "auto"


def most_searches(ask: Ask, added: Mapping[str, msgspec.Raw], *, most: int, is_unasked: bool) -> int:
    """Return the most searches that all of a request's choices may be billed for; 0 when none is to be expected.

    Args:
        ask: the parsed request.
        added: the fields its model adds.
        most: how many one answer may run at most, as the policy expects it.
        is_unasked: whether the model searches without being asked.
    """
    if not is_unasked and _ASKING.isdisjoint(ask.fields) and _ASKING.isdisjoint(added):
        return 0  # as nearly always
    fields: Mapping[str, msgspec.Raw] = {**ask.fields, **added} if added else ask.fields
    if is_unasked or any(_asks(fields, name) for name in _FIELDS):
        return most * ask.choices
    # A tool that the provider runs has a type, or a name, of its own with "search" in it; a function is the client's.
    tools = fields.get("tools")
    if tools is None or b"search" not in bytes(tools):
        return 0
    return min(most, _hosted(tools, most)) * ask.choices


def _asks(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    raw = bytes(fields[name]) if name in fields else b"null"
    if raw in _OFF:
        return False
    if name != "search_parameters":
        return True
    try:
        return msgspec.json.decode(raw, type=_Parameters).mode != "off"
    except msgspec.MsgspecError:
        return True  # for the upstream to refuse


def _hosted(tools: msgspec.Raw, most: int) -> int:
    """Return how often the provider's own search tools may be used, by their `max_uses` where they state it."""
    try:
        hosted = [tool for tool in msgspec.json.decode(tools, type=list[_Tool]) if tool.type not in _THE_CLIENTS]
    except msgspec.MsgspecError:
        return most  # an odd tool; the upstream may know it
    return sum(tool.max_uses if tool.max_uses is not None and tool.max_uses >= 0 else most for tool in hosted)
