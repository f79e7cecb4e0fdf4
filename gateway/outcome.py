"""What became of the policies a gateway was told to take, written down where `faregate reload` finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

OUTCOME_FILE: Final = "policy.json"
"""In the storage folder: by which policy the gateway answers, and what became of the last one it was told to take."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a policy.

    Attributes:
        pid: the gateway's process; with workers the supervisor's.
        number: another one each time.
        digest: of the policy that requests which begin are answered by.
        error: empty when that is the latest; else why that was refused, as `faregate check` says it.
    """

    pid: int
    number: int
    digest: str
    error: str = ""


def read_outcome(folder: Path) -> Outcome | None:
    """Return what the gateway of a folder wrote down last; None when there is nothing to be read."""
    try:
        return msgspec.json.decode((folder / OUTCOME_FILE).read_bytes(), type=Outcome)
    except (OSError, msgspec.MsgspecError):
        return None
