"""Text without what patterns can tell to be personal or secret: addresses, account numbers, keys.

What a pattern matches is checked where it can be (card numbers by Luhn's sum, IBANs by ISO 13616's), so that order
numbers and the like mostly stay. No pattern looks further than a bounded number of characters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.words import JsonValue


def _is_card(text: str) -> bool:
    digits = [int(letter) for letter in text if letter.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = [2 * d - 9 * (d > 4) if place % 2 else d for place, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    plain = re.sub(r"[ -]", "", text).upper()
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    return 9 <= sum(letter.isdigit() for letter in text) <= 15


def _is_address(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split("."))


def _always(_: str) -> bool:
    return True


_PATTERNS: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]] = (
    (
        "private key",
        re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]{0,20000}(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?"),
        _always,
    ),
    ("token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{0,4096}"), _always),
    (
        "secret",
        re.compile(
            r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,256}|\bgh[pousr]_[A-Za-z0-9]{20,256}|\bgithub_pat_\w{20,256}"
            r"|\bxox[abprs]-[A-Za-z0-9-]{10,256}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[A-Za-z0-9_-]{30,60}"
            r"|\bglpat-[A-Za-z0-9_-]{16,64}|\bhf_[A-Za-z0-9]{20,64}"
        ),
        _always,
    ),
    ("secret", re.compile(r"(?<=Bearer )[A-Za-z0-9._~+/=-]{16,4096}"), _always),
    ("password", re.compile(r"(?<=://)[^\s/:@]{1,256}:[^\s/@]{1,256}(?=@)"), _always),
    ("email", re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}"), _always),
    ("iban", re.compile(r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?\b"), _is_iban),
    ("card", re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]?\d)"), _is_card),
    ("social security number", re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"), _always),
    ("ip", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"), _is_address),
    ("ip", re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){3,7}:?[0-9A-Fa-f]{1,4}(?![\w:])"), _always),
    ("phone", re.compile(r"(?<![\w.])(?:\+|00|0|\()\d[\d ()/.-]{7,22}\d(?![\w])"), _is_phone),
)
_DATA: Final = re.compile(r"data:([a-z]+/[a-z0-9.+-]{1,64})?[;,][^\s\"']{0,64}", re.IGNORECASE)
_SHOWN: Final = 256


def redacted(text: str) -> str:
    """Return a text in which `[email]`, `[card]` and so on stand for what was found."""
    for name, pattern, is_one in _PATTERNS:
        text = pattern.sub(lambda found, n=name, real=is_one: f"[{n}]" if real(found[0]) else found[0], text)  # type: ignore[misc]
    return text


def redacted_json(value: JsonValue, *, most: int) -> JsonValue:
    """Return JSON whose texts are redacted; sound and pictures inside it are left out.

    Args:
        value: decoded JSON.
        most: characters of all texts together that are looked at and kept.
    """
    return _Redactor(most).value(value)


class _Redactor:
    def __init__(self, most: int) -> None:
        self._left = most

    def value(self, value: JsonValue) -> JsonValue:
        match value:
            case str():
                return self._text(value)
            case list():
                return [self.value(item) for item in value]
            case dict():
                return {name: self._member(name, item) for name, item in value.items()}
            case _:
                return value

    def _text(self, text: str) -> str:
        if len(text) > _SHOWN and _DATA.match(text):
            return "[data]"
        kept = text[: self._left]
        self._left -= len(kept)
        if len(kept) < len(text):  # not in the midst of a word: half a number would not be recognised
            kept = kept[: max(kept.rfind(" "), kept.rfind("\n"), 0)]
            return redacted(kept) + "…"
        return redacted(kept)

    def _member(self, name: str, item: JsonValue) -> JsonValue:
        if name in {"b64_json", "file_data", "data"} and isinstance(item, str) and len(item) > _SHOWN:
            return "[data]"
        return self.value(item)
