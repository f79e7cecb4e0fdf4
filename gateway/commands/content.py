"""`faregate content`: prompts and answers that the policy stores (`ledger.content`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from datetime import datetime

_policy = click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="policies/default.yaml",
    help="The policy: it has the storage folder, and the key where what is stored is encrypted.",
)


@click.group()
def content() -> None:
    """Read and delete prompts and answers that the policy stores; by default there are none."""


@content.command()
def key() -> None:
    """Make a key for `ledger.content: {keep: encrypted, key: …}`; it is shown once and stored nowhere."""
    import base64
    import secrets

    from policies.content import KEY_BYTES

    click.echo(base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())


@content.command()
@_policy
@click.argument("request_id")
def show(policy_file: Path | None, request_id: str) -> None:
    """Print what is stored of a request (x-request-id), as JSON."""
    import json

    from gateway.commands.asked import fail, load
    from gateway.content.keeper import cipher_of
    from gateway.content.store import FILE_NAME, ContentStore
    from gateway.ledger.errors import LedgerError

    policy = load(policy_file)
    folder = Path(policy.storage.folder)
    if not (folder / FILE_NAME).exists():
        fail(f"nothing is stored in {folder}; `ledger.content` of the policy says whether prompts are")
    try:
        store = ContentStore.open(folder, cipher_of(policy.ledger.content))
        try:
            found = store.find(request_id)
        finally:
            store.close()
    except LedgerError as error:
        fail(f"{request_id}: {error}")
    if found is None:
        fail(f'nothing is stored of request "{request_id}"; it may be older than the retention, or forgotten')
    facts = {
        "request_id": found.request_id,
        "tenant": found.tenant,
        "asked_at": found.stored_at.isoformat(),
        "is_cut": found.is_cut,
        **json.loads(found.body),
    }
    click.echo(json.dumps(facts, ensure_ascii=False, indent=2))


@content.command()
@_policy
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%d"]),
    required=True,
    help="What was asked before this UTC day goes, such as 2026-10-01.",
)
def purge(policy_file: Path | None, before: datetime) -> None:
    """Delete what was stored before a day, for good; the ledger's rows stay."""
    from datetime import UTC, timedelta

    from gateway.commands.asked import fail, load
    from gateway.content.store import FILE_NAME, ContentStore
    from gateway.ledger.errors import LedgerError

    folder = Path(load(policy_file).storage.folder)
    if not (folder / FILE_NAME).exists():
        fail(f"nothing is stored in {folder}")
    try:
        store = ContentStore.open(folder)
        try:
            deleted = store.sweep(before.replace(tzinfo=UTC), retention=timedelta(0))
        finally:
            store.close()
    except LedgerError as error:
        fail(str(error))
    click.echo(f"deleted: {deleted} prompts and answers")
    sys.exit(0)
