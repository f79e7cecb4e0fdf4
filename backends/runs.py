"""Runs of a stream's events that differ in their text alone: found in a read's bytes, without parsing each of them.

Nearly all events of an answer are the same JSON but for one string. Once one of them has been parsed, the bytes before
and after its text are known, and an event made of these bytes and another well-formed string says the same but for its
text: no usage, no end, no error can hide in it. So a read's run of such events is known by one comparison with its
beginning, one split and one check of the strings, at a tenth of the cost of parsing each.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from backends.errors import ReplyMalformed
from backends.replies import read_chunk
from backends.words import Chunk, Run

_BEFORE: Final = b"data: "
_AFTER: Final = b"\n\n"

_KEYS: Final = (b'"content":"', b'"content": "', b'"text":"', b'"text": "')

_PROBE: Final = "~probe~"

_MARK: Final = b"\x7f"
"""Put between texts that are checked together: JSON allows it in a string, and no model writes it."""

_STRINGS: Final = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f\x7f])*+')
"""Insides of JSON strings between marks. That their escapes and their UTF-8 are valid is the JSON decoder's to say."""

_decode_text: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.encode


class Template:
    """What the events of one stream have around their text; made of the first event that is fit for it."""

    __slots__ = ("_after", "_before", "_between", "_payload", "_start", "_tail", "is_known")

    def __init__(self) -> None:
        self.is_known = False
        self._payload = self._before = self._after = self._between = b""
        self._start = self._tail = 0

    def learn(self, chunk: Chunk) -> None:
        """Learn from an event, if it has one token's text and nothing else that anyone must see."""
        payload, text = chunk.payload, _encode(chunk.content)[1:-1]
        if not text or chunk.tokens or chunk.has_usage or chunk.usage or chunk.finish_reason or chunk.has_other:
            return
        key = next((key for key in _KEYS if key + text in payload), None)
        if key is None or b"\n" in payload or b"\r" in payload:
            return
        place = payload.index(key + text) + len(key)
        before, after = payload[:place], payload[place + len(text) :]
        try:  # whether the string at this place, and no other, is the text
            probe = read_chunk(before + _PROBE.encode() + after)
        except ReplyMalformed:
            return
        if msgspec.structs.replace(probe, payload=payload, content=chunk.content) != chunk or probe.content != _PROBE:
            return
        self._payload = payload
        self._before, self._after = _BEFORE + before, after + _AFTER
        self._between = self._after + self._before
        self._start, self._tail = len(self._before), len(self._after)
        self.is_known = True

    def _one(self, received: bytes) -> Run | None:
        """Return the run that is all of `received` and a single event, as slow streams send them."""
        text = received[self._start : -self._tail]
        if _STRINGS.fullmatch(text) is None or len(received) < self._start + self._tail:
            return None  # a quotation mark that ends the string: there are several
        try:
            content = _decode_text(b'"%b"' % text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return Run(raw=received, content=content, token_count=1 if text else 0, payload=self._payload)

    def find(self, received: bytes) -> Run | None:
        """Return the run that `received` begins with; None when it begins with another event, or none is whole.

        Args:
            received: of the stream, from an event's beginning on.
        """
        if not received.startswith(self._before):
            return None
        if received.endswith(self._after) and (one := self._one(received)) is not None:
            return one
        texts = received[len(self._before) :].split(self._between)
        texts[-1], is_whole, _ = texts[-1].partition(self._after)
        if not is_whole:
            texts.pop()
        joined = _MARK.join(texts)
        checked = _STRINGS.match(joined)
        if checked is not None and checked.end() < len(joined):  # another event, in the midst of what was split
            texts = texts[: joined.count(_MARK, 0, checked.end())]
            joined = _MARK.join(texts)
        if not texts:
            return None
        try:
            content = _decode_text(b'"%b"' % joined)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if len(texts) > 1:
            if content.count("\x7f") != len(texts) - 1:
                return None
            content = content.replace("\x7f", "")
        size = len(joined) - len(texts) + 1 + len(texts) * len(self._between)
        return Run(
            raw=received if size == len(received) else received[:size],
            content=content,
            token_count=len(texts) - texts.count(b""),
            payload=self._payload,
        )
