"""`faregate budgets`: what every budget has spent and left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """Show what every budget has spent and left in its present window, open holds included.

    Read off the ledger, so that it may be some moments behind a running gateway (`/metrics` is not). End users stand
    there by their pseudonyms.
    """
    import json

    from backends.clock import SystemClock
    from gateway.commands.asked import fail, load
    from gateway.ledger.errors import LedgerError
    from gateway.ledger.pseudonyms import KEY_FILE, Pseudonyms
    from gateway.ledger.spent import budget_lines
    from gateway.spending import caps_of

    policy = load(policy_file)
    folder = Path(policy.storage.folder)
    try:
        # Without the key no end user was ever booked, and reading makes no files.
        caps = caps_of(policy, Pseudonyms(folder).of) if (folder / KEY_FILE).exists() else caps_of(policy)
        lines = budget_lines(folder, caps, SystemClock().now())
    except LedgerError as error:
        fail(str(error))
    if as_json:
        click.echo(json.dumps([_facts(line) for line in lines], indent=2))
    elif not lines:
        click.echo("the policy has no budgets, or nothing was spent of those that have a pot for each value")
    else:
        _print(lines)
    sys.exit(0)


def _facts(line: BudgetLine) -> dict[str, object]:
    from backends.prices import usd

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
    }


def _print(lines: Sequence[BudgetLine]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("budget", "tenant", "of", "cap", "spent", "left", "full again")
    for line in lines:
        facts = _facts(line)
        of = ", ".join(line.values.values())
        amounts = [f"${facts[name]}" for name in ("cap_usd", "spent_usd", "left_usd")]
        table.add_row(line.cap.name, line.cap.tenant or "all", of, *amounts, str(facts["resets_at"] or "never"))
    Console(width=160 if not sys.stdout.isatty() else None, highlight=False).print(table)
