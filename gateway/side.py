"""The side door, on FastAPI: models, health, metrics, and the admin pages with their own key.

No postponed annotations here: FastAPI reads the signatures of functions that are local to `side_door`.
"""

from dataclasses import replace
from typing import Annotated, Final

import msgspec
from fastapi import Depends, FastAPI, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from backends.words import JsonValue
from gateway.compose import Opened, pools_of
from gateway.errors import KeyRefused, ModelNotFound, NotServed, Problem, Refused, problem_of
from gateway.journey import Caller
from gateway.ledger.seam import LedgerStatus
from gateway.promises import breaches
from gateway.routers import refusals
from gateway.side_cache import add_cache_pages
from gateway.workers.figures import page, pools_now
from policies.keys import Identity, digest_of

BODY_BYTES: Final = 64 * 2**10
"""The largest body of a request to these pages: FastAPI reads it before it looks at the key."""


def bounded(receive: Receive) -> Receive:
    """Return where a request's body comes from that is cut off at the limit with a 413."""
    taken = 0

    async def take() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > BODY_BYTES:
            raise HTTPException(413)
        return message

    return take


def side_door(opened: Opened) -> FastAPI:
    """Return the application for everything but the data paths."""
    gateway = opened.gateway
    policy = gateway.parts.policy
    app = FastAPI(title="Faregate", summary="An OpenAI-compatible gateway with a bill.", docs_url=None, redoc_url=None)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    # A fault of ours is told as all others, and raised on to be logged.
    app.add_exception_handler(Exception, _refused)

    def caller(authorization: Annotated[str, Header()] = "") -> Caller:
        secret = _bearer(authorization)
        return gateway.identify(digest_of(secret.get_secret_value()) if secret else None)

    def admin(authorization: Annotated[str, Header()] = "") -> Identity:
        secret = _bearer(authorization)
        identity = gateway.parts.keys.identify(secret.get_secret_value() if secret else None)
        if not isinstance(identity, Identity) or not identity.is_admin:
            raise KeyRefused("this page needs an admin key; make one with `faregate keys create --admin`", status=401)
        return identity

    @app.get("/v1/models")
    def list_models(who: Annotated[Caller, Depends(caller)]) -> JsonValue:
        """List what this key's tenant may ask for: `auto`, routes, catalog models."""
        return {"object": "list", "data": [_model(name) for name in policy.names_for(who.tenant)]}

    @app.get("/v1/models/{name:path}")
    def get_model(name: str, who: Annotated[Caller, Depends(caller)]) -> JsonValue:
        """Describe one name."""
        names = policy.names_for(who.tenant)
        if name not in names:
            raise ModelNotFound(name, names)
        return _model(name)

    @app.head("/health/liveliness", include_in_schema=False)
    @app.get("/health/liveliness")
    @app.head("/health/liveness", include_in_schema=False)
    @app.get("/health/liveness")
    def liveliness() -> JsonValue:
        """Tell that the process runs."""
        return {"status": "alive"}

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    @app.head("/health/readiness", include_in_schema=False)
    @app.get("/health/readiness")
    def readiness() -> JSONResponse:
        """Tell whether requests can be answered and paid for."""
        told = _readiness(_status(opened), is_stopping=gateway.is_stopping)
        told["breached"] = breaches(gateway.parts.auditor)
        told["refused_artefacts"] = refusals(gateway.parts.lanes)
        return JSONResponse(told, status_code=200 if told["status"] == "ready" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return Prometheus' text format, of all workers together."""
        return Response(await _metrics(opened), media_type=CONTENT_TYPE_LATEST)

    @app.get("/admin/status")
    async def admin_status(_who: Annotated[Identity, Depends(admin)]) -> JsonValue:
        """Tell the operator how the gateway is: ledger, policy, warnings, endpoints, workers."""
        return await _admin_status(opened)

    add_cache_pages(app, gateway, admin)
    return app


def _status(opened: Opened) -> LedgerStatus:
    """Return how the ledger is; of several workers it is well if this one's is and all answer."""
    status = opened.ledger.status()
    if opened.crew is None:
        return status
    standing = opened.crew.standing
    error = status.error or standing.error or (None if standing.is_complete else "not all workers answer yet")
    is_writable = status.is_writable and standing.is_complete and standing.is_folding
    return replace(status, is_writable=is_writable, error=error)


async def _metrics(opened: Opened) -> bytes:
    if opened.crew is None:
        return await run_in_threadpool(generate_latest, opened.gateway.parts.telemetry.registry)
    return await run_in_threadpool(page, await opened.crew.figures())


async def _admin_status(opened: Opened) -> JsonValue:
    parts = opened.gateway.parts
    told: dict[str, JsonValue] = {
        "policy_digest": parts.policy.digest,
        "routes": [route.name for route in parts.policy.routes],
    }
    if opened.crew is not None:
        return told | msgspec.to_builtins(await opened.crew.household())
    return told | {
        "warnings": list(opened.warnings),
        "ledger": _ledger(opened.ledger.status()),
        "pools": msgspec.to_builtins(pools_now(pools_of(parts.catalog))),
    }


def _bearer(authorization: str) -> SecretStr | None:
    scheme, _, secret = authorization.partition(" ")
    return SecretStr(secret.strip()) if scheme.lower() == "bearer" and secret.strip() else None


def _model(name: str) -> dict[str, JsonValue]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "faregate"}


def _readiness(status: LedgerStatus, *, is_stopping: bool) -> dict[str, JsonValue]:
    return {
        "status": "stopping" if is_stopping else "ready" if status.is_writable else "not ready",
        "ledger": _ledger(status),
    }


def _ledger(status: LedgerStatus) -> dict[str, JsonValue]:
    return {
        "is_writable": status.is_writable,
        "pending": status.pending,
        "dropped": status.dropped,
        "unfolded_bytes": status.unfolded_bytes,
        "error": status.error,
    }


async def _refused(_request: Request, error: Exception) -> Response:
    return _told(problem_of(error))


def _told(problem: Problem) -> Response:
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body(), status_code=problem.status, headers=headers, media_type="application/json")


async def _not_served(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    if status == 413:
        message = f"the body is larger than the {BODY_BYTES} bytes that this page reads; send less"
        return _told(Problem(status=413, message=message, kind="invalid_request_error", code="request_too_large"))
    message = f"{request.method} {request.scope['path'][:128]} is not served here (HTTP {status})"
    told = (error.headers or {}) if isinstance(error, HTTPException) else {}
    headers = tuple((name.lower().encode(), value.encode()) for name, value in told.items())
    return await _refused(request, NotServed(message, status=status, headers=headers))
