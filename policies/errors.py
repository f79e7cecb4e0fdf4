"""What can go wrong in this package.

PoliciesError
├── PolicyError                 the policy file has mistakes; carries all of them
└── KeysError                   a command on the key store cannot be done
    ├── UnknownTenantError      a key for a tenant the policy does not name
    ├── UnknownKeyError         no key has this id
    └── KeyStoreBrokenError     the key file cannot be read as one
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class PoliciesError(Exception):
    """The family's root."""


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake of a policy file.

    Attributes:
        line: 1-based line in the file; 0 when the mistake is the file's itself (missing, too large).
        column: 1-based column in that line; 0 when the line is 0.
        path: where in the document, e.g. `routes[0].ladder[1]`; "" is the whole document.
        message: what is wrong, the value, what is allowed, how to fix it.
    """

    line: int
    column: int
    path: str
    message: str


class PolicyError(PoliciesError):
    """The policy cannot be used. Its text lists every mistake as `file:line:column: path: message`.

    Attributes:
        file: the policy file.
        mistakes: all mistakes found, in the file's order; never empty.
    """

    def __init__(self, file: Path, mistakes: Sequence[Mistake]) -> None:
        self.file = file
        self.mistakes = tuple(sorted(mistakes))
        super().__init__("\n".join(self._line(mistake) for mistake in self.mistakes))

    def _line(self, mistake: Mistake) -> str:
        place = f"{self.file}:{mistake.line}:{mistake.column}" if mistake.line else f"{self.file}"
        return ": ".join(part for part in (place, mistake.path, mistake.message) if part)


class KeysError(PoliciesError):
    """A command on the key store cannot be done."""


class UnknownTenantError(KeysError):
    """A key was asked for a tenant the policy does not name."""

    def __init__(self, tenant: str, known: Sequence[str]) -> None:
        self.tenant = tenant
        self.known = tuple(known)
        super().__init__(
            f'unknown tenant "{tenant}"; the policy has: {", ".join(self.known) or "none"}; add it under `tenants`'
        )


class UnknownKeyError(KeysError):
    """No key has this id."""

    def __init__(self, key_id: str, known: Sequence[str]) -> None:
        self.key_id = key_id
        self.known = tuple(known)
        super().__init__(
            f'unknown key id "{key_id}"; the store has: {", ".join(self.known) or "none"}; see `faregate keys list`'
        )


class KeyStoreBrokenError(KeysError):
    """The key file exists and cannot be read as one. Nothing was changed."""

    def __init__(self, file: Path, reason: str) -> None:
        self.file = file
        self.reason = reason
        super().__init__(
            f"{file} is not a readable key store ({reason}); "
            "restore it from a backup, or move it away and create new keys"
        )
