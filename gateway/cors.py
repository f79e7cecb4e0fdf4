"""Answers that web pages of other origins may read: CORS, off unless the policy names origins (`server.cors`).

Only `/v1` is opened: the admin pages and the dashboard are nobody else's. Credentials in the browser's sense (cookies)
are not granted, since none are used: a page sends its key in `authorization`. Whatever is sent, an error or the
beginning of a stream, says the same, or a page would see of every refusal only that there was one.

Source: WHATWG Fetch, "CORS protocol" (https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import OriginRefused, problem_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from uvicorn._types import ASGISendCallable, ASGISendEvent, Scope

    from policies.schema import Cors

Headers = tuple[tuple[bytes, bytes], ...]

_ANY: Final = b"*"
_METHODS: Final = b"GET, POST"
_ASKED_BYTES: Final = 4096
"""The longest list of header names that is repeated; browsers send a few dozen bytes."""


class CrossOrigin:
    """Whom a policy lets read answers."""

    def __init__(self, policy: Cors) -> None:
        self._origins = frozenset(origin.encode() for origin in policy.origins)
        self._is_open = _ANY in self._origins
        self._max_age = b"%d" % policy.max_age_s

    def granted(self, asked: Iterable[tuple[bytes, bytes]], told: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return what an answer says to the page that asked, beside its own headers.

        Args:
            asked: the request's headers, names in lower case.
            told: the answer's, likewise; those a page may not read by itself are opened to it.
        """
        vary = () if self._is_open else ((b"vary", b"origin"),)
        origin = next((value for name, value in asked if name == b"origin"), None)
        if origin is None or not self.allows(origin):
            return vary
        names = sorted({name for name, _ in told if name.startswith(b"x-") or name == b"retry-after"})
        allowed = (b"access-control-allow-origin", _ANY if self._is_open else origin)
        return (allowed, *vary, *(((b"access-control-expose-headers", b", ".join(names)),) if names else ()))

    def allows(self, origin: bytes) -> bool:
        """Tell whether a page of this origin may read answers."""
        return self._is_open or origin in self._origins

    def preflight(self, asked: Mapping[bytes, bytes]) -> tuple[int, Headers, bytes]:
        """Return the answer to a preflight: status, headers, body."""
        origin = asked[b"origin"]
        if not self.allows(origin):
            problem = problem_of(OriginRefused(origin.decode("latin-1")))
            return problem.status, ((b"content-type", b"application/json"), (b"vary", b"origin")), problem.body()
        wanted = asked.get(b"access-control-request-headers", b"")[:_ASKED_BYTES]
        headers: Headers = (
            (b"access-control-allow-origin", _ANY if self._is_open else origin),
            (b"access-control-allow-methods", _METHODS),
            *(((b"access-control-allow-headers", wanted),) if wanted else ()),
            (b"access-control-max-age", self._max_age),
            (b"vary", b"origin, access-control-request-headers"),
        )
        return 204, headers, b""

    async def serve(
        self, scope: Scope, send: ASGISendCallable, go_on: Callable[[ASGISendCallable], Awaitable[None]]
    ) -> None:
        """Answer a preflight, or let the request be answered with what its page may read.

        Args:
            scope: an HTTP request's.
            send: where its answer goes.
            go_on: serves it, given where its answer goes.
        """
        asked: Sequence[tuple[bytes, bytes]] = list(scope["headers"]) if scope["type"] == "http" else ()
        if scope["type"] == "http" and is_preflight(scope["method"].encode(), asked):
            status, headers, body = self.preflight(dict(asked))
            length = () if status == 204 else ((b"content-length", b"%d" % len(body)),)
            await send(
                {"type": "http.response.start", "status": status, "headers": [*headers, *length], "trailers": False}
            )
            await send({"type": "http.response.body", "body": body, "more_body": False})
            return

        async def tell(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.start":
                told = list(event.get("headers", ()))
                event["headers"] = [*told, *self.granted(asked, told)]
            await send(event)

        await go_on(tell)


def is_preflight(method: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether a browser asks if a page may ask."""
    return method == b"OPTIONS" and {b"origin", b"access-control-request-method"} <= {name for name, _ in headers}
