"""Whatever happens in whatever order, every attempt that was held ends exactly once."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journaled import JournaledLedger
from tests.ledger.world import INFO, OwnClock, SmallDisk, a_charge, a_hold, a_request

BOUND = a_hold().upper_bound_nusd


class Spending(RuleBasedStateMachine):
    """Attempts that are held, settled, released, while the disk fills and empties and the gateway is restarted."""

    root: Path

    @initialize()
    def begin(self) -> None:
        self.folder = self.root / str(sum(1 for _ in self.root.iterdir()))
        self.disk = SmallDisk()
        self.clock = OwnClock()
        self.open_holds: set[int] = set()
        self.expected: dict[int, int] = {}
        self.next = 0
        self.ledger = self.opened()

    def opened(self) -> JournaledLedger:
        return JournaledLedger.open(self.folder, self.clock, INFO, files=self.disk, segment_bytes=3_000, tick_s=0.001)

    @rule()
    def hold(self) -> None:
        number = self.next
        self.next += 1
        with suppress(LedgerUnavailable):
            self.ledger.hold(a_hold(number))
            self.open_holds.add(number)

    @precondition(lambda self: self.open_holds)
    @rule(chance=st.data(), cost=st.integers(0, 10_000))
    def settle(self, chance: st.DataObject, cost: int) -> None:
        number = chance.draw(st.sampled_from(sorted(self.open_holds)))
        self.ledger.settle(a_charge(number, cost_nusd=cost))
        self.ledger.settle(a_charge(number, cost_nusd=cost + 1))
        self.ledger.book(a_request(number))
        self.open_holds.remove(number)
        self.expected[number] = cost

    @precondition(lambda self: self.open_holds)
    @rule(chance=st.data())
    def release(self, chance: st.DataObject) -> None:
        number = chance.draw(st.sampled_from(sorted(self.open_holds)))
        self.ledger.release(a_hold(number).request_id, 0)
        self.open_holds.remove(number)

    @rule(room=st.none() | st.integers(0, 1_500))
    def fill(self, room: int | None) -> None:
        self.disk.room = room

    @rule()
    def renew(self) -> None:
        with suppress(LedgerUnavailable):
            self.ledger.renew(INFO)

    @rule()
    def restart(self) -> None:
        self.disk.room = None
        self.ledger.close()
        self.ledger = self.opened()
        self.expected |= dict.fromkeys(self.open_holds, BOUND)
        self.open_holds.clear()

    def teardown(self) -> None:
        self.restart()
        self.ledger.close()
        with closing(sqlite3.connect(self.folder / "ledger.db")) as db:
            charges = db.execute("SELECT CAST(substr(request_id, 5) AS INTEGER), cost_nusd FROM charges").fetchall()
            unbooked = "SELECT COUNT(*) FROM charges WHERE request_id NOT IN (SELECT request_id FROM requests)"
            assert db.execute(unbooked).fetchone() == (0,)
        assert len(charges) == len(self.expected)
        assert dict(charges) == self.expected


@pytest.mark.timeout(120)
def test_every_hold_ends_as_one_charge_or_none(tmp_path: Path):
    class InFolder(Spending):
        root = tmp_path

    run_state_machine_as_test(InFolder, settings=settings(max_examples=20, stateful_step_count=25, deadline=None))
