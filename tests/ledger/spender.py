"""A gateway that only spends: run as a program, killed or starved of disk by the tests.

It says on standard output what it has done, one line per call that returned: `held N`, `settled N`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from backends.clock import SystemClock
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.store_process import StoreProcess
from gateway.settings import environment
from tests.ledger.world import INFO, a_charge, a_hold, a_request

LIMIT_BYTES = 200_000


def spend_for_ever(folder: Path, first: int) -> None:
    """Hold, settle and book until killed; every third attempt stays open while the next ones run."""
    ledger = JournaledLedger.open(folder, SystemClock(), INFO, segment_bytes=20_000, tick_s=0.001)
    number = first
    while True:
        ledger.hold(a_hold(number))
        say(f"held {number}")
        settled = number - 2 if number % 3 == 0 and number - 2 >= first else number
        if number % 3 != 1:
            ledger.settle(a_charge(settled))
            say(f"settled {settled}")
            ledger.book(a_request(settled))
        number += 1


def spend_on_a_full_disk(folder: Path) -> None:
    """Spend until a hold is refused because files may not grow, then lift the limit and flush."""
    ledger = JournaledLedger.open(folder, SystemClock(), INFO, tick_s=0.01)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, most))
    number = 0
    try:
        while True:
            ledger.hold(a_hold(number))
            ledger.settle(a_charge(number))
            number += 1
    except LedgerUnavailable as error:
        say(f"refused {number} {error}")
    ledger.settle(a_charge(number))
    say(f"pending {ledger.status().pending}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    say(f"flushed {ledger.flush(20)}")
    ledger.hold(a_hold(number + 1))
    ledger.release(a_hold(number + 1).request_id, 0)
    ledger.close()


def hold_beside_a_store_process(folder: Path) -> None:
    """Hold once and wait to be killed, while a process of its own folds."""
    store = StoreProcess.hatched(environment())
    ledger = JournaledLedger.open(folder, SystemClock(), INFO, store=store)
    ledger.hold(a_hold(1))
    say("held 1")
    signal.pause()


def say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    if sys.argv[1] == "beside":
        hold_beside_a_store_process(Path(sys.argv[2]))
    if sys.argv[1] == "for-ever":
        spend_for_ever(Path(sys.argv[2]), int(sys.argv[3]))
    spend_on_a_full_disk(Path(sys.argv[2]))
