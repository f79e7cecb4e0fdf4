"""The law of budgets: committed + held + leased never exceeds a cap, whatever is asked in whatever order."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from gateway.errors import problem_of
from gateway.ledger import budgets
from gateway.ledger.budgets import BudgetAuthority, BudgetsUnready, Cap, Hold, PotId, Refused
from policies.schema import AtLimit, Dimension
from policies.windows import Per, zone_of
from tests.ledger.world import NOON

DAY = timedelta(days=1)
ACME, USERS, EVER = ("daily", "acme"), ("users", "acme"), ("ever", "")


def a_cap(name: str = "daily", tenant: str = "acme", nusd: int = 100, per: Per = Per.DAY, **changes: object) -> Cap:
    fields = {"zone": zone_of("Europe/Berlin"), "at_limit": AtLimit.BLOCK, **changes}
    return Cap(name=name, tenant=tenant, cap_nusd=nusd, per=per, **fields)  # type: ignore[arg-type]


def an_authority(*caps: Cap, spent: dict[PotId, int] | None = None) -> BudgetAuthority:
    authority = BudgetAuthority(caps or (a_cap(),), NOON)
    authority.rebuild(spent or {}, NOON)
    return authority


def held(authority: BudgetAuthority, amount: int, *pots: PotId, now: datetime = NOON) -> Hold:
    hold = authority.reserve(pots or (ACME,), amount, now)
    assert isinstance(hold, Hold)
    return hold


def refused(authority: BudgetAuthority, amount: int, *pots: PotId, now: datetime = NOON) -> Refused:
    refusal = authority.reserve(pots or (ACME,), amount, now)
    assert isinstance(refusal, Refused)
    return refusal


class EveryOrder(RuleBasedStateMachine):
    """Any interleaving of holds, settlements, leases, deaths and midnights over a daily, a per-user and a total pot.

    The model is what a bookkeeper would write: by pot and day, what was committed, held and leased.
    """

    holds = Bundle("holds")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        caps = (
            a_cap(),
            a_cap("users", nusd=40, each=(Dimension.USER,)),
            a_cap("ever", "", nusd=400, per=Per.TOTAL),
            a_cap("soft", nusd=10, at_limit=AtLimit.WARN),
        )
        self.authority = BudgetAuthority(caps, NOON)
        self.committed: dict[tuple[PotId, datetime], int] = {}
        self.worker = 0

    @initialize(spent=st.integers(0, 60))
    def begin(self, spent: int) -> None:
        self.authority.rebuild({ACME: spent, EVER: spent}, self.now)
        for pot in (ACME, EVER):
            self.commit(pot, self.authority.pot(pot, self.now).window.start, spent)

    def commit(self, pot: PotId, start: datetime, nusd: int) -> None:
        self.committed[pot, start] = self.committed.get((pot, start), 0) + nusd

    @rule(target=holds, amount=st.integers(0, 60), user=st.sampled_from("ab"))
    def reserve(self, amount: int, user: str) -> Hold | None:
        pots = (ACME, (*USERS, user), EVER, ("soft", "acme"))
        left = min(self.authority.pot(pot, self.now).left_nusd for pot in pots[:3])
        hold = self.authority.reserve(pots, amount, self.now)
        assert isinstance(hold, Hold) == (amount <= left)
        return hold if isinstance(hold, Hold) else None

    @rule(hold=consumes(holds), share=st.floats(0, 1), again=st.booleans())
    def settle(self, hold: Hold | None, share: float, again: bool) -> None:
        if hold is None:
            return
        actual = round(hold.amount_nusd * share)
        assert self.authority.settle(hold, actual) == 0
        for pot in hold.pots:
            assert isinstance(pot, budgets.Pot)
            self.commit(pot.id, pot.window.start, actual)
        if again:
            assert self.authority.settle(hold, actual + 5) == 0

    @rule(hold=consumes(holds))
    def release(self, hold: Hold | None) -> None:
        if hold is not None:
            self.authority.release(hold)

    @rule(target=leases, amount=st.integers(1, 60))
    def lease(self, amount: int) -> tuple[str, datetime, int] | None:
        self.worker += 1
        given = self.authority.lease(f"w{self.worker}", [(ACME, amount)], self.now)
        if isinstance(given, Refused):
            return None
        return f"w{self.worker}", given[0].window.start, given[0].nusd

    @rule(lease=consumes(leases), share=st.floats(0, 1), end=st.sampled_from(["dismiss", "die", "return"]))
    def end(self, lease: tuple[str, datetime, int] | None, share: float, end: str) -> None:
        if lease is None:
            return
        worker, start, nusd = lease
        spent = round(nusd * share)
        is_present = self.authority.pot(ACME, self.now).window.start == start
        if end == "die":  # nothing was reported; the ledger knows what the present window's charges are
            self.authority.reclaim(worker, {ACME: spent} if is_present else {}, self.now)
            self.commit(ACME, start, spent if is_present else 0)
            return
        self.authority.report(worker, ACME, start, spent_nusd=spent, returned_nusd=nusd - spent)
        self.commit(ACME, start, spent)
        self.authority.dismiss(worker)

    @rule(hours=st.integers(-3, 30))
    def pass_time(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @invariant()
    def nothing_is_over_its_cap_and_nothing_is_lost(self) -> None:
        if not self.authority.is_ready:
            return
        for pot_id in (ACME, (*USERS, "a"), (*USERS, "b"), EVER):
            pot = self.authority.pot(pot_id, self.now)
            assert pot.committed_nusd + pot.held_nusd + pot.leased_nusd <= pot.cap.cap_nusd
            assert min(pot.held_nusd, pot.leased_nusd) >= 0
            assert pot.committed_nusd == self.committed.get((pot_id, pot.window.start), 0)


TestEveryOrder = EveryOrder.TestCase
TestEveryOrder.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_nothing_is_granted_before_the_state_is_rebuilt():
    authority = BudgetAuthority([a_cap()], NOON)
    with pytest.raises(BudgetsUnready) as caught:
        authority.reserve((ACME,), 1, NOON)
    problem = problem_of(caught.value)
    assert (problem.status, problem.code) == (503, "budgets_unavailable")
    with pytest.raises(BudgetsUnready):
        authority.lease("w", [(ACME, 1)], NOON)


def test_a_refusal_says_what_is_left_and_when_it_is_full_again():
    authority = an_authority(spent={ACME: 70})
    refusal = refused(authority, 31)
    assert (refusal.pot, refusal.left_nusd, refusal.cap_nusd) == (ACME, 30, 100)
    assert refusal.reset_at is not None
    assert refusal.reset_at.isoformat() == "2026-11-02T23:00:00+00:00"  # midnight in Berlin
    held(authority, 30)


def test_what_one_pot_refuses_is_held_in_none():
    authority = an_authority(a_cap(), a_cap("ever", "", nusd=10, per=Per.TOTAL))
    refusal = refused(authority, 11, ACME, EVER)
    assert (refusal.pot, refusal.reset_at) == (EVER, None)
    assert authority.pot(ACME, NOON).held_nusd == 0


def test_a_budget_that_blocks_outweighs_one_that_degrades():
    authority = an_authority(a_cap(nusd=1, at_limit=AtLimit.DEGRADE), a_cap("ever", "", nusd=1))
    assert refused(authority, 5, ACME).at_limit is AtLimit.DEGRADE
    assert refused(authority, 5, ACME, EVER).at_limit is AtLimit.BLOCK


def test_a_budget_that_warns_holds_and_says_so():
    authority = an_authority(a_cap(at_limit=AtLimit.WARN))
    assert held(authority, 100).warned == ()
    assert held(authority, 1).warned == (ACME,)


def test_an_overrun_is_booked_and_told():
    authority = an_authority()
    assert authority.settle(held(authority, 40), 90) == 50
    assert (authority.pot(ACME, NOON).committed_nusd, authority.overruns, authority.overrun_nusd) == (90, 1, 50)
    assert refused(authority, 11).left_nusd == 10


def test_a_hold_across_midnight_is_settled_in_the_window_it_was_taken_in():
    authority = an_authority()
    hold = held(authority, 100)
    tomorrow = held(authority, 100, now=NOON + DAY)
    authority.settle(hold, 100)
    assert authority.pot(ACME, NOON + DAY).committed_nusd == 0
    authority.settle(tomorrow, 25)
    assert authority.pot(ACME, NOON + DAY).left_nusd == 75


def test_a_clock_that_jumps_back_does_not_fill_a_spent_budget_again():
    authority = an_authority(spent={ACME: 100})
    authority.settle(held(authority, 60, now=NOON + DAY), 60)
    assert refused(authority, 50, now=NOON).left_nusd == 40


def test_an_adjustment_reduces_the_next_window():
    authority = an_authority(spent={ACME: 100})
    authority.adjust(ACME, 30, NOON)
    assert authority.pot(ACME, NOON).committed_nusd == 100
    assert authority.pot(ACME, NOON + DAY).left_nusd == 70
    assert authority.pot(ACME, NOON + 2 * DAY).left_nusd == 100


def test_a_credit_never_lifts_a_window_above_its_cap():
    authority = an_authority()
    authority.adjust(ACME, -30, NOON)
    assert authority.pot(ACME, NOON + DAY).left_nusd == 100


def test_a_budget_below_what_is_spent_is_found_and_refuses():
    authority = BudgetAuthority([a_cap(nusd=50)], NOON)
    (overspent,) = authority.rebuild({ACME: 70}, NOON)
    assert (overspent.pot, overspent.spent_nusd) == (ACME, 70)
    assert refused(authority, 1).left_nusd == 0


def test_a_dead_workers_unreported_money_is_not_lent_again_before_it_is_known():
    authority = an_authority()
    (lease,) = authority.lease("w1", [(ACME, 90)], NOON)  # type: ignore[misc]  # is granted
    authority.report("w1", ACME, lease.window.start, spent_nusd=20, returned_nusd=0)
    assert refused(authority, 11).left_nusd <= 10
    authority.reclaim("w1", {ACME: 55}, NOON)
    assert authority.pot(ACME, NOON).left_nusd == 45


def test_a_worker_gets_only_a_bounded_part_to_spare():
    authority = an_authority(a_cap(nusd=1600))
    given = [authority.lease("w1", [(ACME, 1)], NOON) for _ in range(5)]
    assert sum(lease[0].nusd for lease in given) <= 5 + 101  # type: ignore[index,union-attr]  # all are granted
