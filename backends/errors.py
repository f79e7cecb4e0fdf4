"""What can go wrong on the floor: everything a caller of `backends` has to catch.

FloorError
├── AskInvalid               the client's body is not a request we can read (its fault, 400)
├── PriceUnknown             see `backends.prices`
├── EmbedderError            see `backends.embedder`
├── MetersUnavailable        see `backends.energy`
└── BackendError             an upstream did not answer well
    ├── EndpointUnreachable  no connection, or it died before the first event; nothing was answered
    ├── EndpointTimeout      silent for longer than a deadline; `phase` tells which
    ├── EndpointFailed       an upstream status that is its own trouble (5xx, 429, 3xx), perhaps with Retry-After
    ├── CredentialsRejected  the upstream refuses the operator's key; never the client's fault
    ├── AskRejected          an upstream 4xx that the request's content caused; the only text shown to clients
    ├── AnswerUnkept         there is no memory for a whole answer now; the gateway's own trouble
    ├── ReplyMalformed       an answer that is not what the protocol promises
    └── StreamCut            a stream that ended before its end; some of it may have been relayed
"""

from __future__ import annotations


class FloorError(Exception):
    """The family's root."""


class AskInvalid(FloorError):
    """The body cannot be read as a request.

    Args:
        message: what was wrong, the value, what is allowed.
        param: the field at fault, None for the whole body.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BackendError(FloorError):
    """An upstream did not answer well; `endpoint` names it for the operator, never for the client."""

    def __init__(self, message: str, *, endpoint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.endpoint = endpoint


class EndpointUnreachable(BackendError):
    """No connection, or one that died before the first event."""


class EndpointTimeout(BackendError):
    """An upstream was silent for longer than `limit_s` while `phase` (connect, first_byte, idle)."""

    def __init__(self, phase: str, limit_s: float, *, endpoint: str = "") -> None:
        super().__init__(f"no {phase} within {limit_s:g} s (timeouts.{phase}_s)", endpoint=endpoint)
        self.phase = phase
        self.limit_s = limit_s


class AnswerUnkept(BackendError):
    """A whole answer is too large for the memory that is left for such."""

    def __init__(self, limit_bytes: int, *, endpoint: str = "") -> None:
        super().__init__(
            f"large bodies take all the memory there is for them, {limit_bytes} bytes (limits.max_buffered_bytes); "
            "try again",
            endpoint=endpoint,
        )


class EndpointFailed(BackendError):
    """The upstream answered with a status that is its own trouble; `is_draining`: it takes nothing new any more."""

    def __init__(
        self, status: int, *, endpoint: str = "", retry_after: str | None = None, is_draining: bool = False
    ) -> None:
        super().__init__(f"upstream answered HTTP {status}", endpoint=endpoint)
        self.status = status
        self.retry_after = retry_after
        self.is_draining = is_draining


class CredentialsRejected(BackendError):
    """The upstream refuses the operator's key."""


class AskRejected(BackendError):
    """The upstream refuses what the client asked; its own words, made for the client, are in the fields."""

    def __init__(
        self, status: int, message: str, *, kind: str, param: str | None, code: str | None, endpoint: str = ""
    ) -> None:
        super().__init__(message, endpoint=endpoint)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code


class ReplyMalformed(BackendError):
    """A 200 that is no answer: HTML, broken JSON, an error object, a stream without an event."""


class StreamCut(BackendError):
    """A stream that ended before its `finish_reason`."""
