"""`faregate export`: the ledger in other tools' formats."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from datetime import datetime

    from policies.schema import Policy

_MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.group()
def export() -> None:
    """Write the ledger in other tools' formats."""


@export.command("focus")
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="policies/default.yaml",
    help="The policy file (YAML): it says where the ledger is and who sells each model.",
)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Read this storage folder instead.")
@click.option("--spec", type=click.Choice(["1.2", "1.3"]), default="1.2", show_default=True, help="FOCUS's version.")
@click.option("--since", type=_MOMENT, help="From this moment (UTC) on. Default: 30 days ago.")
@click.option("--until", type=_MOMENT, help="Up to this moment (UTC). Default: now.")
@click.option("--tenant", help="Only this tenant.")
@click.option("--account", default="faregate", show_default=True, help="The billing account's id and name.")
@click.option(
    "--archives",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the archives' files: archived charges are rows as they were, not sums of days.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="FILE.csv or FILE.parquet.")
def focus(  # noqa: PLR0917 - click passes options by name
    policy_file: Path | None,
    folder: Path | None,
    spec: str,
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    account: str,
    archives: Path | None,
    out: Path,
) -> None:
    """Write a period in FOCUS, the FinOps Open Cost and Usage Specification.

    One row for each charge and class of tokens, all mandatory columns, ours as x_…; the rows add up to
    `faregate report` of the same period, to the nano-dollar. Parquet needs the extra `faregate[export]`.
    """
    from backends.prices import usd
    from gateway.commands.asked import archived_of, fail, load, period
    from gateway.ledger.errors import LedgerError
    from gateway.ledger.focus import Account, Spec, export_focus
    from gateway.ledger.pools import pool_lines
    from gateway.ledger.put_back import put_back
    from gateway.ledger.reports.answer import opened
    from gateway.ledger.reports.question import Question

    policy = load(policy_file) if folder is None or policy_file is not None else None
    place = folder if folder is not None or policy is None else Path(policy.storage.folder)
    try:
        begin, end = period(since, until)
        question = Question(since=begin, until=end, tenant=tenant)
        window = question.parameters
        with opened(place or Path()) as db:
            bills = {
                line.pool: line.bill_nusd
                for line in pool_lines(db, since_us=int(window["since"] or 0), until_us=int(window["until"] or 0))
            }
            whose = Account(account=account, providers=_providers(policy), pool_bills_nusd=bills)
            if archives is not None:
                put_back(db, archives, since_us=int(window["since"] or 0), until_us=int(window["until"] or 0))
            archived = archived_of(db, question)
            has_archives = archives is not None
            done = export_focus(db, question, spec=Spec(spec), file=out, account=whose, has_archives=has_archives)
    except LedgerError as error:
        fail(str(error))
    click.echo(f"{out}: {done.rows} rows for {done.charges} charges, {usd(done.cost_nusd):f} USD", err=True)
    if archived:
        note = f"of archived days in rows of their sums: {archived}; give the folder of these files with --archives"
        click.echo(note, err=True)
    if done.posted_nusd:
        click.echo(f"with {usd(done.posted_nusd):f} USD that the books post, as rows of category Adjustment", err=True)
    if done.unknown:
        click.echo(f"left out: {done.unknown} charges of unknown cost; see `faregate report --by attempt`", err=True)
    sys.exit(0)


def _providers(policy: Policy | None) -> dict[str, str]:
    """Return who sells each model: the price list's provider, else the address's host."""
    from urllib.parse import urlsplit

    if policy is None:
        return {}
    found = {}
    for name, model in policy.models.items():
        host = urlsplit(model.base_url).hostname if model.base_url else None
        if seller := model.provider or host:
            found[str(name)] = seller
    return found
