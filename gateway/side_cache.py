"""The caches' admin pages: what they hold, and making them forget.

No postponed annotations here: FastAPI reads the signatures of functions that are local to `add_cache_pages`.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from backends.words import JsonValue
from gateway.errors import Problem
from gateway.pipeline import Gateway
from policies.keys import Identity
from semantic_cache.seam import Selector


class Invalidation(BaseModel):
    """Which stored answers to forget: those that all given fields name, or `everything`.

    Attributes:
        key: the exact key in hex; `tag` is `name=value` as in `x-faregate-tags`.
        model: the catalog's name of the model that answered.
        tenant: who paid.
    """

    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    tag: Annotated[str, Field(pattern=r"^[^=\n]+=[^\n]+$")] | None = None
    model: str | None = None
    tenant: str | None = None
    namespace: Annotated[str, Field(min_length=1)] | None = None
    everything: Literal[True] | None = None

    @model_validator(mode="after")
    def _says_which(self) -> "Invalidation":
        is_named = any(value is not None for name, value in self if name != "everything")
        if is_named == bool(self.everything):
            raise ValueError("give one or more of key, tag, model, tenant and namespace, or else everything: true")
        return self

    def selector(self) -> Selector:
        """Return what the store understands."""
        return Selector(
            key=bytes.fromhex(self.key) if self.key is not None else None,
            tag=self.tag,
            model=self.model,
            tenant=self.tenant,
            namespace=self.namespace,
        )


def add_cache_pages(app: FastAPI, gateway: Gateway, admin: Callable[..., Identity]) -> None:
    """Serve `GET /admin/cache` and `POST /admin/cache/invalidate` to who shows an admin key."""
    app.add_exception_handler(RequestValidationError, _invalid)

    @app.get("/admin/cache")
    async def cache_stock(_who: Annotated[Identity, Depends(admin)]) -> JsonValue:
        """Count what the caches hold."""
        return dataclasses.asdict(await gateway.parts.caches.stock())

    @app.post("/admin/cache/invalidate")
    async def invalidate(wanted: Invalidation, _who: Annotated[Identity, Depends(admin)]) -> JsonValue:
        """Forget the stored answers that all given fields name; answers being made now are not stored either."""
        dropped = await gateway.parts.caches.invalidate(wanted.selector(), now=gateway.parts.clock.monotonic())
        return {"dropped": dropped}


async def _invalid(_request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    said = "; ".join(f"{'.'.join(str(part) for part in each['loc'][1:]) or 'body'}: {each['msg']}" for each in found)
    problem = Problem(status=400, message=said or "not valid", kind="invalid_request_error", code="invalid_body")
    return Response(problem.body(), status_code=problem.status, media_type="application/json")
