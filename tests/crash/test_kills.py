"""`kill -9` at any point of the pipeline, under load: what the upstream answered is booked exactly once.

`make test-crash` kills 1,000 times, CI 50 times with a fixed seed.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends.clock import SystemClock
from backends.words import JsonValue
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.seam import EpochInfo
from gateway.ledger.verify import verify
from tests.crash.answering import PROMPT_TOKENS, TOKENS
from tests.served.world import a_policy, write_policy

ROOT = Path(__file__).parents[2]
WHOLE_NUSD = PROMPT_TOKENS * 10_000 + TOKENS * 20_000
"""Of an answer, at the policy's 10 and 20 dollars a million tokens."""


@pytest.fixture
def upstream(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[tuple[int, Path]]:
    """A running upstream: its port, and the file in which it notes what it answers."""
    note = tmp_path / "answered"
    command = [sys.executable, "-m", "tests.crash.answering", str(note), str(pytestconfig.getoption("--kill-seed"))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), note
        finally:
            process.kill()


def noted(file: Path) -> list[str]:
    return [line.split()[1] for line in file.read_text().splitlines()]


def charges_of(folder: Path) -> list[tuple[JsonValue, ...]]:
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        return db.execute("SELECT request_id, attempt, kind, cost_nusd FROM charges").fetchall()


@pytest.mark.crash
@pytest.mark.timeout(3_600)
def test_whatever_moment_the_gateway_is_killed_at_every_answered_attempt_is_booked_once(
    upstream: tuple[int, Path], tmp_path: Path, pytestconfig: pytest.Config
):
    port, answered = upstream
    policy = write_policy(tmp_path, a_policy([f"http://127.0.0.1:{port}/v1"]))
    got, folder = tmp_path / "got", tmp_path / "data"
    kills, seed = pytestconfig.getoption("--kills"), pytestconfig.getoption("--kill-seed")
    command = [sys.executable, "-m", "tests.crash.living", str(policy), str(got), str(kills), str(seed)]

    lived = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    JournaledLedger.open(folder, SystemClock(), EpochInfo(policy_digest="afterwards")).close()

    charges = charges_of(folder)
    times = Counter(request_id for request_id, *_ in charges)
    cost = {request_id: (kind, cost) for request_id, _, kind, cost in charges}
    verdict = verify(folder)
    kinds = Counter(kind for _, _, kind, _ in charges)
    sys.stdout.write(f"{lived.stdout}{json.dumps(kinds)} {verdict.entries} entries, {len(noted(answered))} answered\n")
    assert json.loads(lived.stdout)["serving"] > kills / 3
    assert {request_id: times[request_id] for request_id in noted(answered)} == dict.fromkeys(noted(answered), 1)
    assert [request_id for request_id in noted(got) if cost[request_id] != ("answer", WHOLE_NUSD)] == []
    assert set(kinds) <= {"answer", "cancelled", "estimated"}
    assert kinds["estimated"] > 0
    assert verdict.problems == ()
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        assert db.execute("SELECT COUNT(*) FROM open_holds").fetchone() == (0,)
