"""`faregate reconcile`: a provider's usage or invoice file against the ledger."""

from __future__ import annotations

import csv
import io
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from gateway.ledger.invoices import Invoice
    from gateway.ledger.reconcile import Difference, Reconciled

_OFF: Final = 1
_MODELS: Final = """
SELECT model FROM daily_charges UNION SELECT model FROM waiting_charges CROSS JOIN charges USING (request_id, attempt)
"""
_COLUMNS: Final = ("day", "model", "unit", "theirs", "ours", "difference", "explained_by", "explanation", "is_off")


def _share(_: click.Context, __: click.Parameter, text: str) -> Decimal:
    try:
        share = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ArithmeticError:
        share = Decimal(-1)
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text} is no share; give one such as 0.5% or 0.005")
    return share


@click.command()
@click.option(
    "--provider", type=click.Choice(["openai", "anthropic", "generic"]), required=True, help="Whose file it is."
)
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Its export: CSV or JSON.")
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="policies/default.yaml",
    help="The policy file (YAML): it says where the ledger is and which models are the provider's.",
)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Read this storage folder instead.")
@click.option("--zone", default="UTC", show_default=True, help="Whose days the file's are: an IANA time zone.")
@click.option(
    "--tolerance", callback=_share, default="0.5%", show_default=True, help="What may differ, of the larger side."
)
@click.option(
    "--archives",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the archives' files: archived charges are compared too.",
)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def reconcile(  # noqa: PLR0917 - click passes options by name
    provider: str,
    file: Path,
    policy_file: Path | None,
    folder: Path | None,
    zone: str,
    tolerance: Decimal,
    archives: Path | None,
    form: str,
) -> None:
    """Compare a provider's usage or invoice file with the ledger, per day and model.

    Says what explains a difference where it can: rounding, usage the provider booked a day later, another price
    version, requests that one side lacks, costs nobody knows, a time zone. The exit status is 1 when a difference is
    above the tolerance, 2 when the file cannot be read. Nothing is changed.

    generic reads the columns date, model, cost_usd, and maybe currency, requests, input_tokens, cached_input_tokens,
    cache_write_tokens, output_tokens.
    """
    from gateway.ledger.errors import LedgerError
    from gateway.ledger.invoices import Provider, read_invoice
    from gateway.ledger.reconcile import reconcile as compare
    from gateway.ledger.reports.answer import opened

    try:
        invoice = read_invoice(file, Provider(provider))
        place, names = _ledger(policy_file, folder, provider)
        with opened(place) as db:
            _put_back(db, invoice, archives)
            if not names:
                names = {model: model for (model,) in db.execute(_MODELS)}
            found = compare(db, invoice, names=names, zone=zone, tolerance=tolerance, has_archives=archives is not None)
            archived = _archived(db, invoice)
    except LedgerError as error:
        click.echo(f"faregate: {error}", err=True)
        sys.exit(2)
    if archived:
        click.echo(f"note: {archived}; give the folder of these files with --archives", err=True)
    texts = {"table": _table, "csv": _csv, "json": _json}
    click.echo(texts[form](found), nl=False)
    sys.exit(_OFF if found.is_off else 0)


def _ledger(policy_file: Path | None, folder: Path | None, provider: str) -> tuple[Path, dict[str, str]]:
    """Return the ledger's folder, and what the provider calls each of its models; none: every model by our name."""
    from gateway.commands.asked import load

    if folder is not None and policy_file is None:
        return folder, {}
    policy = load(policy_file)
    names = {str(name): model.name for name, model in policy.models.items() if provider in {"generic", model.provider}}
    return folder or Path(policy.storage.folder), names


def _put_back(db: sqlite3.Connection, invoice: Invoice, archives: Path | None) -> None:
    """Read what of the invoice's days is archived."""
    from gateway.ledger.put_back import put_back

    if archives is not None and invoice:
        first, last = _moments(invoice)
        put_back(db, archives, since_us=first, until_us=last)


def _archived(db: sqlite3.Connection, invoice: Invoice) -> str | None:
    """Return what of the invoice's days is archived, which a comparison with rows lacks; None when nothing is."""
    from gateway.ledger.archived import archived_note

    return archived_note(db, *_moments(invoice)) if invoice else None


def _moments(invoice: Invoice) -> tuple[int, int]:
    """Return the invoice's period in UTC's days, microseconds since 1970."""
    from datetime import UTC, datetime, timedelta

    from gateway.ledger.store import microseconds

    first, last = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (min(invoice)[0], max(invoice)[0]))
    return microseconds(first), microseconds(last + timedelta(days=1))


def _rows(found: Reconciled) -> list[dict[str, str]]:
    return [
        {
            "day": f"{one.day:%Y-%m-%d}",
            "model": one.model,
            "unit": one.unit,
            "theirs": _amount(one, one.theirs),
            "ours": _amount(one, one.ours),
            "difference": _amount(one, one.difference),
            "explained_by": one.why.value if one.why else "",
            "explanation": one.words,
            "is_off": "yes" if one.is_off else "",
        }
        for one in found.differences
    ]


def _amount(one: Difference, value: int) -> str:
    from backends.prices import usd

    return f"{usd(value):f}" if one.unit == "USD" else str(value)


def _csv(found: Reconciled) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(found))
    return out.getvalue()


def _json(found: Reconciled) -> str:
    import msgspec

    rows = [{**row, "is_off": bool(row["is_off"])} for row in _rows(found)]
    plain = {"differences": rows, "hints": list(found.hints), "is_off": found.is_off}
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n"


def _table(found: Reconciled) -> str:
    off = sum(one.is_off for one in found.differences)
    lines = [f"{len(found.differences)} days and models, {off} off; difference = theirs - ours"]
    lines += [f"Hint: {hint}" for hint in found.hints]
    rows = _rows(found)
    lines += _columns([{**row, "is_off": "OFF" if row["is_off"] else ""} for row in rows])
    return "\n".join(lines) + "\n"


def _columns(rows: Sequence[dict[str, str]]) -> list[str]:
    names = ("day", "model", "theirs", "ours", "difference", "unit", "is_off", "explained_by", "explanation")
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    right = {"theirs", "ours", "difference"}

    def line(row: dict[str, str]) -> str:
        return "  ".join(row[n].rjust(widths[n]) if n in right else row[n].ljust(widths[n]) for n in names).rstrip()

    return [line({name: name for name in names}), *(line(row) for row in rows)]
