"""`faregate reload`: let a running gateway take its policy file as it is now."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from gateway.outcome import Outcome

_LOOK_S: Final = 0.05


@click.command()
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="policies/default.yaml",
    help="The policy file (YAML) that the gateway was started with.",
)
@click.option("--wait", "wait_s", type=click.FloatRange(0.1, 600), default=60.0, show_default=True, help="Seconds.")
def reload(policy_file: Path | None, wait_s: float) -> None:
    """Make the running gateway take its policy file as it is now, and say whether it did.

    The same as sending it SIGHUP. Requests that begin are answered by the new policy, those that run are finished by
    the former. A policy with mistakes is refused as a whole, and the former goes on; so is one that changes the
    address, the workers, the storage or the ledger's terms, which need a restart. Exit status: 0 taken, 1 refused.
    """
    from gateway.commands.asked import fail, load
    from gateway.outcome import read_outcome

    policy = load(policy_file)
    folder = Path(policy.storage.folder)
    before = _running(folder)
    if before is None:
        fail(f"no gateway runs on {folder}; start one with `faregate serve`")
    os.kill(before.pid, signal.SIGHUP)
    until = time.monotonic() + wait_s
    while (after := read_outcome(folder)) is None or after.number == before.number:
        if time.monotonic() > until:
            fail(f"the gateway (process {before.pid}) has not said within {wait_s:g} s what became of it; see its log")
        time.sleep(_LOOK_S)
    if after.error:
        click.echo(after.error, err=True)
        fail(f"refused; the gateway goes on with policy {after.digest[:12]}")
    click.echo(f"the gateway answers by policy {after.digest[:12]}")
    sys.exit(0)


def _running(folder: Path) -> Outcome | None:
    """Return what the gateway of a folder said last; None when none runs."""
    from gateway.ledger.errors import FolderInUse, FolderUnusable
    from gateway.ledger.lock import FolderLock
    from gateway.outcome import read_outcome

    try:
        FolderLock(folder).close()
    except FolderInUse:  # so that a process which has a dead gateway's number is left alone
        return read_outcome(folder)
    except FolderUnusable:
        return None
    return None
