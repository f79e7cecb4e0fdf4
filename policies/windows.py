"""When a budget's money is counted anew: days, weeks and months of a time zone, as half-open intervals of UTC.

- A day begins with its first instant: where a clock change skips midnight, that is the moment of the change.
- Windows tile the time line: every instant lies in exactly one, also where a clock change repeats midnight or a zone
  leaves out a whole day (Samoa, 30 December 2011). A day may therefore have 23 or 25 hours.
- Weeks begin on Monday (ISO 8601), months on the 1st; `total` never ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)


class Per(StrEnum):
    """The span a budget is for."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` on, until just before `end`; both UTC. A `total` one begins in 1970 and ends in 9999."""

    start: datetime
    end: datetime

    @property
    def has_end(self) -> bool:
        """Tell whether the window ever ends."""
        return self.end < _NEVER


class UnknownTimeZone(ValueError):
    """No time zone of the database has this name."""


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Return the names of all time zones of the database (IANA); reading them costs milliseconds, so once."""
    return frozenset(available_timezones() - {"localtime", "Factory"})


@lru_cache(maxsize=256)
def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        UnknownTimeZone: there is none of this name. Its case counts, as it does on most machines.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # none; a path out of the database; a folder of it
        raise UnknownTimeZone(name) from error


def window_at(per: Per, zone: ZoneInfo, now: datetime) -> Window:
    """Return the window an instant lies in.

    Args:
        per: how long windows are.
        zone: whose days they begin with.
        now: timezone-aware.
    """
    if per is Per.TOTAL:
        return Window(_EVER, _NEVER)
    first = _first_day(per, now.astimezone(zone).date())
    # The date on the wall is off by a window at most, where a clock change repeats midnight or skips a day.
    while now < _begin(first, zone):
        first = _first_day(per, first - _DAY)
    while now >= (end := _begin(_next(per, first), zone)):
        first = _next(per, first)
    return Window(_begin(first, zone), end)


def _begin(day: date, zone: ZoneInfo) -> datetime:
    # fold=0 reads a skipped midnight with the offset before the change: the change itself, the day's first instant.
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def _first_day(per: Per, day: date) -> date:
    match per:
        case Per.WEEK:
            return day - timedelta(days=day.weekday())
        case Per.MONTH:
            return day.replace(day=1)
        case _:
            return day


def _next(per: Per, first: date) -> date:
    match per:
        case Per.WEEK:
            return first + timedelta(days=7)
        case Per.MONTH:
            return (first + timedelta(days=31)).replace(day=1)
        case _:
            return first + _DAY
