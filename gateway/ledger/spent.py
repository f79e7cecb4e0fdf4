"""What the ledger says was spent against each budget: what budgets are rebuilt from, and what reports show of them.

Rules:
- an attempt's money counts in the window in which the attempt was begun (`charges.started_at_us`): that is when it was
  held; a report's period goes by the request's beginning instead, which differs for the few across a midnight;
- an open hold counts at its upper bound, so that what is not known to be unspent cannot be spent twice;
- what the books add after the fact (a correction, a tenant's adjustment) in one window is spent in the next;
- a charge of unknown cost cannot be added up: such charges are counted, for the operator to be told;
- everything is read in one transaction of one read-only connection; the store may be written meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.ledger.errors import FolderUnusable
from gateway.ledger.store import FILE_NAME, check_schema, microseconds
from policies.schema import Dimension

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from gateway.ledger.budgets import Cap, PotId
    from policies.windows import Window

_COLUMNS: Final[Mapping[Dimension, str]] = {
    Dimension.TENANT: "charges.tenant",
    Dimension.KEY: "charges.key_id",
    Dimension.ROUTE: "charges.route",
    Dimension.FEATURE: "json_extract(requests.tags, '$.feature')",
    Dimension.TASK: "requests.task_id",
    Dimension.SESSION: "requests.session",
    Dimension.USER: "requests.user_pseudonym",
}
_KNOWN_AS: Final = "(SELECT known_as FROM end_users WHERE end_users.user_pseudonym = requests.user_pseudonym)"
"""What the gateway knows an end user as, where the store keeps that apart so that it can be forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was spent in the budgets' present windows.

    Attributes:
        nusd: by pot, what the window before carried over included; a pot nobody drew from is not there.
        carried: what was booked after the fact in the present window, and reduces the next one; by pot.
        unknown_charges: how many charges of these windows have no known cost and are in no sum.
        last_booking: the number of the last row of `books` that is counted here.
    """

    nusd: Mapping[PotId, int]
    carried: Mapping[PotId, int] = field(default_factory=dict)
    unknown_charges: int = 0
    last_booking: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """What was booked after the fact in the budgets' present windows, by pot, up to a row of `books`."""

    nusd: Mapping[PotId, int]
    last_booking: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLine:
    """One pot as a report shows it.

    Attributes:
        values: the pot's values, by dimension; an end user by its pseudonym.
    """

    cap: Cap
    window: Window
    values: Mapping[Dimension, str]
    spent_nusd: int

    @property
    def left_nusd(self) -> int:
        """What is left; below 0 when more was spent than the cap."""
        return self.cap.cap_nusd - self.spent_nusd


def read_spent(folder: Path, caps: Iterable[Cap], now: datetime, *, epochs: Sequence[int] | None = None) -> Spent:
    """Return what was spent in every budget's present window.

    Args:
        folder: the ledger's; without a ledger nothing was spent.
        caps: the budgets (`gateway.spending.caps_of`).
        now: the present, aware.
        epochs: only what these epochs' writers booked (`BudgetAuthority.reclaim`); None: all.

    Raises:
        FolderUnusable: the store cannot be read.
        SchemaMismatch: the store is of another version.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return Spent(nusd={})
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            check_schema(db, path)
            return _read(db, tuple(caps), now, epochs)
    except sqlite3.Error as error:
        raise FolderUnusable(
            f"{path} cannot be read for what budgets have spent ({error}); make it readable, or restore it"
        ) from error


def read_adjusted(folder: Path, caps: Iterable[Cap], now: datetime, *, after: int) -> Adjusted:
    """Return what was booked after the fact since a row of `books`.

    What was booked in a window that has ended meanwhile is left out: it is counted at the next start.

    Args:
        folder: the ledger's.
        caps: the budgets.
        now: the present, aware.
        after: the number of the last row that is known.

    Raises:
        FolderUnusable: the store cannot be read.
    """
    path = folder / FILE_NAME
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            last = _last_booking(db)
            nusd: dict[PotId, int] = {}
            for cap in caps if last > after else ():
                nusd |= _booked(db, cap, {**_COLUMNS, Dimension.USER: _KNOWN_AS}, cap.window(now), after=after)
            return Adjusted(nusd=nusd, last_booking=last)
    except sqlite3.Error as error:
        raise FolderUnusable(f"{path} cannot be read for corrections ({error}); make it readable") from error


def _last_booking(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT COALESCE(MAX(id), 0) FROM books").fetchone()[0])


def budget_lines(folder: Path, caps: Iterable[Cap], now: datetime) -> tuple[BudgetLine, ...]:
    """Return every budget's pots with what they spent in their present windows, the dearest first within a budget.

    A budget without `each` has its one line also when nothing was spent.

    Raises:
        FolderUnusable, SchemaMismatch: as `read_spent`.
    """
    caps = tuple(caps)
    nusd = read_spent(folder, caps, now).nusd
    lines: list[BudgetLine] = []
    for cap in caps:
        own = {pot: spent for pot, spent in nusd.items() if pot[:2] == (cap.name, cap.tenant)}
        if not cap.each:
            own.setdefault((cap.name, cap.tenant), 0)
        lines += [
            BudgetLine(
                cap=cap, window=cap.window(now), values=dict(zip(cap.each, pot[2:], strict=True)), spent_nusd=spent
            )
            for pot, spent in sorted(own.items(), key=lambda entry: (-entry[1], entry[0]))
        ]
    return tuple(lines)


def _read(db: sqlite3.Connection, caps: tuple[Cap, ...], now: datetime, epochs: Sequence[int] | None) -> Spent:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return Spent(nusd={})
    columns = {**_COLUMNS, Dimension.USER: _KNOWN_AS} if "end_users" in tables else _COLUMNS
    nusd: dict[PotId, int] = {}
    carried: dict[PotId, int] = {}
    unknown = 0
    holds = tuple(_open_holds(db)) if epochs is None else ()
    for cap in caps:
        window = cap.window(now)
        for pot, spent, without_cost in _sums(db, cap, columns, _CHARGES, window, epochs=epochs):
            nusd[pot] = spent
            unknown += without_cost
        for hold in holds:
            if window.start <= hold.held_at < window.end and (held := _pot_of(cap, hold)) is not None:
                nusd[held] = nusd.get(held, 0) + hold.upper_bound_nusd
        if "archived_spent" in tables and epochs is None and not window.has_end:
            for pot, spent, without_cost in _sums(db, cap, columns, _ARCHIVED, window):
                nusd[pot] = nusd.get(pot, 0) + spent
                unknown += without_cost
        if "books" in tables and epochs is None:
            for pot, more in _booked(db, cap, columns, _former(cap, window)).items():
                nusd[pot] = nusd.get(pot, 0) + max(0, more)
            carried |= _booked(db, cap, columns, window) if window.has_end else {}
    last = _last_booking(db) if "books" in tables else 0
    return Spent(nusd=nusd, carried=carried, unknown_charges=unknown, last_booking=last)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where amounts come from: a table expression with `charges` in it, the amount, and the moment that counts.

    `before` is put before the query: tables under other names. `unknown` counts amounts nobody knows; "": NULLs do.
    """

    table: str
    amount: str
    at: str
    where: str = "1"
    before: str = ""
    unknown: str = ""


_CHARGES: Final = _Source(table="charges", amount="charges.cost_nusd", at="charges.started_at_us")


def _bookings(after: int) -> tuple[_Source, _Source]:
    """Return where corrections and adjustments come from that are later than a row of `books`."""
    corrections = _Source(
        table="books JOIN charges ON charges.request_id = books.request_id AND charges.attempt = books.attempt",
        amount="books.amount_nusd",
        at="books.made_at_us",
        where=f"books.kind = 'correction' AND books.id > {after:d}",
    )
    columns = "SELECT tenant, amount_nusd, made_at_us FROM books"
    adjustments = _Source(
        table=f"({columns} WHERE kind = 'adjustment' AND id > {after:d}) AS charges",
        amount="charges.amount_nusd",
        at="charges.made_at_us",
    )
    return corrections, adjustments


# Archived rows are older than every window that ends (`archive.YOUNGEST`): only `total` ones hold them.
_ARCHIVED: Final = _Source(
    before="WITH requests AS "
    "(SELECT *, id AS request_id, json_object('feature', feature) AS tags FROM archived_spent), "
    "charges AS (SELECT *, id AS request_id, 0 AS started_at_us FROM archived_spent) ",
    table="charges",
    amount="charges.cost_nusd",
    at="charges.started_at_us",
    unknown="COALESCE(SUM(charges.unknown_charges), 0)",
)


def _former(cap: Cap, window: Window) -> Window:
    """Return the window whose adjustments this one begins with: the one before; a `total` one takes its own."""
    return cap.window(window.start - timedelta(microseconds=1)) if window.has_end else window


def _booked(
    db: sqlite3.Connection, cap: Cap, columns: Mapping[Dimension, str], window: Window, *, after: int = 0
) -> dict[PotId, int]:
    """Return what was booked after the fact in a window; a period's adjustment names a tenant and nothing finer."""
    booked: dict[PotId, int] = {}
    corrections, adjustments = _bookings(after)
    sources = (corrections,) if cap.each or cap.match else (corrections, adjustments)
    for source in sources:
        for pot, nusd, _ in _sums(db, cap, columns, source, window):
            booked[pot] = booked.get(pot, 0) + nusd
    return booked


def _sums(
    db: sqlite3.Connection,
    cap: Cap,
    columns: Mapping[Dimension, str],
    source: _Source,
    window: Window,
    *,
    epochs: Sequence[int] | None = None,
) -> Iterator[tuple[PotId, int, int]]:
    """Yield every pot of a budget with the sum of its amounts in a window, and how many of them are unknown."""
    each = [columns[dimension] for dimension in cap.each]
    wheres = [source.where, f"{source.at} >= ?", f"{source.at} < ?", *(f"{column} IS NOT NULL" for column in each)]
    given: list[str | int] = [microseconds(window.start), microseconds(window.end)]
    for dimension, value in [*([(Dimension.TENANT, cap.tenant)] if cap.tenant else []), *cap.match]:
        wheres.append(f"{columns[dimension]} = ?")
        given.append(value)
    if epochs is not None:
        wheres.append(f"charges.epoch IN ({','.join('?' * len(epochs))})")
        given += epochs
    used = [*each, *(columns[dimension] for dimension, _ in cap.match)]
    join = "LEFT JOIN requests ON requests.request_id = charges.request_id" if "requests." in " ".join(used) else ""
    group = f"GROUP BY {', '.join(each)}" if each else ""
    unknown = source.unknown or f"COUNT(*) - COUNT({source.amount})"
    # Every piece of the text is this module's own; what comes from the policy or a request is bound.
    text = (
        f"{source.before}SELECT {', '.join([*each, ''])} COALESCE(SUM({source.amount}), 0), "  # noqa: S608 - as said above
        f"{unknown} FROM {source.table} {join} WHERE {' AND '.join(wheres)} {group}"
    )
    for *values, nusd, without_cost in db.execute(text, given):
        yield (cap.name, cap.tenant, *values), nusd, without_cost


class _OpenHold(msgspec.Struct, frozen=True):
    """What of a hold's row tells whose money it is."""

    tenant: str
    route: str
    upper_bound_nusd: int
    held_at: datetime
    key_id: str = ""
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    session: str | None = None
    user_pseudonym: str | None = None


def _open_holds(db: sqlite3.Connection) -> Iterator[_OpenHold]:
    for (text,) in db.execute("SELECT hold FROM open_holds"):
        yield msgspec.json.decode(text, type=_OpenHold)


def _pot_of(cap: Cap, hold: _OpenHold) -> PotId | None:
    known: dict[Dimension, str | None] = {
        Dimension.TENANT: hold.tenant,
        Dimension.KEY: hold.key_id,
        Dimension.ROUTE: hold.route,
        Dimension.FEATURE: hold.tags.get("feature"),
        Dimension.TASK: hold.tags.get("task"),
        Dimension.SESSION: hold.session,
        Dimension.USER: hold.user_pseudonym,
    }
    if cap.tenant not in {"", hold.tenant} or any(known[dimension] != value for dimension, value in cap.match):
        return None
    values = [known[dimension] for dimension in cap.each]
    return (cap.name, cap.tenant, *(value or "" for value in values)) if None not in values else None
