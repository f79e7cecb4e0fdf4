"""Budgets on a request's way: which pots it draws from, its holds, and what becomes of it at a cap.

- What is held is a bound, not a guess: a token for every byte of input (three times what prose needs, given back when
  the attempt is settled) and the output cap, at the dearest rate. Pictures given by address are the exception: nobody
  knows their tokens beforehand; what they cost more is an overrun, booked and told.
- A whole plan is held before its first attempt (every rung's worst case), so that a climb is never stopped half way by
  a budget; what the plan did not need is released the moment an answer is kept.
- Where a `degrade` budget has no room for the plan, the next cheaper rung of the route's ladder that can answer and
  fits does, unjudged (`plan_reason` is `budget_degraded`); such an answer is not stored in the caches. A client that
  pins a catalog model has no cheaper rung: it is refused.
- An attempt whose cost nobody can tell is settled at what was held for it: unknown is never 0.
- Answers from a cache cost nothing and are served at any cap.
- End users are known by pseudonym only, in pots as in the ledger.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from backends.prices import usd
from backends.words import TenantId
from gateway.errors import BudgetExceeded
from gateway.ledger.budgets import Budgets, Cap, Hold, Overspent, PotId, Refused
from policies.schema import DEFAULT_TIMEZONE, AtLimit, Dimension
from policies.windows import Per, zone_of

if TYPE_CHECKING:
    from backends.words import Ask
    from gateway.calls import Call
    from gateway.journey import Caller, Journey
    from gateway.ledger.spent import Spent
    from policies.schema import Budget, Policy

_log = logging.getLogger("faregate")

Pseudonym: TypeAlias = Callable[[TenantId, str], str]
"""From a tenant and its end user, as the client names it, to the pseudonym the ledger knows it by."""

_NUSD: Final = Decimal(10**9)
_MOST_WARNINGS: Final = 10


def digest_pseudonym(tenant: TenantId, user: str) -> str:
    """Return 128 bits of the SHA-256 of tenant and user, in hex."""
    return hashlib.sha256(f"{tenant}\0{user}".encode()).hexdigest()[:32]


def end_user(ask: Ask) -> str | None:
    """Return the end user the client names: `safety_identifier`, else the older `user`; None without either."""
    for name in ("safety_identifier", "user"):
        raw = ask.fields.get(name)
        if raw is not None:
            try:
                value = msgspec.json.decode(raw, type=str)
            except msgspec.MsgspecError:
                continue  # not text: for the upstream to refuse
            if value:
                return value
    return None


def caps_of(policy: Policy, pseudonym: Pseudonym = digest_pseudonym) -> tuple[Cap, ...]:
    """Return every budget of a policy for every tenant it is for; windows go by the budget's zone or the tenant's."""
    zones: dict[str, str] = {tenant.id: tenant.timezone for tenant in policy.tenants}
    caps = [_cap(f"tenant:{t.id}", t.id, t.budget, zones) for t in policy.tenants if t.budget is not None]
    for rule in policy.budgets:
        given = {d: value for d in Dimension if (value := getattr(rule.match, d)) is not None}
        fixed = given.pop(Dimension.TENANT, None)
        each = tuple(d for d in rule.each if d is not Dimension.TENANT)
        is_per_tenant = Dimension.TENANT in rule.each or not _OWN_WORDS.isdisjoint(each) or Dimension.USER in given
        tenants = [str(fixed)] if fixed is not None else list(zones) if is_per_tenant else [""]
        for owner in tenants:
            match = [(d, pseudonym(TenantId(owner), v) if d is Dimension.USER else v) for d, v in given.items()]
            caps.append(_cap(rule.name, owner, rule, zones, each=each, match=tuple(match)))
    return tuple(caps)


_OWN_WORDS: Final = frozenset({Dimension.KEY, Dimension.FEATURE, Dimension.USER, Dimension.SESSION, Dimension.TASK})
"""A tenant's own words: the same word of another tenant means something else."""


def _cap(
    name: str,
    tenant: str,
    budget: Budget,
    zones: Mapping[str, str],
    *,
    each: tuple[Dimension, ...] = (),
    match: tuple[tuple[Dimension, str], ...] = (),
) -> Cap:
    zone = budget.timezone or zones.get(tenant, DEFAULT_TIMEZONE)
    return Cap(
        name=name,
        tenant=tenant,
        cap_nusd=int(budget.usd * _NUSD),
        per=budget.per,
        zone=zone_of(zone),
        at_limit=budget.at_limit,
        each=each,
        match=match,
    )


class Rulebook:
    """Which pots a request draws from.

    Args:
        caps: the policy's budgets.
        pseudonym: what end users are known by.
    """

    def __init__(self, caps: Sequence[Cap], pseudonym: Pseudonym = digest_pseudonym) -> None:
        self._pseudonym = pseudonym
        self._everyones = tuple(cap for cap in caps if not cap.tenant)
        tenants = {cap.tenant for cap in caps if cap.tenant}
        self._caps = {t: tuple(cap for cap in caps if cap.tenant in {"", t}) for t in tenants}
        used = {d for cap in caps for d in (*cap.each, *(d for d, _ in cap.match))}
        self._is_plain = not used
        self._ids = {t: tuple((cap.name, cap.tenant) for cap in own) for t, own in self._caps.items()}

    def user_of(self, caller: Caller, ask: Ask) -> str | None:
        """Return the pseudonym of the end user; None when the client names none."""
        user = end_user(ask)
        return None if user is None else self._pseudonym(caller.tenant, user)

    def pots(self, caller: Caller, route: str, call: Call, user_pseudonym: str | None) -> tuple[PotId, ...]:
        """Return the pots; () when no budget counts the request."""
        caps = self._caps.get(caller.tenant, self._everyones)
        if not caps:
            return ()
        if self._is_plain and caller.tenant in self._ids:
            return self._ids[caller.tenant]
        known: dict[Dimension, str | None] = {
            Dimension.TENANT: caller.tenant,
            Dimension.KEY: caller.key_id,
            Dimension.ROUTE: route,
            Dimension.FEATURE: call.tags.get("feature"),
            Dimension.TASK: call.tags.get("task"),
            Dimension.SESSION: call.session,
            Dimension.USER: user_pseudonym,
        }
        pots: list[PotId] = []
        for cap in caps:
            for dimension, value in cap.match:
                if known[dimension] != value:
                    break
            else:
                values = [known[dimension] for dimension in cap.each]
                if None not in values:
                    pots.append((cap.name, cap.tenant, *values))  # type: ignore[arg-type]  # no None is among them
        return tuple(pots)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEvent:
    """Something a budget did, for metrics and logs: `blocked`, `degraded`, `warned` or `overrun`."""

    budget: str
    event: str
    nusd: int = 0


class Spending:
    """Holds and settles a journey's money against the budgets.

    Args:
        caps: the policy's budgets.
        budgets: where money is held.
        notice: told of every event.
        pseudonym: what end users are known by.
    """

    def __init__(
        self,
        *,
        caps: Sequence[Cap],
        budgets: Budgets,
        notice: Callable[[BudgetEvent], None],
        pseudonym: Pseudonym = digest_pseudonym,
    ) -> None:
        self._rulebook = Rulebook(caps, pseudonym)
        self._caps = {(cap.name, cap.tenant): cap for cap in caps}
        self._budgets = budgets
        self._notice = notice

    def enlist(self, journey: Journey, caller: Caller, ask: Ask, route: str) -> None:
        """Note who the end user is and which pots a request draws from."""
        journey.user_pseudonym = user = self._rulebook.user_of(caller, ask)
        journey.pots = self._rulebook.pots(caller, route, journey.call, user)

    async def reserve(self, journey: Journey, amounts_nusd: Sequence[int]) -> list[Hold] | Refused:
        """Hold the worst cases of a plan's rungs, all or none; what is returned is the caller's to settle or release.

        Raises:
            BudgetsUnready: what was spent so far is not known.
        """
        now = journey.clock.now()
        holds: list[Hold] = []
        is_kept = False
        try:
            for amount in amounts_nusd:
                hold = await self._budgets.reserve(journey.pots, amount, now)
                if isinstance(hold, Refused):
                    return hold
                holds.append(hold)
            is_kept = True
        finally:
            if not is_kept:
                for hold in holds:
                    self._budgets.release(hold)
        for pot in {pot: None for hold in holds for pot in hold.warned}:
            self._warn(journey, pot)
        return holds

    def release(self, hold: Hold) -> None:
        """End a hold whose attempt was not made or cost nothing."""
        self._budgets.release(hold)

    def settle(self, hold: Hold, cost_nusd: int | None) -> None:
        """End a hold with what its attempt cost; None: nobody can tell."""
        over = self._budgets.settle(hold, hold.amount_nusd if cost_nusd is None else cost_nusd)
        if over:
            for pot in hold.pots:
                self._notice(BudgetEvent(budget=pot.id[0], event="overrun", nusd=over))
            _log.warning(
                "budget_overrun", extra={"budgets": [pot.id[0] for pot in hold.pots], "over_usd": str(usd(over))}
            )

    def degraded(self, journey: Journey, refused: Refused) -> None:
        """Note that a cheaper rung answers because a budget has no room for the plan."""
        self._notice(BudgetEvent(budget=refused.pot[0], event="degraded"))
        journey.notices.append(_header("degraded", refused.pot[0], refused.cap_nusd))

    def refusal(self, refused: Refused, amount_nusd: int) -> BudgetExceeded:
        """Return the error that tells a client of a refusal."""
        self._notice(BudgetEvent(budget=refused.pot[0], event="blocked"))
        cap = self._caps[refused.pot[0], refused.pot[1]]
        reset = "" if refused.reset_at is None else refused.reset_at.astimezone(cap.zone).isoformat()
        when = f"it is full again at {reset}" if reset else "it never fills up again; ask the operator to raise it"
        return BudgetExceeded(
            f'the budget "{cap.name}" ({span_of(cap)}) has {_dollars(refused.left_nusd)} left, '
            f"and this request may cost up to {_dollars(amount_nusd)}; {when}, or ask for less with max_tokens",
            reset=reset,
            reset_at=refused.reset_at,
        )

    def _warn(self, journey: Journey, pot: PotId) -> None:
        self._notice(BudgetEvent(budget=pot[0], event="warned"))
        journey.notices.append(_header("warn", pot[0], self._caps[pot[0], pot[1]].cap_nusd))


def overspent_warnings(found: Sequence[Overspent]) -> tuple[str, ...]:
    """Return what an operator should know of budgets that are below what is already spent."""
    texts = [_overspent_text(each) for each in found[:_MOST_WARNINGS]]
    if len(found) > _MOST_WARNINGS:
        texts.append(f"{len(found) - _MOST_WARNINGS} more budgets are below what is already spent")
    return tuple(texts)


def unknown_warnings(spent: Spent) -> tuple[str, ...]:
    """Return what an operator should know of charges that no budget can count."""
    if not spent.unknown_charges:
        return ()
    return (f"{spent.unknown_charges} charges of the budgets' present windows have no known cost and are not counted",)


_ACTS: Final[Mapping[AtLimit, str]] = {
    AtLimit.BLOCK: "its requests are refused (402)",
    AtLimit.DEGRADE: "its requests are refused (402): not even a cheaper rung has room",
    AtLimit.WARN: "its requests are served with a warning",
}


def _overspent_text(each: Overspent) -> str:
    whose = f" ({', '.join(each.pot[2:])})" if len(each.pot) > 2 else ""
    until = f"until {each.reset_at.astimezone(each.cap.zone).isoformat()}" if each.reset_at else "until it is raised"
    return (
        f'the budget "{each.cap.name}"{whose} of {span_of(each.cap)} is below what is already spent, '
        f"{_dollars(each.spent_nusd)}; {_ACTS[each.cap.at_limit]} {until}"
    )


def span_of(cap: Cap) -> str:
    """Return a cap for people: `$5.00 in a month`."""
    return f"{_dollars(cap.cap_nusd)} in {'total' if cap.per is Per.TOTAL else f'a {cap.per}'}"


def _dollars(nusd: int) -> str:
    """Return exact dollars, with cents and no zeros behind them: `$5.00`, `$0.00123`."""
    whole, _, part = f"{usd(nusd):f}".partition(".")
    return f"${whole}.{part.rstrip('0'):0<2}"


def _header(what: str, name: str, cap_nusd: int) -> tuple[bytes, bytes]:
    return (b"x-faregate-budget", f"{what}; budget={name}; cap-usd={_dollars(cap_nusd)[1:]}".encode())
