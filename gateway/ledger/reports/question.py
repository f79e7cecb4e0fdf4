"""A question to the ledger: which sums, by which dimensions, in which period and time zone; and its SQL.

Every request stands on exactly one line: by model, on that of the model whose answer was served ("" when none was); its
rejected attempts' money stands on the lines of the models that took it. Pools and kinds are of attempts alone: with
them a line has no requests, no baseline and no savings.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.ledger.errors import PeriodInvalid, QuestionInvalid
from gateway.ledger.reports.ragged import NOON_S, Hours, ragged, rolled_days
from gateway.ledger.rollups import CHARGE_SUMS, FEATURE, REQUEST_SUMS
from gateway.ledger.store import microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date

_DAY_S: Final = 86_400
_STEP: Final = timedelta(days=1)  # no zone changes its offset twice within a day
_WHOLE: Final = "{0}.started_at_us >= :since AND {0}.started_at_us < :until"
_LONGEST: Final = timedelta(days=40 * 366)


class Dimension(StrEnum):
    """What a report can be broken down by."""

    TENANT = "tenant"
    MODEL = "model"
    ROUTE = "route"
    FEATURE = "feature"
    KEY = "key"
    PATH = "path"
    SESSION = "session"
    USER = "user"
    TASK = "task"
    POOL = "pool"
    KIND = "kind"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


_TIMES: Final = {
    Dimension.DAY: "strftime('%Y-%m-%d', {}, 'unixepoch')",
    Dimension.WEEK: "date({}, 'unixepoch', 'weekday 0', '-6 days')",  # its Monday
    Dimension.MONTH: "strftime('%Y-%m', {}, 'unixepoch')",
}
# The same of a local day, as far as two days are on one line.
_DAYS_OF: Final[dict[Dimension, Callable[[date], object]]] = {
    Dimension.DAY: lambda day: day,
    Dimension.WEEK: lambda day: (day.toordinal() - 1) // 7,
    Dimension.MONTH: lambda day: (day.year, day.month),
}
# The rollups' primary keys, in their order: grouped by a prefix of it they are read in one pass, without sorting.
_ROLLED: Final = {
    "daily_charges": ("day", "tenant", "key_id", "route", "feature", "path", "model", "pool", "kind"),
    "daily_requests": ("day", "tenant", "key_id", "route", "feature", "path"),
}
_DROPPED: Final = frozenset({"day", "key_id"})
"""What a condensed period is not broken down by: the most of a rollup's lines, asked for by the fewest questions."""
_OF_ATTEMPTS: Final = frozenset({Dimension.POOL, Dimension.KIND})
_NOT_ROLLED_UP: Final = frozenset({Dimension.SESSION, Dimension.USER, Dimension.TASK})
# The last name of "small>large"; a cached answer and a refusal were no model's.
_SERVED_BY: Final = "CASE WHEN {0} LIKE 'cache:%' THEN '' ELSE replace({0}, rtrim({0}, replace({0}, '>', '')), '') END"


@dataclass(frozen=True, slots=True)
class _Source:
    """How a dimension reads in each of the places it is summed from: SQL, with `None` where it has no value."""

    requests: str
    charges: str
    waiting: str
    rolled: str


_SOURCES: Final = {
    Dimension.TENANT: _Source("requests.tenant", "charges.tenant", "charges.tenant", "tenant"),
    Dimension.MODEL: _Source(_SERVED_BY.format("requests.path"), "charges.model", "charges.model", "model"),
    Dimension.ROUTE: _Source("COALESCE(requests.route, '')", "charges.route", "charges.route", "route"),
    Dimension.FEATURE: _Source(FEATURE.format("requests"), FEATURE.format("requests"), "''", "feature"),
    Dimension.KEY: _Source("requests.key_id", "charges.key_id", "charges.key_id", "key_id"),
    Dimension.PATH: _Source("requests.path", "requests.path", "''", "path"),
    Dimension.SESSION: _Source("COALESCE(requests.session, '')", "COALESCE(requests.session, '')", "''", ""),
    Dimension.USER: _Source("COALESCE(requests.user_pseudonym, '')", "COALESCE(requests.user_pseudonym, '')", "''", ""),
    Dimension.TASK: _Source("COALESCE(requests.task_id, '')", "COALESCE(requests.task_id, '')", "''", ""),
    Dimension.POOL: _Source("", "COALESCE(charges.pool, '')", "COALESCE(charges.pool, '')", "pool"),
    Dimension.KIND: _Source("", "charges.kind", "charges.kind", "kind"),
}


_SERVED: Final = (Dimension.MODEL, "requests")
_SPAN: Final = "from_us, noon_s, is_in, is_rolled"

_POSTED: Final = """
  SELECT amount_nusd AS nusd, unixepoch(period || '-01') * 1000000 AS at_us, tenant, model, request_id, attempt
  FROM books WHERE kind IN ('correction', 'adjustment', 'late')
  UNION ALL
  SELECT -charges.cost_nusd, charges.started_at_us, charges.tenant, charges.model, request_id, attempt
  FROM books CROSS JOIN charges USING (request_id, attempt) WHERE books.kind = 'late'"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        by: the dimensions, in the order of the columns; none asks for one line, the total.
        since: the period's beginning, inside it, with its time zone.
        until: its end, outside it, likewise.
        tenant: only this tenant's rows; None: all.
        zone: whose days, weeks and months are meant.
        from_rows: read the rows even where the rollups would do (to prove that both say the same).
    """

    since: datetime
    until: datetime
    by: tuple[Dimension, ...] = ()
    tenant: str | None = None
    zone: str = "UTC"
    from_rows: bool = False

    def __post_init__(self) -> None:
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment.tzinfo is None:
                raise PeriodInvalid(f"{name} is {moment.isoformat()} without a time zone; say which, such as +00:00")
        if self.since > self.until:
            raise PeriodInvalid(
                f"the period ends ({self.until.isoformat()}) before it begins ({self.since.isoformat()}); "
                "swap since and until"
            )
        if self.until - self.since > _LONGEST:
            raise PeriodInvalid(f"the period is longer than {_LONGEST.days // 366} years; give a later --since")
        if len(set(self.by)) < len(self.by):
            raise QuestionInvalid(f"a dimension stands twice in {', '.join(self.by)}; name each once")
        zone_named(self.zone)

    @property
    def has_requests(self) -> bool:
        """Tell whether lines can count requests: attempts alone have pools and kinds."""
        return not _OF_ATTEMPTS.intersection(self.by)

    @property
    def is_rolled_up(self) -> bool:
        """Tell whether the daily rollups answer; the `hours` that they get wrong come from the rows."""
        return not self.from_rows and not _NOT_ROLLED_UP.intersection(self.by) and self.first_day < self.last_day

    @property
    def first_day(self) -> int:
        """The first UTC day whose noon lies in the period, counted from 1970."""
        return rolled_days(microseconds(self.since), microseconds(self.until)).start

    @property
    def last_day(self) -> int:
        """The day after the last one; not above `first_day` when there is none."""
        return rolled_days(microseconds(self.since), microseconds(self.until)).stop

    @property
    def hours(self) -> tuple[Hours, ...]:
        """Return what the rollups of these days get wrong, and rows put right."""
        times = [_DAYS_OF[dimension] for dimension in self.by if dimension in _TIMES]
        label = (lambda day: [of(day) for of in times]) if times else None
        return tuple(ragged(microseconds(self.since), microseconds(self.until), offsets=self._offsets(), label=label))

    @property
    def parameters(self) -> dict[str, int | str | None]:
        """Return what the SQL's named parameters stand for."""
        return {
            "since": microseconds(self.since),
            "until": microseconds(self.until),
            "tenant": self.tenant,
            "first_day": self.first_day,
            "last_day": self.last_day,
        }

    @property
    def condensed(self) -> str | None:
        """Return the name of the condensed period that can answer this question; None when none can."""
        if not self.is_rolled_up or Dimension.KEY in self.by or set(_TIMES).intersection(self.by):
            return None
        return f"period_{self.first_day}_{self.last_day}"

    def condensing_sql(self) -> tuple[str, ...]:
        """Return SQL that sums the period's whole days once, into temporary tables of the name in `condensed`."""
        found = []
        for table, sums in (("daily_charges", CHARGE_SUMS), ("daily_requests", REQUEST_SUMS)):
            keys = ", ".join(key for key in _ROLLED[table] if key not in _DROPPED)
            summed = ", ".join(f"SUM({name}) AS {name}" for name in sums)
            found.append(
                f"CREATE TEMP TABLE {self.condensed}_{table} AS SELECT {keys}, {summed} FROM {table} "
                f"WHERE day >= {self.first_day} AND day < {self.last_day} GROUP BY {keys}"
            )
        return tuple(found)

    def sql(self, *, condensed: str | None = None) -> str:
        """Return the query: the dimensions, then `columns()`, dearest line first.

        Args:
            condensed: the name of the period's temporary tables, where they are there (`condense`).
        """
        hours = self.hours if self.is_rolled_up else ()
        parts = self._rolled(condensed, moved=bool(hours)) if self.is_rolled_up else self._rows(_WHOLE)
        names = ", ".join((*(dimension.value for dimension in self.by), *self._sums()))
        sums = ", ".join(f"COALESCE(SUM({name}), 0) AS {name}" for name in self._sums())
        keys = ", ".join(dimension.value for dimension in self.by)
        body = "\n  UNION ALL\n".join(f"  {part}" for part in parts)
        head = f"WITH {self._moved(hours)}facts({names}) AS (\n{body}\n)\n"
        if not keys:
            return f"{head}SELECT {sums}\nFROM facts"
        order = "attempts DESC" if "cost_nusd" not in self._sums() else "cost_nusd DESC"
        # A line may have been moved away altogether.
        having = " HAVING " + " OR ".join(
            f"SUM({name}) <> 0" for name in ("requests", "attempts")[-self.has_requests - 1 :]
        )
        return (
            f"{head}SELECT {keys}, {sums}\nFROM facts GROUP BY {keys}{having if hours else ''} ORDER BY {order}, {keys}"
        )

    def sessions_sql(self) -> str:
        """Return the query of the sessions: the dimensions, how many there are, and their requests' booked cost."""
        head = "".join(f"{key}, " for key in self.request_keys())
        group = f" GROUP BY {', '.join(str(number + 1) for number in range(len(self.by)))}" if head else ""
        return (
            f"SELECT {head}COUNT(DISTINCT session), COALESCE(SUM(cost_nusd), 0) FROM requests\n"
            f"WHERE session IS NOT NULL AND started_at_us >= :since AND started_at_us < :until\n"
            f"  AND (:tenant IS NULL OR tenant = :tenant){group}"
        )

    def postings_sql(self) -> str:
        """Return the query of what the books post: the dimensions, then nano-dollars.

        A posting is to a whole month and counts where that month begins (UTC); a charge that came late is taken out of
        the sealed month in which it began. What names a charge stands on that charge's line, an adjustment on its
        tenant's and model's.
        """
        keys = ", ".join(f"{self._posted_key(dimension)} AS {dimension.value}" for dimension in self.by)
        group = f" GROUP BY {', '.join(str(number + 1) for number in range(len(self.by)))}" if keys else ""
        return (
            f"SELECT {keys}{', ' if keys else ''}COALESCE(SUM(posted.nusd), 0) FROM ({_POSTED}) AS posted\n"
            "  LEFT JOIN charges USING (request_id, attempt)\n"
            "  LEFT JOIN requests ON requests.request_id = posted.request_id\n"
            "WHERE posted.at_us >= :since AND posted.at_us < :until"
            f" AND (:tenant IS NULL OR posted.tenant = :tenant){group}"
        )

    def _posted_key(self, dimension: Dimension) -> str:
        if dimension in _TIMES:
            return _TIMES[dimension].format(self._local("posted.at_us / 1000000"))
        if dimension in {Dimension.TENANT, Dimension.MODEL}:
            return f"COALESCE(posted.{dimension.value}, '')"
        return f"COALESCE({_SOURCES[dimension].charges}, '')"

    def request_keys(self) -> tuple[str, ...]:
        """Return SQL for each dimension of a row of `requests`."""
        return tuple(self._key(dimension, "requests") for dimension in self.by)

    def runnable(self, sql: str) -> str:
        """Return a query with its parameters written in, as `sqlite3 ledger.db` takes it."""
        for name, value in self.parameters.items():
            text = "NULL" if value is None else str(value) if isinstance(value, int) else f"'{_quoted(str(value))}'"
            sql = sql.replace(f":{name}", text)
        return f"{sql};"

    def _sums(self) -> tuple[str, ...]:
        return (*(REQUEST_SUMS if self.has_requests else ()), *CHARGE_SUMS)

    def _rolled(self, condensed: str | None, *, moved: bool) -> tuple[str, ...]:
        parts = [f"SELECT {self._keys('rolled')}{self._none(REQUEST_SUMS)}{self._summed('daily_charges', condensed)}"]
        if self.has_requests:
            keys, zeros = self._keys("daily_requests"), self._zeros(CHARGE_SUMS)
            parts.append(f"SELECT {keys}{self._summed('daily_requests', condensed, then=f', {zeros}')}")
        return (*parts, *(self._put_right() if moved else ()), self._waiting())

    def _put_right(self) -> Iterator[str]:
        """Yield the parts that count what was `_moved` where it lies, and no longer where its day's noon lies."""
        for table in ("charges", "requests") if self.has_requests else ("charges",):
            for moment, sign, which in (("from_us / 1000000", "", "is_in"), ("noon_s", "-", "is_rolled")):
                asked, charged = (
                    ", ".join(f"{sign}{name}" for name in sums) if table == whose else self._zeros(sums)
                    for whose, sums in (("requests", REQUEST_SUMS), ("charges", CHARGE_SUMS))
                )
                keys = "".join(f"{self._moved_key(dimension, table, moment)}, " for dimension in self.by)
                counted = f"{asked}, {charged}" if self.has_requests else charged
                yield f"SELECT {keys}{counted} FROM moved_{table} WHERE {which}"

    def _moved_key(self, dimension: Dimension, table: str, moment: str) -> str:
        if dimension in _TIMES:
            return _TIMES[dimension].format(self._local(moment))
        return _SERVED_BY.format("path") if (dimension, table) == _SERVED else dimension.value

    def _moved(self, hours: Sequence[Hours]) -> str:
        """Return the sums of the hours that rollups get wrong, by what else the lines are broken down by."""
        if not hours:
            return ""
        spans = ", ".join(
            f"({each.from_us}, {each.until_us}, {each.noon_s}, {each.is_in:d}, {each.is_rolled:d})" for each in hours
        )
        found = f"moved(from_us, until_us, noon_s, is_in, is_rolled) AS (VALUES {spans}),\n"
        others = [dimension for dimension in self.by if dimension not in _TIMES]
        for rows, sums in (("charges", CHARGE_SUMS), ("requests", REQUEST_SUMS))[: 1 + self.has_requests]:
            # A request's model is told from its path once a group and not once a row.
            read = dict(
                ("path", "requests.path") if (each, rows) == _SERVED else (each.value, self._key(each, rows))
                for each in others
            )
            summed = ", ".join(f"SUM({value.format(rows)})" for value in sums.values())
            joined = " CROSS JOIN charges USING (request_id)" if rows == "charges" else ""
            grouped = ", ".join(str(number + 1) for number in range(4 + len(read)))
            found += (
                f"moved_{rows}({', '.join((_SPAN, *read, *sums))}) AS MATERIALIZED (\n"
                f"  SELECT {', '.join((_SPAN, *read.values()))}, {summed}\n  FROM moved CROSS JOIN requests{joined}\n"
                "  WHERE requests.started_at_us >= from_us AND requests.started_at_us < until_us"
                f" AND (:tenant IS NULL OR requests.tenant = :tenant) GROUP BY {grouped}\n),\n"
            )
        return found

    def _summed(self, table: str, condensed: str | None, *, then: str = "") -> str:
        """Return the sums of a rollup by what its lines are broken down by here, and where they come from."""
        sums = ", ".join(f"SUM({name})" for name in (CHARGE_SUMS if table == "daily_charges" else REQUEST_SUMS))
        own = "(:tenant IS NULL OR tenant = :tenant)"
        window = own if condensed else f"day >= :first_day AND day < :last_day AND {own}"
        wanted = {
            "day"
            if dimension in _TIMES
            else "path"
            if dimension is Dimension.MODEL and table == "daily_requests"
            else _SOURCES[dimension].rolled
            for dimension in self.by
        }
        keys = ", ".join(key for key in _ROLLED[table] if key in wanted)
        group = f" GROUP BY {keys}" if keys else ""
        return f"{sums}{then} FROM {f'{condensed}_' if condensed else ''}{table} WHERE {window}{group}"

    def _rows(self, window: str) -> tuple[str, ...]:
        """Return the parts that read rows; the last is of the charges that wait for their request."""
        window = f"{window.format('requests')} AND (:tenant IS NULL OR requests.tenant = :tenant)"
        asked = ", ".join(value.format("requests") for value in REQUEST_SUMS.values())
        charged = ", ".join(value.format("charges") for value in CHARGE_SUMS.values())
        parts = [
            (
                f"SELECT {self._keys('charges')}{self._none(REQUEST_SUMS)}{charged}"
                f"\n  FROM requests CROSS JOIN charges USING (request_id) WHERE {window}"
            )
        ]
        if self.has_requests:
            keys = self._keys("requests")
            parts.append(f"SELECT {keys}{asked}, {self._zeros(CHARGE_SUMS)} FROM requests WHERE {window}")
        return (*parts, self._waiting())

    def _waiting(self) -> str:
        charged = ", ".join(value.format("charges") for value in CHARGE_SUMS.values())
        return (
            f"SELECT {self._keys('waiting')}{self._none(REQUEST_SUMS)}{charged}\n"
            "  FROM waiting_charges CROSS JOIN charges USING (request_id, attempt)\n"
            "  WHERE charges.started_at_us >= :since AND charges.started_at_us < :until"
            " AND (:tenant IS NULL OR charges.tenant = :tenant)"
        )

    def _none(self, sums: dict[str, str]) -> str:
        return f"{self._zeros(sums)}, " if self.has_requests else ""

    def _zeros(self, sums: dict[str, str]) -> str:
        return ", ".join("0" for _ in sums)

    def _keys(self, place: str) -> str:
        return "".join(f"{self._key(dimension, place)}, " for dimension in self.by)

    def _key(self, dimension: Dimension, place: str) -> str:
        if dimension in _TIMES:
            moment = {
                "requests": "requests.started_at_us / 1000000",
                "charges": "requests.started_at_us / 1000000",
                "waiting": "charges.started_at_us / 1000000",
            }.get(place, f"day * {_DAY_S} + {NOON_S}")
            return _TIMES[dimension].format(self._local(moment))
        source = _SOURCES[dimension]
        if place == "daily_requests":
            return _SERVED_BY.format("path") if dimension is Dimension.MODEL else source.rolled
        return {
            "requests": source.requests,
            "charges": source.charges,
            "waiting": source.waiting,
            "rolled": source.rolled,
        }[place]

    def _local(self, seconds: str) -> str:
        """Return SQL for local seconds: UTC plus the offset in force, as a CASE over the period's changes of clocks."""
        offsets = self._offsets()
        if len(offsets) == 1:
            return seconds if offsets[0][1] == 0 else f"{seconds} + {offsets[0][1]}"
        cases = " ".join(f"WHEN {seconds} < {later[0]} THEN {offset}" for (_, offset), later in pairwise(offsets))
        return f"{seconds} + CASE {cases} ELSE {offsets[-1][1]} END"

    def _offsets(self) -> Sequence[tuple[int, int]]:
        """Return (from this second since 1970 on, this many seconds ahead of UTC), ascending, over the period."""
        zone = zone_named(self.zone)
        moment, end = self.since.astimezone(UTC), self.until.astimezone(UTC)
        found = [(0, _offset(moment, zone))]
        while moment < end:
            later = min(moment + _STEP, end)
            if _offset(later, zone) != found[-1][1]:
                found.append((_change(moment, later, zone), _offset(later, zone)))
            moment = later
        return found


def zone_named(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        QuestionInvalid: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise QuestionInvalid(
            f'there is no time zone "{name}"; give an IANA name such as Europe/Berlin, America/New_York or UTC'
        ) from error


def dimensions(names: str) -> tuple[Dimension, ...]:
    """Read `tenant,model,day`.

    Raises:
        QuestionInvalid: a name is no dimension.
    """
    found = []
    for name in (part.strip() for part in names.split(",")):
        if name not in set(Dimension):
            allowed = ", ".join(Dimension)
            raise QuestionInvalid(f'cannot report by "{name}"; the dimensions are: {allowed}; or attempt, or request')
        found.append(Dimension(name))
    return tuple(found)


def _offset(moment: datetime, zone: ZoneInfo) -> int:
    offset = moment.astimezone(zone).utcoffset()
    return round(offset.total_seconds()) if offset is not None else 0


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> int:
    """Return the second at which the offset changes between two moments, by halving."""
    low, high = int(before.timestamp()), int(after.timestamp())
    former = _offset(before, zone)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(datetime.fromtimestamp(middle, UTC), zone) == former:
            low = middle
        else:
            high = middle
    return high


def _quoted(text: str) -> str:
    return text.replace("'", "''")
