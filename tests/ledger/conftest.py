"""Fixtures of the ledger's tests; what they are made of is in `world`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.ledger.journaled import JournaledLedger
from tests.ledger.world import INFO, OwnClock, SmallDisk


@pytest.fixture
def clock() -> OwnClock:
    return OwnClock()


@pytest.fixture
def disk() -> SmallDisk:
    return SmallDisk()


Opener = Callable[[], JournaledLedger]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def reopen(folder: Path, clock: OwnClock, disk: SmallDisk) -> Iterator[Opener]:
    """Open the same folder again and again; each opening closes the one before."""
    opened: list[JournaledLedger] = []

    def opener() -> JournaledLedger:
        for ledger in opened:
            ledger.close()
        opened.append(JournaledLedger.open(folder, clock, INFO, files=disk, tick_s=0.02))
        return opened[-1]

    yield opener
    disk.room, disk.can_truncate = None, True
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(reopen: Opener) -> JournaledLedger:
    return reopen()
