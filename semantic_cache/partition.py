"""Keys: which requests are the same, and which may be compared.

Exact key: digest of the canonical JSON of every field that can change the answer, with the tenant and what will answer.
Partition: the same with the text of the last user message blanked. Both are one-way: nothing is read out of them, and a
tenant's name is a field of its own, so no prompt can spell another tenant's key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Who asks and what will answer: two requests share nothing unless both are equal.

    Attributes:
        tenant: whose cache it is.
        answers: what would answer, e.g. the route's name and its models' upstream names: an upgrade changes the key.
    """

    tenant: TenantId
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
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
        frame: dict[str, JsonValue] = {"tenant": scope.tenant, "answers": scope.answers, "surface": ask.surface}
        exact = hashlib.sha256(_encode({**frame, "fields": fields})).digest()
        if not wants_partition or ask.surface is not Surface.CHAT:
            return Keys(exact=exact, partition=b"")
        _blank_last_user_text(fields["messages"])
        return Keys(exact=exact, partition=hashlib.sha256(_encode({**frame, "fields": fields, "blank": 1})).digest())
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        return Bypass(reason=BypassReason.UNREADABLE)


def semantic_bypass(ask: Ask) -> BypassReason | None:
    """Tell why only the exact tier may serve this request; None when the semantic tier may."""
    text = ask.last_user_text
    reasons = {
        BypassReason.SURFACE: ask.surface is not Surface.CHAT,
        BypassReason.CHOICES: ask.choices != 1 or ask.wants_logprobs,
        BypassReason.TOOLS: "tools" in ask.fields or "functions" in ask.fields,
        BypassReason.TURNS: sum(message.role not in {"system", "developer"} for message in ask.messages) != 1,
        BypassReason.NOT_PLAIN_TEXT: not text.strip() or not all(message.is_plain for message in ask.messages),
        BypassReason.LENGTH: len(text) > TEXT_LIMIT_CHARACTERS,
    }
    first = next((reason for reason, applies in reasons.items() if applies), None)
    if first is not None:
        return first
    is_time_sensitive = not _TIME_WORDS.isdisjoint(word.strip(".,;:!?'\"()") for word in text.lower().split())
    return BypassReason.TIME_SENSITIVE if is_time_sensitive else None


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
