"""Which hours of a period the daily rollups get wrong, and have to be moved by reading their rows.

Rollups are of UTC days, a zone's days and a period's ends lie across them. A rolled-up day counts where its noon lies,
whole; the hours of it that lie elsewhere (at most twelve on each side of noon) are taken away there and counted where
they belong. So a day of Europe/Berlin costs two hours' rows and not a day's, whatever the sums are. All is exact: which
day counts where only decides how much is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Final

from gateway.ledger.derived import DAY_US

NOON_S: Final = 43_200
"""From a UTC day's beginning to its noon."""
_SECOND_US: Final = 10**6
_DAY_S: Final = 86_400
_NOON_US: Final = NOON_S * _SECOND_US
_EPOCH: Final = date(1970, 1, 1)

Offsets = Sequence[tuple[int, int]]
"""(From this second since 1970 UTC on, this many seconds ahead of UTC), ascending; the first from whenever."""
Label = Callable[[date], object]
"""What a local day is counted under; days of one label are one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Rows to be moved: those that began from one moment up to another, in microseconds since 1970 UTC.

    Attributes:
        noon_s: of their UTC day, in seconds since 1970.
        is_in: they belong to the period, where they themselves lie.
        is_rolled: their day's rollup has them, where its noon lies.
    """

    from_us: int
    until_us: int
    noon_s: int
    is_in: bool
    is_rolled: bool


def rolled_days(since_us: int, until_us: int) -> range:
    """Return the UTC days since 1970 whose rollups count for a period: those whose noon lies in it.

    None for less than half a day, which is sooner read from its rows.
    """
    if until_us - since_us < _NOON_US:
        return range(0)
    return range(-((_NOON_US - since_us) // DAY_US), -((_NOON_US - until_us) // DAY_US))


def ragged(since_us: int, until_us: int, *, offsets: Offsets = ((0, 0),), label: Label | None = None) -> list[Hours]:
    """Return the hours that rollups get wrong, ascending and disjoint.

    Args:
        since_us: the period's beginning, inside it; microseconds since 1970 UTC.
        until_us: its end, outside it.
        offsets: the zone's over the period.
        label: what a local day is counted under; None: the period is one line.
    """
    if since_us == until_us:
        return []
    first, last = since_us // DAY_US, (until_us - 1) // DAY_US
    days: Sequence[int] = range(first, last + 1)
    if label is None or all(offset == 0 for _, offset in offsets):
        days = sorted({first, last})
    rolled = rolled_days(since_us, until_us)
    changes = [from_s * _SECOND_US for from_s, _ in offsets]
    midnights = {-offset % _DAY_S * _SECOND_US for _, offset in offsets}  # as they lie within UTC days
    found = []
    for day in days:
        start, end = day * DAY_US, (day + 1) * DAY_US
        noon_us, is_rolled = start + _NOON_US, day in rolled
        at_noon = _labelled(noon_us, offsets, label)
        cuts = {start + midnight for midnight in midnights}
        cuts.update((since_us, until_us), changes[bisect_right(changes, start) : bisect_right(changes, end)])
        for begin, finish in pairwise(sorted({start, end, *(cut for cut in cuts if start < cut < end)})):
            is_in = since_us <= begin < until_us
            is_right = is_in == is_rolled and (not is_in or _labelled(begin, offsets, label) == at_noon)
            if not is_right:
                noon_s = noon_us // _SECOND_US
                found.append(Hours(from_us=begin, until_us=finish, noon_s=noon_s, is_in=is_in, is_rolled=is_rolled))
    return found


def _labelled(at_us: int, offsets: Offsets, label: Label | None) -> object:
    if label is None:
        return None
    seconds = at_us // _SECOND_US
    offset = offsets[max(0, bisect_right(offsets, seconds, key=_from) - 1)][1]
    return label(_EPOCH + timedelta(days=(seconds + offset) // _DAY_S))


def _from(offset: tuple[int, int]) -> int:
    return offset[0]
