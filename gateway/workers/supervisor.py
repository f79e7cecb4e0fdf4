"""The supervisor: starts the workers and keeps them alive, and keeps what all of them share."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import uvloop
from prometheus_client import Gauge

from backends.clock import SystemClock
from backends.words import TenantId
from gateway.compose import open_authority, prepare, watch_budgets
from gateway.errors import RateLimited
from gateway.ledger.errors import JournalCorrupt, LedgerError
from gateway.ledger.leases import LeaseServer
from gateway.ledger.pseudonyms import Pseudonyms
from gateway.ledger.seam import LedgerStatus
from gateway.ledger.spent import read_spent
from gateway.limits import Limiter
from gateway.listening import url_of
from gateway.prepare import PolicyUnusable
from gateway.reload import check_fixed, learn_budgets, note, outcome_of, tell
from gateway.settings import environment
from gateway.spending import caps_of
from gateway.tally import Counts
from gateway.telemetry import Telemetry
from gateway.workers.begin import Job, WorkerUnfit
from gateway.workers.desk import LeadDesk, Told
from gateway.workers.figures import (
    Figures,
    Household,
    MemberStatus,
    figures_of,
    grown,
    pools_together,
    total,
)
from gateway.workers.line import (
    Admit,
    Admitted,
    Answer,
    Begin,
    Change,
    Changed,
    Claim,
    Claimed,
    Fault,
    FromMember,
    Leave,
    LetGo,
    Limited,
    Line,
    Question,
    Ready,
    Reply,
    Standing,
    Stop,
    Survey,
    Topic,
    Unfit,
    budgets_socket,
    encode,
    member_says,
)
from gateway.workers.processes import ended, start_worker
from policies.errors import PoliciesError

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable

    from backends.clock import Clock
    from gateway.children import Child
    from gateway.ledger.budgets import BudgetAuthority, Cap
    from gateway.ledger.following import BooksFollower
    from gateway.ledger.store_process import StoreProcess
    from gateway.limits import Admission
    from policies.schema import Policy

_log = logging.getLogger("faregate")
_T = TypeVar("_T")

_LOOK_S: Final = 0.1
"""How often is looked whether the store is well and all workers answer."""
_ANSWER_S: Final = 2.0
"""How long a page of all workers waits for one of them."""
_LINES_S: Final = 5.0
"""How long a dead worker's line to the budgets may take to be seen to be cut."""
_LAST_WORDS_S: Final = 8.0
"""How much longer than its grace a worker may take to end before it is killed."""
_CHANGE_S: Final = 30.0
"""How long a worker may take to make a policy ready."""
_FOLDED_S: Final = 2.0
"""How long what was booked may take to come into the store; ten looks of its reader."""
_FIRST_REST_S: Final = 0.2
_SOME: Final = 3
"""Deaths whose rest is about what a store that refuses needs."""
_LONGEST_REST_S: Final = 10.0
_STEADY_S: Final = 30.0
"""A worker that lived so long died of something new."""


def rest_s(deaths: int) -> float:
    """Return how long to wait before a worker is started anew that has died so many times shortly after one another."""
    return 0.0 if deaths <= 1 else min(_LONGEST_REST_S, _FIRST_REST_S * 2.0 ** (deaths - 2))


def supervise(
    job: Job,
    listening: socket.socket,
    hatched: list[Child],
    store: StoreProcess,
    *,
    on_ready: Callable[[str], None],
) -> None:
    """Serve a policy with several workers until SIGINT or SIGTERM; see `gateway.serve.serve`.

    Args:
        job: what is served.
        listening: what is accepted from.
        hatched: workers already started, one for each slot; taken as they are used.
        store: the process that folds, hatched; closed here.
        on_ready: called with the base URL once all workers answer.

    Raises:
        LedgerError: the storage folder cannot be used.
        WorkerUnfit: a worker could not begin.
    """
    try:
        uvloop.run(_supervise(job, listening, hatched, store, on_ready=on_ready))
    except* WorkerUnfit as group:
        raise _first(group) from None


async def _supervise(
    job: Job,
    listening: socket.socket,
    hatched: list[Child],
    store: StoreProcess,
    *,
    on_ready: Callable[[str], None],
) -> None:
    clock = SystemClock()
    folder = Path(job.policy.storage.folder)
    store.open(folder, roots=job.policy.ledger.roots)
    try:
        known_as = Pseudonyms(folder).of
        authority, books, warnings = open_authority(job.policy, known_as, clock, lambda: store.last_booking)
        store.start()
        supervisor = Supervisor(
            job,
            listening,
            hatched,
            store,
            authority=authority,
            books=books,
            clock=clock,
            warnings=warnings,
            on_ready=on_ready,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, supervisor.stop, number)
        loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
        await supervisor.run()
    finally:
        store.close()


def _first(group: BaseExceptionGroup[WorkerUnfit]) -> WorkerUnfit:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


@dataclass(slots=True, kw_only=True, eq=False)
class _Member:
    """One life of a worker."""

    slot: int
    name: str
    process: subprocess.Popen[bytes]
    line: Line[FromMember]
    is_ready: bool = False
    unfit: str = ""
    figures: Figures = ()
    admitted: dict[int, Admission] = field(default_factory=dict)
    waiting: dict[int, asyncio.Future[msgspec.Raw]] = field(default_factory=dict)
    changing: asyncio.Future[str] | None = None


class Supervisor:
    """Runs `policy.server.workers` workers; `run` returns when they have stopped in order.

    Args:
        job: what is served.
        listening: what they accept from.
        hatched: workers that are started; taken as they are used.
        service: folds what they book; opened and started.
        authority: of the budgets, rebuilt.
        books: keeps it up to date.
        clock: the time.
        warnings: what an operator should know.
        on_ready: told once when all answer.
    """

    def __init__(
        self,
        job: Job,
        listening: socket.socket,
        hatched: list[Child],
        service: StoreProcess,
        *,
        authority: BudgetAuthority,
        books: BooksFollower,
        clock: Clock,
        warnings: tuple[str, ...],
        on_ready: Callable[[str], None],
    ) -> None:
        self._job = job
        self._policy = job.policy
        self._folder = Path(job.policy.storage.folder)
        self._listening = listening
        self._hatched = hatched
        self._service = service
        self._authority = authority
        self._books = books
        self._warnings = warnings
        self._clock = clock
        self._on_ready = on_ready
        self._url = url_of(listening)
        self._limiter = Limiter(job.policy)
        self._desk = LeadDesk()
        self._members: dict[int, _Member] = {}
        self._lives = itertools.count()
        self._numbers = itertools.count()
        self._cut: set[str] = set()
        self._gone: Figures = ()
        self._restarts = 0
        self._standing = Standing()
        self._was_complete = False
        self._stopping = asyncio.Event()
        self._telemetry = Telemetry({})
        watch_budgets(self._telemetry, authority, clock)
        self._up = Gauge("faregate_workers", "Workers that answer.", registry=self._telemetry.registry)
        self._deaths = Counts(
            "faregate_worker_restarts", "Workers started anew.", [], registry=self._telemetry.registry
        ).labels()
        self._group = asyncio.TaskGroup()
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Keep the workers until they are told to stop.

        Raises:
            WorkerUnfit: one could not begin at the start.
        """
        with budgets_socket(self._folder) as address:
            leases = LeaseServer(
                self._authority,
                clock=self._clock,
                path=address,
                policy_digest=self._policy.digest,
                on_death=self._cut.add,
            )
            self._leases = leases
            async with leases, self._group as group:
                keeping = [group.create_task(self._keep(slot, leases)) for slot in range(self._policy.server.workers)]
                watching = group.create_task(self._watch())
                await asyncio.wait(keeping)
                watching.cancel()

    def stop(self, number: int) -> None:
        """Stop as after a signal: in order the first time, at once the second."""
        is_second = self._stopping.is_set()
        self._stopping.set()
        for member in self._members.values():
            member.line.say(Stop(number))
        server = self._policy.server
        notice_s = server.notice_s if number == signal.SIGTERM and not is_second else 0.0
        loop = asyncio.get_running_loop()
        # The workers close their own; while this one is open, clients would wait in it for nobody.
        loop.call_later(notice_s, self._listening.close)
        loop.call_later(_LAST_WORDS_S + (0.0 if is_second else notice_s + server.grace_s), self._kill)

    def reload(self) -> None:
        """Read the policy's file again, and let all workers answer by it if it can be served."""
        if self._members and not self._stopping.is_set():
            self._group.create_task(self._reload())

    # --- another policy ---------------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        async with self._turn:
            try:
                policy, text = await asyncio.to_thread(self._job.source.read)
                known_as = Pseudonyms(self._folder).of
                check_fixed(self._policy, policy, known_as)
                await asyncio.to_thread(prepare, policy, self._clock)
                await self._change(policy, text, caps_of(policy, known_as))
            except (PoliciesError, PolicyUnusable, LedgerError, OSError) as error:
                tell(outcome_of(self._policy, str(error)), self._folder, self._telemetry)
            else:
                tell(outcome_of(policy), self._folder, self._telemetry)

    async def _change(self, policy: Policy, text: str, caps: tuple[Cap, ...]) -> None:
        """Let all workers answer by a policy that can be served; a new budget grants when they all do, and is read."""
        self._policy, self._job = policy, replace(self._job, policy=policy, text=text)
        new = self._authority.adopt(caps, self._clock.now())
        watch_budgets(self._telemetry, self._authority, self._clock)
        self._limiter.adopt(policy)
        self._leases.adopt(policy.digest)
        await asyncio.gather(*(self._tell_change(member, text) for member in list(self._members.values())))
        await learn_budgets(self._authority, new, self._folder, self._clock, self._wait_for_fold)

    async def _tell_change(self, member: _Member, text: str) -> None:
        """Make one worker change; one that cannot is ended, and the next one begins with the policy."""
        member.changing = asyncio.get_running_loop().create_future()
        member.line.say(Change(text))
        await asyncio.wait([member.changing], timeout=_CHANGE_S)
        error = member.changing.result() if member.changing.done() else f"no answer within {_CHANGE_S:g} s"
        if error and not self._stopping.is_set():
            _log.error("worker_did_not_change", extra={"slot": member.slot, "error": error})
            member.line.say(Stop(signal.SIGTERM))

    def _wait_for_fold(self) -> None:
        """Wait, in a thread, until what was booked before has come into the store."""
        until = self._clock.monotonic() + _FOLDED_S
        while self._service.unfolded_bytes() and self._clock.monotonic() < until:
            time.sleep(_LOOK_S)

    def _kill(self) -> None:
        for member in self._members.values():
            if member.process.poll() is None:
                _log.error("worker_killed", extra={"slot": member.slot, "pid": member.process.pid})
                member.process.kill()

    # --- lives ------------------------------------------------------------------------------------------------------

    async def _keep(self, slot: int, leases: LeaseServer) -> None:
        """Start a worker, and start it anew whenever it ends, until all stop."""
        deaths = 0
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            try:
                earlier = await asyncio.to_thread(self._service.epochs_of, slot, above=0)
                if self._stopping.is_set():
                    return
                member = await self._begin(slot)
            except OSError as error:  # no room for a process at present, this one or the one that folds
                if not self._was_complete:
                    raise WorkerUnfit(f"worker {slot} cannot be started: {error}") from error
                _log.error("worker_not_started", extra={"slot": slot, "error": str(error)})
                await self._rest(deaths := deaths + 1)
                continue
            status = await self._attend(member)
            if self._stopping.is_set():
                return
            if not self._was_complete:
                why = member.unfit or f"it ended with status {status} before it answered; its output says why"
                raise WorkerUnfit(f"worker {slot} cannot begin: {why}")
            deaths = 1 if self._clock.monotonic() - began > _STEADY_S else deaths + 1
            _log.error(
                "worker_died",
                extra={"slot": slot, "pid": member.process.pid, "status": status, "error": member.unfit},
            )
            if not await self._bury(member, leases, above=max(earlier, default=0)):
                return
            self._restarts += 1
            self._deaths.inc()
            await self._rest(deaths)

    async def _rest(self, deaths: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(rest_s(deaths)):
                await self._stopping.wait()

    async def _begin(self, slot: int) -> _Member:
        """Start a worker and tell it what to do."""
        worker = self._hatched.pop() if self._hatched else start_worker(self._listening, environment())
        name = f"{slot}.{next(self._lives)}"
        line = await Line.over(worker.end, member_says)
        member = _Member(slot=slot, name=name, process=worker.process, line=line)
        self._members[slot] = member
        server = self._policy.server
        member.line.say(
            Begin(
                policy=self._job.text,
                file=str(self._job.source.file.absolute()),
                host=server.host,
                port=server.port,
                workers=server.workers,
                listening=self._listening.fileno(),
                slot=slot,
                writer_id=self._service.writer_id(slot),
                name=name,
                log_level=self._job.log_level,
            )
        )
        if self._stopping.is_set():  # meanwhile
            member.line.say(Stop(signal.SIGTERM))
        return member

    async def _attend(self, member: _Member) -> int:
        """Hear a worker until it is gone; return its exit status."""
        try:
            while (said := await member.line.hear()) is not None:
                self._take(member, said)
            return await ended(member.process)
        finally:
            if member.process.poll() is None:
                member.process.kill()
                member.process.wait()
            self._part(member)

    def _take(self, member: _Member, said: FromMember) -> None:
        match said:
            case Ready():
                self._greet(member, said)
            case Unfit():
                member.unfit = said.message
            case Changed():
                _answered(member.changing, said.error)
            case Fault():
                self._spread(member, said)
            case Admit():
                member.line.say(self._admit(member, said))
            case Leave():
                if (admission := member.admitted.pop(said.number, None)) is not None:
                    self._limiter.finish(admission, said.tokens)
            case Claim():
                self._tell(self._desk.claim((member.slot, said.number), said.key))
            case LetGo():
                self._tell(self._desk.let_go((member.slot, said.number), is_stored=said.is_stored))
            case Survey():
                self._group.create_task(self._survey(member, said))
            case Answer():
                _answered(member.waiting.pop(said.number, None), said.body)

    def _greet(self, member: _Member, said: Ready) -> None:
        if member.slot == 0 and not self._was_complete:
            self._warnings = (*said.warnings, *self._warnings)
        member.is_ready = True
        member.line.say(self._standing)
        self._look()

    def _spread(self, member: _Member, fault: Fault) -> None:
        """Tell the others what one has learned."""
        for other in self._members.values():
            if other is not member:
                other.line.say(fault)

    def _part(self, member: _Member) -> None:
        """Let go of what a worker that is gone has had."""
        member.line.close()
        member.is_ready = False
        del self._members[member.slot]
        self._tell(self._desk.part(member.slot))
        for admission in member.admitted.values():
            self._limiter.finish(admission, admission.tokens)
        for waiting in member.waiting.values():
            waiting.cancel()
        _answered(member.changing, "")  # the next one begins with the policy
        self._gone = total([self._gone, grown(member.figures)])
        self._look()

    async def _bury(self, member: _Member, leases: LeaseServer, *, above: int) -> bool:
        """Book what a dead worker has left and take back its leases; False when its journal is damaged."""
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(self._service.bury, member.slot)
                await self._reclaim(member, leases, above=above)
            except JournalCorrupt:
                return False  # the service finds it too, and nothing more is bought
            except (sqlite3.Error, OSError, LedgerError) as error:
                _log.warning("burial_retried", extra={"slot": member.slot, "error": str(error)})
                await self._rest(_SOME)
            else:
                return True
        return False

    async def _reclaim(self, member: _Member, leases: LeaseServer, *, above: int) -> None:
        """Take back what a worker had been lent, now that what it spent is in the store."""
        own = f"{member.name}."
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINES_S):
                while any(name.startswith(own) for name in leases.workers):  # noqa: ASYNC110 - a matter of a moment
                    await asyncio.sleep(_LOOK_S)
        cut = sorted((name for name in self._cut if name.startswith(own)), key=lambda name: int(name[len(own) :]))
        if not cut:
            return
        epochs = await asyncio.to_thread(self._service.epochs_of, member.slot, above=above)
        now = self._clock.now()
        spent = await asyncio.to_thread(read_spent, self._folder, self._authority.caps, now, epochs=epochs)
        self._cut.difference_update(cut)
        for name in cut[:-1]:
            self._authority.dismiss(name)
        self._authority.reclaim(cut[-1], spent.nusd, self._clock.now())

    def _tell(self, told: list[Told]) -> None:
        """Tell workers what became of their claims."""
        for (slot, number), is_lead in told:
            if slot in self._members:
                self._members[slot].line.say(Claimed(number, is_lead))

    # --- what they ask ----------------------------------------------------------------------------------------------

    def _admit(self, member: _Member, asked: Admit) -> Admitted | Limited:
        try:
            admission = self._limiter.admit_tokens(
                TenantId(asked.tenant), asked.key, asked.tokens, self._clock.monotonic()
            )
        except RateLimited as error:
            return Limited(
                asked.number, str(error), error.kind, error.limit, error.retry_after_s, _as_text(error.headers)
            )
        if admission is None:
            return Admitted(asked.number, ())
        member.admitted[asked.number] = admission
        return Admitted(asked.number, _as_text(admission.headers))

    async def _survey(self, asker: _Member, survey: Survey) -> None:
        """Ask all workers, and tell the one that wants to know; whoever does not answer in time is left out."""
        asked = list(self._members.values())
        answers = await asyncio.gather(*(self._ask(member, survey.topic) for member in asked))
        told = [(member, body) for member, body in zip(asked, answers, strict=True) if body is not None]
        if survey.topic is Topic.FIGURES:
            for member, body in told:
                member.figures = msgspec.json.decode(body, type=Figures)
            self._up.set(sum(member.is_ready for member in self._members.values()))
            parts = [figures_of(self._telemetry.registry), *(member.figures for member, _ in told), self._gone]
            whole = encode(total(parts))
        else:
            whole = encode(self._household(asker.slot, [msgspec.json.decode(b, type=MemberStatus) for _, b in told]))
        asker.line.say(Reply(survey.number, msgspec.Raw(whole)))

    async def _ask(self, member: _Member, topic: Topic) -> msgspec.Raw | None:
        if not member.is_ready:
            return None
        number = next(self._numbers)
        answer = member.waiting[number] = asyncio.get_running_loop().create_future()
        member.line.say(Question(number, topic))
        await asyncio.wait([answer], timeout=_ANSWER_S)
        return answer.result() if answer.done() and not answer.cancelled() else None

    def _household(self, asker: int, workers: list[MemberStatus]) -> Household:
        trouble = self._service.trouble
        errors = [status.ledger.error for status in workers if status.ledger.error]
        return Household(
            ledger=LedgerStatus(
                is_writable=self._standing.is_complete and all(status.ledger.is_writable for status in workers),
                pending=sum(status.ledger.pending for status in workers),
                dropped=sum(status.ledger.dropped for status in workers),
                unfolded_bytes=self._service.unfolded_bytes(),
                torn=self._service.torn,
                duplicates=self._service.duplicates,
                error=str(trouble) if trouble is not None else next(iter(errors), None),
            ),
            pools=pools_together(status.pools for status in workers),
            workers=tuple(workers),
            restarts=self._restarts,
            warnings=self._warnings,
            answering=asker,
        )

    # --- how all are ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look()
            await self._books.look_if_due()

    def _look(self) -> None:
        """Tell the workers how the gateway is, when that has changed."""
        ready = sum(member.is_ready for member in self._members.values())
        damage, trouble = self._service.damage, self._service.trouble
        standing = Standing(
            is_complete=ready == self._policy.server.workers,
            is_folding=self._service.is_alive,
            damage="" if damage is None else str(damage),
            error="" if trouble is None else str(trouble),
        )
        if standing == self._standing:
            return
        self._standing = standing
        for member in self._members.values():
            member.line.say(standing)
        if standing.is_complete and not self._was_complete:
            self._was_complete = True
            for warning in self._warnings:
                _log.warning("policy_warning", extra={"warning": warning})
            note(outcome_of(self._policy), self._folder)
            self._on_ready(self._url)


def _answered(waiting: asyncio.Future[_T] | None, value: _T) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(value)


def _as_text(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode(), value.decode()) for name, value in headers)
