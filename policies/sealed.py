"""Artefacts as JSON with a digest of their content, which is checked before anything in them is believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from backends.words import JsonValue


def read_sealed(path: Path, *, what: str, again: str, error: Callable[[str], Exception]) -> JsonValue:
    """Return an artefact's content without its digest.

    Args:
        path: the file.
        what: what messages call it.
        again: how to make it again, the end of every message.
        error: makes the error to raise.

    Raises:
        Exception: `error`'s: it cannot be read, is not JSON, or was changed or cut.
    """
    try:
        row = json.loads(path.read_bytes())
    except OSError as cause:
        raise error(f"{what} {path} cannot be read ({cause.strerror}); {again}") from cause
    except ValueError as cause:
        raise error(f"{what} {path} is not JSON, perhaps cut short ({cause}); {again}") from cause
    stated = row.pop("sha256", None) if isinstance(row, dict) else None
    if stated != _digest(row):
        raise error(
            f'{what} {path} was changed or cut: its sha256 field says "{stated}", its content gives "{_digest(row)}";'
            f" {again}"
        )
    content: JsonValue = row
    return content


def seal(row: dict[str, JsonValue]) -> str:
    """Return an artefact's text, digest included; `read_sealed` accepts exactly this."""
    return json.dumps({"sha256": _digest(row), **row}, separators=(",", ":")) + "\n"


def _digest(row: JsonValue) -> str:
    canonical = json.dumps(row, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
