"""Rollups: daily sums of requests and charges, kept by the store in the transaction that books the rows.

Rules:
- a rollup is derived: the rows are the truth, `mismatches` proves that both say the same, `rebuild` makes it anew;
- a charge is summed under the day, feature and path of its request, which is booked after it: until then it stands in
  `waiting_charges`, and a charge that comes later than its request (an audit) is summed at once;
- every transaction of the store ends with `add_booked`, once for all of its rows; they were triggers once, one round of
  statements for every row, which was a quarter of what folding cost. A migration leaves `DERIVED` tables out of what
  it copies and makes them anew;
- rows that went into an archive are no longer there, their sums are: in the rollup, and apart in `archived_…`, so that
  the rollup is still proven equal to the rows and what is archived;
- an unknown cost is counted in `unknown_charges` and adds nothing to `cost_nusd`.

Days are UTC's; what a zone's days need beside them is read from rows (`reports.ragged`). Hours would serve every time
zone, but by key, feature and path there are nearly as many sums of hours as rows (measured: 0.3 million sums of 0.3
million charges), and reading them took as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.ledger.archived import SUMMED
from gateway.ledger.derived import (
    DAY_US,
    DERIVED_SCHEMA,
    POOL_KEYS,
    POOL_SUMS,
    SAVINGS_KEYS,
    SAVINGS_SUMS,
    add_spans,
    joined_spans_sql,
    savings_sql,
    spans_sql,
)
from gateway.ledger.rows import TOKENS

if TYPE_CHECKING:
    import sqlite3

DERIVED: Final = ("daily_requests", "daily_charges", "waiting_charges", "daily_savings", "daily_pools", "busy_spans")
"""The tables that are sums of others."""

FEATURE: Final = "COALESCE(json_extract({}.tags, '$.feature'), '')"
"""The client's feature tag, '' without one; the braces take the requests' alias."""

_REQUEST_KEYS: Final = ("day", "tenant", "key_id", "route", "feature", "path")
_CHARGE_KEYS: Final = (*_REQUEST_KEYS, "model", "pool", "kind")
REQUEST_SUMS: Final = {
    "requests": "1",
    "served": "{0}.path <> ''",
    "answered": "{0}.path <> '' AND {0}.status < 400",
    "refused": "{0}.status >= 400",
    "baseline_nusd": "{0}.baseline_nusd",
    "baseline_low_nusd": "{0}.baseline_low_nusd",
    "baseline_high_nusd": "{0}.baseline_high_nusd",
}
"""What is summed over requests, and how one request counts."""
CHARGE_SUMS: Final = {
    "attempts": "1",
    "unknown_charges": "{0}.cost_nusd IS NULL",
    **{name: f"{{0}}.{name}" for name in TOKENS},
    "cost_nusd": "COALESCE({0}.cost_nusd, 0)",
}
"""What is summed over charges, and how one charge counts."""


def _request_values(of: str) -> str:
    keys = (
        f"{of}.started_at_us / {DAY_US}",
        f"{of}.tenant",
        f"{of}.key_id",
        f"COALESCE({of}.route, '')",
        FEATURE.format(of),
        f"{of}.path",
    )
    return ", ".join((*keys, *(value.format(of) for value in REQUEST_SUMS.values())))


def _charge_values(request: str, charge: str) -> str:
    keys = (
        f"{request}.started_at_us / {DAY_US}",
        f"{charge}.tenant",
        f"{charge}.key_id",
        f"{charge}.route",
        FEATURE.format(request),
        f"{request}.path",
        f"{charge}.model",
        f"COALESCE({charge}.pool, '')",
        f"{charge}.kind",
    )
    return ", ".join((*keys, *(value.format(charge) for value in CHARGE_SUMS.values())))


def _added(keys: tuple[str, ...], sums: dict[str, str]) -> str:
    more = ", ".join(f"{name} = {name} + excluded.{name}" for name in sums)
    return f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {more}"


ROLLUPS: Final = f"""
CREATE TABLE daily_requests (       -- sums of requests; derived, kept by the fold
  day INTEGER NOT NULL,              -- days since 1970 UTC in which the requests began
  tenant TEXT NOT NULL,              -- as in requests, and so are the next three
  key_id TEXT NOT NULL,              -- with which key
  route TEXT NOT NULL,               -- '' when refused before
  feature TEXT NOT NULL,             -- the tag "feature", '' without one
  path TEXT NOT NULL,                -- what answered; '' when nothing was served
  requests INTEGER NOT NULL,         -- how many
  served INTEGER NOT NULL,           -- of them answered, whole or in part
  answered INTEGER NOT NULL,         -- of them answered with a status below 400
  refused INTEGER NOT NULL,          -- of them ended with a status of 400 or more
  baseline_nusd INTEGER NOT NULL,    -- what the baseline would have cost, nano-dollars
  baseline_low_nusd INTEGER NOT NULL,  -- its lower end
  baseline_high_nusd INTEGER NOT NULL, -- its upper end
  PRIMARY KEY ({", ".join(_REQUEST_KEYS)})
) STRICT, WITHOUT ROWID;
CREATE TABLE daily_charges (        -- sums of charges under the day of their request; derived, kept by the fold
  day INTEGER NOT NULL,              -- days since 1970 UTC in which the request began
  tenant TEXT NOT NULL,              -- who pays
  key_id TEXT NOT NULL,              -- with which key
  route TEXT NOT NULL,               -- the policy rule
  feature TEXT NOT NULL,             -- the request's tag "feature", '' without one
  path TEXT NOT NULL,                -- the request's path
  model TEXT NOT NULL,               -- the catalog's name
  pool TEXT NOT NULL,                -- '' for a provider
  kind TEXT NOT NULL,                -- as in charges
  attempts INTEGER NOT NULL,         -- how many
  unknown_charges INTEGER NOT NULL,  -- of them without a known cost
  {"".join(f"{name} INTEGER NOT NULL, -- as in charges{chr(10)}  " for name in TOKENS)}cost_nusd INTEGER NOT NULL,\
        -- of the known ones, nano-dollars
  PRIMARY KEY ({", ".join(_CHARGE_KEYS)})
) STRICT, WITHOUT ROWID;
CREATE TABLE waiting_charges (       -- charges whose request is not booked yet; derived, kept by the fold
  request_id TEXT NOT NULL,          -- of charges
  attempt INTEGER NOT NULL,          -- of charges
  PRIMARY KEY (request_id, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_of_sessions ON requests (started_at_us) WHERE session IS NOT NULL;
{DERIVED_SCHEMA}"""
"""The part of the schema that this module owns, and that of `derived`."""

_SUMMED: Final = {
    "daily_requests": (
        f"SELECT {_request_values('requests')} FROM requests WHERE {{requests}}",
        _REQUEST_KEYS,
        tuple(REQUEST_SUMS),
    ),
    "daily_charges": (
        (
            f"SELECT {_charge_values('requests', 'charges')} FROM charges JOIN requests USING (request_id)"
            " WHERE {requests}"
        ),
        _CHARGE_KEYS,
        tuple(CHARGE_SUMS),
    ),
    "daily_savings": (savings_sql("{requests}"), SAVINGS_KEYS, SAVINGS_SUMS),
    "daily_pools": (
        (
            f"SELECT started_at_us / {DAY_US}, pool, endpoint_label, 1, COALESCE(cost_nusd, 0) FROM charges"
            " WHERE pool IS NOT NULL AND {charges}"
        ),
        POOL_KEYS,
        POOL_SUMS,
    ),
    "waiting_charges": (
        (
            "SELECT request_id, attempt FROM charges"
            " WHERE NOT EXISTS (SELECT 1 FROM requests WHERE requests.request_id = charges.request_id)"
        ),
        ("request_id", "attempt"),
        (),
    ),
}


_SPANS: Final = "pool, endpoint, start_us, end_us"


def add_booked(db: sqlite3.Connection, *, requests: int, charges: int) -> None:
    """Add the rows of a transaction to the rollups. The caller holds the transaction.

    Args:
        db: the ledger.
        requests: the last id of `requests` before the transaction.
        charges: that of `charges`.
    """
    before = {"requests": requests, "charges": charges}
    for statement in _ADD_BOOKED:
        db.execute(statement, before)
    if db.execute(f"SELECT EXISTS ({_LATE})", before).fetchone()[0]:
        for statement in _MOVE_LATE:
            db.execute(statement, before)
    add_spans(db, charges_after=charges)


def rebuild(db: sqlite3.Connection) -> None:
    """Make the rollups anew from the rows and from what is archived. The caller holds the transaction."""
    for table in DERIVED:
        db.execute(f"DELETE FROM {table}")
        db.execute(f"INSERT INTO {table} {_from_rows(table)}")


def archived_sums_sql(table: str, among: str) -> str:
    """Return SQL for what some requests are in a rollup: the columns of `table`, one of `SUMMED`.

    Args:
        table: the rollup.
        among: a table of their `request_id`.
    """
    chosen = f"IN (SELECT request_id FROM {among})"
    if table == "busy_spans":
        return joined_spans_sql(spans_sql(f"charges.request_id {chosen}"))
    rows, keys, sums = _SUMMED[table]
    return _summed(rows.format(requests=f"requests.request_id {chosen}", charges=f"request_id {chosen}"), keys, sums)


def mismatches(db: sqlite3.Connection) -> list[str]:
    """Return a line for every rollup that differs from the sum of its rows; empty when all agree."""
    found = []
    for table in DERIVED:
        rows = f"SELECT * FROM ({_from_rows(table)})"
        query = (
            f"SELECT (SELECT COUNT(*) FROM (SELECT * FROM {_kept(table)} EXCEPT {rows})),"
            f" (SELECT COUNT(*) FROM (SELECT * FROM ({rows}) EXCEPT SELECT * FROM {_kept(table)}))"
        )
        too_many, missing = db.execute(query).fetchone()
        if too_many or missing:
            found.append(f"{table}: {too_many} sums that no row bears out, {missing} that the rows demand and it lacks")
    return found


def _from_rows(table: str) -> str:
    if table == "busy_spans":
        return joined_spans_sql(f"{spans_sql()} UNION ALL SELECT {_SPANS} FROM archived_busy_spans")
    rows, keys, sums = _SUMMED[table]
    rows = rows.format(requests="true", charges="true")
    if table in SUMMED:
        rows += f" UNION ALL SELECT {', '.join((*keys, *sums))} FROM archived_{table}"
    return _summed(rows, keys, sums)


def _summed(rows: str, keys: tuple[str, ...], sums: tuple[str, ...]) -> str:
    names = ", ".join((*keys, *sums))
    summed = ", ".join((*keys, *(f"SUM({name})" for name in sums)))
    # A savings line whose late charge moved it to another cause may be left at nothing.
    having = " HAVING " + " OR ".join(f"SUM({name}) <> 0" for name in sums) if "cause" in keys else ""
    return (
        f"SELECT {summed} FROM (WITH facts({names}) AS ({rows}) SELECT * FROM facts) GROUP BY {', '.join(keys)}{having}"
    )


def _kept(table: str) -> str:
    """Return a rollup as it compares: without savings that are nothing."""
    if table != "daily_savings":
        return table
    return f"(SELECT * FROM daily_savings WHERE {' OR '.join(f'{name} <> 0' for name in SAVINGS_SUMS)})"


def _add(table: str, rows: str, keys: tuple[str, ...], sums: tuple[str, ...], *, sign: str = "") -> str:
    names = ", ".join((*keys, *sums))
    summed = ", ".join((*keys, *(f"{sign}SUM({name})" for name in sums)))
    more = ", ".join(f"{name} = {name} + excluded.{name}" for name in sums)
    return (
        f"INSERT INTO {table} ({names}) SELECT {summed} "
        f"FROM (WITH facts({names}) AS ({rows}) SELECT * FROM facts) GROUP BY {', '.join(keys)} "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {more}"
    )


_NEW: Final = "requests.id > :requests"
_THEIRS: Final = f"charges.request_id IN (SELECT request_id FROM requests WHERE {_NEW})"
# Charges of this transaction whose requests were booked before it: audits, mostly.
_LATE: Final = (
    "SELECT charges.request_id FROM charges CROSS JOIN requests USING (request_id) "
    "WHERE charges.id > :charges AND requests.id <= :requests"
)
_SUMMABLE: Final = (
    f"SELECT {_charge_values('requests', 'charges')} FROM requests CROSS JOIN charges USING (request_id) WHERE {_NEW} "
    f"UNION ALL SELECT {_charge_values('requests', 'charges')} FROM charges CROSS JOIN requests USING (request_id) "
    "WHERE charges.id > :charges AND requests.id <= :requests"
)
_ADD_BOOKED: Final = (
    _add(
        "daily_requests",
        f"SELECT {_request_values('requests')} FROM requests WHERE {_NEW}",
        _REQUEST_KEYS,
        tuple(REQUEST_SUMS),
    ),
    _add("daily_charges", _SUMMABLE, _CHARGE_KEYS, tuple(CHARGE_SUMS)),
    _add("daily_savings", savings_sql(_NEW, _THEIRS), SAVINGS_KEYS, SAVINGS_SUMS),
    _add(
        "daily_pools",
        _SUMMED["daily_pools"][0].format(charges="charges.id > :charges"),
        POOL_KEYS,
        POOL_SUMS,
    ),
    f"DELETE FROM waiting_charges WHERE request_id IN (SELECT request_id FROM requests WHERE {_NEW})",
    (
        "INSERT INTO waiting_charges SELECT request_id, attempt FROM charges WHERE id > :charges "
        "AND NOT EXISTS (SELECT 1 FROM requests WHERE requests.request_id = charges.request_id)"
    ),
)
_OF_LATE: Final = f"IN ({_LATE})"
# What their requests stood for until now is taken away, what they stand for now is added.
_MOVE_LATE: Final = tuple(
    _add(
        "daily_savings",
        savings_sql(f"requests.request_id {_OF_LATE}", f"charges.request_id {_OF_LATE}{among}"),
        SAVINGS_KEYS,
        SAVINGS_SUMS,
        sign=sign,
    )
    for sign, among in (("-", " AND charges.id <= :charges"), ("", ""))
)
