"""What the pipeline asks of a ledger. SQLite behind a journal is one; a server behind it can be another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from policies.schema import DEFAULT_LEDGER_BUFFER_BYTES, Durability, OnFailure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backends.words import RequestId
    from gateway.ledger.rows import ChargeRow, EnergyRow, HoldRow, PoolPrice, RequestRow


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochInfo:
    """What a gateway's life stands under: its policy's digest and the pools it keeps up."""

    policy_digest: str
    pools: tuple[PoolPrice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How careful a ledger is: the policy's `ledger`.

    Attributes:
        buffer_bytes: how much `OnFailure.BUFFER` keeps in memory before it refuses too.
        roots: the file of daily roots; None: `roots.jsonl` in the ledger's folder.
    """

    durability: Durability = Durability.PROCESS
    on_failure: OnFailure = OnFailure.REFUSE
    buffer_bytes: int = DEFAULT_LEDGER_BUFFER_BYTES
    roots: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStatus:
    """How the ledger is.

    Attributes:
        is_writable: whether the next `hold` is expected to succeed.
        pending: records the disk refused, kept in memory and tried again.
        dropped: request rows given up because too many were pending; charges never are.
        unfolded_bytes: journal not yet in the store.
        torn: records cut off by a crash, seen since the folder was made.
        duplicates: rows booked before and therefore ignored, since the ledger was opened.
        error: why it is not writable, or why folding is being retried; None when all is well.
    """

    is_writable: bool
    pending: int
    dropped: int
    unfolded_bytes: int
    torn: int
    duplicates: int
    error: str | None


class Ledger(Protocol):
    """Books money. All calls but `flush` and `close` are quick and may be made on the event loop."""

    def hold(self, row: HoldRow) -> None:
        """Reserve money for an attempt; the attempt may start when this returns.

        Raises:
            LedgerUnavailable: it could not be written down, so nothing may be bought.
        """
        ...

    async def secured(self) -> None:
        """Wait until every hold so far is as durable as the policy wants; at once where that is `process`.

        Raises:
            LedgerUnavailable: the disk did not take it, so nothing may be bought.
        """
        ...

    def release(self, request_id: RequestId, attempt: int) -> None:
        """End a hold whose attempt cost nothing. Never raises for want of space: it is kept and tried again."""
        ...

    def settle(self, row: ChargeRow) -> None:
        """Book what an attempt cost and end its hold; twice is once. Kept and tried again like `release`."""
        ...

    def book(self, row: RequestRow, charges: Sequence[ChargeRow] = ()) -> None:
        """Book a request, and what attempts of it cost as `settle` would; all of it is one write.

        Twice is once. Kept and tried again like `release`.
        """
        ...

    def meter(self, row: EnergyRow) -> None:
        """Book what a replica's cards drew. Kept and tried again like `release`."""
        ...

    def renew(self, info: EpochInfo) -> None:
        """Begin a new epoch: the policy or its pools changed.

        Raises:
            LedgerUnavailable: it could not be written down; the former epoch goes on.
        """
        ...

    def flush(self, timeout_s: float) -> bool:
        """Wait (blocking) until all that was booked before is in the store; False when time ran out."""
        ...

    def close(self) -> None:
        """Fold what is left and let the folder go; closing twice is closing once.

        Raises:
            LedgerUnavailable: records the disk refused could not be written even now; their holds stay in the journal
                and the next start books them as estimated.
        """
        ...

    def status(self) -> LedgerStatus:
        """Tell how the ledger is."""
        ...
