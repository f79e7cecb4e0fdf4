"""The one place where errors become HTTP: a table from class to status, and OpenAI's error object.

Refused                 the gateway itself says no, before anything was paid
├── KeyRefused          no key, a wrong one, a revoked one (401); an admin key on a data path (403)
├── ModelNotFound       the name is no route's and no model's (404)
├── BodyTooLarge        over limits.max_body_bytes (413)
├── Overloaded          over limits.max_in_flight (503, Retry-After)
├── NoRoom              large bodies take all of limits.max_buffered_bytes (503, Retry-After)
├── RateLimited         over a tenant's or key's rpm, tpm or parallel (429, Retry-After)
├── BudgetExceeded      a budget has no room for the request's worst case (402, with the time it is full again)
├── Stopping            the gateway is being stopped and its grace is over (503, Retry-After)
├── RequestMalformed    not HTTP, or two readers could disagree about where it ends (400)
├── RequestTooSlow      not whole within timeouts.request_s (408)
├── HeadTooLarge        its header section is over the limit (431)
├── OriginRefused       a web page of an origin that server.cors.origins does not name (403)
├── StoreFailed         an admin's word to the caches, whose store cannot be used (503)
└── NotServed           a path or method the gateway does not have (404, 405)
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from backends.errors import (
    AnswerUnkept,
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
from gateway.ledger.budgets import BudgetsUnready
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


class NoRoom(Refused):
    """The body is large, and others take the memory there is for such."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"large bodies take all the memory there is for them, {limit_bytes} bytes (limits.max_buffered_bytes); "
            "try again"
        )


class Stopping(Refused):
    """The gateway is being stopped."""

    def __init__(self) -> None:
        super().__init__("the gateway is being stopped; try again, another one takes over")


class RequestMalformed(Refused):
    """What came is not HTTP/1.1, or not only one request to every reader."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class BodyCoded(Refused):
    """The body is compressed, or coded in another way."""

    def __init__(self, coding: str) -> None:
        super().__init__(
            f"the request's body has the content-encoding {coding[:64]!r}; bodies are read as they are only: send it "
            "uncoded, without that header"
        )


class RequestTooSlow(Refused):
    """The request did not become whole in time."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the request was not whole within {limit_s:g} s (timeouts.request_s); send it faster")


class HeadTooLarge(Refused):
    """The header section is over the limit."""

    def __init__(self, limit_bytes: int, *, headers: int | None = None) -> None:
        many = (
            f"has more than {headers} headers"
            if headers is not None
            else f"is larger than {limit_bytes} bytes (limits.max_head_bytes)"
        )
        super().__init__(f"the request's header section {many}; send less")


class RateLimited(Refused):
    """A tenant or a key asks faster than it may.

    Attributes:
        kind: `requests` or `tokens`, OpenAI's error type.
        limit: the policy's key: `rpm`, `tpm` or `parallel`.
        retry_after_s: when it fits; 0: as soon as something else is done, or never.
        headers: `x-ratelimit-*`.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "requests",
        limit: str = "rpm",
        retry_after_s: int = 0,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.headers = headers


class BudgetExceeded(Refused):
    """A budget has no room for what the request may cost.

    Attributes:
        reset: when it is full again, ISO 8601 in the budget's time zone; "" for never.
        reset_at: the same moment; None for never.
    """

    def __init__(self, message: str, *, reset: str = "", reset_at: datetime | None = None) -> None:
        super().__init__(message)
        self.reset = reset
        self.reset_at = reset_at


class NotServed(Refused):
    """A path or a method the gateway does not have; `headers` tell the methods it has (Allow)."""

    def __init__(self, message: str, *, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class OriginRefused(Refused):
    """A web page asks that may not."""

    def __init__(self, origin: str) -> None:
        super().__init__(f"pages of {origin[:128]!r} may not ask here; server.cors.origins names those that may")


class StoreFailed(Refused):
    """The cache's store cannot be asked; only who manages it is told."""

    def __init__(self) -> None:
        super().__init__("the cache's store cannot be used now; see the gateway's log, and try again")


class FlightLost(Exception):
    """A stream that is shared with an equal request in flight broke off, or is read too slowly to be shared on."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the stream is shared with an equal request in flight, {why}; try again")


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

_INTERNAL = Problem(
    status=500,
    message="the gateway failed; the operator finds the cause in its log",
    kind="server_error",
    code="internal_error",
)


def problem_of(  # noqa: PLR0911 - the table: one row a class
    error: BaseException, now: datetime | None = None
) -> Problem:
    """Return how a client is told of an error. Upstream words reach it only where it caused them (`AskRejected`).

    Args:
        error: what went wrong.
        now: the present, aware; what a wait is counted from (None: no wait is told).
    """
    text = str(error)
    match error:
        case Refused() | BudgetsUnready():
            return _refusal(error, now)
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
        case FlightLost():
            return Problem(status=502, message=text, kind="server_error", code="upstream_cut")
        case BackendError():
            return _upstream_problem(error)
        case TimeoutError():
            message = "the request took longer than timeouts.total_s allows"
            return Problem(status=504, message=message, kind="server_error", code="timeout")
        case _:
            return _INTERNAL


def places(error: BaseException) -> list[str]:
    """Return where a bug was raised, without its message or values: they could hold a prompt."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def _refusal(  # noqa: C901, PLR0911, PLR0912 - as above
    error: Refused | BudgetsUnready, now: datetime | None
) -> Problem:
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
        case Overloaded() | NoRoom():
            return Problem(status=503, message=text, kind="server_error", code="overloaded", headers=_RETRY_SOON)
        case Stopping():
            return Problem(status=503, message=text, kind="server_error", code="stopping", headers=_RETRY_SOON)
        case RequestMalformed():
            return Problem(status=400, message=text, kind="invalid_request_error", code="malformed_request")
        case BodyCoded():
            # Accept-Encoding in an answer says what would have been read (RFC 9110, section 12.5.3).
            accepted = ((b"accept-encoding", b"identity"),)
            return Problem(
                status=415,
                message=text,
                kind="invalid_request_error",
                code="unsupported_content_encoding",
                headers=accepted,
            )
        case RequestTooSlow():
            return Problem(status=408, message=text, kind="invalid_request_error", code="request_timeout")
        case HeadTooLarge():
            return Problem(status=431, message=text, kind="invalid_request_error", code="headers_too_large")
        case RateLimited() | BudgetExceeded() | BudgetsUnready():
            return _limit_problem(error, now)
        case OriginRefused():
            return Problem(status=403, message=text, kind="invalid_request_error", code="origin_not_allowed")
        case StoreFailed():
            return Problem(status=503, message=text, kind="server_error", code="cache_unavailable", headers=_RETRY_SOON)
        case NotServed():
            return Problem(
                status=error.status,
                message=text,
                kind="invalid_request_error",
                code="not_found",
                headers=error.headers,
            )
        case _:
            return _INTERNAL


def _limit_problem(error: RateLimited | BudgetExceeded | BudgetsUnready, now: datetime | None) -> Problem:
    text = str(error)
    match error:
        case RateLimited():
            wait = (b"retry-after", b"%d" % max(1, error.retry_after_s))
            headers = (wait, *error.headers)
            return Problem(status=429, message=text, kind=error.kind, code="rate_limit_exceeded", headers=headers)
        case BudgetExceeded():
            headers = _budget_headers(error, now)
            return Problem(status=402, message=text, kind="insufficient_quota", code="budget_exceeded", headers=headers)
        case BudgetsUnready():
            return Problem(
                status=503, message=text, kind="server_error", code="budgets_unavailable", headers=_RETRY_SOON
            )


def _budget_headers(error: BudgetExceeded, now: datetime | None) -> tuple[tuple[bytes, bytes], ...]:
    if error.reset_at is None:
        return ((b"x-faregate-budget-reset", b"never"),)
    reset = (b"x-faregate-budget-reset", error.reset.encode())
    if now is None:
        return (reset,)
    return (reset, (b"retry-after", b"%d" % max(1, math.ceil((error.reset_at - now).total_seconds()))))


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
        case AnswerUnkept():
            return Problem(status=503, message=text, kind="server_error", code="overloaded", headers=_RETRY_SOON)
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
