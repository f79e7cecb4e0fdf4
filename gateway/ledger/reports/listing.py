"""Single rows: every attempt, or every request, one after the other and never more than one in memory."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.ledger.rows import TOKENS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator

    from gateway.ledger.reports.question import Question

Cell = str | int | float | None
_AT: Final = "strftime('%Y-%m-%dT%H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06dZ', {0} % 1000000)"


class Single(StrEnum):
    """Whose rows are listed."""

    ATTEMPT = "attempt"
    REQUEST = "request"


# The columns by name, and how each reads.
_ATTEMPT: Final = {
    "request_id": "charges.request_id",
    "attempt": "charges.attempt",
    "client_request_id": "requests.client_request_id",
    "upstream_response_id": "charges.upstream_response_id",
    **{name: f"charges.{name}" for name in TOKENS},
    "cost_nano_usd": "charges.cost_nusd",
    "cost_provenance": "charges.cost_provenance",
    "stated_cost_nano_usd": "charges.stated_cost_nusd",
    "input_provenance": "charges.input_provenance",
    "output_provenance": "charges.output_provenance",
    "tenant": "charges.tenant",
    "key": "charges.key_id",
    "route": "charges.route",
    "model": "charges.model",
    "kind": "charges.kind",
    "pool": "charges.pool",
    "endpoint": "charges.endpoint_label",
    "tier": "charges.tier",
    "price_digest": "charges.price_digest",
    "started_at": _AT.format("charges.started_at_us"),
    "duration_ms": "charges.duration_ms",
    "finish_reason": "charges.finish_reason",
    "status": "requests.status",
    "path": "requests.path",
    "feature": "json_extract(requests.tags, '$.feature')",
    "session": "requests.session",
    "user": "requests.user_pseudonym",
    "task": "requests.task_id",
}
_ATTEMPTS_SQL: Final = f"""
SELECT {", ".join(f"{value} AS {name}" for name, value in _ATTEMPT.items())}
FROM requests CROSS JOIN charges USING (request_id)
WHERE requests.started_at_us >= :since AND requests.started_at_us < :until
  AND (:tenant IS NULL OR requests.tenant = :tenant)
UNION ALL
SELECT {", ".join(f"{value} AS {name}" for name, value in _ATTEMPT.items())}
FROM waiting_charges CROSS JOIN charges USING (request_id, attempt) LEFT JOIN requests USING (request_id)
WHERE charges.started_at_us >= :since AND charges.started_at_us < :until
  AND (:tenant IS NULL OR charges.tenant = :tenant)
"""
# The least certain of a request's provenances stands for all of them.
_WEAKEST: Final = (
    "(SELECT {0} FROM charges WHERE charges.request_id = requests.request_id ORDER BY CASE {0} WHEN 'unknown' THEN 0"
    " WHEN 'estimated' THEN 1 WHEN 'counted' THEN 2 WHEN 'priced' THEN 3 ELSE 4 END LIMIT 1)"
)
_SUM: Final = "(SELECT {0} FROM charges WHERE charges.request_id = requests.request_id)"
_REQUEST: Final = {
    "request_id": "requests.request_id",
    "attempt": "last.attempt",
    "client_request_id": "requests.client_request_id",
    "upstream_response_id": "last.upstream_response_id",
    **{name: _SUM.format(f"COALESCE(SUM({name}), 0)") for name in TOKENS},
    "cost_nano_usd": _SUM.format("CASE WHEN COUNT(*) = COUNT(cost_nusd) THEN COALESCE(SUM(cost_nusd), 0) END"),
    "known_cost_nano_usd": _SUM.format("COALESCE(SUM(cost_nusd), 0)"),
    "attempts": _SUM.format("COUNT(*)"),
    "unknown_charges": _SUM.format("COUNT(*) - COUNT(cost_nusd)"),
    "cost_provenance": _WEAKEST.format("cost_provenance"),
    "input_provenance": _WEAKEST.format("input_provenance"),
    "output_provenance": _WEAKEST.format("output_provenance"),
    "tenant": "requests.tenant",
    "key": "requests.key_id",
    "route": "requests.route",
    "model": "last.model",
    "kind": "last.kind",
    "path": "requests.path",
    "model_asked": "requests.model_asked",
    "surface": "requests.surface",
    "feature": "json_extract(requests.tags, '$.feature')",
    "session": "requests.session",
    "user": "requests.user_pseudonym",
    "task": "requests.task_id",
    "started_at": _AT.format("requests.started_at_us"),
    "total_ms": "requests.total_ms",
    "ttft_ms": "requests.ttft_ms",
    "finish_reason": "last.finish_reason",
    "status": "requests.status",
    "error_code": "requests.error_code",
    "baseline_model": "requests.baseline_model",
    "baseline_nano_usd": "requests.baseline_nusd",
    "baseline_low_nano_usd": "requests.baseline_low_nusd",
    "baseline_high_nano_usd": "requests.baseline_high_nusd",
}
# Its last paid attempt that was no side matter of ours: what was answered, or what became of it.
_REQUESTS_SQL: Final = f"""
SELECT {", ".join(f"{value} AS {name}" for name, value in _REQUEST.items())}
FROM requests LEFT JOIN charges AS last ON last.request_id = requests.request_id AND last.attempt = (
  SELECT attempt FROM charges WHERE charges.request_id = requests.request_id
  ORDER BY kind = 'answer' DESC, attempt DESC LIMIT 1)
WHERE requests.started_at_us >= :since AND requests.started_at_us < :until
  AND (:tenant IS NULL OR requests.tenant = :tenant)
ORDER BY requests.started_at_us, requests.request_id
"""


def listing_sql(single: Single) -> str:
    """Return the query behind a listing, with the parameters of a question."""
    return _ATTEMPTS_SQL if single is Single.ATTEMPT else _REQUESTS_SQL


def columns(single: Single) -> tuple[str, ...]:
    """Return a listing's columns, in order."""
    return tuple(_ATTEMPT if single is Single.ATTEMPT else _REQUEST)


def rows(db: sqlite3.Connection, question: Question, single: Single) -> Generator[tuple[Cell, ...]]:
    """Yield the rows of the question's period and tenant, in the order of `columns`."""
    yield from db.execute(listing_sql(single), question.parameters)
