"""The hours that daily rollups get wrong: with them moved, every moment counts once and where it lies."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ledger.derived import DAY_US
from gateway.ledger.reports.question import Dimension, Question
from gateway.ledger.reports.ragged import ragged, rolled_days
from gateway.ledger.store import microseconds

ZONES = [
    "Europe/Berlin",  # an hour of summer time
    "America/New_York",
    "America/St_Johns",  # half an hour; its clocks changed a minute after midnight until 2011
    "Australia/Lord_Howe",  # half an hour of summer time
    "Africa/Cairo",  # clocks change at midnight
    "Asia/Kathmandu",
    "Pacific/Apia",  # left out 30 December 2011
    "Pacific/Kiritimati",
    "Etc/GMT+12",
]
moments = st.integers(0, 18 * 365 * 86_400).map(
    lambda later: datetime(2009, 1, 1, tzinfo=UTC) + timedelta(seconds=later)
)
clock_changes = st.sampled_from([datetime(2011, 11, 6, tzinfo=UTC), datetime(2011, 12, 30, tzinfo=UTC)])
lengths = st.timedeltas(timedelta(0), timedelta(days=4))


@given(
    since=moments | clock_changes,
    length=lengths,
    zone=st.sampled_from(ZONES),
    by=st.sets(st.sampled_from([Dimension.DAY, Dimension.WEEK, Dimension.MONTH])),
    after=st.lists(st.timedeltas(timedelta(days=-1), timedelta(days=5)), min_size=30, max_size=30),
)
@settings(max_examples=150, deadline=None)
def test_every_moment_counts_once_and_where_it_lies(
    since: datetime, length: timedelta, zone: str, by: set[Dimension], after: list[timedelta]
):
    question = Question(since=since, until=since + length, zone=zone, by=tuple(sorted(by)))

    for at in (since + later for later in after):
        expected = {_line(at, question): 1} if since <= at < since + length else {}
        assert _counted(at, question) == expected


def _counted(at: datetime, question: Question) -> dict[tuple[date, ...], int]:
    """Count a row that began at a moment as the rollups and the moved hours do."""
    at_us = microseconds(at)
    noon = datetime.fromtimestamp(at_us // DAY_US * 86_400 + 43_200, UTC)
    found = Counter[tuple[date, ...]]()
    if question.first_day <= at_us // DAY_US < question.last_day:
        found[_line(noon, question)] += 1
    for hours in question.hours:
        if hours.from_us <= at_us < hours.until_us:
            found[_line(at, question)] += hours.is_in
            found[_line(datetime.fromtimestamp(hours.noon_s, UTC), question)] -= hours.is_rolled
    return {line: count for line, count in found.items() if count}


def _line(at: datetime, question: Question) -> tuple[date, ...]:
    day = at.astimezone(ZoneInfo(question.zone)).date()
    starts = {
        Dimension.DAY: day,
        Dimension.WEEK: day - timedelta(days=day.weekday()),
        Dimension.MONTH: day.replace(day=1),
    }
    return tuple(starts[dimension] for dimension in question.by)


def test_a_month_of_utc_reads_no_row():
    assert ragged(0, 31 * DAY_US) == []


@pytest.mark.parametrize(("zone", "hours"), [("Europe/Berlin", 2), ("Asia/Kolkata", 5.5), ("America/New_York", 4)])
def test_a_day_of_a_zone_reads_the_hours_between_the_midnights(zone: str, hours: float):
    since = datetime(2026, 7, 1, tzinfo=ZoneInfo(zone))
    question = Question(since=since, until=since + timedelta(days=10), zone=zone, by=(Dimension.DAY,))

    read_us = sum(each.until_us - each.from_us for each in question.hours)

    assert read_us == pytest.approx((10 + 1) * hours * 3_600 * 10**6)


def test_less_than_half_a_day_is_read_from_its_rows():
    assert len(rolled_days(DAY_US // 4, DAY_US * 3 // 4 - 1)) == 0
    assert len(rolled_days(DAY_US // 4, DAY_US * 3 // 4)) == 1
