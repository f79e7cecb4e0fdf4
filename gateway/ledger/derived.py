"""More that is derived from the rows and kept beside them: savings by cause, and what the pools' replicas did.

Rules:
- a request's savings stand under its day, tenant and cause; a charge that comes later than its request (an audit)
  takes what the request stood for away and adds what it stands for now;
- a pool's charges are summed by the clock: under the day in which the attempt itself began;
- `busy_spans` holds when a replica had at least one attempt in flight: spans that touch are joined as they come, so
  that the union of a month is read, never computed. A busy replica's month is few spans; there are never more than
  attempts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

DAY_US: Final = 86_400 * 10**6

SAVINGS_KEYS: Final = ("day", "tenant", "cause")
SAVINGS_SUMS: Final = ("gain_nusd", "waste_nusd", "audit_nusd", "router_nusd")
POOL_KEYS: Final = ("day", "pool", "endpoint")
POOL_SUMS: Final = ("attempts", "cost_nusd")


def savings_sql(which: str, charges: str = "true") -> str:
    """Return SQL of each request's savings: `SAVINGS_KEYS`, then `SAVINGS_SUMS`.

    What a request cost is split into its committed attempt (the answer, or what was streamed of it before a hang-up)
    and the others (waste).

    Args:
        which: the condition on `requests`.
        charges: the condition on `charges`, which `which` need not say again.
    """
    return f"""
  SELECT day, tenant,
    CASE WHEN path IN ('cache:exact', 'cache:flight') THEN 'exact' WHEN path = 'cache:semantic' THEN 'semantic'
         WHEN path <> '' AND committed_model <> baseline_model THEN 'small' ELSE 'other' END,
    baseline_nusd - CASE WHEN path = '' THEN spent_nusd - audit_nusd - router_nusd ELSE committed_nusd END,
    CASE WHEN path = '' THEN 0 ELSE committed_nusd - (spent_nusd - audit_nusd - router_nusd) END,
    -audit_nusd, -router_nusd
  FROM (
    SELECT requests.started_at_us / {DAY_US} AS day, requests.tenant AS tenant, requests.path AS path,
           requests.baseline_model AS baseline_model, requests.baseline_nusd AS baseline_nusd,
           COALESCE(ends.spent_nusd, 0) AS spent_nusd, COALESCE(ends.audit_nusd, 0) AS audit_nusd,
           COALESCE(ends.router_nusd, 0) AS router_nusd, COALESCE(committed.cost_nusd, 0) AS committed_nusd,
           committed.model AS committed_model
    FROM requests LEFT JOIN (
      SELECT request_id AS of_request, COALESCE(SUM(cost_nusd), 0) AS spent_nusd,
             COALESCE(SUM(cost_nusd) FILTER (WHERE kind = 'audit'), 0) AS audit_nusd,
             COALESCE(SUM(cost_nusd) FILTER (
               WHERE kind IN ('embedding', 'judge', 'verifier', 'self_check', 'sample')), 0) AS router_nusd,
             MAX(attempt) FILTER (WHERE kind = 'answer') AS answered,
             MAX(attempt) FILTER (WHERE kind = 'cancelled') AS cancelled
      FROM charges WHERE {charges} GROUP BY request_id
    ) AS ends ON ends.of_request = requests.request_id
    LEFT JOIN charges AS committed ON committed.request_id = requests.request_id AND committed.attempt =
      COALESCE(ends.answered, CASE WHEN requests.baseline_nusd > 0 THEN ends.cancelled END)
    WHERE {which}
  )"""  # noqa: S608 - the conditions are this package's own


def joined_spans_sql(spans: str) -> str:
    """Return SQL that joins the spans that touch, of a query of pool, endpoint, start_us and end_us.

    Source: "gaps and islands" by a running maximum of the ends.
    """
    whose = "PARTITION BY pool, endpoint ORDER BY start_us, end_us"
    return f"""
  SELECT pool, endpoint, MIN(start_us), MAX(end_us) FROM (
    SELECT *, SUM(begins) OVER ({whose} ROWS UNBOUNDED PRECEDING) AS island FROM (
      SELECT *, start_us > COALESCE(
        MAX(end_us) OVER ({whose} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), -1) AS begins FROM ({spans})))
  GROUP BY pool, endpoint, island"""  # noqa: S608 - this package's own


_END: Final = "started_at_us + CAST(ROUND({0}duration_ms * 1000) AS INTEGER)"


def spans_sql(which: str = "true") -> str:
    """Return SQL of the charges' spans, as `joined_spans_sql` takes them; `which` is a condition on `charges`."""
    return (
        f"SELECT pool, endpoint_label AS endpoint, started_at_us AS start_us, {_END.format('')} AS end_us "  # noqa: S608
        f"FROM charges WHERE pool IS NOT NULL AND ROUND(duration_ms * 1000) > 0 AND {which}"
    )


_ITS: Final = "pool = :pool AND endpoint = :endpoint"
# The span that a new one makes with all it touches; they lie from the one before its start up to its end.
_JOIN: Final = f"""
INSERT INTO busy_spans
  SELECT :pool, :endpoint, MIN(:start, COALESCE(MIN(start_us), :start)), MAX(:end, COALESCE(MAX(end_us), 0))
  FROM busy_spans WHERE {_ITS} AND end_us >= :start AND start_us <= :end AND start_us >= COALESCE(
    (SELECT MAX(start_us) FROM busy_spans WHERE {_ITS} AND start_us <= :start), :start)
  ON CONFLICT (pool, endpoint, start_us) DO UPDATE SET end_us = MAX(end_us, excluded.end_us)
"""  # noqa: S608 - constants
_SWALLOW: Final = f"""
DELETE FROM busy_spans WHERE {_ITS}
  AND start_us > (SELECT MAX(start_us) FROM busy_spans WHERE {_ITS} AND start_us <= :start)
  AND start_us <= (SELECT end_us FROM busy_spans WHERE {_ITS} AND start_us <= :start
                   ORDER BY start_us DESC LIMIT 1)
"""  # noqa: S608 - constants


def add_spans(db: sqlite3.Connection, *, charges_after: int) -> None:
    """Join the spans of the charges above an id to `busy_spans`; those that touch one another come as one.

    The caller holds the transaction.
    """
    new = f"{spans_sql('charges.id > ?')} ORDER BY pool, endpoint, start_us"
    joined: list[tuple[str, str, int, int]] = []
    for pool, endpoint, start, end in db.execute(new, (charges_after,)):
        last = joined[-1] if joined else None
        if last is not None and last[:2] == (pool, endpoint) and start <= last[3]:
            joined[-1] = (*last[:3], max(last[3], end))
        else:
            joined.append((pool, endpoint, start, end))
    for span in joined:
        named = dict(zip(("pool", "endpoint", "start", "end"), span, strict=True))
        db.execute(_JOIN, named)
        db.execute(_SWALLOW, named)


DERIVED_SCHEMA: Final = f"""
CREATE TABLE daily_savings (         -- baseline - actual by cause; derived, kept by the fold
  day INTEGER NOT NULL,              -- days since 1970 UTC in which the requests began
  tenant TEXT NOT NULL,              -- who paid
  cause TEXT NOT NULL,               -- exact or semantic (cache), small (a smaller model answered), other
  gain_nusd INTEGER NOT NULL,        -- baseline - the committed attempt, nano-dollars; each of these may be negative
  waste_nusd INTEGER NOT NULL,       -- minus the other attempts of what was served
  audit_nusd INTEGER NOT NULL,       -- minus audits
  router_nusd INTEGER NOT NULL,      -- minus embeddings, judges and verifiers
  PRIMARY KEY ({", ".join(SAVINGS_KEYS)})
) STRICT, WITHOUT ROWID;
CREATE TABLE daily_pools (           -- charges of pools under the day of the attempt; derived, kept by the fold
  day INTEGER NOT NULL,              -- days since 1970 UTC in which the attempts began
  pool TEXT NOT NULL,                -- the pool
  endpoint TEXT NOT NULL,            -- the replica
  attempts INTEGER NOT NULL,         -- how many
  cost_nusd INTEGER NOT NULL,        -- of the known ones, nano-dollars
  PRIMARY KEY ({", ".join(POOL_KEYS)})
) STRICT, WITHOUT ROWID;
CREATE TABLE busy_spans (            -- when a replica had attempts in flight; disjoint, derived, kept by the fold
  pool TEXT NOT NULL,                -- the pool
  endpoint TEXT NOT NULL,            -- the replica
  start_us INTEGER NOT NULL,         -- microseconds since 1970 UTC
  end_us INTEGER NOT NULL,           -- likewise
  PRIMARY KEY (pool, endpoint, start_us)
) STRICT, WITHOUT ROWID;
"""
"""The part of the schema that this module owns."""
