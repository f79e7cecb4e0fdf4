"""The seam under `HttpBackend`: one HTTP/1.1 exchange, bytes only, nothing of OpenAI in it.

Contract (tests/contracts/test_transport.py runs it against every implementation):
- `post` returns once the status line and the headers are there; redirects are never followed, cookies never kept,
  proxies of the environment never used, bodies never decompressed;
- a response is complete only where its framing says so; a connection that breaks before raises `StreamCut`, and so does
  framing that is none (an invalid chunk size, a Content-Length beside chunked coding, a header section over the limit);
- a connection is used again only after a complete response; one that died idle costs a request nothing: it is sent once
  more, on a fresh connection, as long as no byte of an answer came;
- cancelling `post` closes the connection at once, and so does `close` before the end; a `read` that was cancelled (a
  deadline that ran out) loses nothing and may be repeated;
- a reader that does not read stops the sender: what is buffered stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

MAX_HEADER_BYTES = 64 * 2**10
"""The largest header section that is read; nginx takes 8 kB a line, Node 16 kB in all, aiohttp 64 kB by our setting."""

NONE_OWN: Mapping[str, str] = MappingProxyType({})


class Response(Protocol):
    """The answer to one request, while its body arrives."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def is_delimited(self) -> bool:
        """Whether the body's framing tells its end (a length or chunked coding), not just the closed connection."""
        ...

    def header(self, name: str) -> str | None:
        """Return the first value of a header; `name` in lower case."""
        ...

    async def read(self) -> bytes:
        """Return what has arrived, waiting for at least one byte; b"" at the end of the body, again and again.

        Raises:
            StreamCut: the connection broke before the end, or the framing is none.
        """
        ...

    def read_now(self) -> bytes:
        """Return what has arrived without waiting; b"" when there is nothing."""
        ...

    def tap(self, take: Callable[[bytes], bool]) -> None:
        """Let `take` have, as it comes, what a waiting `read` would be woken for; False: it is left to `read`.

        A transport may leave everything to `read`.
        """
        ...

    def close(self) -> None:
        """Let the connection go: kept for the next request if the body was read to its end, else closed at once."""
        ...


class Transport(Protocol):
    """Sends requests over connections that it keeps."""

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, own: Mapping[str, str] = NONE_OWN
    ) -> Response:
        """Send a request and return its response once the headers are there.

        Args:
            url: absolute, http or https.
            headers: what is sent besides Host and Content-Length; names in lower case. What is made of them may be kept
                and used again for the same object, so it is not changed any more.
            body: the whole body.
            own: headers that this request alone has.

        Raises:
            EndpointUnreachable: no connection, or it broke before the headers.
            EndpointTimeout: no connection within the transport's `connect_s` (phase "connect").
            ReplyMalformed: what came is not HTTP, or its header section is over `MAX_HEADER_BYTES`.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        ...
