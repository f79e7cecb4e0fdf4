"""`faregate report`: the bill, sums by any dimensions, or single rows; as table, CSV, JSON or a page to send."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from datetime import datetime

_MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.command()
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="policies/default.yaml",
    help="The policy file (YAML).",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Read this storage folder instead of the policy's.",
)
@click.option(
    "--by",
    help="Sums by these dimensions, such as tenant,model,day; of: tenant, model, route, feature, key, session, user, "
    "task, path, pool, kind, day, week, month. Or `attempt` or `request`: single rows.",
)
@click.option("--since", type=_MOMENT, help="From this moment on, in --zone. Default: 30 days ago.")
@click.option("--until", type=_MOMENT, help="Up to this moment, in --zone. Default: now.")
@click.option("--zone", default="UTC", show_default=True, help="Whose days and months are meant: an IANA time zone.")
@click.option("--tenant", help="Only this tenant.")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "html"]), default="table", show_default=True
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option("--top", type=click.IntRange(min=1), help="Show the dearest N lines; the total is of all.")
@click.option(
    "--revenue",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A CSV of what was earned, for the margin: revenue_usd with request_id, or tenant and feature; maybe date.",
)
@click.option(
    "--hours",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A CSV of the cloud's own bill for the pools: pool, start, end, usd; it replaces hours times price.",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    help="Also price everything at this model of the policy; may be given several times.",
)
@click.option("--quality", is_flag=True, help="Print promised against observed loss of every route and cache instead.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--sql", "as_sql", is_flag=True, help="Print the query behind the numbers instead, ready for sqlite3.")
@click.option("--dictionary", is_flag=True, help="Print what every table and column of the ledger means instead.")
def report(  # noqa: PLR0917 - click passes options by name
    policy_file: Path | None,
    folder: Path | None,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
    zone: str,
    tenant: str | None,
    form: str,
    out: Path | None,
    top: int | None,
    revenue: Path | None,
    hours: Path | None,
    baselines: tuple[str, ...],
    quality: bool,
    as_json: bool,
    as_sql: bool,
    dictionary: bool,
) -> None:
    """Print the bill, or sums by what you ask for, or single rows.

    Without --by: cost by model, rejected attempts, idle pools, the baseline, and savings by cause. With --by: a line
    for every tenant, model, day …, with unit costs, margin, forecast and other baselines. With --by attempt or
    --by request: every row. It reads the ledger and may run beside a gateway. Dollars are exact; CSV and JSON have
    nano-dollars as integers too. `--format html` makes one self-contained file with charts.
    """
    if quality:
        from gateway.commands.promises import run_quality

        if form in {"csv", "html"}:
            raise click.UsageError("--quality prints a table, or JSON with --json")
        run_quality(policy_file, folder, as_json=as_json or form == "json")
        return
    from gateway.commands.asked import Asked, run_report

    asked = Asked(
        policy_file=policy_file,
        folder=folder,
        by=by,
        since=since,
        until=until,
        zone=zone,
        tenant=tenant,
        form="json" if as_json else form,
        out=out,
        top=top,
        revenue=revenue,
        hours=hours,
        baselines=baselines,
        as_sql=as_sql,
        dictionary=dictionary,
    )
    run_report(asked)
