"""More that is derived from the rows and kept by triggers: savings by cause, and what the pools' replicas did.

Rules:
- a request's savings stand under its day, tenant and cause; a charge that comes later than its request (an audit)
  takes what the request stood for away and adds what it stands for now;
- a pool's charges are summed by the clock: under the day in which the attempt itself began;
- `busy_spans` holds when a replica had at least one attempt in flight: spans that touch are joined as they come, so
  that the union of a month is read, never computed. A busy replica's month is few spans; there are never more than
  attempts.
"""

from __future__ import annotations

from typing import Final

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


_NEW_END: Final = f"NEW.{_END.format('NEW.')}"
_ITS: Final = "pool = NEW.pool AND endpoint = NEW.endpoint_label"
_LATE: Final = "EXISTS (SELECT 1 FROM requests WHERE request_id = NEW.request_id)"
_OWN: Final = "requests.request_id = NEW.request_id"
_OWN_CHARGES: Final = "charges.request_id = NEW.request_id"
_ADD: Final = "ON CONFLICT ({keys}) DO UPDATE SET {sums}"


def _added(keys: tuple[str, ...], sums: tuple[str, ...]) -> str:
    return _ADD.format(keys=", ".join(keys), sums=", ".join(f"{name} = {name} + excluded.{name}" for name in sums))


def _add_savings(charges: str, sign: str = "") -> str:
    sums = ", ".join(f"{sign}{name}" for name in SAVINGS_SUMS)
    named = ", ".join((*SAVINGS_KEYS, *SAVINGS_SUMS))
    # A compound whose first half is empty gives the columns their names: triggers know no WITH.
    nothing = ", ".join(f"0 AS {name}" for name in (*SAVINGS_KEYS, *SAVINGS_SUMS))
    facts = f"SELECT {nothing} WHERE false UNION ALL {savings_sql(_OWN, charges)}"
    return (
        f"INSERT INTO daily_savings ({named}) SELECT {', '.join(SAVINGS_KEYS)}, {sums} FROM ({facts}) WHERE true "  # noqa: S608
        f"{_added(SAVINGS_KEYS, SAVINGS_SUMS)};"
    )


DERIVED_SCHEMA: Final = f"""
CREATE TABLE daily_savings (         -- baseline - actual by cause; derived, kept by triggers
  day INTEGER NOT NULL,              -- days since 1970 UTC in which the requests began
  tenant TEXT NOT NULL,              -- who paid
  cause TEXT NOT NULL,               -- exact or semantic (cache), small (a smaller model answered), other
  gain_nusd INTEGER NOT NULL,        -- baseline - the committed attempt, nano-dollars; each of these may be negative
  waste_nusd INTEGER NOT NULL,       -- minus the other attempts of what was served
  audit_nusd INTEGER NOT NULL,       -- minus audits
  router_nusd INTEGER NOT NULL,      -- minus embeddings, judges and verifiers
  PRIMARY KEY ({", ".join(SAVINGS_KEYS)})
) STRICT, WITHOUT ROWID;
CREATE TABLE daily_pools (           -- charges of pools under the day of the attempt; derived, kept by triggers
  day INTEGER NOT NULL,              -- days since 1970 UTC in which the attempts began
  pool TEXT NOT NULL,                -- the pool
  endpoint TEXT NOT NULL,            -- the replica
  attempts INTEGER NOT NULL,         -- how many
  cost_nusd INTEGER NOT NULL,        -- of the known ones, nano-dollars
  PRIMARY KEY ({", ".join(POOL_KEYS)})
) STRICT, WITHOUT ROWID;
CREATE TABLE busy_spans (            -- when a replica had attempts in flight; disjoint, derived, kept by triggers
  pool TEXT NOT NULL,                -- the pool
  endpoint TEXT NOT NULL,            -- the replica
  start_us INTEGER NOT NULL,         -- microseconds since 1970 UTC
  end_us INTEGER NOT NULL,           -- likewise
  PRIMARY KEY (pool, endpoint, start_us)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER requests_saved AFTER INSERT ON requests BEGIN
  {_add_savings(_OWN_CHARGES)}
END;
CREATE TRIGGER charges_saved AFTER INSERT ON charges WHEN {_LATE} BEGIN
  {_add_savings(f"{_OWN_CHARGES} AND charges.id <> NEW.id", "-")}
  {_add_savings(_OWN_CHARGES)}
END;
CREATE TRIGGER charges_of_pools AFTER INSERT ON charges WHEN NEW.pool IS NOT NULL BEGIN
  INSERT INTO daily_pools VALUES
    (NEW.started_at_us / {DAY_US}, NEW.pool, NEW.endpoint_label, 1, COALESCE(NEW.cost_nusd, 0))
    {_added(POOL_KEYS, POOL_SUMS)};
END;
CREATE TRIGGER charges_busy AFTER INSERT ON charges
  WHEN NEW.pool IS NOT NULL AND {_NEW_END} > NEW.started_at_us BEGIN
  -- The span that the new one makes with all it touches; they lie from the one before its start up to its end.
  INSERT INTO busy_spans
    SELECT NEW.pool, NEW.endpoint_label, MIN(NEW.started_at_us, COALESCE(MIN(start_us), NEW.started_at_us)),
           MAX({_NEW_END}, COALESCE(MAX(end_us), 0))
    FROM busy_spans WHERE {_ITS} AND end_us >= NEW.started_at_us AND start_us <= {_NEW_END} AND start_us >= COALESCE(
      (SELECT MAX(start_us) FROM busy_spans WHERE {_ITS} AND start_us <= NEW.started_at_us), NEW.started_at_us)
    ON CONFLICT (pool, endpoint, start_us) DO UPDATE SET end_us = MAX(end_us, excluded.end_us);
  DELETE FROM busy_spans WHERE {_ITS}
    AND start_us > (SELECT MAX(start_us) FROM busy_spans WHERE {_ITS} AND start_us <= NEW.started_at_us)
    AND start_us <= (SELECT end_us FROM busy_spans WHERE {_ITS} AND start_us <= NEW.started_at_us
                     ORDER BY start_us DESC LIMIT 1);
END;
"""  # noqa: S608 - the schema itself
"""The part of the schema that this module owns."""
