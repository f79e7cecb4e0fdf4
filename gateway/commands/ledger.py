"""`faregate ledger`: verify it, close months, correct, adjust, forget, archive."""

from __future__ import annotations

import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.ledger.bookings import Booked, BooksWriter

_policy = click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(__file__).parents[2] / "policies" / "default.yaml",
    show_default="policies/default.yaml",
    help="The policy whose storage folder holds the ledger.",
)
_folder = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Use this storage folder instead of the policy's.",
)
_reason = click.option("--reason", required=True, help="Why, in words; it is kept with the booking.")


@click.group()
def ledger() -> None:
    """Verify the ledger, close its months, and book what comes after: corrections, adjustments.

    Nothing that was booked is ever changed; every booking is a row of its own that names what it corrects.
    """


@ledger.command()
@_policy
@_folder
@click.option(
    "--roots",
    "roots_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The daily roots kept outside the store. Default: the policy's ledger.roots, else roots.jsonl in the folder.",
)
@click.option(
    "--archives",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the archives' files, to walk the chain through them too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    policy_file: Path, folder: Path | None, roots_file: Path | None, archives: Path | None, as_json: bool
) -> None:
    """Check every invariant; name each row that is not as it was booked. The exit status is 1 if there is one.

    The hash chain of every writer (a changed, deleted, reordered, doubled or inserted row), the daily roots, each
    request's cost against its charges, each cost against its tokens and rates, open holds, sealed months, the file,
    what archives left, and with --archives their files.
    """
    import dataclasses
    import json

    from gateway.ledger.errors import LedgerError
    from gateway.ledger.verify import verify as run

    place, roots = _place(policy_file, folder)
    try:
        found = run(place, roots_file=roots_file or roots, archives=archives)
    except LedgerError as error:
        _fail(str(error))
    if as_json:
        click.echo(json.dumps({"is_whole": not found.found, **dataclasses.asdict(found)}, indent=2))
    else:
        for problem in found.problems:
            click.echo(f"{problem.check}: {problem.row}: {problem.message}")
        if found.found > len(found.problems):
            click.echo(f"and {found.found - len(found.problems)} more")
        verdict = f"{found.found} problems" if found.found else "all is as it was booked"
        click.echo(
            f"{found.requests} requests, {found.charges} charges, {found.entries} chain entries, {found.roots} roots: "
            f"{verdict}"
        )
    sys.exit(1 if found.found else 0)


@ledger.command()
@_policy
@_folder
@click.option("--period", required=True, help="The month, such as 2026-11; it must be over (UTC).")
@click.option("--reason", default="month closed", show_default=True, help="Kept with the seal.")
def close(policy_file: Path, folder: Path | None, period: str, reason: str) -> None:
    """Seal a month: its sums are written down; what comes later posts to the first open month."""
    from backends.prices import usd
    from gateway.ledger.errors import LedgerError

    try:
        sealed = _books(policy_file, folder).close(period, reason=reason)
    except LedgerError as error:
        _fail(str(error))
    click.echo(
        f"{sealed.period} is sealed: {sealed.charges} charges, ${usd(sealed.cost_nusd):f}, "
        f"corrections and adjustments ${usd(sealed.books_nusd):f}, {sealed.unknown_charges} charges of unknown cost"
    )


@ledger.command()
@_policy
@_folder
@click.option("--request", "request_id", required=True, help="The request's id (x-request-id).")
@click.option("--attempt", type=click.IntRange(0), default=0, show_default=True, help="Which of its attempts.")
@click.option("--cost-usd", required=True, help="What it really cost, in dollars; nine decimals at most.")
@_reason
def correct(  # noqa: PLR0917 - click passes options by name
    policy_file: Path, folder: Path | None, request_id: str, attempt: int, cost_usd: str, reason: str
) -> None:
    """Say what a charge really cost: the difference is booked, in its own month or the first open one."""
    from gateway.ledger.errors import LedgerError

    cost_nusd = _nusd(cost_usd, "--cost-usd")
    if cost_nusd < 0:
        raise click.UsageError("--cost-usd is negative; a charge costs 0 or more, credits are booked with `adjust`")
    try:
        _told(_books(policy_file, folder).correct(request_id, attempt, cost_nusd=cost_nusd, reason=reason))
    except LedgerError as error:
        _fail(str(error))


@ledger.command()
@_policy
@_folder
@click.option("--period", required=True, help="The month it is about, such as 2026-11.")
@click.option("--tenant", required=True, help="Whose bill it changes.")
@click.option("--model", help="Of which model, if of one.")
@click.option("--usd", "amount", required=True, help="What it adds to the bill, in dollars; negative is a credit.")
@_reason
def adjust(  # noqa: PLR0917 - click passes options by name
    policy_file: Path, folder: Path | None, period: str, tenant: str, model: str | None, amount: str, reason: str
) -> None:
    """Book an amount that belongs to no single charge, such as a provider's credit note."""
    from gateway.ledger.errors import LedgerError

    amount_nusd = _nusd(amount, "--usd")
    try:
        books = _books(policy_file, folder)
        _told(books.adjust(period, amount_nusd=amount_nusd, tenant=tenant, model=model, reason=reason))
    except LedgerError as error:
        _fail(str(error))


@ledger.command()
@_policy
@_folder
@click.option("--tenant", required=True, help="Whose end user it is.")
@click.option("--user", required=True, help="The end user, as the tenant's application names it in `user`.")
def forget(policy_file: Path, folder: Path | None, tenant: str, user: str) -> None:
    """Forget whose a pseudonym is. Rows, sums and chain stay; nobody can tell any more whose they were.

    Prompts and answers that were stored of them (`ledger.content`) are deleted.
    """
    from gateway.content.store import FILE_NAME, ContentStore
    from gateway.ledger.errors import LedgerError
    from gateway.ledger.pseudonyms import Pseudonyms

    place, _ = _place(policy_file, folder)
    deleted = 0
    try:
        known_as = Pseudonyms(place).of(tenant, user)
        if (place / FILE_NAME).exists():
            store = ContentStore.open(place)
            try:
                deleted = store.forget(known_as)
            finally:
                store.close()
        is_forgotten = _books(policy_file, place).forget(known_as)
    except LedgerError as error:
        _fail(str(error))
    if not is_forgotten and not deleted:
        _fail(f"no end user {user!r} of tenant {tenant!r} is in the ledger")
    gone = f", and {deleted} stored prompts and answers are deleted" if deleted else ""
    click.echo(f"forgotten: the rows stay, whose they were is gone{gone}")


@ledger.command()
@_policy
@_folder
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%d"]),
    required=True,
    help="What began before this UTC day goes, such as 2026-10-01; its months must be sealed.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The files' folder.")
def archive(policy_file: Path, folder: Path | None, before: datetime, out: Path) -> None:
    """Move old requests and charges into Parquet files; a tombstone and all sums stay, and so does the chain.

    Without pyarrow (the extra `export`) the files are CSV. Keep them: `faregate ledger verify --archives` reads them.
    """
    from datetime import UTC
    from datetime import datetime as moment

    from backends.prices import usd
    from gateway.ledger.archive import archive as run
    from gateway.ledger.errors import LedgerError

    place, _ = _place(policy_file, folder)
    try:
        done = run(place, before=before.date(), out=out, now=moment.now(UTC), made_by=_who())
    except LedgerError as error:
        _fail(str(error))
    click.echo(
        f"archived: {done.requests} requests and {done.charges} charges, ${usd(done.tombstone.cost_nusd):f}, in "
        f"{' and '.join(str(file) for file in done.files)}"
    )


def _place(policy_file: Path, folder: Path | None) -> tuple[Path, Path | None]:
    """Return the ledger's folder and where the policy keeps the roots (None: in the folder)."""
    if folder is not None:
        return folder, None
    from gateway.settings import environment
    from policies.errors import PolicyError
    from policies.loader import load_policy

    try:
        policy = load_policy(policy_file, environment())
    except PolicyError as error:
        _fail(str(error))
    return Path(policy.storage.folder), policy.ledger.roots


def _books(policy_file: Path, folder: Path | None) -> BooksWriter:
    from datetime import UTC, datetime

    from gateway.ledger.bookings import BooksWriter

    return BooksWriter(_place(policy_file, folder)[0], now=datetime.now(UTC), made_by=_who())


def _who() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unnamed user"


def _nusd(text: str, option: str) -> int:
    try:
        nusd = Decimal(text).scaleb(9)
    except InvalidOperation:
        raise click.UsageError(f"{option} is {text!r}; give dollars such as 0.0125, without separators") from None
    if not nusd.is_finite() or nusd != nusd.to_integral_value() or abs(nusd) >= 2**63:
        raise click.UsageError(f"{option} is {text!r}; give dollars with nine decimals at most")
    return int(nusd)


def _told(booked: Booked) -> None:
    from backends.prices import usd

    click.echo(f"booked: {usd(booked.amount_nusd):+f} dollars in {booked.period}")


def _fail(message: str) -> NoReturn:
    click.echo(f"faregate: {message}", err=True)
    sys.exit(1)
