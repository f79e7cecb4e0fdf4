"""What is known about a rung's answer while it is being written: collects a judge's `Evidence` from events."""

from __future__ import annotations

import jsonschema_rs
import msgspec

from backends.words import Ask, Event, TokenLogprob
from router.judge import Evidence


class Answering:
    """Collects one attempt's answer. Feed it every event; ask for the evidence at any time."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._parts: list[str] = []
        self._finish_reason: str | None = None
        self.tokens: list[TokenLogprob] = []

    def feed(self, event: Event) -> None:
        """Take one event."""
        self.tokens.extend(event.tokens)
        self._parts.append(event.content)
        self._finish_reason = event.finish_reason or self._finish_reason

    @property
    def content(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    @property
    def is_finished(self) -> bool:
        """Whether the answer is complete."""
        return self._finish_reason is not None

    def evidence(self) -> Evidence:
        """Return what is known now; JSON is validated only when the answer is complete."""
        is_json = self._ask.wants_json
        return Evidence(
            tokens=self.tokens,
            is_finished=self.is_finished,
            finish_reason=self._finish_reason,
            is_json=is_json,
            is_valid=not is_json or (self.is_finished and self._is_valid_json()),
            text=self.content,
        )

    def _is_valid_json(self) -> bool:
        try:
            value = msgspec.json.decode(self.content)
        except (msgspec.DecodeError, RecursionError):
            return False
        schema = self._ask.json_schema
        if schema is None:
            return True
        try:
            return bool(jsonschema_rs.is_valid(schema, value))
        except (ValueError, RecursionError):
            return False  # a schema that is none: nothing can be said for the answer
