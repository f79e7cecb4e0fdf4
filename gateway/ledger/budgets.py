"""Budgets' state: who may still spend what, exact to the nano-dollar. Pure: no I/O, no clock of its own.

Rules:
- committed + held + leased ≤ cap at every instant, for every pot of a hard budget and every window. Only an overrun (an
  upstream that ignores its cap, so that an attempt costs more than was held for it) breaks it: it is booked and told.
- A hold belongs to the window in which it was taken, and so does what it is settled with, whenever that happens.
- A reservation is all or nothing: it takes from every pot a request draws from, or from none.
- Windows only move on. A clock that jumps back stays in the window it has reached: a spent budget is not full again.
- Nothing is granted before `rebuild` has said what the ledger already holds: budgets fail closed.
- What is adjusted afterwards (a corrected charge) is outside the cap and reduces what the next window begins with; a
  credit offsets other adjustments and never lifts a window above its cap. A `total` budget takes either at once.

One `BudgetAuthority` a ledger store. Workers beside it spend from leases (`gateway.ledger.leases`): money that counts
as spent here until a worker reports it spent or gives it back. The lease of a worker that died is not given back before
its journal is folded (`reclaim`), since what it bought last is known from there only.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from policies.schema import AtLimit, Dimension
from policies.windows import Per, Window, window_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from zoneinfo import ZoneInfo

PotId: TypeAlias = tuple[str, ...]
"""The budget's name, its tenant ("" when it spans tenants), and one value for each dimension of `each`."""

MOST_POTS: Final = 1_000_000
"""Pots of one budget and tenant in one window (some 250 bytes each); one more is refused, since forgetting one would
let it be spent twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """One budget of the policy, for one tenant or (tenant "") across tenants.

    Attributes:
        each: the dimensions whose every value has a pot of its own, in the order of a `PotId`'s values.
        match: what a request must be to draw from it, but for `tenant`; an end user by its pseudonym.
    """

    name: str
    tenant: str
    cap_nusd: int
    per: Per
    zone: ZoneInfo
    at_limit: AtLimit
    each: tuple[Dimension, ...] = ()
    match: tuple[tuple[Dimension, str], ...] = ()

    @property
    def is_hard(self) -> bool:
        """Tell whether a request that does not fit is kept from spending."""
        return self.at_limit is not AtLimit.WARN

    def window(self, now: datetime) -> Window:
        """Return the window an instant lies in."""
        return window_at(self.per, self.zone, now)

    def counts_as(self, other: Cap) -> bool:
        """Tell whether another cap counts the same requests in the same windows, whatever its amount."""
        return replace(other, cap_nusd=self.cap_nusd, at_limit=self.at_limit) == self


class Pot:
    """One window of one pot. Mutable, and changed by its authority alone; amounts in nano-dollars."""

    __slots__ = ("cap", "cap_nusd", "committed_nusd", "held_nusd", "id", "leased_nusd", "window")

    def __init__(self, pot_id: PotId, cap: Cap, window: Window, committed_nusd: int) -> None:
        self.id = pot_id
        self.cap = cap
        self.cap_nusd = cap.cap_nusd
        self.window = window
        self.committed_nusd = committed_nusd
        self.held_nusd = 0
        self.leased_nusd = 0

    @property
    def left_nusd(self) -> int:
        """What may still be reserved; below 0 after an overrun, or where the cap was lowered."""
        return self.cap_nusd - self.committed_nusd - self.held_nusd - self.leased_nusd


class Purse(Protocol):
    """Where a hold keeps its money: an authority's pot, or a worker's share of one."""

    id: PotId


class Hold:
    """Money reserved in every pot a request draws from, until it is settled or released.

    Attributes:
        warned: the `warn` budgets among them that are over their cap with it.
    """

    __slots__ = ("amount_nusd", "is_open", "pots", "warned")

    def __init__(self, pots: tuple[Purse, ...], amount_nusd: int, warned: tuple[PotId, ...] = ()) -> None:
        self.pots = pots
        self.amount_nusd = amount_nusd
        self.warned = warned
        self.is_open = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing was reserved.

    Attributes:
        pot: whose room was too small; of several, the one that is full again last.
        at_limit: `block` when any budget that refuses blocks, else `degrade`.
        left_nusd: what that pot has left, 0 or more.
        reset_at: when the last of the refusing pots is full again; None: never.
    """

    pot: PotId
    at_limit: AtLimit
    cap_nusd: int
    left_nusd: int
    reset_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a worker was given of one pot, for the rest of its window."""

    pot: PotId
    nusd: int
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Overspent:
    """A pot that has less room than nothing, found when the state was rebuilt."""

    pot: PotId
    cap: Cap
    spent_nusd: int
    reset_at: datetime | None


class BudgetsUnready(Exception):
    """What was spent so far is not known (yet), so nothing may be spent."""


class _Shelf:
    """All pots of one cap in its present window. Rolling over drops them at once; holds keep their own alive.

    While it is not known what was spent (`is_known`) its window is over already: whoever looks has to roll it over,
    which is refused. So the way of a request has nothing more to look at.
    """

    __slots__ = ("cap", "carried", "end", "is_known", "pots", "window")

    def __init__(self, cap: Cap, now: datetime, *, is_known: bool = True) -> None:
        self.cap = cap
        self.window = cap.window(now)
        self.is_known = is_known
        self.end = self.window.end if is_known else now
        self.pots: dict[PotId, Pot] = {}
        self.carried: dict[PotId, int] = {}

    def know(self, now: datetime) -> None:
        self.is_known = True
        self.roll(now)

    def pot(self, pot_id: PotId) -> Pot | None:
        pot = self.pots.get(pot_id)
        if pot is None and len(self.pots) < MOST_POTS:
            pot = self.pots[pot_id] = Pot(pot_id, self.cap, self.window, 0)
        return pot

    def change(self, cap: Cap) -> None:
        """Take another amount or another way at the limit; windows and pots stay."""
        self.cap = cap
        for pot in self.pots.values():
            pot.cap, pot.cap_nusd = cap, cap.cap_nusd

    def roll(self, now: datetime) -> None:
        if not self.is_known:
            raise BudgetsUnready("what a new budget has spent so far is being read from the ledger; try again")
        self.window = self.cap.window(now)
        self.end = self.window.end
        carried, self.carried = self.carried, {}
        self.pots = {pot_id: Pot(pot_id, self.cap, self.window, nusd) for pot_id, nusd in carried.items() if nusd > 0}


class _Share:
    """What one worker has of one window of a pot: `left_nusd` leased, and what it told in all of it."""

    __slots__ = ("left_nusd", "pot", "reported_nusd", "returned_nusd")

    def __init__(self, pot: Pot) -> None:
        self.pot = pot
        self.left_nusd = 0
        self.reported_nusd = 0
        self.returned_nusd = 0


_ShareId: TypeAlias = "tuple[PotId, datetime]"


class BudgetAuthority:
    """Grants holds and leases. Every call is quick, synchronous, and made from one thread.

    Args:
        caps: the budgets of the policy.
        now: the present, aware.

    Attributes:
        overruns, overrun_nusd: attempts that cost more than was held for them, and by how much, since the start.
    """

    def __init__(self, caps: Iterable[Cap], now: datetime) -> None:
        self._shelves = {(cap.name, cap.tenant): _Shelf(cap, now) for cap in caps}
        self._shares: dict[str, dict[_ShareId, _Share]] = {}
        self._former: set[tuple[str, str]] = set()
        self._is_ready = not self._shelves
        self.overruns = 0
        self.overrun_nusd = 0

    @property
    def caps(self) -> tuple[Cap, ...]:
        """Return the budgets."""
        return tuple(shelf.cap for name, shelf in self._shelves.items() if name not in self._former)

    @property
    def is_ready(self) -> bool:
        """Tell whether anything is granted."""
        return self._is_ready

    @property
    def is_reading(self) -> bool:
        """Tell whether a new budget waits for what the ledger says of it (`learn`)."""
        return not all(shelf.is_known for shelf in self._shelves.values())

    def adopt(self, caps: Iterable[Cap], now: datetime) -> tuple[Cap, ...]:
        """Take the budgets of another policy; return the new ones, which grant nothing before `learn`.

        One that went on has the new amount at once; of one that is gone only what runs is still settled.
        """
        wanted = {(cap.name, cap.tenant): cap for cap in caps}
        new: list[Cap] = []
        for name, cap in wanted.items():
            shelf = self._shelves.get(name)
            if shelf is not None and name not in self._former and shelf.is_known and shelf.cap.counts_as(cap):
                shelf.change(cap)
                continue
            self._shelves[name] = _Shelf(cap, now, is_known=False)
            new.append(cap)
        self._former = self._shelves.keys() - wanted.keys()
        return tuple(new)

    def learn(
        self, caps: Iterable[Cap], spent: Mapping[PotId, int], now: datetime, *, carried: Mapping[PotId, int]
    ) -> None:
        """Take what the ledger says of new budgets, open holds included; from now on they grant.

        Args:
            caps: what `adopt` returned.
            spent: as `rebuild` has it.
            now: the present, aware.
            carried: as `rebuild` has it.
        """
        for cap in caps:
            self._shelves[cap.name, cap.tenant].know(now)
        self.rebuild(spent, now, carried=carried)

    def rebuild(
        self, spent: Mapping[PotId, int], now: datetime, *, carried: Mapping[PotId, int] | None = None
    ) -> tuple[Overspent, ...]:
        """Take what the ledger says was spent in the present windows; from now on holds are granted.

        Args:
            spent: nano-dollars by pot, open holds of gateways that are gone included (`gateway.ledger.spent`).
            now: the present, aware.
            carried: what was adjusted in the present windows, for the next ones (`adjust`).

        Returns:
            The pots with nothing left and more spent than their cap; the policy decides about them as about any other.
        """
        for pot_id, nusd in spent.items():
            shelf = self._shelf(pot_id, now)
            shelf.pots[pot_id] = Pot(pot_id, shelf.cap, shelf.window, nusd)
        for pot_id, nusd in (carried or {}).items():
            self.adjust(pot_id, nusd, now)
        self._is_ready = True
        return tuple(
            Overspent(pot=pot.id, cap=pot.cap, spent_nusd=pot.committed_nusd, reset_at=_reset(pot))
            for shelf in self._shelves.values()
            for pot in shelf.pots.values()
            if pot.committed_nusd > pot.cap.cap_nusd
        )

    def reserve(self, pots: Sequence[PotId], amount_nusd: int, now: datetime) -> Hold | Refused:
        """Hold an amount in all of these pots, or in none.

        Raises:
            BudgetsUnready: `rebuild` has not been called yet.
        """
        self._check_ready()
        found: list[Pot] = []
        lacking: list[Pot] = []
        warned: tuple[PotId, ...] = ()
        for pot_id in pots:
            shelf = self._shelves[pot_id[0], pot_id[1]]
            if now >= shelf.end:
                shelf.roll(now)
            pot = shelf.pots.get(pot_id) or shelf.pot(pot_id)
            if pot is None:
                return _too_many(pot_id, shelf)
            found.append(pot)
            if pot.cap_nusd - pot.committed_nusd - pot.held_nusd - pot.leased_nusd < amount_nusd:
                lacking.append(pot)
        if lacking:
            if any(pot.cap.is_hard for pot in lacking):
                return _refused([pot for pot in lacking if pot.cap.is_hard])
            warned = tuple(pot.id for pot in lacking)
        for pot in found:
            pot.held_nusd += amount_nusd
        return Hold(tuple(found), amount_nusd, warned)

    def settle(self, hold: Hold, actual_nusd: int) -> int:
        """Book what an attempt cost and end its hold; return by how much it cost more than was held, else 0.

        A hold that has ended stays ended: settling it again books nothing.
        """
        if not hold.is_open:
            return 0
        hold.is_open = False
        amount = hold.amount_nusd
        for pot in hold.pots:
            assert isinstance(pot, Pot)  # noqa: S101 - a worker's hold is the worker's to settle
            pot.held_nusd -= amount
            pot.committed_nusd += actual_nusd
        return self._note_overrun(actual_nusd - amount) if actual_nusd > amount else 0

    def release(self, hold: Hold) -> None:
        """End a hold whose attempt cost nothing."""
        self.settle(hold, 0)

    def adjust(self, pot_id: PotId, nusd: int, now: datetime) -> None:
        """Note that a window that is over (or running) turned out dearer (above 0) or cheaper (below 0)."""
        shelf = self._shelf(pot_id, now)
        if shelf.window.has_end:
            shelf.carried[pot_id] = shelf.carried.get(pot_id, 0) + nusd
        elif (pot := shelf.pot(pot_id)) is not None:
            pot.committed_nusd = max(0, pot.committed_nusd + nusd)

    def pot(self, pot_id: PotId, now: datetime) -> Pot:
        """Return a pot as it stands, to be read only; one nobody has drawn from is made up and not kept."""
        shelf = self._shelf(pot_id, now)
        return shelf.pots.get(pot_id) or Pot(pot_id, shelf.cap, shelf.window, 0)

    # --- leases ---------------------------------------------------------------------------------------------------

    def lease(self, worker: str, needs: Sequence[tuple[PotId, int]], now: datetime) -> tuple[Lease, ...] | Refused:
        """Give a worker what it needs of several pots, all or nothing, and where there is plenty a little more.

        Args:
            worker: a name that is used for one life of one worker only.
            needs: pot and nano-dollars.
            now: the present, aware.

        Raises:
            BudgetsUnready: `rebuild` has not been called yet.
        """
        self._check_ready()
        found: list[tuple[Pot, int]] = []
        for pot_id, need in needs:
            shelf = self._shelf(pot_id, now)
            pot = shelf.pot(pot_id)
            if pot is None:
                return _too_many(pot_id, shelf)
            found.append((pot, need))
        lacking = [pot for pot, need in found if pot.cap.is_hard and pot.left_nusd < need]
        if lacking:
            return _refused(lacking)
        return tuple(self._give(worker, pot, need) for pot, need in found)

    def report(
        self, worker: str, pot_id: PotId, window_start: datetime, *, spent_nusd: int, returned_nusd: int
    ) -> None:
        """Take a worker's word: so much of its leases was spent and given back, in all; telling it twice is once."""
        share = self._shares.get(worker, {}).get((pot_id, window_start))
        if share is None:
            return
        pot = share.pot
        spent = max(0, spent_nusd - share.reported_nusd)
        returned = max(0, returned_nusd - share.returned_nusd)
        share.reported_nusd += spent
        share.returned_nusd += returned
        pot.committed_nusd += spent
        # Spent beyond the lease is an overrun: committed grows by all of it, the lease falls no lower than nothing.
        used = min(share.left_nusd, spent + returned)
        share.left_nusd -= used
        pot.leased_nusd -= used

    def holders(self, pot_id: PotId, now: datetime) -> tuple[str, ...]:
        """Return the workers with something left of their lease of a pot."""
        key = (pot_id, self._shelf(pot_id, now).window.start)
        return tuple(w for w, shares in self._shares.items() if (s := shares.get(key)) is not None and s.left_nusd > 0)

    def dismiss(self, worker: str) -> None:
        """Forget a worker that ended in order: all it spent is reported, all the rest is given back."""
        for share in self._shares.pop(worker, {}).values():
            share.pot.leased_nusd -= share.left_nusd

    def reclaim(self, worker: str, booked: Mapping[PotId, int], now: datetime) -> None:
        """Take back the leases of a worker that died, after its journal was folded and its open holds were closed.

        Args:
            worker: the dead one.
            booked: what the ledger holds of its charges in the present windows, estimated ones included, by pot.
            now: the present, aware.
        """
        shares = {
            share.pot.id: share for share in self._shares.get(worker, {}).values() if self._is_present(share, now)
        }
        self.dismiss(worker)
        for pot_id, nusd in booked.items():
            share = shares.get(pot_id)
            pot = share.pot if share is not None else self._shelf(pot_id, now).pot(pot_id)
            if pot is not None:
                pot.committed_nusd += max(0, nusd - (share.reported_nusd if share is not None else 0))

    def _give(self, worker: str, pot: Pot, need: int) -> Lease:
        shares = self._shares.setdefault(worker, {})
        share = shares.setdefault((pot.id, pot.window.start), _Share(pot))
        # Bounded: a worker's spare part is at most a sixteenth of what is left, so that no worker starves another.
        spare = max(0, min(pot.left_nusd - need, pot.left_nusd // _SLICES) - share.left_nusd)
        nusd = need + spare
        share.left_nusd += nusd
        pot.leased_nusd += nusd
        return Lease(pot=pot.id, nusd=nusd, window=pot.window)

    def _is_present(self, share: _Share, now: datetime) -> bool:
        return share.pot.window == self._shelf(share.pot.id, now).window

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _shelf(self, pot_id: PotId, now: datetime) -> _Shelf:
        shelf = self._shelves[pot_id[0], pot_id[1]]
        if now >= shelf.end:
            shelf.roll(now)
        return shelf

    def _check_ready(self) -> None:
        if not self._is_ready:
            raise BudgetsUnready("what was spent so far is still being read from the ledger; try again in a moment")

    def _note_overrun(self, more_nusd: int) -> int:
        self.overruns += 1
        self.overrun_nusd += more_nusd
        return more_nusd


_SLICES: Final = 16


def _reset(pot: Pot) -> datetime | None:
    return pot.window.end if pot.window.has_end else None


def _refused(lacking: Sequence[Pot]) -> Refused:
    last = max(lacking, key=lambda pot: pot.window.end)
    is_blocked = any(pot.cap.at_limit is AtLimit.BLOCK for pot in lacking)
    return Refused(
        pot=last.id,
        at_limit=AtLimit.BLOCK if is_blocked else AtLimit.DEGRADE,
        cap_nusd=last.cap.cap_nusd,
        left_nusd=max(0, last.left_nusd),
        reset_at=_reset(last),
    )


def _too_many(pot_id: PotId, shelf: _Shelf) -> Refused:
    reset_at = shelf.window.end if shelf.window.has_end else None
    return Refused(pot=pot_id, at_limit=AtLimit.BLOCK, cap_nusd=shelf.cap.cap_nusd, left_nusd=0, reset_at=reset_at)


class Budgets(Protocol):
    """What the way asks of budgets: the authority itself in one process, leases from it in several."""

    async def reserve(self, pots: Sequence[PotId], amount_nusd: int, now: datetime) -> Hold | Refused:
        """Hold an amount in all of these pots, or in none; cancelled, it holds nothing.

        Raises:
            BudgetsUnready: what was spent so far is not known.
        """
        ...

    def settle(self, hold: Hold, actual_nusd: int) -> int:
        """Book what an attempt cost and end its hold; return by how much it cost more than was held, else 0."""
        ...

    def release(self, hold: Hold) -> None:
        """End a hold whose attempt cost nothing."""
        ...


_READING_S: Final = 5.0
"""How long a request waits for a new budget to be read from the ledger."""
_LOOK_S: Final = 0.01


class LocalBudgets:
    """An authority in this process, as `Budgets`."""

    def __init__(self, authority: BudgetAuthority) -> None:
        self.authority = authority
        self.settle = authority.settle
        self.release = authority.release

    async def reserve(self, pots: Sequence[PotId], amount_nusd: int, now: datetime) -> Hold | Refused:
        """Hold an amount; see `Budgets.reserve`. Never suspends but after a reload, while a new budget is read."""
        try:
            return self.authority.reserve(pots, amount_nusd, now)
        except BudgetsUnready:
            if not self.authority.is_reading:
                raise
        with suppress(TimeoutError):
            async with asyncio.timeout(_READING_S):
                while self.authority.is_reading:  # noqa: ASYNC110 - a matter of a moment, once a reload
                    await asyncio.sleep(_LOOK_S)
        return self.authority.reserve(pots, amount_nusd, now)
