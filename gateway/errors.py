"""The one place where errors become HTTP: a table from class to status, and OpenAI's error object.

Refused                 the gateway itself says no, before anything was paid
├── KeyRefused          no key, a wrong one, a revoked one (401); an admin key on a data path (403)
├── ModelNotFound       the name is no route's and no model's (404)
├── BodyTooLarge        over limits.max_body_bytes (413)
├── Overloaded          over limits.max_in_flight (503, Retry-After)
├── Stopping            the gateway is being stopped and its grace is over (503, Retry-After)
├── RequestMalformed    not HTTP, or two readers could disagree about where it ends (400)
├── RequestTooSlow      not whole within timeouts.request_s (408)
├── HeadTooLarge        its header section is over the limit (431)
└── NotServed           a path or method the gateway does not have (404, 405)
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from backends.errors import (
    AskInvalid,
    AskRejected,
    BackendError,
    CredentialsRejected,
    EndpointFailed,
    EndpointTimeout,
    EndpointUnreachable,
    ReplyMalformed,
    StreamCut,
)
from gateway.calls import HeaderInvalid
from gateway.ledger.errors import LedgerUnavailable
from router.strategy import NoEligibleModel


class Refused(Exception):
    """The gateway says no, before anything was paid."""


class KeyRefused(Refused):
    """The key does not open this path."""

    def __init__(self, message: str, *, status: int = 401) -> None:
        super().__init__(message)
        self.status = status


class ModelNotFound(Refused):
    """The client asks for a model it cannot have."""

    def __init__(self, model: str, names: Sequence[str]) -> None:
        super().__init__(
            f"the model {model[:128]!r} does not exist or is not yours to use; you can ask for: {', '.join(names)}"
        )


class BodyTooLarge(Refused):
    """The body is over the limit."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the request body is larger than {limit_bytes} bytes (limits.max_body_bytes); send less")


class Overloaded(Refused):
    """Too many requests are in flight."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests are in flight, which is the limit (limits.max_in_flight); try again")


class Stopping(Refused):
    """The gateway is being stopped."""

    def __init__(self) -> None:
        super().__init__("the gateway is being stopped; try again, another one takes over")


class RequestMalformed(Refused):
    """What came is not HTTP/1.1, or not only one request to every reader."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class RequestTooSlow(Refused):
    """The request did not become whole in time."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the request was not whole within {limit_s:g} s (timeouts.request_s); send it faster")


class HeadTooLarge(Refused):
    """The header section is over the limit."""

    def __init__(self, limit_bytes: int, *, headers: int | None = None) -> None:
        many = f"has more than {headers} headers" if headers is not None else f"is larger than {limit_bytes} bytes"
        super().__init__(f"the request's header section {many}; send less")


class NotServed(Refused):
    """A path or a method the gateway does not have."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as HTTP tells it: status, OpenAI's four fields, and extra headers."""

    status: int
    message: str
    kind: str
    code: str | None = None
    param: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """Return OpenAI's error object as JSON."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


_RETRY_SOON = ((b"retry-after", b"1"),)


def problem_of(error: BaseException) -> Problem:  # noqa: C901, PLR0911, PLR0912 - the table: one row a class
    """Return how a client is told of an error. Upstream words reach it only where it caused them (`AskRejected`)."""
    text = str(error)
    match error:
        case KeyRefused():
            code = "invalid_api_key" if error.status == 401 else "admin_key_not_allowed"
            return Problem(status=error.status, message=text, kind="invalid_request_error", code=code)
        case ModelNotFound():
            return Problem(
                status=404, message=text, kind="invalid_request_error", param="model", code="model_not_found"
            )
        case BodyTooLarge():
            return Problem(status=413, message=text, kind="invalid_request_error", code="request_too_large")
        case Overloaded():
            return Problem(status=503, message=text, kind="server_error", code="overloaded", headers=_RETRY_SOON)
        case Stopping():
            return Problem(status=503, message=text, kind="server_error", code="stopping", headers=_RETRY_SOON)
        case RequestMalformed():
            return Problem(status=400, message=text, kind="invalid_request_error", code="malformed_request")
        case RequestTooSlow():
            return Problem(status=408, message=text, kind="invalid_request_error", code="request_timeout")
        case HeadTooLarge():
            return Problem(status=431, message=text, kind="invalid_request_error", code="headers_too_large")
        case NotServed():
            return Problem(status=error.status, message=text, kind="invalid_request_error", code="not_found")
        case HeaderInvalid():
            return Problem(status=400, message=text, kind="invalid_request_error", code="invalid_header")
        case AskInvalid():
            return Problem(
                status=400, message=text, kind="invalid_request_error", param=error.param, code="invalid_body"
            )
        case NoEligibleModel():
            return Problem(status=400, message=text, kind="invalid_request_error", code="no_eligible_model")
        case LedgerUnavailable():
            return Problem(
                status=503,
                message="the ledger cannot be written, so nothing is bought; the cause is shown at /health/readiness",
                kind="server_error",
                code="ledger_unavailable",
                headers=_RETRY_SOON,
            )
        case BackendError():
            return _upstream_problem(error)
        case TimeoutError():
            message = "the request took longer than timeouts.total_s allows"
            return Problem(status=504, message=message, kind="server_error", code="timeout")
        case _:
            return Problem(
                status=500,
                message="the gateway failed; the operator finds the cause in its log",
                kind="server_error",
                code="internal_error",
            )


def places(error: BaseException) -> list[str]:
    """Return where a bug was raised, without its message or values: they could hold a prompt."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def _upstream_problem(error: BackendError) -> Problem:  # noqa: PLR0911 - as above
    text = str(error)
    match error:
        case AskRejected():
            return Problem(status=error.status, message=text, kind=error.kind, param=error.param, code=error.code)
        case CredentialsRejected():
            message = "the upstream does not accept the gateway's own key; the operator has to mend it"
            return Problem(status=502, message=message, kind="server_error", code="upstream_credentials")
        case EndpointFailed(status=429):
            headers = _retry_after(error)
            message = "every endpoint of the model is at its rate limit"
            return Problem(
                status=429, message=message, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers
            )
        case EndpointTimeout():
            return Problem(status=504, message=text, kind="server_error", code="upstream_timeout")
        case EndpointUnreachable():
            message = "no endpoint of the model can be reached"
            return Problem(
                status=503, message=message, kind="server_error", code="upstream_unreachable", headers=_RETRY_SOON
            )
        case EndpointFailed():
            headers = _retry_after(error)
            return Problem(status=502, message=text, kind="server_error", code="upstream_error", headers=headers)
        case ReplyMalformed() | StreamCut():
            code = "upstream_cut" if isinstance(error, StreamCut) else "upstream_error"
            return Problem(status=502, message=text, kind="server_error", code=code)
        case _:
            return Problem(status=502, message="the upstream failed", kind="server_error", code="upstream_error")


def _retry_after(error: EndpointFailed) -> tuple[tuple[bytes, bytes], ...]:
    return () if error.retry_after is None else ((b"retry-after", error.retry_after.encode("latin-1", "ignore")),)
