"""What booking costs on a request's way: CPU microseconds of hold + settle + request row, per attempt.

    python load_tests/ledger_cost.py [--attempts N] [--folder DIR] [--json]

The caller's thread is measured (`thread_time`); folding is stated on its own, in transactions as large as those of the
process that folds for a served gateway. Rounds are short and their
median is told, so that a neighbour on the machine does not decide the figure.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from backends.clock import SystemClock
from backends.prices import override_rates
from backends.words import ModelId, Provenance, RequestId, TenantId
from gateway.ledger.journal import JOURNAL_FOLDER
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.rows import ChargeKind, ChargeRow, HoldRow, RequestRow
from gateway.ledger.seam import EpochInfo
from gateway.ledger.service import FoldService
from gateway.ledger.storing import CHUNK_BYTES

ROUND = 500
RATES = override_rates({"input": Decimal("0.25"), "output": Decimal(2), "cached_input": Decimal("0.025")})
DIGEST = "5f" * 32
NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


def attempt(ledger: JournaledLedger, number: int) -> None:
    """Book one request of one attempt, as `settlement.Cashier` does."""
    request_id = RequestId(f"req-{number:032x}")
    ledger.hold(
        HoldRow(
            request_id=request_id,
            attempt=0,
            tenant=TenantId("support"),
            key_id="key-0123456789abcdef",
            route="support",
            model=ModelId("large"),
            pool=None,
            upper_bound_nusd=8_192_000,
            input_tokens_estimate=120,
            output_tokens_cap=4_096,
            held_at=NOW,
            rates=RATES,
            price_digest=DIGEST,
        )
    )
    charge = ChargeRow(
        request_id=request_id,
        attempt=0,
        kind=ChargeKind.ANSWER,
        tenant=TenantId("support"),
        key_id="key-0123456789abcdef",
        route="support",
        model=ModelId("large"),
        pool=None,
        endpoint_label="api.example.test",
        input_tokens=100,
        cached_input_tokens=20,
        cache_write_tokens=0,
        output_tokens=200,
        reasoning_tokens=0,
        input_provenance=Provenance.PROVIDER,
        output_provenance=Provenance.PROVIDER,
        rates=RATES,
        price_digest=DIGEST,
        cost_nusd=425_500,
        started_at=NOW,
        duration_ms=812.25,
        finish_reason="stop",
    )
    ledger.book(
        RequestRow(
            request_id=request_id,
            client_request_id=None,
            tenant=TenantId("support"),
            key_id="key-0123456789abcdef",
            surface="chat/completions",
            route="support",
            model_asked="auto",
            path="large",
            status=200,
            error_code=None,
            is_stream=False,
            confidence=None,
            similarity=None,
            task=None,
            plan_reason="only",
            policy_digest=DIGEST,
            started_at=NOW,
            ttft_ms=None,
            total_ms=815.5,
            overhead_ms=0.75,
            cost_nusd=425_500,
            baseline_model=ModelId("large"),
            baseline_nusd=425_500,
            baseline_low_nusd=425_500,
            baseline_high_nusd=425_500,
            tags={"feature": "chat"},
        ),
        [charge],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="Where the ledger is made; default: a temporary folder.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        # The tick is longer than a round, so that rounds without folding are measured; the fold then has its own line.
        ledger = JournaledLedger.open(
            Path(place) / "ledger", SystemClock(), EpochInfo(policy_digest=DIGEST), tick_s=3_600
        )
        rounds = []
        for start in range(0, options.attempts, ROUND):
            begun = time.thread_time_ns()
            for number in range(start, start + ROUND):
                attempt(ledger, number)
            rounds.append((time.thread_time_ns() - begun) / ROUND / 1e3)
        folded = Path(place) / "folded"
        shutil.copytree(Path(place) / "ledger" / JOURNAL_FOLDER, folded / JOURNAL_FOLDER)
        begun = time.process_time_ns()
        FoldService.open(folded, SystemClock(), chunk_bytes=CHUNK_BYTES).close()
        fold_us = (time.process_time_ns() - begun) / options.attempts / 1e3
        ledger.close()
    found = {
        "attempts": options.attempts,
        "caller_us_median": round(statistics.median(rounds), 2),
        "caller_us_best": round(min(rounds), 2),
        "fold_us": round(fold_us, 2),
    }
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"hold + settle + request row: {found['caller_us_median']} µs of the caller's CPU (best round: "
        f"{found['caller_us_best']})"
    )
    print(f"folding them into the store: {found['fold_us']} µs")


if __name__ == "__main__":
    main()
