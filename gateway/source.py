"""Where a gateway's policy comes from, so that it can be read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.settings import environment
from policies.loader import parse_policy, read_policy

if TYPE_CHECKING:
    from policies.schema import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySource:
    """A policy file, and what the command line says in place of its `server` keys; None: nothing.

    Attributes:
        port: the one listened on once it is known: a file that says 0 says any.
    """

    file: Path
    host: str | None = None
    port: int | None = None
    workers: int | None = None

    def read(self) -> tuple[Policy, str]:
        """Return the policy as the file is now, and its text.

        Raises:
            PolicyError: it has mistakes.
        """
        text = read_policy(self.file)
        return self.parse(text), text

    def parse(self, text: str) -> Policy:
        """Return the policy that a text is.

        Raises:
            PolicyError: it has mistakes.
        """
        policy = parse_policy(text, self.file, environment())
        named = {"host": self.host, "port": self.port, "workers": self.workers}
        changes = {name: value for name, value in named.items() if value is not None}
        return policy.model_copy(update={"server": policy.server.model_copy(update=changes)}) if changes else policy
