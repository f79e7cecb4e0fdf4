"""What the ledger's tests share: a clock they own, rows with defaults, and a disk that can be filled."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from backends.prices import override_rates
from backends.words import JsonValue, ModelId, Provenance, RequestId, TenantId
from gateway.ledger.journal import OsFiles
from gateway.ledger.rows import ChargeKind, ChargeRow, HoldRow, PoolPrice, RequestRow
from gateway.ledger.seam import EpochInfo

NOON = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
RATES = override_rates({"input": Decimal("0.5"), "output": Decimal(2)})
INFO = EpochInfo(policy_digest="policy-1", pools=(PoolPrice(pool="cpu", usd_per_hour=Decimal("0.36"), replicas=1),))


class OwnClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.at = NOON
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.seconds += seconds


class SmallDisk(OsFiles):
    """Real files on a disk that holds `room` more bytes; what does not fit is written in part, as disks do."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.can_truncate = True

    def write(self, fd: int, line: bytes) -> int:
        if self.room is None:
            return super().write(fd, line)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().write(fd, line[: self.room])
        self.room -= written
        return written

    def truncate(self, fd: int, size: int) -> None:
        if not self.can_truncate:
            raise OSError(errno.EIO, "Input/output error")
        super().truncate(fd, size)


def a_hold(number: int = 1, attempt: int = 0, **changes: JsonValue) -> HoldRow:
    row: dict[str, JsonValue] = {
        "request_id": RequestId(f"req_{number}"),
        "attempt": attempt,
        "tenant": TenantId("support"),
        "key_id": "web",
        "route": "default",
        "model": ModelId("small"),
        "pool": "cpu",
        "upper_bound_nusd": 9_000,
        "input_tokens_estimate": 120,
        "output_tokens_cap": 64,
        "held_at": NOON,
        "rates": RATES,
    }
    return HoldRow(**(row | changes))


def a_charge(number: int = 1, attempt: int = 0, **changes: JsonValue) -> ChargeRow:
    row: dict[str, JsonValue] = {
        "request_id": RequestId(f"req_{number}"),
        "attempt": attempt,
        "kind": ChargeKind.ANSWER,
        "tenant": TenantId("support"),
        "key_id": "web",
        "route": "default",
        "model": ModelId("small"),
        "pool": "cpu",
        "endpoint_label": "cpu-0",
        "input_tokens": 100,
        "cached_input_tokens": 10,
        "cache_write_tokens": 0,
        "output_tokens": 20,
        "reasoning_tokens": 0,
        "input_provenance": Provenance.PROVIDER,
        "output_provenance": Provenance.PROVIDER,
        "rates": RATES,
        "price_digest": "book-1",
        "cost_nusd": 5_000,
        "started_at": NOON,
        "duration_ms": 250.0,
        "finish_reason": "stop",
    }
    return ChargeRow(**(row | changes))


def a_request(number: int = 1, **changes: JsonValue) -> RequestRow:
    row: dict[str, JsonValue] = {
        "request_id": RequestId(f"req_{number}"),
        "client_request_id": None,
        "tenant": TenantId("support"),
        "key_id": "web",
        "surface": "chat/completions",
        "route": "default",
        "model_asked": "auto",
        "path": "small",
        "status": 200,
        "error_code": None,
        "is_stream": False,
        "confidence": 0.93,
        "similarity": None,
        "task": None,
        "plan_reason": None,
        "policy_digest": "policy-1",
        "started_at": NOON,
        "ttft_ms": None,
        "total_ms": 260.0,
        "overhead_ms": 1.5,
        "cost_nusd": 5_000,
        "baseline_model": ModelId("large"),
        "baseline_nusd": 20_000,
        "baseline_low_nusd": 15_000,
        "baseline_high_nusd": 30_000,
        "tags": {"feature": "chat"},
    }
    return RequestRow(**(row | changes))
