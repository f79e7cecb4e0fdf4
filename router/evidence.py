"""What is known about a rung's answer while it is being written: collects a judge's `Evidence` from events."""

from __future__ import annotations

import msgspec

from backends.words import Ask, Capability, Chunk, Event, TokenLogprob
from router.calls import Calls, offer_of, told
from router.judge import Evidence
from router.schemas import fits


class Answering:
    """Collects one attempt's answer. Feed it every event; ask for the evidence at any time."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._parts: list[str] = []
        self._finish_reason: str | None = None
        self._calls = Calls() if Capability.TOOLS in ask.needs else None
        self.tokens: list[TokenLogprob] = []

    def feed(self, event: Event) -> None:
        """Take one event."""
        self.tokens.extend(event.tokens)
        self._parts.append(event.content)
        self._finish_reason = event.finish_reason or self._finish_reason
        if self._calls is not None and not (isinstance(event, Chunk) and not event.has_other):
            self._calls.feed(event.payload)

    @property
    def content(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    @property
    def told(self) -> str:
        """What the answer says: its calls as JSON where it makes any, else its text."""
        return (told(self._calls.calls()) if self._calls is not None else "") or self.content

    @property
    def is_finished(self) -> bool:
        """Whether the answer is complete."""
        return self._finish_reason is not None

    def evidence(self) -> Evidence:
        """Return what is known now; JSON and calls are validated only when the answer is complete."""
        calls = self._calls.calls() if self._calls is not None else ()
        is_json = self._ask.wants_json and not calls
        is_valid = self.is_finished and (not is_json or self._is_valid_json()) and self._are_valid_calls()
        return Evidence(
            tokens=self.tokens,
            is_finished=self.is_finished,
            finish_reason=self._finish_reason,
            is_json=is_json,
            has_tools=self._calls is not None,
            is_valid=is_valid if is_json or self._calls is not None else True,
            text=self.told,
        )

    def _are_valid_calls(self) -> bool:
        if self._calls is None:
            return True
        offer = offer_of(self._ask)
        return offer is not None and offer.takes(self._calls.calls())

    def _is_valid_json(self) -> bool:
        try:
            value = msgspec.json.decode(self.content)
        except (msgspec.DecodeError, RecursionError):
            return False
        schema = self._ask.json_schema
        return schema is None or fits(value, schema)
