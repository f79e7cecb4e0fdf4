"""What supervisor and workers tell one another: one JSON document a line, over a socket pair."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

import msgspec

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

LINE_BYTES: Final = 2**24
"""The longest line: a policy's text, or what a worker counts."""


class Topic(StrEnum):
    """What one worker can ask of all."""

    FIGURES = "figures"
    STATUS = "status"


# --- the supervisor says ---------------------------------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first word to a worker.

    Attributes:
        policy: the policy's text as it was when the gateway started, so that a worker started later has the same.
        file: where it came from: relative paths start there.
        host, port: what the socket listens on.
        listening: the inherited socket's descriptor.
        slot, writer_id: the worker's place in the ledger.
        name: the worker's own, in this life, for its line to the budgets.
    """

    policy: str
    file: str
    host: str
    port: int
    workers: int
    listening: int
    slot: int
    writer_id: str
    name: str
    log_level: str


class Standing(msgspec.Struct, frozen=True, tag=True):
    """How the gateway is as a whole; told whenever it changes.

    Attributes:
        is_complete: all workers answer.
        is_folding: what is booked comes into the store.
        damage: why nothing may be bought any more; empty when all is well.
        error: what is being tried again, or the damage.
    """

    is_complete: bool = False
    is_folding: bool = True
    damage: str = ""
    error: str = ""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Stop as after this signal; told twice: at once."""

    signal: int


class Change(msgspec.Struct, frozen=True, tag=True):
    """Answer what begins by this policy from now on; the supervisor has checked it."""

    policy: str


class Fault(msgspec.Struct, frozen=True, tag=True):
    """An endpoint fails; said by the worker whose breaker opened, and handed on to the others."""

    endpoint: str


class Admitted(msgspec.Struct, frozen=True, tag=True):
    """A request is let in, and what its client is told of its limits."""

    number: int
    headers: tuple[tuple[str, str], ...]


class Limited(msgspec.Struct, frozen=True, tag=True):
    """A request is refused; the fields are those of `RateLimited`."""

    number: int
    message: str
    kind: str
    limit: str
    retry_after_s: int
    headers: tuple[tuple[str, str], ...]


class Claimed(msgspec.Struct, frozen=True, tag=True):
    """A worker has the lead it claimed; or another had it, and the answer is stored."""

    number: int
    is_lead: bool


class Question(msgspec.Struct, frozen=True, tag=True):
    """A worker is to tell of itself."""

    number: int
    topic: Topic


class Reply(msgspec.Struct, frozen=True, tag=True):
    """What all workers told, as one."""

    number: int
    body: msgspec.Raw


# --- a worker says ---------------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It answers from now on."""

    warnings: tuple[str, ...]


class Unfit(msgspec.Struct, frozen=True, tag=True):
    """It cannot begin, and says why."""

    message: str


class Changed(msgspec.Struct, frozen=True, tag=True):
    """It answers by the policy it was told to change to; `error`: it cannot, and says why."""

    error: str = ""


class Admit(msgspec.Struct, frozen=True, tag=True):
    """It asks whether a request is within its tenant's limits; `key` is the key's id."""

    number: int
    tenant: str
    key: str
    tokens: int


class Leave(msgspec.Struct, frozen=True, tag=True):
    """A request it asked for has ended, and took so many tokens; without effect if that was refused."""

    number: int
    tokens: int


class Claim(msgspec.Struct, frozen=True, tag=True):
    """It wants the lead among equal requests: `key` is theirs, in hex."""

    number: int
    key: str


class LetGo(msgspec.Struct, frozen=True, tag=True):
    """It has no use any more for a lead it claimed, whether it has it or not."""

    number: int
    is_stored: bool


class Survey(msgspec.Struct, frozen=True, tag=True):
    """It wants to know something of all workers."""

    number: int
    topic: Topic


class Answer(msgspec.Struct, frozen=True, tag=True):
    """Its answer to a `Question`."""

    number: int
    body: msgspec.Raw


FromSupervisor: TypeAlias = Begin | Standing | Stop | Change | Fault | Admitted | Limited | Claimed | Question | Reply
FromMember: TypeAlias = Ready | Unfit | Changed | Fault | Admit | Leave | Claim | LetGo | Survey | Answer

encode: Final = msgspec.json.Encoder().encode
supervisor_says: Final = msgspec.json.Decoder(FromSupervisor)
member_says: Final = msgspec.json.Decoder(FromMember)

_Said = TypeVar("_Said")


class Line(Generic[_Said]):
    """One end of a socket pair.

    Args:
        reader, writer: its streams.
        decoder: of what the other end says.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decoder: msgspec.json.Decoder[_Said]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    @classmethod
    async def over(cls, end: socket.socket, decoder: msgspec.json.Decoder[_Said]) -> Line[_Said]:
        """Take over a connected socket."""
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=LINE_BYTES)
        return cls(reader, writer, decoder)

    async def hear(self) -> _Said | None:
        """Return the other's next word; None when it is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        # Half a line: it died while it wrote.
        return self._decoder.decode(line) if line.endswith(b"\n") else None

    def say(self, said: FromSupervisor | FromMember) -> None:
        """Say something; never waits, and nobody may hear it."""
        if not self._writer.is_closing():
            self._writer.write(encode(said) + b"\n")

    def close(self) -> None:
        """Close this end, after what was said."""
        self._writer.close()

    async def aclose(self) -> None:
        """Close this end, and wait until what was said is out."""
        self.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


_BUDGETS_SOCKET: Final = "budgets.sock"
_LONGEST_ADDRESS: Final = 100
"""The kernel takes 107 bytes."""


@contextmanager
def budgets_socket(folder: Path) -> Iterator[Path]:
    """Give the address of the budgets' socket in a storage folder, for as long as the block lasts."""
    if len(os.fsencode(folder / _BUDGETS_SOCKET)) <= _LONGEST_ADDRESS:
        yield folder / _BUDGETS_SOCKET
        return
    fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{fd}", _BUDGETS_SOCKET)
    finally:
        os.close(fd)
