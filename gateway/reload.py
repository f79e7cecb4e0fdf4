"""A changed policy taken while the gateway runs: `Reloading.take`.

- A policy is taken as a whole or not at all: it is loaded and checked as `faregate check` does, made ready, and then
  answers every request that begins. Requests that run are finished by the policy they began with, which is closed when
  the last of them has ended.
- What a process has only once cannot change: its address, its workers, its storage, its ledger's care. A policy that
  changes one of these is refused, with every such key; the former goes on.
- What goes on: connections, breakers and load of the endpoints that stay, caches, counts of rate limits, budgets'
  spending, audits' verdicts, metrics. A budget that is new is read from the ledger before it grants anything: a request
  that draws from it waits that moment. A budget that counts other requests than before needs another name.
- The ledger begins a new epoch: rows tell the policy their request began with, and pools are billed anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from gateway.compose import epoch_of, open_generation, prepare, show, watch_budgets
from gateway.energy import metered_machines
from gateway.ledger.errors import LedgerError, LedgerUnavailable
from gateway.ledger.spent import Spent, read_spent
from gateway.outcome import OUTCOME_FILE, Outcome
from gateway.prepare import PolicyUnusable
from gateway.spending import caps_of
from policies.errors import PoliciesError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from backends.clock import Clock
    from gateway.compose import Opened, Prepared, Purse
    from gateway.ledger.budgets import BudgetAuthority, Cap
    from gateway.ledger.seam import Ledger
    from gateway.pipeline import Gateway
    from gateway.serve import Server
    from gateway.source import PolicySource
    from gateway.spending import Pseudonym
    from gateway.telemetry import Telemetry
    from policies.schema import Policy

_log = logging.getLogger("faregate")

_FIXED: Final = ("server.host", "server.port", "server.workers")
_FIXED_PARTS: Final = ("storage", "ledger")
_DRAINED_S: Final = 0.2
"""How often is looked whether a former policy's last request has ended."""
_FLUSH_S: Final = 5.0


def check_fixed(before: Policy, after: Policy, pseudonym: Pseudonym) -> None:
    """Refuse a policy that changes what cannot change while the gateway runs.

    Raises:
        PolicyUnusable: with each such key.
    """
    mistakes = []
    for key in _FIXED:
        part, _, name = key.partition(".")
        old, new = getattr(getattr(before, part), name), getattr(getattr(after, part), name)
        if old != new:
            mistakes.append(f"{key} cannot change while the gateway runs (it is {old}, the file says {new})")
    for part in _FIXED_PARTS:
        held, wanted = getattr(before, part), getattr(after, part)
        mistakes += [
            f"{part}.{name} cannot change while the gateway runs"
            for name in type(held).model_fields
            if getattr(held, name) != getattr(wanted, name)
        ]
    if metered_machines(before) != metered_machines(after):
        mistakes.append("the cards (gpus) of the pools' machines cannot change while the gateway runs")
    known = {(cap.name, cap.tenant): cap for cap in caps_of(before, pseudonym)}
    mistakes += dict.fromkeys(
        f'the budget "{cap.name}" cannot count other requests or other windows while the gateway runs; '
        "give it another name"
        for cap in caps_of(after, pseudonym)
        if (former := known.get((cap.name, cap.tenant))) is not None and not former.counts_as(cap)
    )
    if mistakes:
        raise PolicyUnusable([f"{mistake}, or restart it with the new policy" for mistake in mistakes])


async def learn_budgets(
    authority: BudgetAuthority, new: tuple[Cap, ...], folder: Path, clock: Clock, flush: Callable[[], None]
) -> None:
    """Tell an authority what its new budgets (`adopt`) have spent.

    Args:
        authority: of the budgets.
        new: what it does not know of.
        folder: the ledger's.
        clock: the time.
        flush: brings what was booked so far into the store; called in another thread.

    Raises:
        LedgerError: the ledger cannot be read; the new budgets grant nothing until the gateway starts anew.
    """
    if not new:
        return

    def read() -> Spent:
        flush()
        return read_spent(folder, new, clock.now())

    spent = await asyncio.to_thread(read)
    authority.learn(new, spent.nusd, clock.now(), carried=spent.carried)


class Reloading:
    """Lets one server answer by other policies; an async context, within which it takes them.

    Args:
        opened: what it answers by.
        server: the server.
    """

    def __init__(self, opened: Opened, server: Server) -> None:
        self._present = opened
        self._following: Gateway | None = None
        self._server = server
        self._turn = asyncio.Lock()
        self._group = asyncio.TaskGroup()
        self._lives: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for life in self._lives:
            life.cancel()
        await self._group.__aexit__(kind, error, trace)

    @property
    def policy(self) -> Policy:
        """What requests that begin are answered by."""
        return self._present.gateway.parts.policy

    async def take(self, policy: Policy) -> None:
        """Answer by this policy from now on.

        Raises:
            PolicyUnusable: it cannot be served, or changes what cannot change; the former goes on.
            LedgerError: the ledger does not take the change; the former goes on, unless only a new budget is unread.
        """
        async with self._turn:
            purse, commons = self._present.purse, self._present.commons
            check_fixed(self.policy, policy, purse.known_as)
            prepared = await asyncio.to_thread(prepare, policy, commons.clock)
            following = replace(purse, caps=caps_of(policy, purse.known_as), warnings=())
            opened = await self._open(policy, prepared, following)
            try:
                new = self._begin(opened)
            finally:
                self._following = None
            if purse.authority is not None:
                folder, ledger = Path(policy.storage.folder), purse.ledger
                await learn_budgets(purse.authority, new, folder, commons.clock, lambda: _flush(ledger))

    async def _open(self, policy: Policy, prepared: Prepared, purse: Purse) -> Opened:
        is_open: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
        life = self._group.create_task(self._live(policy, prepared, purse, is_open))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return await is_open

    async def _live(self, policy: Policy, prepared: Prepared, purse: Purse, is_open: asyncio.Future[Opened]) -> None:
        """Be one policy's life, until the last request that began with it has ended."""
        try:
            async with open_generation(policy, prepared, purse, self._present.commons) as opened:
                self._following = opened.gateway
                is_open.set_result(opened)
                while self._is_needed(opened.gateway):  # noqa: ASYNC110 - the way of requests tells nobody of its end
                    await asyncio.sleep(_DRAINED_S)
        except (OSError, sqlite3.Error) as error:
            if is_open.done():
                raise
            is_open.set_exception(PolicyUnusable([f"the policy could not be made ready: {error}"]))

    def _is_needed(self, gateway: Gateway) -> bool:
        return gateway in {self._present.gateway, self._following} or not gateway.is_idle

    def _begin(self, opened: Opened) -> tuple[Cap, ...]:
        """Let requests that begin be answered by it; return the budgets whose spending is not known."""
        policy, purse = opened.gateway.parts.policy, opened.purse
        purse.ledger.renew(epoch_of(policy))
        purse.limits.adopt(policy)
        new: tuple[Cap, ...] = ()
        if purse.authority is not None:
            new = purse.authority.adopt(purse.caps, opened.commons.clock.now())
            watch_budgets(opened.commons.telemetry, purse.authority, opened.commons.clock)
        show(opened)
        self._present = replace(opened, crew=self._present.crew, books=self._present.books)
        self._server.adopt(self._present)
        return new


def _flush(ledger: Ledger) -> None:
    if not ledger.flush(_FLUSH_S):
        raise LedgerUnavailable("what was booked before the reload is not in the store yet; reload again")


async def reload_on(hang_ups: HangUps, reloading: Reloading, source: PolicySource, telemetry: Telemetry) -> None:
    """Read the policy file again at every hang-up signal and take what it says; runs until cancelled."""
    folder = Path(reloading.policy.storage.folder)
    while True:
        await hang_ups.next()
        try:
            policy, _ = await asyncio.to_thread(source.read)
            await reloading.take(policy)
        except (PoliciesError, PolicyUnusable, LedgerError) as error:
            tell(outcome_of(reloading.policy, str(error)), folder, telemetry)
        else:
            tell(outcome_of(policy), folder, telemetry)


def outcome_of(policy: Policy, error: str = "") -> Outcome:
    """Return that this process answers by a policy, and why not by the one it was told to take."""
    return Outcome(pid=os.getpid(), number=time.monotonic_ns(), digest=policy.digest, error=error)


class HangUps:
    """SIGHUPs, as something to wait for; several while nobody waits are one."""

    def __init__(self) -> None:
        self._came = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._came.set)

    async def next(self) -> None:
        """Wait for the next one."""
        await self._came.wait()
        self._came.clear()


def tell(outcome: Outcome, folder: Path, telemetry: Telemetry) -> None:
    """Log, count and write down what became of a reload."""
    telemetry.reloaded(is_taken=not outcome.error)
    if outcome.error:
        _log.error("policy_refused", extra={"mistakes": outcome.error.splitlines()})
    else:
        _log.warning("policy_taken", extra={"policy_digest": outcome.digest})
    note(outcome, folder)


def note(outcome: Outcome, folder: Path) -> None:
    """Write down by which policy the gateway answers, and what became of the last one it was told to take."""
    place, fresh = folder / OUTCOME_FILE, folder / f"{OUTCOME_FILE}.new"
    try:
        fresh.write_bytes(msgspec.json.encode(outcome))
        fresh.replace(place)
    except OSError as error:
        _log.warning("outcome_not_noted", extra={"error": str(error)})
