"""Answers that decline to answer: a route may keep them out of its caches, since another try may do better.

A refusal that the model itself marks (OpenAI's `refusal` field) is sure. Otherwise the first words tell: models decline
in few ways, and a text that begins otherwise is not taken for one, whatever it says later.
"""

from __future__ import annotations

from typing import Final

import msgspec

_OPENINGS: Final = (
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i'm sorry, i can",
    "sorry, but i can",
    "sorry, i can",
    "i can't help with",
    "i can't assist",
    "i can't provide",
    "i can't fulfill",
    "i can't comply",
    "i cannot help with",
    "i cannot assist",
    "i cannot provide",
    "i cannot fulfill",
    "i cannot comply",
    "i'm not able to",
    "i am not able to",
    "i'm unable to",
    "i am unable to",
    "i must decline",
    "i won't be able to",
    "i will not",
    "i won't",
    "as an ai language model, i can",
)


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")  # `Raw | None` would take null only
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []


_decode = msgspec.json.Decoder(_Body).decode


def is_refusal(payload: bytes) -> bool:
    """Tell whether any choice of a whole answer declines; an answer of another shape does not."""
    try:
        body = _decode(payload)
    except msgspec.MsgspecError:
        return False
    return any(_declines(choice) for choice in body.choices)


def _declines(choice: _Choice) -> bool:
    if choice.message is None:
        return _begins_so(choice.text or "")
    if choice.message.refusal:
        return True
    content = choice.message.content
    if not bytes(content).startswith(b'"'):
        return False
    return _begins_so(str(msgspec.json.decode(content)))


def _begins_so(text: str) -> bool:
    return text[:64].lstrip().lower().replace("\u2019", "'").startswith(_OPENINGS)
