"""Keys: which requests are the same, and which may be compared.

Exact key: digest of the canonical JSON of every field that can change the answer, with the tenant and what will answer.
Partition: the same with the text of the last user message blanked. Both are one-way: nothing is read out of them, and a
tenant's name is a field of its own, so no prompt can spell another tenant's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeAlias

import msgspec

from backends.words import Ask, JsonValue, Surface, TenantId
from semantic_cache.seam import Bypass, BypassReason

_IRRELEVANT = frozenset(
    {"user", "stream", "stream_options", "metadata", "store", "model", "service_tier", "safety_identifier"}
)
"""Fields that do not change an answer. `model` is replaced by what will really answer."""

TEXT_LIMIT_CHARACTERS = 2_000
"""Longer texts bypass the semantic tier: the embedder reads 256 tokens, and the guard is linear in the text."""

_TIME_WORDS = frozenset(
    [
        "today",
        "tonight",
        "yesterday",
        "tomorrow",
        "now",
        "currently",
        "current",
        "latest",
        "newest",
        "recent",
        "recently",
        "nowadays",
        "breaking",
    ]
)

_encode = msgspec.json.Encoder(order="sorted").encode


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks and what will answer: two requests share nothing unless both are equal.

    Attributes:
        tenant: whose cache it is.
        namespace: where the route's answers are shared by all its tenants; "" when each tenant has its own.
        answers: what would answer, e.g. the route's name and its models' upstream names: an upgrade changes the key.
    """

    tenant: TenantId
    answers: tuple[str, ...]
    namespace: str = ""


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """`exact` finds the same request, `partition` those that differ in the last user text only; sha256 each."""

    exact: bytes
    partition: bytes


KeysOrBypass: TypeAlias = Keys | Bypass


def keys_of(ask: Ask, scope: Scope, *, max_temperature: float, wants_partition: bool = True) -> KeysOrBypass:
    """Return the request's keys, or why it may not be cached at all.

    Args:
        ask: the parsed request.
        scope: who asks, and what will answer.
        max_temperature: above it two answers to one request differ by wish. An absent temperature is OpenAI's 1.
        wants_partition: whether the semantic tier will be asked; without it the partition is b"".
    """
    if (
        ask.surface is not Surface.EMBEDDINGS
        and (1.0 if ask.temperature is None else ask.temperature) > max_temperature
    ):
        return Bypass(reason=BypassReason.TEMPERATURE)
    try:
        fields: dict[str, JsonValue] = {
            name: msgspec.json.decode(raw)
            for name, raw in ask.fields.items()
            if name not in _IRRELEVANT and bytes(raw) != b"null"
        }
        # Different names for tenant and namespace: a tenant that is called like a namespace is not in it.
        whose = {"namespace": scope.namespace} if scope.namespace else {"tenant": scope.tenant}
        frame: dict[str, JsonValue] = {**whose, "answers": scope.answers, "surface": ask.surface}
        exact = hashlib.sha256(_encode({**frame, "fields": fields})).digest()
        if not wants_partition or ask.surface is not Surface.CHAT:
            return Keys(exact=exact, partition=b"")
        _blank_last_user_text(fields["messages"])
        return Keys(exact=exact, partition=hashlib.sha256(_encode({**frame, "fields": fields, "blank": 1})).digest())
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        return Bypass(reason=BypassReason.UNREADABLE)


def semantic_bypass(
    ask: Ask, *, allowed: Collection[str] = (), max_characters: int = TEXT_LIMIT_CHARACTERS
) -> BypassReason | None:
    """Tell why only the exact tier may serve this request; None when the semantic tier may.

    Args:
        ask: the parsed request.
        allowed: the reasons, by their values, that the route does not mind.
        max_characters: longer texts are not compared.
    """
    text = ask.last_user_text
    reasons = {
        BypassReason.SURFACE: ask.surface is not Surface.CHAT,
        BypassReason.CHOICES: ask.choices != 1 or ask.wants_logprobs,
        BypassReason.TOOLS: "tools" in ask.fields or "functions" in ask.fields,
        BypassReason.TURNS: sum(message.role not in {"system", "developer"} for message in ask.messages) != 1,
        BypassReason.NOT_PLAIN_TEXT: not text.strip() or not all(message.is_plain for message in ask.messages),
        BypassReason.LENGTH: len(text) > max_characters,
    }
    first = next((reason for reason, applies in reasons.items() if applies and reason not in allowed), None)
    if first is not None:
        return first
    return next((reason for reason, tells in _WORDINGS.items() if reason not in allowed and tells(text)), None)


def is_time_sensitive(text: str) -> bool:
    """Tell whether an answer depends on the day it is given."""
    return not _TIME_WORDS.isdisjoint(word.strip(".,;:!?'\"()") for word in text.lower().split())


def is_code(text: str) -> bool:
    """Tell whether a text holds program code: a fence, or two different marks of it."""
    return "```" in text or sum(mark in text for mark in _CODE_MARKS) >= 2


def is_maths(text: str) -> bool:
    """Tell whether a text holds a formula or a sum: in those, one character changes the answer and few words do."""
    if any(mark in text for mark in _MATHS_MARKS):
        return True
    return any(_joins_terms(text, at) for sign in _SIGNS for at in _places(text, sign))


def _places(text: str, sign: str) -> Iterator[int]:
    at = text.find(sign)
    while at >= 0:
        yield at
        at = text.find(sign, at + 1)


def _joins_terms(text: str, at: int) -> bool:
    """Tell whether a sign stands between two terms, at least one of them a number: `2+2`, `3x = 9`, `(1+y)^2`.

    With a space on one side only it is no such sign: `call +49 30 1234`.
    """
    gap = 1 if text[at - 1 : at] == text[at + 1 : at + 2] == " " else 0
    before, after = text[at - 1 - gap : at - gap], text[at + 1 + gap : at + 2 + gap]
    is_between = bool(before) and (before.isalnum() or before == ")") and (after.isalnum() or after in {"(", "-"})
    return is_between and bool(after) and (before.isdigit() or after.isdigit() or before == ")" or after == "(")


_CODE_MARKS = (
    "def ",
    "return ",
    "import ",
    "class ",
    "function ",
    "const ",
    "var ",
    "#include",
    "public ",
    "SELECT ",
    " FROM ",
    "=>",
    "->",
    "==",
    "!=",
    "&&",
    "||",
    "::",
    "()",
    "();",
    "{",
    "};",
    "</",
    "/>",
    "+=",
    "[0]",
    "$(",
)
_MATHS_MARKS = ("\\frac", "\\int", "\\sum", "\\sqrt", "\\cdot", "$$", "∫", "∑", "√")
_SIGNS = "+*^=\u00d7\u00f7"
"""No minus and no slash: dates, ranges, telephone numbers and units are written with them.

The last two are the signs for times and divided by."""

_WORDINGS: Mapping[BypassReason, Callable[[str], bool]] = {
    BypassReason.TIME_SENSITIVE: is_time_sensitive,
    BypassReason.CODE: is_code,
    BypassReason.MATHS: is_maths,
}


def _blank_last_user_text(messages: list[JsonValue]) -> None:
    last = next((message for message in reversed(messages) if message.get("role") == "user"), None)
    if last is None:
        return
    if isinstance(last.get("content"), str):
        last["content"] = None
        return
    for part in last.get("content") or ():
        if part.get("type") == "text":
            part["text"] = None
