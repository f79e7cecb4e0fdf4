"""Windows of a time zone: they tile the time line, whatever its clocks do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.windows import Per, UnknownTimeZone, window_at, zone_names, zone_of

BERLIN = zone_of("Europe/Berlin")
INSTANTS = st.datetimes(datetime(1950, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
ENDING = [Per.DAY, Per.WEEK, Per.MONTH]


@given(per=st.sampled_from(ENDING), zone=st.sampled_from(sorted(zone_names())), now=INSTANTS)
def test_every_instant_lies_in_one_window_and_the_next_begins_where_it_ends(per: Per, zone: str, now: datetime):
    window = window_at(per, zone_of(zone), now)
    assert window.start <= now < window.end
    assert window_at(per, zone_of(zone), window.end).start == window.end
    assert window_at(per, zone_of(zone), window.end - timedelta(microseconds=1)) == window


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-21", 24)], ids=["spring", "autumn", "plain"]
)
def test_a_day_has_the_hours_its_clock_shows(day: str, hours: int):
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=BERLIN)
    window = window_at(Per.DAY, BERLIN, noon)
    assert window.end - window.start == timedelta(hours=hours)
    assert window.start.astimezone(BERLIN).isoformat()[:16] == f"{day}T00:00"


def test_a_day_without_midnight_begins_with_its_first_instant():
    cairo = zone_of("Africa/Cairo")  # 28 April 2023: 00:00 became 01:00
    window = window_at(Per.DAY, cairo, datetime(2023, 4, 28, 12, tzinfo=UTC))
    assert window.start.astimezone(cairo).isoformat() == "2023-04-28T01:00:00+03:00"
    assert window.end - window.start == timedelta(hours=23)


def test_a_day_that_a_zone_left_out_is_no_window():
    apia = zone_of("Pacific/Apia")  # 30 December 2011 never was
    before = window_at(Per.DAY, apia, datetime(2011, 12, 30, 9, 59, tzinfo=UTC))
    after = window_at(Per.DAY, apia, before.end)
    assert (before.start.astimezone(apia).day, after.start.astimezone(apia).day) == (29, 31)


def test_months_and_weeks_begin_at_local_midnight():
    now = datetime(2026, 10, 31, 23, 30, tzinfo=UTC)  # already 1 November, a Sunday, in Berlin
    month, week = window_at(Per.MONTH, BERLIN, now), window_at(Per.WEEK, BERLIN, now)
    assert month.start.astimezone(BERLIN).isoformat() == "2026-11-01T00:00:00+01:00"
    assert month.end.astimezone(BERLIN).isoformat() == "2026-12-01T00:00:00+01:00"
    assert week.start.astimezone(BERLIN).isoformat() == "2026-10-26T00:00:00+01:00"


def test_the_whole_time_never_ends():
    window = window_at(Per.TOTAL, ZoneInfo("UTC"), datetime(2026, 1, 1, tzinfo=UTC))
    assert not window.has_end


def test_a_zone_that_does_not_exist_is_named():
    with pytest.raises(UnknownTimeZone, match="Mars/Olympus"):
        zone_of("Mars/Olympus")
