"""The process's environment, read in this one place: secrets and standard variables only; all else is in the policy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def environment() -> Mapping[str, str]:
    """Return the process's environment."""
    return os.environ  # noqa: TID251 - this is the place


def keep_to_one_blas_thread() -> None:
    """Let numpy use one thread in this process and those it starts, unless the environment says otherwise.

    To be called before numpy is imported. A search multiplies some hundred rows at a time; OpenBLAS would share that
    among all cores, and its threads spin while they wait for one another: four times the processor time, taken from the
    event loop (measured with other work on the machine, `load_tests/README.md`).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # noqa: TID251 - as above


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return where fetched model files are kept: the user's cache folder, as the XDG base directory rules name it."""
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "faregate"
