"""Views for the questions people ask most, to be used with any SQLite tool; part of the schema."""

from __future__ import annotations

from typing import Final

_USD: Final = (
    "printf('%s%d.%09d', CASE WHEN {0} < 0 THEN '-' ELSE '' END, abs({0}) / 1000000000, abs({0}) % 1000000000)"
)


def _usd(column: str) -> str:
    return _USD.format(column)


_DATE: Final = "date(day * 86400, 'unixepoch')"
_MONTH: Final = "strftime('%Y-%m', day * 86400, 'unixepoch')"

VIEWS: Final = f"""
-- What each tenant spent on each model in each calendar month (UTC).
CREATE VIEW monthly_by_tenant_and_model AS
  SELECT {_MONTH} AS month, tenant, model, SUM(attempts) AS attempts, SUM(unknown_charges) AS unknown_charges,
         SUM(cost_nusd) AS cost_nusd, {_usd("SUM(cost_nusd)")} AS cost_usd
  FROM daily_charges GROUP BY 1, 2, 3;
-- What was spent on each UTC day, and on what the judge rejected.
CREATE VIEW daily_spend AS
  SELECT {_DATE} AS day, SUM(attempts) AS attempts, SUM(cost_nusd) AS cost_nusd, {_usd("SUM(cost_nusd)")} AS cost_usd,
         COALESCE(SUM(cost_nusd) FILTER (WHERE kind = 'rejected'), 0) AS rejected_nusd
  FROM daily_charges GROUP BY 1;
-- What each tenant asked, what it would have cost at the baseline and at its interval's ends, by UTC day.
CREATE VIEW daily_baseline AS
  SELECT {_DATE} AS day, tenant, SUM(requests) AS requests, SUM(answered) AS answered, SUM(refused) AS refused,
         SUM(baseline_nusd) AS baseline_nusd, SUM(baseline_low_nusd) AS baseline_low_nusd,
         SUM(baseline_high_nusd) AS baseline_high_nusd
  FROM daily_requests GROUP BY 1, 2;
-- Charges whose cost nobody knows; they are in no sum.
CREATE VIEW charges_of_unknown_cost AS
  SELECT request_id, attempt, tenant, model, kind, endpoint_label, upstream_response_id,
         strftime('%Y-%m-%dT%H:%M:%S', started_at_us / 1000000, 'unixepoch') || 'Z' AS started_at
  FROM charges WHERE cost_nusd IS NULL;
-- The thousand dearest requests, with what answered them.
CREATE VIEW dearest_requests AS
  SELECT request_id, tenant, route, path, status, cost_nusd, {_usd("cost_nusd")} AS cost_usd,
         strftime('%Y-%m-%dT%H:%M:%S', started_at_us / 1000000, 'unixepoch') || 'Z' AS started_at
  FROM requests ORDER BY cost_nusd DESC LIMIT 1000;
"""
