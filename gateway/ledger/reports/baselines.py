"""Several baselines at once: what the period would have cost, had one model answered all of it.

Every served request's tokens are priced with the model's rates, per attempt and rounded as a charge is, in SQL. Cached
answers have no tokens here: they count at what their route's own baseline would have cost. The unseen answer's length
is taken as the served one's; the interval has the relative width of the stored one. Of archived days there are sums:
a line's attempts are priced together, in the context tier of their mean prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from backends.prices import FEMTO_PER_NANO, Rates, round_half_even
from gateway.ledger.rows import TOKENS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from gateway.ledger.reports.question import Question

# Where a price has no rate of its own for a class, it charges the class's elder.
_ELDERS: Final = {
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "audio_output": "output",
    "image_output": "output",
}
_TOTAL_INPUT: Final = "(" + " + ".join(name for name in TOKENS if "input" in name or "cache_write" in name) + ")"
_SERVED: Final = """
SELECT COALESCE(SUM(priced), 0) FROM (
  SELECT {rounded} AS priced FROM requests CROSS JOIN charges USING (request_id)
  WHERE requests.started_at_us >= :since AND requests.started_at_us < :until
    AND (:tenant IS NULL OR requests.tenant = :tenant)
    AND (kind = 'answer' OR kind = 'cancelled' AND path <> ''))
"""
_STORED: Final = """
SELECT COALESCE(SUM(CASE WHEN path LIKE 'cache:%' THEN baseline_nusd END), 0), COALESCE(SUM(baseline_nusd), 0),
       COALESCE(SUM(baseline_low_nusd), 0), COALESCE(SUM(baseline_high_nusd), 0)
FROM (
  SELECT path, baseline_nusd, baseline_low_nusd, baseline_high_nusd FROM requests
  WHERE started_at_us >= :since AND started_at_us < :until AND (:tenant IS NULL OR tenant = :tenant)
  UNION ALL
  SELECT path, baseline_nusd, baseline_low_nusd, baseline_high_nusd FROM archived_daily_requests WHERE {days}
)
"""
_WHOLE_DAYS: Final = "day >= :first_day AND day < :last_day AND (:tenant IS NULL OR tenant = :tenant)"
_ARCHIVED: Final = f"""
SELECT attempts, {", ".join(TOKENS)} FROM archived_daily_charges
WHERE {_WHOLE_DAYS} AND (kind = 'answer' OR kind = 'cancelled' AND path <> '')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What one model would have cost.

    Attributes:
        cost_nusd: for everything served; `cached_nusd` of it for cached answers, at their route's baseline.
        low_nusd: with `high_nusd` the interval for the length of answers nobody has seen.
        saved_nusd: cost_nusd - what was really spent.
    """

    model: str
    cost_nusd: int
    cached_nusd: int
    low_nusd: int
    high_nusd: int
    saved_nusd: int


def baseline(db: sqlite3.Connection, question: Question, model: str, rates: Rates, spent_nusd: int) -> Baseline:
    """Price the question's period with one model's rates; `spent_nusd` is what it really cost."""
    (answered,) = db.execute(_priced(rates), question.parameters).fetchone()
    cached, stored, low, high = db.execute(_STORED.format(days=_WHOLE_DAYS), question.parameters).fetchone()
    cost = answered + cached + _archived(db, question, rates)
    return Baseline(
        model=model,
        cost_nusd=cost,
        cached_nusd=cached,
        low_nusd=round_half_even(cost * low, stored) if stored else cost,
        high_nusd=round_half_even(cost * high, stored) if stored else cost,
        saved_nusd=cost - spent_nusd,
    )


def _archived(db: sqlite3.Connection, question: Question, rates: Rates) -> int:
    """Return what the answers of archived days would have cost, in nano-dollars."""
    prices = msgspec.to_builtins(rates)
    total = 0
    for attempts, *counts in db.execute(_ARCHIVED, question.parameters):  # not in SQL: sums can be beyond its integers
        used = dict(zip(TOKENS, counts, strict=True))
        read = sum(used[name] for name in TOKENS if "input" in name or "cache_write" in name)
        tiers = [tier for tier in prices["tiers"] if read > tier["start_tokens"] * attempts]
        chosen = max(tiers, key=lambda tier: int(tier["start_tokens"]), default=prices)
        femto = sum(count * rate_of(chosen, prices, name) for name, count in used.items())
        total += round_half_even(femto + rates.per_request * attempts, FEMTO_PER_NANO)
    return total


def femto_sql(rates: Rates) -> str:
    """Return SQL for what a charge's tokens cost at these rates, in femto-dollars; exact, like `Rates.cost_nusd`."""
    prices = msgspec.to_builtins(rates)
    cases = " ".join(
        f"WHEN {_TOTAL_INPUT} > {tier['start_tokens']} THEN {_weighted(tier, prices)}"
        for tier in sorted(prices["tiers"], key=lambda tier: -int(tier["start_tokens"]))
    )
    base = _weighted(prices, prices)
    return f"({f'CASE {cases} ELSE {base} END' if cases else base} + {rates.per_request})"


def rounded_sql(femto: str) -> str:
    """Return SQL for femto-dollars as nano-dollars, half rounded to even."""
    whole, rest = f"({femto} / {FEMTO_PER_NANO})", f"({femto} % {FEMTO_PER_NANO})"
    half = FEMTO_PER_NANO // 2
    return f"({whole} + ({rest} > {half} OR {rest} = {half} AND {whole} % 2 = 1))"


def _priced(rates: Rates) -> str:
    femto = femto_sql(rates)
    return _SERVED.format(rounded=rounded_sql(femto))


def _weighted(prices: Mapping[str, int | None], base: Mapping[str, int | None]) -> str:
    return f"({' + '.join(f'{column} * {rate_of(prices, base, column)}' for column in TOKENS)})"


def rate_of(prices: Mapping[str, int | None], base: Mapping[str, int | None], column: str) -> int:
    """Return the rate of a charge's column: its own, else its elder's, else the one outside all tiers, else 0."""
    name = "web_search" if column == "web_searches" else column.removesuffix("_tokens")
    for rates, key in ((prices, name), (prices, _ELDERS.get(name, "")), (base, name)):
        if (rate := rates.get(key)) is not None:
            return int(rate)
    return 0
