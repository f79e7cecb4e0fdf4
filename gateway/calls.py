"""A request as the gateway's way sees it, free of ASGI: `Call` comes in, `Sink` takes what goes out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from backends.words import Surface
from policies.keys import digest_of

_TAGS_LIMIT = 16
_VALUE_LIMIT_CHARACTERS = 128
_ID_LIMIT_CHARACTERS = 256


class HeaderInvalid(Exception):
    """An `x-faregate-*` request header that says nothing we know; the message names it and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheWish:
    """What the client allows the caches: it may only tighten what the route allows.

    Attributes:
        may_read: whether a stored answer may be served.
        may_store: whether this answer may be stored.
        max_age_s: the oldest stored answer to serve, None for the route's own limit.
    """

    may_read: bool = True
    may_store: bool = True
    max_age_s: int | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One client request, as received.

    Attributes:
        digest: of the key that was shown (`policies.keys.digest_of`); None without one. The key itself stays behind.
        max_loss: the largest expected loss the client accepts, in [0, 1); None: the route's own.
    """

    surface: Surface
    body: bytes
    digest: str | None
    client_request_id: str | None = None
    cache: CacheWish = CacheWish()
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    session: str | None = None
    wants_explanation: bool = False
    max_loss: float | None = None
    traceparent: str | None = None


class Sink(Protocol):
    """Where the answer goes. `start` once, `write` any number of times, `finish` only when the answer is complete.

    `write` and `finish` wait while the client does not read; what is waiting to be read stays bounded.
    """

    is_started: bool
    on_gone: Callable[[], bool] | None
    """Asked when the client hangs up: True when the answer goes on for others, and shall not be cancelled."""

    @property
    def is_slow(self) -> bool:
        """Whether too much waits for the client to read it: whoever goes on had better `write`, and wait."""
        ...

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send status and headers; they may leave with the first of the body."""
        ...

    async def write(self, data: bytes) -> None:
        """Send some of the body."""
        ...

    def offer(self, data: bytes) -> bool:
        """Send some of the body without waiting; False when the client does not read, and what waits for it grows."""
        ...

    async def drain(self) -> None:
        """Wait until the client has read most of what was sent, or is gone."""
        ...

    async def finish(self, data: bytes) -> None:
        """Send the last of the body and end it cleanly, in one step: clients hang up the moment they have `[DONE]`.

        A body that is never finished is cut, and its reader can tell.
        """
        ...

    def cut(self, data: bytes) -> None:
        """Send a last word, and never finish. It does not wait: its client may have stopped reading."""
        ...


def read_call(surface: Surface, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Call:
    """Read what the gateway's way needs from a request's headers.

    Raises:
        HeaderInvalid: an `x-faregate-*` header is not understood.
    """
    wanted = {name: value.decode("latin-1").strip() for name, value in headers if name in _READ}
    scheme, _, secret = wanted.get(b"authorization", "").partition(" ")
    return Call(
        surface=surface,
        body=body,
        digest=digest_of(secret.strip()) if scheme.lower() == "bearer" and secret.strip() else None,
        client_request_id=wanted.get(b"x-request-id", wanted.get(b"x-client-request-id", ""))[:_ID_LIMIT_CHARACTERS]
        or None,
        cache=_cache_wish(wanted[b"x-faregate-cache"]) if b"x-faregate-cache" in wanted else _ANY_CACHE,
        tags=_tags(wanted[b"x-faregate-tags"]) if b"x-faregate-tags" in wanted else _NO_TAGS,
        session=wanted.get(b"x-faregate-session", "")[:_ID_LIMIT_CHARACTERS] or None,
        wants_explanation=b"x-faregate-explain" in wanted and _flag(wanted[b"x-faregate-explain"]),
        max_loss=_max_loss(wanted[b"x-faregate-quality"]) if b"x-faregate-quality" in wanted else None,
        traceparent=wanted.get(b"traceparent"),
    )


_ANY_CACHE = CacheWish()
_NO_TAGS: Mapping[str, str] = {}

_READ = frozenset(
    {
        b"authorization",
        b"x-request-id",
        b"x-client-request-id",
        b"x-faregate-cache",
        b"x-faregate-tags",
        b"x-faregate-session",
        b"x-faregate-explain",
        b"x-faregate-quality",
        b"traceparent",
    }
)


def _cache_wish(text: str) -> CacheWish:
    may_read = may_store = True
    max_age_s: int | None = None
    for directive in filter(None, (part.strip().lower() for part in text.split(","))):
        name, _, value = directive.partition("=")
        if name == "no-store" and not value:
            may_read = may_store = False
        elif name == "no-cache" and not value:
            may_read = False
        elif name == "max-age" and value.isascii() and value.isdigit() and len(value) <= 9:
            max_age_s = int(value)
        else:
            raise HeaderInvalid(
                f"x-faregate-cache: {directive[:64]!r} is not known; allowed are no-store, no-cache and max-age=SECONDS"
            )
    return CacheWish(may_read=may_read, may_store=may_store, max_age_s=max_age_s)


def _max_loss(text: str) -> float:
    match = _QUALITY.fullmatch(text)
    if match is None:
        raise HeaderInvalid(
            f"x-faregate-quality: {text[:64]!r} is not known; expected max_loss=NUMBER from 0 (the baseline's answer) "
            "to below 1, for example max_loss=0.01; it may only tighten what the route promises"
        )
    return float(match[1])


_QUALITY = re.compile(r"max_loss\s*=\s*(0|0?\.\d{1,9})")


def _tags(text: str) -> dict[str, str]:
    pairs = [part.strip() for part in text.split(",") if part.strip()]
    tags = {name.strip(): value.strip() for name, found, value in (pair.partition("=") for pair in pairs) if found}
    is_good = len(tags) == len(pairs) <= _TAGS_LIMIT and all(
        name and value and max(len(name), len(value)) <= _VALUE_LIMIT_CHARACTERS for name, value in tags.items()
    )
    if not is_good:
        raise HeaderInvalid(
            f"x-faregate-tags: expected at most {_TAGS_LIMIT} different NAME=VALUE pairs between commas, each name and "
            f"value of 1 to {_VALUE_LIMIT_CHARACTERS} characters, for example feature=search,team=web"
        )
    return tags


def _flag(text: str) -> bool:
    match text.lower():
        case "true" | "1":
            return True
        case "false" | "0" | "":
            return False
        case _:
            raise HeaderInvalid(f"x-faregate-explain: {text[:64]!r} is not known; allowed are true and false")
