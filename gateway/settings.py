"""The process's environment, read in this one place: secrets and standard variables only; all else is in the policy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def environment() -> Mapping[str, str]:
    """Return the process's environment."""
    return os.environ  # noqa: TID251 - this is the place


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return where fetched model files are kept: the user's cache folder, as the XDG base directory rules name it."""
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "faregate"
