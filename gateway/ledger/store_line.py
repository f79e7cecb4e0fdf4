"""What a gateway and the process that folds for it tell one another: one JSON document a line, over a socket pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from gateway.ledger.journal import Position, Segment

# --- the gateway says ------------------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, tag=True):
    """The first word: what to fold.

    Attributes:
        roots: the file of daily roots; None: the folder's own.
        is_first: nobody writes yet: what former gateways left is folded, what they left open is booked as estimated.
    """

    folder: str
    roots: str | None
    tick_s: float
    is_first: bool


class Wake(msgspec.Struct, frozen=True, tag=True):
    """Fold now and not at the next tick."""


class EpochsOf(msgspec.Struct, frozen=True, tag=True):
    """Which epochs above one has a slot's writer begun?"""

    number: int
    slot: int
    above: int


class Bury(msgspec.Struct, frozen=True, tag=True):
    """A slot's writer is dead: fold what it left and close its open holds. How many were there?"""

    number: int
    slot: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """All writers are closed: fold what is left, put the heads under a root, end."""


# --- the process says ------------------------------------------------------------------------------------------------


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The folder is open; `writer` is the id of slot 0's."""

    writer: str
    last_epoch: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It could not be opened; `kind` is the error's class, `pid` the owner where another has the folder."""

    kind: str
    message: str
    pid: int | None = None


class Place(msgspec.Struct, frozen=True, array_like=True):
    """How far a slot's journal is in the store."""

    slot: int
    epoch: int
    seq: int
    offset: int

    @classmethod
    def of(cls, position: Position) -> Place:
        """Name a position."""
        segment = position.segment
        return cls(segment.slot, segment.epoch, segment.seq, position.offset)

    @property
    def position(self) -> Position:
        """The position it names."""
        return Position(Segment(self.epoch, self.seq, self.slot), self.offset)


class Report(msgspec.Struct, frozen=True, tag=True):
    """How folding goes; told whenever it has changed.

    Attributes:
        damage: why nothing more can be folded; empty when all is well.
        retrying: what is being tried again; likewise.
        torn, duplicates: as in `seam.LedgerStatus`.
        last_booking: the number of the last row of `books`.
    """

    places: tuple[Place, ...] = ()
    damage: str = ""
    retrying: str = ""
    torn: int = 0
    duplicates: int = 0
    last_booking: int = 0


class Told(msgspec.Struct, frozen=True, tag=True):
    """The answer to a question; an error where `kind` names its class."""

    number: int
    numbers: tuple[int, ...] = ()
    kind: str = ""
    message: str = ""


class Logged(msgspec.Struct, frozen=True, tag=True):
    """Something for the gateway's log."""

    level: int
    event: str
    fields: Mapping[str, str | int]


FromGateway: TypeAlias = Open | Wake | EpochsOf | Bury | Close
FromStore: TypeAlias = Opened | Refused | Report | Told | Logged

encode: Final = msgspec.json.Encoder().encode
gateway_says: Final = msgspec.json.Decoder(FromGateway)
store_says: Final = msgspec.json.Decoder(FromStore)
