"""The roots file: one line for every root, outside the store, so that a store that was cut short can be told.

Keep it, or copies of it, where whoever may change the store may not: `ledger.roots` in the policy says where.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.ledger.chain import Root
from gateway.ledger.errors import RootsUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ROOTS_FILE: Final = "roots.jsonl"


def read_roots(path: Path) -> list[Root]:
    """Return the file's roots, oldest first; none where there is no file. A last line without its end is left out.

    Raises:
        RootsUnreadable: the file cannot be read, or a line is no root.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RootsUnreadable(f"cannot read {path}: {error.strerror}; give its place with --roots") from error
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    try:
        return [msgspec.json.decode(line, type=Root) for line in lines]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RootsUnreadable(f"{path} holds a line that is no root ({error}); restore it from a copy") from error


def last_number(path: Path) -> int:
    """Return the number of the file's last root, 0 when it has none.

    Raises:
        OSError: the file cannot be read, or its end is no root.
    """
    try:
        roots = read_roots(path)
    except RootsUnreadable as error:
        raise OSError(str(error)) from error
    return roots[-1].n if roots else 0


def append_roots(path: Path, roots: Iterable[Root]) -> None:
    """Append roots and wait until they are on the disk; an unfinished last line is cut off first.

    Raises:
        OSError: they may not all be there; append those above `last_number` again.
    """
    lines = b"".join(root.line() for root in roots)
    if not lines:
        return
    with path.open("ab+") as file:
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
