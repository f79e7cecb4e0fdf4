"""Whose fault a failed try was: the one table that breakers, retries and the books read.

An endpoint that answers 500 is either broken itself or was broken by this one prompt; so is one that answers 200 with
nonsense. Such a fault is `SUSPECT`: what becomes of the same request elsewhere tells (see `backends.pool`).
"""

from __future__ import annotations

from enum import StrEnum

from backends.errors import (
    AnswerUnkept,
    AskRejected,
    BackendError,
    CredentialsRejected,
    EndpointFailed,
    EndpointTimeout,
    EndpointUnreachable,
    ReplyMalformed,
    StreamCut,
)


class Blame(StrEnum):
    """Whose fault a failed try was."""

    ENDPOINT = "endpoint"
    """Unreachable, silent, cut off, or a 502, 503 or 504: any request would have met it."""
    DRAINING = "draining"
    """A server that finishes what it has and takes nothing new (vLLM after SIGTERM)."""
    SUSPECT = "suspect"
    """The endpoint's or the request's own: a 500, a refused key, an answer that makes no sense."""
    LIMITED = "limited"
    """A rate limit: alive and well, but not for us now."""
    MISSING = "missing"
    """404: this replica has not loaded the model, or the request names something that is not there."""
    CONTENT = "content"
    """The request's own: nobody else would answer it."""


_BROKEN = frozenset({502, 503, 504})


def blame_of(error: BackendError) -> Blame:  # noqa: PLR0911 - the table: one row a class
    """Return whose fault an error is, as far as the error alone tells."""
    match error:
        case EndpointFailed(is_draining=True):
            return Blame.DRAINING
        case EndpointFailed(status=429):
            return Blame.LIMITED
        case EndpointFailed():
            return Blame.ENDPOINT if error.status in _BROKEN else Blame.SUSPECT
        case EndpointUnreachable() | EndpointTimeout() | StreamCut():
            return Blame.ENDPOINT
        case CredentialsRejected() | ReplyMalformed():
            return Blame.SUSPECT
        case AnswerUnkept():
            return Blame.CONTENT  # the endpoint answered, and elsewhere the answer is as large
        case AskRejected():
            return Blame.MISSING if error.status == 404 else Blame.CONTENT
        case _:
            return Blame.SUSPECT


def is_paid(error: BackendError) -> bool:
    """Tell whether a try that failed so may have been generated, and so has to be paid for; the rest never ran."""
    return isinstance(error, ReplyMalformed | StreamCut | AnswerUnkept) or (
        isinstance(error, EndpointTimeout) and error.phase != "connect"
    )
