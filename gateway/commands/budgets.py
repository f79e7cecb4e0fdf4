"""`faregate budgets`: what every budget has spent and left, and where it is heading."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backends.words import JsonValue
    from gateway.ledger.reports.outlook import Outlook
    from gateway.ledger.spent import BudgetLine


@click.command()
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="policies/default.yaml",
    help="The policy: it has the budgets and the storage folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def budgets(policy_file: Path | None, as_json: bool) -> None:
    """Show what every budget has spent and left in its present window, open holds included, and where it is heading.

    The forecast is of the window's end and rests on the last 28 days, of which it takes at least three; sessions, tasks
    and end users have none.

    Read off the ledger, so that it may be some moments behind a running gateway (`/metrics` is not). End users stand
    there by their pseudonyms.
    """
    import json

    from backends.clock import SystemClock
    from gateway.commands.asked import fail, load
    from gateway.ledger.errors import LedgerError
    from gateway.ledger.pseudonyms import KEY_FILE, Pseudonyms
    from gateway.ledger.reports.outlook import outlooks
    from gateway.ledger.spent import budget_lines
    from gateway.spending import caps_of

    policy = load(policy_file)
    folder = Path(policy.storage.folder)
    try:
        # Without the key no end user was ever booked, and reading makes no files.
        caps = caps_of(policy, Pseudonyms(folder).of) if (folder / KEY_FILE).exists() else caps_of(policy)
        now = SystemClock().now()
        lines = budget_lines(folder, caps, now)
        found = [_facts(line, outlook) for line, outlook in zip(lines, outlooks(folder, lines, now), strict=True)]
    except LedgerError as error:
        fail(str(error))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not lines:
        click.echo("the policy has no budgets, or nothing was spent of those that have a pot for each value")
    else:
        _print(found)
    sys.exit(0)


def _facts(line: BudgetLine, outlook: Outlook) -> dict[str, JsonValue]:
    from backends.prices import usd

    def dollars(nusd: int | None) -> str | None:
        return None if nusd is None else f"{usd(nusd):f}"

    resets_at = line.window.end.astimezone(line.cap.zone).isoformat() if line.window.has_end else None
    return {
        "budget": line.cap.name,
        "tenant": line.cap.tenant or None,
        "each": {str(dimension): value for dimension, value in line.values.items()},
        "per": line.cap.per,
        "at_limit": line.cap.at_limit,
        "cap_usd": f"{usd(line.cap.cap_nusd):f}",
        "spent_usd": f"{usd(line.spent_nusd):f}",
        "left_usd": f"{usd(line.left_nusd):f}",
        "resets_at": resets_at,
        "forecast_usd": dollars(outlook.forecast_nusd),
        "forecast_low_usd": dollars(outlook.low_nusd),
        "forecast_high_usd": dollars(outlook.high_nusd),
        "runs_out_on": None if outlook.runs_out is None else outlook.runs_out.isoformat(),
    }


def _print(found: Sequence[Mapping[str, JsonValue]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("budget", "tenant", "of", "cap", "spent", "left", "at its end", "runs out", "full again")
    for facts in found:
        of = ", ".join(facts["each"].values())
        amounts = ["" if facts[name] is None else f"${facts[name]}" for name in _AMOUNTS]
        whose = [facts["budget"], facts["tenant"] or "all", of]
        table.add_row(*whose, *amounts, facts["runs_out_on"] or "", facts["resets_at"] or "never")
    Console(width=160 if not sys.stdout.isatty() else None, highlight=False).print(table)


_AMOUNTS = ("cap_usd", "spent_usd", "left_usd", "forecast_usd")
