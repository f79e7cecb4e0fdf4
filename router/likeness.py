"""How alike two texts are, whatever their wording: what audits and the judge of two samples compare by."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

from backends.words import JsonValue

_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_AROUND: Final = "*_`#\"'.,;:?()[]"
"""Marks around a word that say nothing; inside one (3.5, it's) they stay, and so does what may be a sign (-5, !x)."""


def normalised(text: str) -> str:
    """Return a text without case, Markdown, and marks and blanks around its words."""
    words = (word.strip(_AROUND).rstrip("!") for word in unicodedata.normalize("NFKC", text).casefold().split())
    return " ".join(filter(None, words))


def as_json(text: str) -> JsonValue | None:
    """Return an object or a list; anything else is text (`12` may be a part of an answer in words)."""
    if text.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def has_same_numbers(one: str, other: str) -> bool:
    """Tell whether two texts name the same numbers, in any order."""
    return set(_NUMBER.findall(one)) == set(_NUMBER.findall(other))


def says_the_same(one: str, other: str) -> bool | None:
    """Tell what the texts alone tell: equal or other JSON, or equal words; None: only meaning can tell."""
    left, right = as_json(one), as_json(other)
    if left is not None and right is not None:
        return bool(left == right)
    return True if normalised(one) == normalised(other) else None
