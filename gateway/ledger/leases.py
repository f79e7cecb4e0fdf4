"""Budgets for several workers: each spends from leases that the one `BudgetAuthority` beside the store grants.

Rules:
- a lease counts as spent at the authority until its worker reports it spent or gives it back: Σ leases + committed is
  never above the cap;
- a worker holds and settles without asking while its lease has room, which is what keeps the request's way fast;
- what it lacks it asks for, all of a request's pots in one question; what others have to spare is called back first;
- a lease ends with its window; what is spare for a while, or called back, is given back;
- a worker that cannot reach the authority grants nothing (`BudgetsUnready`): what it had is void until it is connected
  anew, under a new name. Attempts begun before go on; what they cost is in its journal;
- a worker that is gone without a goodbye keeps its lease at the authority until `BudgetAuthority.reclaim`, which the
  store process calls once that worker's journal is folded (`LeaseServer.on_death` tells of it).

An authority that starts anew beside living workers is rebuilt after the old lines are cut and every journal is folded.
It counts the workers' open holds as spent (at their upper bound) until the window ends: safe, and a little too strict.

The wire is one JSON document a line over a Unix domain socket (msgspec); it is 0600: whoever may open it may spend.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias

import msgspec

from gateway.ledger.budgets import BudgetAuthority, BudgetsUnready, Hold, Lease, PotId, Refused
from policies.schema import AtLimit
from policies.windows import Window

if TYPE_CHECKING:
    from pathlib import Path

    from backends.clock import Clock

_log = logging.getLogger("faregate")

_LINE_BYTES: Final = 2**20
RECALL_S: Final = 0.25
"""How long a question waits for what other workers have to spare."""
ANSWER_S: Final = 2.0
"""How long a worker waits for the authority's answer."""
TICK_S: Final = 0.2
"""How often a worker reports what it spent; the cap does not depend on it."""
_RETRY_S: Final = 0.2
_LOOK_S: Final = 0.01
IDLE_S: Final = 2.0
"""How long a lease lies unused before its spare part is given back."""


# --- what is said ----------------------------------------------------------------------------------------------------


class Need(msgspec.Struct, frozen=True, array_like=True):
    """A pot, and what is lacking for one hold."""

    pot: tuple[str, ...]
    nusd: int


class Given(msgspec.Struct, frozen=True, array_like=True):
    """A part of a pot that is a worker's until the window ends; `is_over`: a `warn` budget is over its cap with it."""

    pot: tuple[str, ...]
    nusd: int
    start: datetime
    end: datetime
    is_over: bool


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """What became of a pot's leases in a window, in all."""

    pot: tuple[str, ...]
    start: datetime
    spent_nusd: int
    returned_nusd: int


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker's first word: a name used for this connection only, and the policy its budgets come from."""

    worker: str
    policy_digest: str


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A worker lacks something for a hold."""

    number: int
    needs: tuple[Need, ...]


class Told(msgspec.Struct, frozen=True, tag=True):
    """A worker tells what it spent and gives back.

    Attributes:
        recall: the number of the recall that this answers.
        former: the name of a line of this worker that was cut: these are its last accounts.
    """

    moved: tuple[Moved, ...]
    recall: int | None = None
    former: str = ""


class Bye(msgspec.Struct, frozen=True, tag=True):
    """A worker ends in order: everything is told."""


class Granted(msgspec.Struct, frozen=True, tag=True):
    """An answer to `Ask`."""

    number: int
    given: tuple[Given, ...]


class Denied(msgspec.Struct, frozen=True, tag=True):
    """The other answer to `Ask`; its fields are those of `Refused`. Without a pot: the authority is not ready."""

    number: int
    pot: tuple[str, ...] = ()
    at_limit: AtLimit = AtLimit.BLOCK
    cap_nusd: int = 0
    left_nusd: int = 0
    reset_at: datetime | None = None


class Recall(msgspec.Struct, frozen=True, tag=True):
    """The authority wants back what is spare of these pots."""

    number: int
    pots: tuple[tuple[str, ...], ...]


class Sorry(msgspec.Struct, frozen=True, tag=True):
    """The authority speaks for another policy; the connection ends."""

    reason: str


FromWorker: TypeAlias = Hello | Ask | Told | Bye
FromAuthority: TypeAlias = Granted | Denied | Recall | Sorry

_NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
_encode: Final = msgspec.json.Encoder().encode
_worker_says: Final = msgspec.json.Decoder(FromWorker)
_authority_says: Final = msgspec.json.Decoder(FromAuthority)


class Channel(Protocol):
    """A worker's line to the authority; `worker` is the name it has there."""

    worker: str

    async def ask(self, needs: Sequence[Need]) -> Granted | Denied:
        """Ask for what is lacking.

        Raises:
            BudgetsUnready: there is no answer.
        """
        ...

    def tell(self, moved: Sequence[Moved], *, recall: int | None = None, former: str = "") -> None:
        """Tell what was spent and given back (`Told`); queued, never waits."""
        ...


# --- a worker's side -------------------------------------------------------------------------------------------------


class _Share:
    """What this worker has of one window of a pot. `leased_nusd`: what is neither spent nor given back, held or free.

    `spent_nusd` and `returned_nusd` are in all, so that telling them again after a lost line counts nothing twice.
    """

    __slots__ = ("held_nusd", "id", "leased_nusd", "returned_nusd", "spent_nusd", "told", "used_at", "window")

    def __init__(self, pot_id: PotId, window: Window) -> None:
        self.id = pot_id
        self.window = window
        self.leased_nusd = 0
        self.held_nusd = 0
        self.spent_nusd = 0
        self.returned_nusd = 0
        self.told = (0, 0)
        self.used_at = 0.0

    @property
    def free_nusd(self) -> int:
        return self.leased_nusd - self.held_nusd


class LeasedBudgets:
    """`Budgets` of one worker, from leases. Without a line to the authority (`attach`) it grants nothing.

    Args:
        clock: when windows end and leases are idle.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._channel: Channel | None = None
        self._shares: dict[PotId, _Share] = {}
        self._ended: list[_Share] = []
        self._resting: dict[PotId, _Share] = {}
        self._rest_until = _NEVER
        self._former: dict[str, list[_Share]] = {}

    def attach(self, channel: Channel) -> None:
        """Take leases over this line from now on."""
        self._channel = channel

    def detach(self) -> None:
        """Grant nothing: the line is cut. What was leased over it is void; what is in flight settles its accounts."""
        if self._channel is None:
            return
        self._former[self._channel.worker] = [*self._shares.values(), *self._ended, *self._resting.values()]
        self._channel, self._shares, self._ended, self._resting = None, {}, [], {}

    async def reserve(self, pots: Sequence[PotId], amount_nusd: int, now: datetime) -> Hold | Refused:
        """Hold an amount in all of these pots, or in none; see `Budgets.reserve`."""
        shares: list[_Share] = []
        for pot in pots:
            share = self._present(pot, now)
            if share is None or share.free_nusd < amount_nusd:
                return await self._reserve_slowly(pots, amount_nusd)
            shares.append(share)
        at = self._clock.monotonic()
        for share in shares:
            share.held_nusd += amount_nusd
            share.used_at = at
        return Hold(tuple(shares), amount_nusd)

    def settle(self, hold: Hold, actual_nusd: int) -> int:
        """Book what an attempt cost and end its hold; see `Budgets.settle`."""
        if not hold.is_open:
            return 0
        hold.is_open = False
        for share in hold.pots:
            assert isinstance(share, _Share)  # noqa: S101 - an authority's hold is the authority's to settle
            share.held_nusd -= hold.amount_nusd
            share.spent_nusd += actual_nusd
            # The authority's share falls no lower than nothing either: what an overrun took beyond it is committed.
            share.leased_nusd = max(0, share.leased_nusd - actual_nusd)
        return max(0, actual_nusd - hold.amount_nusd)

    def release(self, hold: Hold) -> None:
        """End a hold whose attempt cost nothing."""
        self.settle(hold, 0)

    def take_in(self, granted: Granted) -> None:
        """Keep what was granted to somebody who does not wait for it any more."""
        for given in granted.given:
            self._share_of(given).leased_nusd += given.nusd

    def give_back(self, pots: Sequence[PotId], recall: int) -> None:
        """Give back what is spare of these pots: the authority wants it."""
        if self._channel is not None:
            wanted = (share for pot in pots if (share := self._shares.get(pot)) is not None)
            self._channel.tell([_accounts(share, gives_back=True) for share in wanted], recall=recall)

    def tell(self, *, is_last: bool = False) -> None:
        """Tell what was spent, and give back what ended or lies idle; at the end (`is_last`) all that is spare."""
        if self._channel is None:
            return
        now, at = self._clock.now(), self._clock.monotonic()
        for pot in [pot for pot, share in self._shares.items() if now >= share.window.end]:
            self._ended.append(self._shares.pop(pot))
        moved = [_accounts(share, gives_back=True) for share in self._ended]
        moved += [
            _accounts(share, gives_back=is_last or at - share.used_at >= IDLE_S) for share in self._shares.values()
        ]
        fresh = [
            move for share, move in zip((*self._ended, *self._shares.values()), moved, strict=True) if _news(share)
        ]
        self._ended = [share for share in self._ended if share.held_nusd]
        self._rest(now)
        if fresh:
            self._channel.tell(fresh)
        self._settle_former(self._channel)

    def _rest(self, now: datetime) -> None:
        """Lay aside what has nothing left, but not its accounts: they go on should it be lent again."""
        for pot in [pot for pot, share in self._shares.items() if not share.leased_nusd and not share.held_nusd]:
            share = self._resting[pot] = self._shares.pop(pot)
            self._rest_until = min(self._rest_until, share.window.end)
        if now >= self._rest_until:
            self._resting = {pot: share for pot, share in self._resting.items() if now < share.window.end}
            self._rest_until = min((share.window.end for share in self._resting.values()), default=_NEVER)

    @property
    def is_ready(self) -> bool:
        """Tell whether a line stands."""
        return self._channel is not None

    @property
    def held_nusd(self) -> int:
        """What is held in all pots together: 0 when nothing is in flight."""
        former = (share for shares in self._former.values() for share in shares)
        return sum(share.held_nusd for share in (*self._shares.values(), *self._ended, *former))

    def _settle_former(self, channel: Channel) -> None:
        """Tell the last accounts of lines that were cut, once nothing of theirs is in flight."""
        for worker, shares in list(self._former.items()):
            if not any(share.held_nusd for share in shares):
                channel.tell([_accounts(share, gives_back=True) for share in shares], former=worker)
                del self._former[worker]

    async def _reserve_slowly(self, pots: Sequence[PotId], amount_nusd: int) -> Hold | Refused:
        """Hold what there is and ask for the rest; again where meanwhile a window ended or something came in."""
        denied: Denied | None = None
        lacking = 0
        for _ in range(3):
            parts = self._parts(pots, amount_nusd)
            has = {share.id: part for share, part in parts}
            needs = [Need(pot, amount_nusd - has.get(pot, 0)) for pot in pots if has.get(pot, 0) < amount_nusd]
            asked, lacking = lacking, sum(need.nusd for need in needs)
            if self._channel is None or (denied is not None and lacking >= asked):
                break
            answer = await self._ask(self._channel, parts, needs)
            if isinstance(answer, Hold):
                return answer
            denied = answer
        if self._channel is None or denied is None:
            raise BudgetsUnready("the budgets' state cannot be reached at present; try again in a moment")
        return _refused(denied)

    async def _ask(self, channel: Channel, parts: list[tuple[_Share, int]], needs: list[Need]) -> Hold | Denied | None:
        """Hold the parts while the rest is asked for; None: a window ended meanwhile, and nothing is held."""
        _hold(parts)
        is_kept = False
        try:
            answer = await channel.ask(needs) if needs else Granted(0, ())
            if isinstance(answer, Denied):
                if not answer.pot:
                    raise BudgetsUnready("the budgets are still being read from the ledger; try again in a moment")
                return answer
            self.take_in(answer)
            parts += _hold(
                [(self._share_of(given), need.nusd) for given, need in zip(answer.given, needs, strict=True)]
            )
            kept = {share.id: share for share, _ in parts}
            is_kept = all(kept[share.id] is share for share, _ in parts)
            warned = tuple(given.pot for given in answer.given if given.is_over)
            amount_nusd = sum(part for share, part in parts if share is parts[0][0])
            return Hold(tuple(kept.values()), amount_nusd, warned) if is_kept else None
        finally:
            if not is_kept:
                _hold([(share, -part) for share, part in parts])

    def _parts(self, pots: Sequence[PotId], amount_nusd: int) -> list[tuple[_Share, int]]:
        """Return what there is of an amount in this worker's shares of these pots."""
        now = self._clock.now()
        shares = [share for pot in pots if (share := self._present(pot, now)) is not None]
        return [(share, min(amount_nusd, max(0, share.free_nusd))) for share in shares]

    def _present(self, pot: PotId, now: datetime) -> _Share | None:
        share = self._shares.get(pot)
        if share is not None and now >= share.window.end:
            self._ended.append(self._shares.pop(pot))
            return None
        return share

    def _share_of(self, given: Given) -> _Share:
        share = self._shares.get(given.pot)
        if share is None and (share := self._resting.pop(given.pot, None)) is not None:
            self._shares[given.pot] = share
        if share is None or share.window.start != given.start:
            if share is not None:
                self._ended.append(share)
            share = self._shares[given.pot] = _Share(given.pot, Window(given.start, given.end))
        share.used_at = self._clock.monotonic()
        return share


def _hold(parts: list[tuple[_Share, int]]) -> list[tuple[_Share, int]]:
    for share, part in parts:
        share.held_nusd += part
    return parts


def _accounts(share: _Share, *, gives_back: bool) -> Moved:
    returned = max(0, share.free_nusd) if gives_back else 0
    share.leased_nusd -= returned
    share.returned_nusd += returned
    return Moved(share.id, share.window.start, share.spent_nusd, share.returned_nusd)


def _news(share: _Share) -> bool:
    """Tell whether a share's accounts are not what was told of it last, and take them as told."""
    accounts = (share.spent_nusd, share.returned_nusd)
    is_new = accounts != share.told
    share.told = accounts
    return is_new


def _refused(denied: Denied) -> Refused:
    return Refused(
        pot=denied.pot,
        at_limit=denied.at_limit,
        cap_nusd=denied.cap_nusd,
        left_nusd=denied.left_nusd,
        reset_at=denied.reset_at,
    )


class SocketChannel:
    """A worker's line over a Unix domain socket, for one life of it; `run` serves it until it is cut.

    Args:
        budgets: what the line is for.
        path: the authority's socket.
        worker: a name nobody used before.
        policy_digest: of the policy the worker's budgets come from.
    """

    def __init__(self, budgets: LeasedBudgets, path: Path, *, worker: str, policy_digest: str) -> None:
        self.worker = worker
        self._budgets = budgets
        self._path = path
        self._policy_digest = policy_digest
        self._waiting: dict[int, asyncio.Future[Granted | Denied]] = {}
        self._numbers = itertools.count()
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Connect, lend the budgets this line, and serve it; returns when it is cut, and says goodbye when cancelled.

        Raises:
            OSError: the authority cannot be reached.
            BudgetsUnready: it speaks for another policy.
        """
        reader, self._writer = await asyncio.open_unix_connection(self._path, limit=_LINE_BYTES)
        trouble: BudgetsUnready | None = None
        try:
            self._send(Hello(self.worker, self._policy_digest))
            self._budgets.attach(self)
            on_ready()
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(self._tick())
                trouble = await self._read(reader)
                ticking.cancel()
        except asyncio.CancelledError:
            self._budgets.tell(is_last=True)
            if not self._budgets.held_nusd:
                self._send(Bye())
            raise
        finally:
            self._budgets.detach()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(BudgetsUnready("the line to the budgets' authority was cut; try again"))
            self._writer.close()
        if trouble is not None:
            raise trouble

    async def ask(self, needs: Sequence[Need]) -> Granted | Denied:
        """Ask for what is lacking; see `Channel.ask`."""
        number = next(self._numbers)
        answer: asyncio.Future[Granted | Denied] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        is_heard = False
        try:
            self._send(Ask(number, tuple(needs)))
            async with asyncio.timeout(ANSWER_S):
                await answer
            is_heard = True
        except TimeoutError as error:
            raise BudgetsUnready("the budgets' authority does not answer; try again in a moment") from error
        finally:
            del self._waiting[number]
            # Cancelled in the moment between the answer and its hearing: what was granted must not get lost.
            if not is_heard and answer.done() and not answer.cancelled() and answer.exception() is None:
                self._keep(answer.result())
        return answer.result()

    def tell(self, moved: Sequence[Moved], *, recall: int | None = None, former: str = "") -> None:
        """Tell what was spent and given back; see `Channel.tell`."""
        self._send(Told(tuple(moved), recall, former))

    async def _read(self, reader: asyncio.StreamReader) -> BudgetsUnready | None:
        """Hear the authority until the line is cut; return why it turned us away, None when it did not."""
        with suppress(ConnectionError):
            while line := await reader.readline():
                said: FromAuthority = _authority_says.decode(line)
                match said:
                    case Granted() | Denied():
                        waiting = self._waiting.get(said.number)
                        if waiting is not None and not waiting.done():
                            waiting.set_result(said)
                        else:
                            self._keep(said)
                    case Recall():
                        self._budgets.give_back(said.pots, said.number)
                    case Sorry():
                        return BudgetsUnready(said.reason)
        return None

    def _keep(self, said: Granted | Denied) -> None:
        if isinstance(said, Granted):
            self._budgets.take_in(said)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._budgets.tell()

    def _send(self, said: FromWorker) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_encode(said) + b"\n")


async def keep_line(budgets: LeasedBudgets, path: Path, *, worker: str, policy_digest: str | Callable[[], str]) -> None:
    """Keep a worker connected to its authority until cancelled; every line has a name of its own.

    Args:
        budgets: what leases are for; it grants nothing while no line stands.
        path: the authority's socket.
        worker: a name no other worker of the store has, in this life or an earlier one.
        policy_digest: of the policy the worker's budgets come from; a function where it may be reloaded.
    """
    for number in itertools.count():
        digest = policy_digest if isinstance(policy_digest, str) else policy_digest()
        try:
            await SocketChannel(budgets, path, worker=f"{worker}.{number}", policy_digest=digest).run()
        except (OSError, BudgetsUnready) as error:
            _log.warning("lease_line_refused", extra={"error": str(error), "worker": worker})
        await asyncio.sleep(_RETRY_S)


# --- the authority's side ---------------------------------------------------------------------------------------------


class _Line:
    """One worker's connection, as the server sees it."""

    def __init__(self, worker: str, writer: asyncio.StreamWriter) -> None:
        self.worker = worker
        self.writer = writer

    def send(self, said: FromAuthority) -> None:
        if not self.writer.is_closing():
            self.writer.write(_encode(said) + b"\n")


class LeaseServer:
    """Serves an authority's leases on a Unix domain socket; an async context, whose end ends all connections.

    Args:
        authority: what is served, from the loop's thread only.
        clock: the time of windows: this one decides.
        path: the socket; one that is left over is replaced.
        policy_digest: of the policy the authority's caps come from; workers of another one are turned away.
        on_death: told of a worker that went without a goodbye; its journal is to be folded, then `reclaim` called.
    """

    def __init__(
        self,
        authority: BudgetAuthority,
        *,
        clock: Clock,
        path: Path,
        policy_digest: str,
        on_death: Callable[[str], None],
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._path = path
        self._policy_digest = policy_digest
        self._on_death = on_death
        self._lines: dict[str, _Line] = {}
        self._known: set[str] = set()
        self._recalls: dict[int, set[str]] = {}
        self._fruitless: dict[PotId, float] = {}
        self._returned = asyncio.Condition()
        self._numbers = itertools.count()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_LINE_BYTES)
        self._path.chmod(0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            for line in self._lines.values():
                line.writer.close()
            await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    def adopt(self, policy_digest: str) -> None:
        """Turn away workers of any other policy than this from now on; those whose lines stand are told it."""
        self._policy_digest = policy_digest

    @property
    def workers(self) -> frozenset[str]:
        """Return the names of the workers whose lines stand."""
        return frozenset(self._lines)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line: _Line | None = None
        is_orderly = False
        try:
            said = await _hear(reader)
            line = self._welcome(said, writer) if said is not None else None
            if line is not None:
                async with asyncio.TaskGroup() as group:
                    is_orderly = await self._listen(line, reader, group)
        finally:
            writer.close()
            if line is not None:
                del self._lines[line.worker]
                if is_orderly:
                    self._authority.dismiss(line.worker)
                else:
                    self._on_death(line.worker)

    def _welcome(self, said: FromWorker, writer: asyncio.StreamWriter) -> _Line | None:
        """Return the line of a worker's first word, or turn it away."""
        if not isinstance(said, Hello):
            return None
        line = _Line(said.worker, writer)
        if said.policy_digest != self._policy_digest:
            line.send(Sorry(f"the budgets here are of policy {self._policy_digest[:12]}; load the same policy"))
            return None
        if said.worker in self._known:
            line.send(Sorry(f'a worker "{said.worker}" was here before; every connection needs a name of its own'))
            return None
        self._known.add(said.worker)
        self._lines[said.worker] = line
        return line

    async def _listen(self, line: _Line, reader: asyncio.StreamReader, group: asyncio.TaskGroup) -> bool:
        """Hear a worker out; return whether it ended in order."""
        while (said := await _hear(reader)) is not None:
            match said:
                case Ask():
                    # A task: an answer may wait for what this very line still has to tell.
                    group.create_task(self._answer(line, said))
                case Told():
                    await self._take(line, said)
                case Bye():
                    return True
                case Hello():
                    return False
        return False

    async def _answer(self, line: _Line, ask: Ask) -> None:
        try:
            line.send(await self._lease(line.worker, ask))
        except (BudgetsUnready, KeyError):  # KeyError: a pot of no budget here
            line.send(Denied(ask.number))

    async def _lease(self, worker: str, ask: Ask) -> Granted | Denied:
        needs = [(need.pot, need.nusd) for need in ask.needs]
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S / 2):
                while self._authority.is_reading:  # noqa: ASYNC110 - a matter of a moment, once a reload
                    await asyncio.sleep(_LOOK_S)
        leased = self._authority.lease(worker, needs, self._clock.now())
        if isinstance(leased, Refused) and await self._recall(worker, [pot for pot, _ in needs]):
            leased = self._authority.lease(worker, needs, self._clock.now())
            if isinstance(leased, Refused):
                at = self._clock.monotonic()
                self._fruitless = {pot: since for pot, since in self._fruitless.items() if at - since < RECALL_S}
                self._fruitless.update((pot, at) for pot, _ in needs)
        if isinstance(leased, Refused):
            return Denied(
                ask.number,
                pot=leased.pot,
                at_limit=leased.at_limit,
                cap_nusd=leased.cap_nusd,
                left_nusd=leased.left_nusd,
                reset_at=leased.reset_at,
            )
        return Granted(ask.number, tuple(self._given(lease) for lease in leased))

    def _given(self, lease: Lease) -> Given:
        is_over = self._authority.pot(lease.pot, self._clock.now()).left_nusd < 0
        return Given(lease.pot, lease.nusd, lease.window.start, lease.window.end, is_over)

    async def _recall(self, worker: str, pots: Sequence[PotId]) -> bool:
        """Call back what others have to spare, and wait a moment; return whether anybody was asked."""
        now, at = self._clock.now(), self._clock.monotonic()
        # At the cap everybody asks: one call in a while shows whether anybody has something to spare.
        if all(at - self._fruitless.get(pot, -RECALL_S) < RECALL_S for pot in pots):
            return False
        holders = {each for pot in pots for each in self._authority.holders(pot, now)} & self._lines.keys() - {worker}
        if not holders:
            return False
        number = next(self._numbers)
        self._recalls[number] = set(holders)
        for each in holders:
            self._lines[each].send(Recall(number, tuple(pots)))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECALL_S), self._returned:
                    await self._returned.wait_for(lambda: not self._recalls[number] & self._lines.keys())
        finally:
            del self._recalls[number]
        return True

    async def _take(self, line: _Line, told: Told) -> None:
        worker = told.former or line.worker
        for moved in told.moved:
            self._authority.report(
                worker, moved.pot, moved.start, spent_nusd=moved.spent_nusd, returned_nusd=moved.returned_nusd
            )
        if told.former:
            self._authority.dismiss(told.former)
        if told.recall is not None:
            async with self._returned:
                self._recalls.get(told.recall, set()).discard(line.worker)  # nobody may wait for it any more
                self._returned.notify_all()


async def _hear(reader: asyncio.StreamReader) -> FromWorker | None:
    """Return a worker's next word; None when the line is cut, or says what no worker says."""
    try:
        line = await reader.readline()
        said: FromWorker | None = _worker_says.decode(line) if line else None
    except (ConnectionError, ValueError) as error:  # ValueError: no such word, or a line beyond the limit
        _log.warning("lease_line_broken", extra={"error": str(error)})
        return None
    return said
