"""A killed gateway and a really full disk: what was said to be settled is booked, exactly once."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.report import Books
from tests.ledger.spender import LIMIT_BYTES
from tests.ledger.world import INFO, OwnClock, a_charge, a_hold

ROOT = Path(__file__).parents[2]
LIVES = 20
SPENT, BOUND = a_charge().cost_nusd, a_hold().upper_bound_nusd


def live_and_be_killed(folder: Path, first: int, lines_before: int) -> list[str]:
    """Run a spender, SIGKILL it after it has said so many lines, and return all it said."""
    command = [sys.executable, "-m", "tests.ledger.spender", "for-ever", str(folder), str(first)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as spender:
        assert spender.stdout is not None
        said = [spender.stdout.readline() for _ in range(lines_before)]
        spender.kill()
        said += spender.stdout.readlines()
    return said


@pytest.mark.timeout(180)
def test_every_settlement_survives_twenty_kills_and_every_open_hold_is_estimated(folder: Path, clock: OwnClock):
    chance = random.Random(20261121)  # noqa: S311 - a seed, not a secret
    held: set[str] = set()
    settled: set[str] = set()
    for life in range(LIVES):
        said = live_and_be_killed(folder, life * 1_000_000, chance.randint(1, 400))
        held |= {f"req_{line.split()[1]}" for line in said if line.startswith("held")}
        settled |= {f"req_{line.split()[1]}" for line in said if line.startswith("settled")}

    JournaledLedger.open(folder, clock, INFO).close()

    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        charges = db.execute("SELECT request_id, kind, cost_nusd FROM charges").fetchall()
        unbooked = db.execute("SELECT COUNT(*) FROM charges WHERE request_id NOT IN (SELECT request_id FROM requests)")
        assert unbooked.fetchone() == (0,)
    booked = {request_id: (kind, cost) for request_id, kind, cost in charges}
    assert len(booked) == len(charges)
    assert all(booked[request_id] == ("answer", SPENT) for request_id in settled)
    assert all(booked[request_id] in {("answer", SPENT), ("estimated", BOUND)} for request_id in held - settled)
    assert {kind for kind, _ in booked.values()} == {"answer", "estimated"}
    # One hold and its settlement may be on disk without having been told: the kill came between.
    assert len(booked.keys() - held) <= LIVES
    assert Books(folder).bill().totals.cost_nusd == sum(cost for _, _, cost in charges)


def test_a_full_disk_of_the_kernels_refuses_holds_and_loses_no_settlement(folder: Path):
    command = [sys.executable, "-m", "tests.ledger.spender", "full-disk", str(folder)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=True)

    lines = [line for line in done.stdout.splitlines() if line.startswith(("refused", "pending", "flushed"))]
    refused = int(lines[0].split()[1])
    assert "cannot write" in lines[0]
    assert lines[1:] == [f"pending {int(lines[1].split()[1])}", "flushed True"]
    bill = Books(folder).bill()
    assert LIMIT_BYTES / 2_000 < refused + 1 == bill.totals.attempts
    assert bill.totals.cost_nusd == SPENT * (refused + 1)
