"""A worker: the whole way of a request in a process of its own; `main` is its program."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec
import uvloop
from typing_extensions import override

from backends.clock import SystemClock
from gateway.compose import Opened, Prepared, Purse, epoch_of, open_way, pools_of, prepare, terms_of
from gateway.errors import RateLimited, Stopping
from gateway.leads import Lead
from gateway.ledger.errors import JournalCorrupt, LedgerError
from gateway.ledger.journaled import WorkerLedger
from gateway.ledger.leases import LeasedBudgets, keep_line
from gateway.ledger.pseudonyms import Pseudonyms
from gateway.limits import Admission, Limiter, expected_tokens
from gateway.log import set_up_logging
from gateway.prepare import PolicyUnusable
from gateway.reload import Reloading
from gateway.serve import Server, spare_what_stays
from gateway.settings import environment
from gateway.source import PolicySource
from gateway.spending import caps_of
from gateway.worker import take_short_turns
from gateway.workers.figures import Figures, Household, MemberStatus, figures_of, pools_now
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
    FromSupervisor,
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
    supervisor_says,
)
from policies.errors import PoliciesError

if TYPE_CHECKING:
    from backends.words import Ask, TenantId
    from gateway.pipeline import Gateway
    from policies.schema import Policy

_log = logging.getLogger("faregate")
_T = TypeVar("_T")
_Heard: TypeAlias = Admitted | Limited | Claimed | Reply

_LOOK_S = 0.01
"""How often a worker that starts looks whether it has a line to the budgets."""


class Crew:
    """A worker's line to its supervisor: the rate limits of all workers, and what all of them tell.

    Args:
        line: to the supervisor.
        policy: tells which tenants have limits.
    """

    def __init__(self, line: Line[FromSupervisor], policy: Policy) -> None:
        self.standing = Standing()
        self._line = line
        self._limiter = Limiter(policy)  # only looked at for who has limits
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[_Heard]] = {}
        self._is_alone = False
        self.adopt = self._limiter.adopt

    async def admit(self, tenant: TenantId, key_id: str, ask: Ask, now: float) -> Admission | None:  # noqa: ARG002 - the seam's
        """Let a request in, if all workers together are within the limits; see `Limiter.admit`.

        Raises:
            RateLimited: a limit is reached.
            Stopping: the supervisor is gone.
        """
        if not self._limiter.has_limits(tenant):
            return None
        tokens, number, is_in = expected_tokens(ask), next(self._numbers), False
        try:
            said = await self._ask(number, Admit(number, tenant, key_id, tokens))
            is_in = isinstance(said, Admitted)
        finally:
            if not is_in:  # refused; or the client is gone, and it may be let in yet
                self._line.say(Leave(number, 0))
        if isinstance(said, Limited):
            raise RateLimited(
                said.message,
                kind=said.kind,
                limit=said.limit,
                retry_after_s=said.retry_after_s,
                headers=_as_bytes(said.headers),
            )
        return Admission((), tokens, 0, _as_bytes(said.headers) if isinstance(said, Admitted) else (), number)

    def finish(self, admission: Admission, tokens: int) -> None:
        """End an admitted request; see `Limiter.finish`."""
        self._line.say(Leave(admission.number, tokens))

    async def claim(self, key: bytes) -> Lead | None:
        """Return the lead among all workers' equal requests; see `Leads.claim`.

        Raises:
            Stopping: the supervisor is gone.
        """
        number, is_lead = next(self._numbers), False
        try:
            said = await self._ask(number, Claim(number, key.hex()))
            is_lead = isinstance(said, Claimed) and said.is_lead
        finally:
            if not is_lead:  # the client is gone, or waits no longer; it may be given yet
                self._line.say(LetGo(number, is_stored=False))
        return Lead(lambda is_stored: self._line.say(LetGo(number, is_stored))) if is_lead else None

    async def figures(self) -> Figures:
        """Return what all workers count."""
        return await self._survey(Topic.FIGURES, Figures)

    async def household(self) -> Household:
        """Return how all workers are."""
        return await self._survey(Topic.STATUS, Household)

    async def listen(
        self,
        answer: Callable[[Topic], bytes],
        on_damage: Callable[[JournalCorrupt], None],
        stop: Callable[[int], None],
        change: Callable[[str], None],
        fault: Callable[[str], None],
    ) -> None:
        """Hear the supervisor until it is gone, and then stop at once.

        Args:
            answer: what this worker tells of itself.
            on_damage: told that the store is damaged, so that nothing may be bought.
            stop: as a signal of that number would; twice is at once.
            change: told the text of the policy that is to be answered by from now on.
            fault: told an endpoint on which another worker's requests fail.
        """
        while (said := await self._line.hear()) is not None:
            match said:
                case Admitted() | Limited() | Claimed() | Reply():
                    self._hand_on(said)
                case Standing():
                    self._take(said, on_damage)
                case Question():
                    self._line.say(Answer(said.number, msgspec.Raw(answer(said.topic))))
                case Stop():
                    stop(said.signal)
                case Change():
                    change(said.policy)
                case Fault():
                    fault(said.endpoint)
                case Begin():
                    raise AssertionError("a worker begins once")
        self._be_alone()
        for _ in range(2):
            stop(signal.SIGTERM)

    def _take(self, standing: Standing, on_damage: Callable[[JournalCorrupt], None]) -> None:
        self.standing = standing
        if standing.damage:
            on_damage(JournalCorrupt(standing.damage))

    def _be_alone(self) -> None:
        _log.error("supervisor_gone")
        self._is_alone = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Stopping())

    def _hand_on(self, said: _Heard) -> None:
        waiting = self._waiting.get(said.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(said)

    async def _survey(self, topic: Topic, kind: type[_T]) -> _T:
        number = next(self._numbers)
        said = await self._ask(number, Survey(number, topic))
        return msgspec.json.decode(said.body if isinstance(said, Reply) else b"", type=kind)

    async def _ask(self, number: int, what: Admit | Claim | Survey) -> _Heard:
        if self._is_alone:
            raise Stopping
        answer: asyncio.Future[_Heard] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._line.say(what)
            return await answer
        finally:
            del self._waiting[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # looked at, though its asker may be gone


def main() -> None:
    """Be a worker: everything it needs to know comes over its standard input, a socket."""
    take_short_turns()
    uvloop.run(_live(socket.socket(fileno=os.dup(0))))


async def _live(end: socket.socket) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # until the server listens to them
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal tells all processes; the supervisor reads the policy
    line = await Line.over(end, supervisor_says)
    begin = await line.hear()
    if not isinstance(begin, Begin):
        return
    set_up_logging(level=begin.log_level)
    try:
        await _serve(line, begin)
    except (PolicyUnusable, PoliciesError, LedgerError, OSError) as error:
        line.say(Unfit(str(error)))
    finally:
        await line.aclose()


async def _serve(line: Line[FromSupervisor], begin: Begin) -> None:
    policy = _source(begin).parse(begin.policy)
    clock = SystemClock()
    prepared = prepare(policy, clock)
    ledger = WorkerLedger.open(
        Path(policy.storage.folder),
        clock,
        epoch_of(policy),
        slot=begin.slot,
        writer_id=begin.writer_id,
        terms=terms_of(policy),
    )
    try:
        await _answer(line, begin, policy, prepared, ledger)
    finally:
        ledger.close()


def _source(begin: Begin) -> PolicySource:
    return PolicySource(file=Path(begin.file), host=begin.host, port=begin.port, workers=begin.workers)


async def _change(texts: asyncio.Queue[str], line: Line[FromSupervisor], begin: Begin, reloading: Reloading) -> None:
    """Take the policies that the supervisor tells; runs until cancelled."""
    while True:
        text = await texts.get()
        try:
            await reloading.take(await asyncio.to_thread(_source(begin).parse, text))
        except (PolicyUnusable, PoliciesError, LedgerError) as error:
            line.say(Changed(str(error)))
        else:
            line.say(Changed())


async def _answer(
    line: Line[FromSupervisor], begin: Begin, policy: Policy, prepared: Prepared, ledger: WorkerLedger
) -> None:
    clock = SystemClock()
    known_as = Pseudonyms(Path(policy.storage.folder)).of
    budgets, crew = LeasedBudgets(clock), Crew(line, policy)
    purse = Purse(
        ledger=ledger, budgets=budgets, caps=caps_of(policy, known_as), known_as=known_as, limits=crew, leads=crew
    )
    async with contextlib.AsyncExitStack() as stack:
        address = stack.enter_context(budgets_socket(Path(policy.storage.folder)))
        way = await stack.enter_async_context(
            open_way(policy, prepared, purse, environ=environment(), clock=clock, is_metering=begin.slot == 0)
        )
        opened = replace(way, crew=crew)
        server = _Server(opened, lambda: budgets.is_ready, lambda: line.say(Ready(way.warnings)))

        def answer(topic: Topic) -> bytes:
            present = server.gateway
            return encode(
                figures_of(way.gateway.parts.telemetry.registry)
                if topic is Topic.FIGURES
                else _status(begin, present, ledger)
            )

        texts: asyncio.Queue[str] = asyncio.Queue()
        way.commons.upstreams.on_fault = lambda endpoint: line.say(Fault(endpoint))
        async with asyncio.TaskGroup() as group, Reloading(opened, server) as reloading:

            def digest() -> str:
                return reloading.policy.digest

            beside = [
                group.create_task(keep_line(budgets, address, worker=begin.name, policy_digest=digest)),
                group.create_task(
                    crew.listen(
                        answer,
                        ledger.stop,
                        lambda number: server.handle_exit(number, None),
                        texts.put_nowait,
                        way.commons.upstreams.hear,
                    )
                ),
                group.create_task(_change(texts, line, begin, reloading)),
            ]
            spare_what_stays()
            await server.serve(sockets=[socket.socket(fileno=begin.listening)])
            for task in beside:
                task.cancel()


def _status(begin: Begin, gateway: Gateway, ledger: WorkerLedger) -> MemberStatus:
    return MemberStatus(
        slot=begin.slot,
        pid=os.getpid(),
        is_stopping=gateway.is_stopping,
        ledger=ledger.status(),
        pools=pools_now(pools_of(gateway.parts.catalog)),
    )


class _Server(Server):
    """Takes connections once it can answer them, and says so."""

    def __init__(self, opened: Opened, has_budgets: Callable[[], bool], on_listening: Callable[[], None]) -> None:
        super().__init__(opened)
        self._has_budgets = has_budgets
        self._on_listening = on_listening

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Before: the socket is shared, and whoever takes a connection has to answer.
        while not self._has_budgets() and not self.should_exit:  # noqa: ASYNC110 - the line comes and goes
            await asyncio.sleep(_LOOK_S)
        await super().startup(sockets)
        self._on_listening()


def _as_bytes(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.encode(), value.encode()) for name, value in headers)
