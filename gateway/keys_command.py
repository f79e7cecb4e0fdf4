"""`faregate keys`: the key store on the command line. Functions return the exit status."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backends.clock import SystemClock
from policies.errors import PoliciesError
from policies.keys import KeyRecord, KeyStore
from policies.schema import Policy


def create_key(policy: Policy, *, tenant: str | None, label: str | None, as_json: bool) -> int:
    """Make a key for a tenant (an admin key when there is none) and print it."""
    try:
        record, secret = _store(policy).create(tenant, tenants=policy.tenant_ids, label=label, is_admin=tenant is None)
    except (PoliciesError, OSError) as error:
        return _fail(error)
    if as_json:
        print(json.dumps({**_public(record), "key": secret}))  # noqa: T201 - the command's output
        return 0
    Console(stderr=True).print(
        f"Key [bold]{record.id}[/bold] for {record.tenant or 'the admin pages'}. It is shown once, now:"
    )
    print(secret)  # noqa: T201 - alone on standard output, so that scripts can take it
    return 0


def list_keys(policy: Policy, *, as_json: bool) -> int:
    """Print every key's record."""
    try:
        records = _store(policy).list()
    except (PoliciesError, OSError) as error:
        return _fail(error)
    if as_json:
        print(json.dumps([_public(record) for record in records]))  # noqa: T201 - the command's output
        return 0
    table = Table("id", "tenant", "label", "made", "state")
    for record in records:
        state = "works" if record.revoked_at is None else f"revoked {record.revoked_at:%Y-%m-%d %H:%M}"
        tenant = "(admin)" if record.is_admin else str(record.tenant)
        table.add_row(record.id, tenant, record.label or "", f"{record.created_at:%Y-%m-%d %H:%M}", state)
    Console().print(table if records else "no keys yet: make one with `faregate keys create --tenant NAME`")
    return 0


def revoke_key(policy: Policy, key_id: str) -> int:
    """Revoke a key."""
    try:
        record = _store(policy).revoke(key_id)
    except (PoliciesError, OSError) as error:
        return _fail(error)
    Console().print(f"Key {record.id} is revoked.")
    return 0


def _store(policy: Policy) -> KeyStore:
    return KeyStore(Path(policy.storage.folder), clock=SystemClock())


def _public(record: KeyRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "tenant": record.tenant,
        "label": record.label,
        "is_admin": record.is_admin,
        "created_at": record.created_at.isoformat(),
        "revoked_at": record.revoked_at.isoformat() if record.revoked_at else None,
    }


def _fail(error: Exception) -> int:
    Console(stderr=True).print(f"faregate: {error}", markup=False, highlight=False)
    return 1
