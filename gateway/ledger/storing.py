"""The process that folds: a `FoldService` on the line to its gateway; `main` is its program.

Rules:
- it ends when the gateway says so, or at once when the gateway is gone: what a killed gateway left is the next one's to
  fold and to recover, and it holds the store's lock until then;
- SIGTERM and SIGINT are for the gateway, though a service manager sends them to every process of it;
- it imports neither pydantic nor asyncio: it has to be there before the gateway has imported its own.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from backends.clock import SystemClock
from gateway.ledger.errors import FolderInUse, JournalCorrupt, LedgerError
from gateway.ledger.service import FoldService
from gateway.ledger.store_line import (
    Bury,
    Close,
    EpochsOf,
    FromStore,
    Logged,
    Open,
    Opened,
    Place,
    Refused,
    Report,
    Told,
    Wake,
    encode,
    gateway_says,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.ledger.store_line import FromGateway

CHUNK_BYTES: Final = 2**20
"""One transaction folds about this much: some thousand rows. Nobody waits for this process's interpreter."""

_KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""What every log record has; the rest are an event's fields."""


class _Line:
    """Our end of the line. Words may come from any thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._one_at_a_time = threading.Lock()

    def say(self, said: FromStore) -> None:
        """Say something; a gateway that is gone hears nothing."""
        with self._one_at_a_time:
            try:
                self._end.sendall(encode(said) + b"\n")
            except OSError:
                os._exit(1)

    def heard(self) -> Iterator[FromGateway]:
        """Yield the gateway's words until it is gone."""
        rest = b""
        with suppress(ConnectionError):  # it was killed before it had heard all
            while chunk := self._end.recv(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(gateway_says.decode, lines)


class _ToGateway(logging.Handler):
    """Sends our events to the gateway's log."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    @override
    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            name: value if isinstance(value, int) else str(value)
            for name, value in vars(record).items()
            if name not in _KNOWN
        }
        self._line.say(Logged(record.levelno, record.getMessage(), fields))


def main() -> None:
    """Fold until the gateway says so; everything to be known comes over standard input, a socket."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Rows come by the thousand and are in no cycles: looking for some at every 700th took a twentieth of folding's CPU.
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)
    line = _Line(socket.socket(fileno=os.dup(0)))
    logger = logging.getLogger("faregate")
    logger.setLevel(logging.INFO)
    logger.addHandler(_ToGateway(line))
    logger.propagate = False
    heard = line.heard()
    first = next(heard, None)
    if isinstance(first, Open):
        _fold(line, heard, first)
    # Not an orderly exit: a thread may be in the midst of a transaction, which is then as if it had not begun.
    os._exit(0 if first is None else 1)


def _fold(line: _Line, heard: Iterator[FromGateway], first: Open) -> None:
    try:
        service = FoldService.open(
            Path(first.folder),
            SystemClock(),
            roots=None if first.roots is None else Path(first.roots),
            tick_s=first.tick_s,
            chunk_bytes=CHUNK_BYTES,
            is_locked=True,
            is_first=first.is_first,
        )
    except LedgerError as error:
        line.say(Refused(type(error).__name__, str(error), error.pid if isinstance(error, FolderInUse) else None))
        return
    reporter = _Reporter(service, line)
    line.say(Opened(service.writer_id(0), service.last_epoch))
    service.start(after=reporter.report)
    for said in heard:
        match said:
            case Wake():
                service.wake()
            case EpochsOf():
                line.say(_answer(service, said))
            case Bury():
                line.say(_answer(service, said))
            case Close():
                service.close()
                reporter.report()
                os._exit(0)
            case Open():
                raise AssertionError("a folder is opened once")


class _Reporter:
    """Tells the gateway how folding goes, when that has changed."""

    def __init__(self, service: FoldService, line: _Line) -> None:
        self._service = service
        self._line = line
        self._last = Report()

    def report(self) -> None:
        """Tell it, if it has changed."""
        service = self._service
        damage, trouble = service.damage, service.trouble
        report = Report(
            places=tuple(Place.of(position) for position in service.positions().values()),
            damage="" if damage is None else str(damage),
            retrying="" if trouble is None or trouble is damage else str(trouble),
            torn=service.torn,
            duplicates=service.duplicates,
            last_booking=service.last_booking,
        )
        if report != self._last:
            self._last = report
            self._line.say(report)


def _answer(service: FoldService, asked: EpochsOf | Bury) -> Told:
    try:
        if isinstance(asked, Bury):
            return Told(asked.number, (service.bury(asked.slot),))
        return Told(asked.number, tuple(service.epochs_of(asked.slot, above=asked.above)))
    except (JournalCorrupt, FolderInUse) as error:
        return Told(asked.number, kind=type(error).__name__, message=str(error))
    except (sqlite3.Error, OSError) as error:
        return Told(asked.number, kind="OSError", message=str(error))
