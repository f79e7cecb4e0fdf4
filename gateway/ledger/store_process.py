"""Folding in a process of its own: what `FoldService` is to a gateway, but beside it and not in it.

Rules:
- the gateway's process holds the folder's lock, the other one the store's; neither survives the other for long: who
  folds ends when the gateway is gone, and is started anew when it has died, at once the first time;
- the journal is the truth meanwhile: what is bought is written there, and nothing is lost or refused while folding
  waits; a gateway that cannot have it folded for `_PATIENCE_S` says that it is not ready;
- no SQLite is touched here, and one thread waits for reports: requests share the interpreter with nothing else.
"""

from __future__ import annotations

import itertools
import logging
import select
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final, Self

from msgspec.structs import replace

from gateway.children import start_child
from gateway.ledger.errors import FolderInUse, FolderUnusable, JournalCorrupt, LedgerError, SchemaMismatch
from gateway.ledger.journal import JOURNAL_FOLDER, Position, Segment, segments
from gateway.ledger.lock import FolderLock, make_folder
from gateway.ledger.store_line import (
    Bury,
    Close,
    EpochsOf,
    FromGateway,
    Logged,
    Open,
    Opened,
    Refused,
    Report,
    Told,
    Wake,
    encode,
    store_says,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from gateway.children import Child
    from gateway.ledger.store_line import FromStore

_PROGRAM: Final = "gateway.ledger.storing"
_TICK_S: Final = 0.2
_OPENING_S: Final = 600.0
"""Folding what a former gateway left, and bringing a large store up to date, takes its time."""
_LAST_FOLD_S: Final = 60.0
"""How long the last records may take to be folded at the end; what is left is the next gateway's to fold."""
_PATIENCE_S: Final = 10.0
_ANSWER_S: Final = 120.0
_LAST_MOMENT_S: Final = 1.0
_FIRST_REST_S: Final = 0.2
_LONGEST_REST_S: Final = 10.0
_STEADY_S: Final = 30.0
"""A process that lived so long died of something new."""

_ERRORS: Final[Mapping[str, type[LedgerError]]] = {
    kind.__name__: kind for kind in (FolderUnusable, SchemaMismatch, JournalCorrupt)
}

_log = logging.getLogger("faregate")


class StoreGone(OSError):
    """The process that folds has ended."""


class StoreProcess:
    """Folds one folder in a process of its own: `hatched` starts it, `open` opens the folder; `start`, `close` it.

    All but `start` and `close` may be called from any thread.
    """

    def __init__(self, child: Child, environ: Mapping[str, str]) -> None:
        self._talk: _Talk | None = _Talk(child)
        self._environ = environ
        self._folder: Path | None = None
        self._open = Open("", None, 0.0, is_first=False)
        self._writer = ""
        self._last_epoch = 0
        self._report = Report()
        self._earlier_duplicates = 0
        self._trouble: Exception | None = None
        self._lost_at: float | None = None
        self._began = time.monotonic()
        self._deaths = 0
        self._before: Callable[[], None] = _nothing
        self._stopping = threading.Event()
        self._is_closed = False
        self._numbers = itertools.count()
        self._told: dict[int, Told] = {}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ledger-store", daemon=True)
        self._owned = ExitStack()

    @classmethod
    def hatched(cls, environ: Mapping[str, str]) -> Self:
        """Start the process; it does nothing until `open` tells it to, and ends with `discard` or its gateway.

        Raises:
            FolderUnusable: there is no room for another process.
        """
        try:
            return cls(start_child(_PROGRAM, environ), environ)
        except OSError as error:
            raise FolderUnusable(f"the process that folds the ledger cannot be started: {error}") from error

    def discard(self) -> None:
        """End the process at once, unless it was closed in order; twice is once."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._talk is not None:
            self._talk.child.discard()
            self._talk = None
        self._owned.close()

    def open(self, folder: Path, *, roots: Path | None = None, tick_s: float = _TICK_S) -> None:
        """Take a folder's lock, and wait until what former gateways left is folded; see `FoldService.open`.

        Raises:
            FolderInUse, FolderUnusable, SchemaMismatch, JournalCorrupt: the folder cannot be used; nothing changed.
        """
        self._folder = folder
        try:
            make_folder(folder)
        except OSError as error:
            raise FolderUnusable(
                f"the ledger in {folder} cannot be opened: {error}; "
                "give the gateway a data folder with free space that it may write"
            ) from error
        self._owned.callback(FolderLock(folder).close)
        place = None if roots is None else str(roots.absolute())
        self._open = Open(str(folder.absolute()), place, tick_s, is_first=True)
        try:
            self._say(self._open)
            opened = self._hear_opened(_OPENING_S)
        except StoreGone as error:
            raise FolderUnusable(
                f"the process that folds the ledger ended while it opened {folder}: {error}"
            ) from error
        self._writer, self._last_epoch = opened.writer, opened.last_epoch

    @property
    def pid(self) -> int | None:
        """Which process folds; None while there is none."""
        talk = self._talk
        return None if talk is None else talk.child.process.pid

    @property
    def last_epoch(self) -> int:
        """The highest epoch that was folded when the folder was opened."""
        return self._last_epoch

    @property
    def is_alive(self) -> bool:
        """Whether journals are being folded, or will be again within moments."""
        lost_at = self._lost_at
        return self._thread.is_alive() and (lost_at is None or time.monotonic() - lost_at < _PATIENCE_S)

    @property
    def damage(self) -> JournalCorrupt | None:
        """Why nothing more can be folded; None when all is well."""
        return JournalCorrupt(self._report.damage) if self._report.damage else None

    @property
    def trouble(self) -> Exception | None:
        """What is wrong, or being tried again."""
        retrying = OSError(self._report.retrying) if self._report.retrying else None
        return self.damage or self._trouble or retrying

    @property
    def torn(self) -> int:
        """Records cut off by crashes, seen since the folder was made."""
        return self._report.torn

    @property
    def duplicates(self) -> int:
        """Rows booked before and therefore ignored, since the folder was opened."""
        return self._earlier_duplicates + self._report.duplicates

    @property
    def last_booking(self) -> int:
        """The number of the last row of `books`, as far as is known."""
        return self._report.last_booking

    def writer_id(self, slot: int) -> str:
        """Return the persistent id of the writer of a slot."""
        return self._writer if slot == 0 else f"{self._writer}-{slot}"

    def epochs_of(self, slot: int, *, above: int) -> list[int]:
        """Return the folded epochs above one that a slot's writer began; complete once it is buried.

        Raises:
            OSError: there is no answer at present.
        """
        return list(self._ask(EpochsOf(next(self._numbers), slot, above)).numbers)

    def bury(self, slot: int) -> int:
        """Fold what a worker that died has left, and close its open holds as estimated; see `FoldService.bury`.

        Raises:
            FolderInUse: it is not gone.
            JournalCorrupt, OSError: not all could be folded; call again.
        """
        return self._ask(Bury(next(self._numbers), slot)).numbers[0]

    def unfolded_bytes(self) -> int:
        """Return how many bytes of the journals are not in the store."""
        if self._folder is None:
            return 0
        journal, places = self._folder / JOURNAL_FOLDER, {place.slot: place.position for place in self._report.places}
        total = 0
        for segment in segments(journal):
            place = places.get(segment.slot, Position(Segment(0, 0), 0))
            if segment < place.segment:
                continue
            with suppress(FileNotFoundError):  # folded and removed meanwhile
                size = (journal / segment.name).stat().st_size
                total += max(0, size - (place.offset if segment == place.segment else 0))
        return total

    def start(self, before: Callable[[], None] | None = None) -> None:
        """Begin to watch over the process.

        Args:
            before: called on a thread of this process every tick, such as a writer's `beat_if_due`.
        """
        self._before = before or _nothing
        self._thread.start()

    def wait(self, target: Position, timeout_s: float) -> bool:
        """Wait (blocking) until a journal is folded up to a place; False when time ran out."""

        def is_there() -> bool:
            return any(p.slot == target.segment.slot and p.position >= target for p in self._report.places)

        with suppress(StoreGone):
            self._say(Wake())
        with self._changed:
            return self._changed.wait_for(is_there, timeout_s)

    def stop(self) -> None:
        """End what `start` began; what is left is folded by `close`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Have what the closed writers left folded, and let the folder go; twice is once."""
        if self._is_closed:
            return
        self._is_closed = True
        self.stop()
        try:
            if self._talk is None:
                self._begin_anew()
                self._hear_opened(_LAST_FOLD_S)
            self._say(Close())
            self._hear_out(_LAST_FOLD_S)
        except (OSError, LedgerError) as error:
            _log.warning("journal_left_unfolded", extra={"folder": str(self._folder), "error": str(error)})
        self.discard()
        with self._changed:
            self._changed.notify_all()

    # --- the line ---------------------------------------------------------------------------------------------------

    def _say(self, said: FromGateway) -> None:
        if self._talk is None:
            raise StoreGone("the process that folds the ledger is gone, and will be started again")
        self._talk.say(said)

    def _ask(self, question: EpochsOf | Bury) -> Told:
        """Return the answer to a question; ask again if who was asked dies."""
        until = time.monotonic() + _ANSWER_S
        while time.monotonic() < until:
            asked = self._talk
            with suppress(StoreGone):
                self._say(question)
            told = self._answer(question.number, asked)
            if told is None:
                continue
            if told.kind == FolderInUse.__name__:
                raise FolderInUse(told.message, pid=None)
            if told.kind:
                raise _ERRORS.get(told.kind, OSError)(told.message)
            return told
        raise StoreGone(f"the process that folds {self._folder} has not answered for {_ANSWER_S:.0f} s")

    def _answer(self, number: int, asked: _Talk | None) -> Told | None:
        """Wait for an answer, as long as who was asked lives."""
        with self._changed:
            self._changed.wait_for(lambda: number in self._told or self._talk is not asked, _PATIENCE_S)
            return self._told.pop(number, None)

    def _run(self) -> None:
        """Hear reports, beat every tick, and start the process anew when it has died."""
        due, revives_at = time.monotonic() + self._open.tick_s, 0.0
        while not self._stopping.is_set():
            if self._talk is None and time.monotonic() >= revives_at:
                revives_at = time.monotonic() + self._revive()
            wait_s = max(0.0, due - time.monotonic())
            if self._talk is None:
                self._stopping.wait(wait_s)
            elif (said := self._talk.hear(wait_s)) is None:
                revives_at = time.monotonic() + self._lose(self._talk)
            else:
                for each in said:
                    self._take(each)
            if time.monotonic() >= due:
                due = time.monotonic() + self._open.tick_s
                self._before()

    def _take(self, said: FromStore) -> None:
        match said:
            case Report():
                with self._changed:
                    self._report = said
                    self._changed.notify_all()
            case Told():
                with self._changed:
                    self._told[said.number] = said
                    self._changed.notify_all()
            case Logged():
                _log.log(said.level, said.event, extra=dict(said.fields))
            case Opened():
                self._trouble = self._lost_at = None
            case Refused():
                self._trouble = _error_of(said)

    def _lose(self, talk: _Talk) -> float:
        """Let go of a process that died; return how long to wait before the next one, in seconds."""
        self._deaths = 1 if time.monotonic() - self._began > _STEADY_S else self._deaths + 1
        pid, status = talk.child.process.pid, talk.end()
        _log.error("store_process_died", extra={"pid": pid, "status": status})
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        with self._changed:
            self._talk = None
            self._trouble = self._trouble or StoreGone("the process that folds the ledger died and is started again")
            self._earlier_duplicates += self._report.duplicates
            self._report = replace(self._report, retrying="", duplicates=0)
            self._changed.notify_all()
        return 0.0 if self._deaths <= 1 else min(_LONGEST_REST_S, _FIRST_REST_S * 2.0 ** (self._deaths - 2))

    def _revive(self) -> float:
        """Start the next process; return how long to wait before another, where there is no room for one."""
        try:
            self._begin_anew()
        except OSError as error:
            self._trouble = error
            self._deaths += 1
            return min(_LONGEST_REST_S, _FIRST_REST_S * 2.0**self._deaths)
        return 0.0

    def _begin_anew(self) -> None:
        """Start a process for writers that are alive, or were; it has not answered yet.

        Raises:
            OSError: there is no room for one.
        """
        self._began = time.monotonic()
        talk = _Talk(start_child(_PROGRAM, self._environ))
        with suppress(StoreGone):  # which is heard at once
            talk.say(Open(self._open.folder, self._open.roots, self._open.tick_s, is_first=False))
        with self._changed:
            self._talk = talk
            self._changed.notify_all()

    def _hear_opened(self, timeout_s: float) -> Opened:
        """Hear a process until it has opened the folder.

        Raises:
            LedgerError: it cannot.
            StoreGone: it ended, or did not open it in time.
        """
        for said in self._heard(timeout_s):
            match said:
                case Opened():
                    return said
                case Refused():
                    raise _error_of(said)
                case _:
                    self._take(said)
        raise StoreGone("it gave no answer; its output may say why")

    def _hear_out(self, timeout_s: float) -> None:
        """Hear a process that was told to close until it ends.

        Raises:
            StoreGone: it ended otherwise, or did not in time.
        """
        for said in self._heard(timeout_s):
            self._take(said)
        talk, self._talk = self._talk, None
        status = None if talk is None else talk.end()
        if status != 0:
            raise StoreGone(f"the process that folds the ledger ended with status {status}")

    def _heard(self, timeout_s: float) -> Iterator[FromStore]:
        """Yield what the process says until it ends or time is over."""
        until = time.monotonic() + timeout_s
        while self._talk is not None and time.monotonic() < until:
            said = self._talk.hear(until - time.monotonic())
            if said is None:
                return
            yield from said


class _Talk:
    """Our end of the line to one life of the process. Words may be said from any thread, and are heard by one."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._rest = b""
        self._saying = threading.Lock()

    def say(self, said: FromGateway) -> None:
        """Say something.

        Raises:
            StoreGone: nobody hears it.
        """
        try:
            with self._saying:
                self.child.end.sendall(encode(said) + b"\n")
        except OSError as error:
            raise StoreGone(f"the process that folds the ledger is gone: {error}") from error

    def hear(self, timeout_s: float) -> list[FromStore] | None:
        """Return what is said within a time; None when it is gone."""
        poll = select.poll()
        poll.register(self.child.end, select.POLLIN)
        if not poll.poll(max(0.0, timeout_s) * 1e3):
            return []
        try:
            chunk = self.child.end.recv(2**16)
        except OSError:
            return None
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [store_says.decode(line) for line in lines]

    def end(self) -> int | None:
        """Close our end, and return the exit status of a process that ended, or is killed."""
        self.child.end.close()
        try:
            return self.child.process.wait(_LAST_MOMENT_S)
        except subprocess.TimeoutExpired:
            self.child.process.kill()
            return self.child.process.wait()


def _error_of(refused: Refused) -> LedgerError:
    if refused.kind == FolderInUse.__name__:
        return FolderInUse(refused.message, pid=refused.pid)
    return _ERRORS.get(refused.kind, FolderUnusable)(refused.message)


def _nothing() -> None:
    """Do nothing before a tick."""
