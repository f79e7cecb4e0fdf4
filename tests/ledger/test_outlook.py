"""Where budgets are heading: forecasts at the end of any window, and the day on which the money is gone."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.ledger.budgets import Cap
from gateway.ledger.reports.outlook import Outlook, outlooks
from gateway.ledger.spent import budget_lines
from policies.schema import AtLimit, Dimension
from policies.windows import Per, zone_of
from tests.ledger.test_answers import spent_daily
from tests.ledger.test_report import books
from tests.ledger.world import a_charge, a_request

NOW = datetime(2026, 11, 19, tzinfo=UTC)  # a Thursday; 18 days have cost 100 each


def a_cap(per: Per, cap_nusd: int = 10**6, *each: Dimension, zone: str = "UTC") -> Cap:
    return Cap(
        name="b", tenant="support", cap_nusd=cap_nusd, per=per, zone=zone_of(zone), at_limit=AtLimit.BLOCK, each=each
    )


def foretold(folder: Path, cap: Cap, now: datetime = NOW) -> Outlook:
    (found,) = outlooks(folder, budget_lines(folder, [cap], now), now)
    return found


@pytest.fixture
def steady(folder: Path) -> Path:
    books(folder, spent_daily([100] * 18))
    return folder


@pytest.mark.parametrize(("per", "expected"), [(Per.DAY, 100), (Per.WEEK, 700), (Per.MONTH, 3_000)])
def test_a_steady_budget_is_foretold_for_the_end_of_its_window(steady: Path, per: Per, expected: int):
    found = foretold(steady, a_cap(per))

    assert (found.forecast_nusd, found.low_nusd, found.high_nusd) == (expected, expected, expected)
    assert found.runs_out is None


@pytest.mark.parametrize(("per", "cap_nusd"), [(Per.TOTAL, 2_250), (Per.MONTH, 2_250)])
def test_it_is_told_on_which_day_the_money_will_be_gone(steady: Path, per: Per, cap_nusd: int):
    assert foretold(steady, a_cap(per, cap_nusd)).runs_out == date(2026, 11, 23)


def test_a_day_of_the_budgets_own_zone_ends_there(steady: Path):
    # Six in the evening of the 18th in New York is 23:00 UTC: an hour in which nothing came yet.
    found = foretold(steady, a_cap(Per.DAY, zone="America/New_York"), datetime(2026, 11, 18, 23, tzinfo=UTC))

    assert found.forecast_nusd == 100 + round(100 * 6 / 24)


def test_each_pot_of_a_budget_has_its_own(steady: Path):
    assert foretold(steady, a_cap(Per.WEEK, 10**6, Dimension.FEATURE)).forecast_nusd == 700


def test_two_days_are_too_few(folder: Path):
    books(folder, spent_daily([100, 100]))

    assert foretold(folder, a_cap(Per.MONTH), datetime(2026, 11, 3, tzinfo=UTC)) == Outlook()


def test_a_session_comes_and_goes_and_has_no_forecast(folder: Path):
    books(folder, [*spent_daily([100] * 18), a_charge(99, started_at=NOW), a_request(99, session="s", started_at=NOW)])

    assert foretold(folder, a_cap(Per.WEEK, 10**6, Dimension.SESSION)) == Outlook()


def test_without_a_ledger_nothing_is_foretold(tmp_path: Path):
    assert foretold(tmp_path, a_cap(Per.MONTH)) == Outlook()


def test_the_command_shows_forecasts(folder: Path, tmp_path: Path):
    books(folder, spent_daily([100] * 18))
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"""version: 1
storage: {{folder: {folder}}}
models: {{small: {{backend: openai, name: gpt-5-mini, api_key: sk-x}}}}
routes: [{{name: default, ladder: [small]}}]
tenants: [{{id: support, budget: {{usd: 1, per: week}}}}]
"""
    )

    told = CliRunner().invoke(main, ["budgets", "--policy", str(policy)])

    assert told.exit_code == 0, told.output
    assert "at its end" in told.stdout
    assert "$1.000000000" in told.stdout
