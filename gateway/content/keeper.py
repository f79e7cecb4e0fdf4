"""From a finished journey to a row: what is taken of it, and the thread that redacts, seals and stores it.

The event loop only hands over references. The queue is bounded, and what finds it full is lost and counted: content is
no money. So is what the disk refuses.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from backends.errors import ReplyMalformed
from backends.sse import DONE, EventDecoder
from backends.words import JsonValue, Surface
from gateway.content.cipher import Cipher, ContentUnusable
from gateway.content.redaction import redacted_json
from gateway.content.store import FILE_NAME, ContentStore, Stored, body_of
from gateway.content.tape import Tape
from policies.content import Keep, key_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from backends.clock import Clock
    from gateway.journey import Journey
    from policies.content import Content

_QUEUE_LIMIT: Final = 256
_STREAM_FACTOR: Final = 64
"""An event of a token has some 250 bytes, of which 4 are text."""
_SWEEP_S: Final = 3_600.0
_SWEEP_ROWS: Final = 256
_PROMPT_FIELDS: Final = ("messages", "prompt", "input", "suffix")

_log = logging.getLogger("faregate")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    request_id: str
    tenant: str
    known_as: str | None
    at: datetime
    surface: Surface
    fields: dict[str, msgspec.Raw]
    body: bytes | None
    tape: Tape | None


class Keeper:
    """Stores what journeys said; make it with `open`, and close it.

    Args:
        content: what the policy wants.
        store: where it goes.
        clock: for retention.
        count: told what became of each: `stored`, `dropped` (the queue was full) or `failed`.
    """

    def __init__(self, *, content: Content, store: ContentStore, clock: Clock, count: Callable[[str], None]) -> None:
        self._content = content
        self._store = store
        self._clock = clock
        self._count = count
        self._queue: queue.Queue[_Job | None] = queue.Queue(_QUEUE_LIMIT)
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="faregate-content", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, content: Content, folder: Path, clock: Clock, count: Callable[[str], None]) -> Keeper | None:
        """Return a keeper, or None where nothing is to be stored; what a former policy had stored ages all the same.

        Raises:
            ContentUnusable: the file or the cipher cannot be used.
        """
        if not content.is_kept:
            if (folder / FILE_NAME).exists():
                store = ContentStore.open(folder)
                try:
                    store.sweep(clock.now(), retention=content.retention)
                finally:
                    store.close()
            return None
        return cls(content=content, store=ContentStore.open(folder, cipher_of(content)), clock=clock, count=count)

    def tape(self) -> Tape:
        """Return what a stream is kept on as it is sent."""
        return Tape(self._content.max_bytes * _STREAM_FACTOR)

    def offer(self, journey: Journey) -> None:
        """Take what a finished journey said, if it came as far as a route."""
        ask, caller = journey.ask, journey.caller
        if ask is None or caller is None or journey.lane is None:
            return
        job = _Job(
            request_id=journey.request_id,
            tenant=caller.tenant,
            known_as=journey.user_pseudonym,
            at=journey.started_at,
            surface=ask.surface,
            fields={name: ask.fields[name] for name in _PROMPT_FIELDS if name in ask.fields},
            body=journey.body if journey.is_answered else None,
            tape=journey.tape,
        )
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self._count("dropped")

    def close(self) -> None:
        """Store what is queued (blocking), and close the file."""
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=1)
            except queue.Full:
                continue
            break
        self._thread.join()
        self._store.close()

    def _run(self) -> None:
        rows, swept = 0, 0.0
        while True:
            if rows % _SWEEP_ROWS == 0 or self._clock.monotonic() - swept > _SWEEP_S:
                swept = self._clock.monotonic()
                self._sweep()
            try:
                job = self._queue.get(timeout=_SWEEP_S)
            except queue.Empty:
                rows = 0
                continue
            if job is None:
                return
            rows += 1
            self._keep(job)

    def _keep(self, job: _Job) -> None:
        try:
            self._store.put(self._row(job))
        except (ContentUnusable, msgspec.MsgspecError, ValueError, RecursionError) as error:
            # ValueError: what is no JSON, or text that has no UTF-8 (half a surrogate pair).
            self._count("failed")
            if not self._has_failed:
                self._has_failed = True
                _log.warning("content_not_stored", extra={"request_id": job.request_id, "error": type(error).__name__})
        else:
            self._has_failed = False
            self._count("stored")

    def _sweep(self) -> None:
        try:
            self._store.sweep(
                self._clock.now(),
                retention=self._content.retention,
                max_store_bytes=self._content.max_store_bytes,
            )
        except ContentUnusable as error:
            _log.warning("content_not_swept", extra={"error": str(error)})

    def _row(self, job: _Job) -> Stored:
        prompt, prompt_is_cut = self._fit({name: msgspec.json.decode(raw) for name, raw in job.fields.items()})
        said, answer_is_cut = self._fit(_answer(job))
        is_cut = prompt_is_cut or answer_is_cut or (job.body is None and job.tape is not None and job.tape.is_full)
        return Stored(
            request_id=job.request_id,
            tenant=job.tenant,
            known_as=job.known_as,
            stored_at=job.at,
            is_cut=is_cut,
            body=body_of(prompt, said),
        )

    def _fit(self, value: JsonValue) -> tuple[JsonValue, bool]:
        """Return what is kept of a prompt or an answer, and whether some of it is missing."""
        most = self._content.max_bytes
        if self._content.keep is Keep.REDACTED:
            value = redacted_json(value, most=most)
        text = msgspec.json.encode(value)
        if len(text) <= most:
            return value, False
        return text[:most].decode("utf-8", "ignore"), True


def cipher_of(content: Content) -> Cipher | None:
    """Return what seals and opens rows; None where they are not encrypted.

    Raises:
        ContentUnusable: the package that encrypts is not installed.
    """
    if content.key is None:
        return None
    former = [key_of(key.get_secret_value()) for key in content.former_keys]
    return Cipher(key_of(content.key.get_secret_value()), former)


def _answer(job: _Job) -> JsonValue:
    """Return the choices of an answer; None where there is none, or it is vectors."""
    if job.surface is Surface.EMBEDDINGS:
        return None
    if job.body is not None:
        choices = msgspec.json.decode(job.body, type=_Body).choices
        return [
            {name: value for name, value in choice.items() if name not in {"index", "logprobs"}} for choice in choices
        ]
    sent = b"" if job.tape is None else job.tape.read()
    return _joined(sent) if sent else None


class _Body(msgspec.Struct):
    choices: list[dict[str, JsonValue]] = []


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []


def _joined(sent: bytes) -> JsonValue:
    """Return the choices that a stream's events add up to; of a stream that was cut, as far as they came."""
    choices: dict[int, dict[str, JsonValue]] = {}
    try:
        events = EventDecoder().feed(sent)
    except ReplyMalformed:
        return None
    for payload in events:
        if payload == DONE:
            continue
        try:
            event = msgspec.json.decode(payload, type=_Event)
        except msgspec.MsgspecError:
            continue  # an error in a stream, or something of a provider's own
        for choice in event.choices:
            _join(choices.setdefault(choice.index, {"text": []}), choice)
    return [
        {**choice, "text": "".join(choice["text"]), **({"tool_calls": list(calls.values())} if calls else {})}
        for _, choice in sorted(choices.items())
        for calls in [choice.pop("calls", {})]
    ]


def _join(joined: dict[str, JsonValue], choice: _Choice) -> None:
    delta = choice.delta or _Delta()
    joined["text"] += [piece for piece in (choice.text, delta.content, delta.refusal) if piece]
    for call in delta.tool_calls or ():
        known = joined.setdefault("calls", {}).setdefault(call.index, {"id": call.id, "name": "", "arguments": ""})
        if call.function is not None:
            known["name"] += call.function.name or ""
            known["arguments"] += call.function.arguments or ""
    if choice.finish_reason is not None:
        joined["finish_reason"] = choice.finish_reason
