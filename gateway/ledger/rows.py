"""What the ledger keeps: holds, charges, requests and epochs, as the pipeline states them.

Times are timezone-aware; money is nano-dollars; an amount is 0 or more and fits SQLite's 64-bit integer.
They are msgspec structs where the project otherwise has dataclasses: the journal encodes and decodes them on the
request's way. msgspec reads the annotations, so what they name is imported at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NoReturn

import msgspec

from backends.prices import Rates
from backends.words import ModelId, Provenance, RequestId, TenantId
from gateway.ledger.errors import RowInvalid

CRASHED: Final = "crashed"
"""The `error_code` of a request whose gateway died before it was booked."""
CRASHED_STATUS: Final = 499
"""Its status: nobody was there to answer (the code nginx gives to a client that went away)."""

_LARGEST: Final = 2**63 - 1
_ENDLESS: Final = float("inf")
TOKENS: Final = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "image_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_output_tokens",
    "image_output_tokens",
    "web_searches",
)
"""What a charge counts: ten disjoint classes of tokens, and searches."""


class ChargeKind(StrEnum):
    """What became of an attempt that was paid for."""

    ANSWER = "answer"
    REJECTED = "rejected"
    """The judge climbed: the cascade's waste."""
    CANCELLED = "cancelled"
    """The client hung up, or the gateway closed the stream."""
    FAILED = "failed"
    """The upstream broke off after tokens."""
    ESTIMATED = "estimated"
    """The gateway died while the attempt ran: booked at its upper bound."""
    AUDIT = "audit"
    """The baseline, or a judge model, was asked afterwards how good a served answer was."""
    SELF_CHECK = "self_check"
    """A rung's model was asked whether its own answer is right, before it was kept or not."""
    SAMPLE = "sample"
    """A rung's model answered a second time, so that its two answers can be compared."""
    VERIFIER = "verifier"
    """A model was asked whether a stored answer may serve another question."""


class HoldRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Money reserved before an attempt. What a crash would need to book the attempt is on the row.

    Attributes:
        attempt: counts from 0 within the request.
        output_tokens_cap: the most output `upper_bound_nusd` allows for; None: not known.
        tags, session, user_pseudonym: the request's own, so that a crash does not hide whose budget the money is from.
        is_audit: it is for an audit, of a request that was booked before; a crash does not make it an answer.
    """

    request_id: RequestId
    attempt: int
    tenant: TenantId
    route: str
    model: ModelId
    pool: str | None
    upper_bound_nusd: int
    input_tokens_estimate: int
    held_at: datetime
    rates: Rates
    output_tokens_cap: int | None = None
    key_id: str = ""
    endpoint_label: str = ""
    price_digest: str = ""
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    session: str | None = None
    user_pseudonym: str | None = None
    is_audit: bool = False

    def __post_init__(self) -> None:
        # Written out, as in the rows below: on the request's way a call with keywords costs ten comparisons.
        if not (0 <= self.upper_bound_nusd <= _LARGEST and 0 <= self.input_tokens_estimate <= _LARGEST):
            _refuse_amounts(upper_bound_nusd=self.upper_bound_nusd, input_tokens_estimate=self.input_tokens_estimate)
        if self.held_at.tzinfo is None:
            _refuse_naive(self.held_at, "held_at")


class ReleaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a hold whose attempt cost nothing."""

    request_id: RequestId
    attempt: int


class CostProvenance(StrEnum):
    """Where a charge's cost comes from."""

    PRICED = "priced"
    """Token classes x rates."""
    PROVIDER = "provider"
    """The provider stated it."""
    ESTIMATED = "estimated"
    """Of counts or rates that nobody stated for sure: a usage that was missing or contradicted itself, a service tier
    without a price of its own; and an upper bound where the gateway died while the attempt ran."""
    UNKNOWN = "unknown"
    """Nobody can tell: `cost_nusd` is None, never 0."""


class ChargeRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one attempt cost. The token classes are disjoint, as in `words.Usage`.

    Attributes:
        endpoint_label: which replica or provider address answered; it tells replicas of a pool apart.
        price_digest: the price book's; `rates` are the ones used.
        cost_nusd: None exactly when `cost_provenance` is unknown.
        duration_ms: from `started_at` until the upstream was done with.
        stated_cost_nusd: what the provider itself says the attempt cost, whether or not it was taken.
        upstream_response_id: the id of the upstream's answer, to be found on the provider's invoice or in its logs.
        tier: of the price: batch, flex, priority; "" is the standard one.
    """

    request_id: RequestId
    attempt: int
    kind: ChargeKind
    tenant: TenantId
    key_id: str
    route: str
    model: ModelId
    pool: str | None
    endpoint_label: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    input_provenance: Provenance
    output_provenance: Provenance
    rates: Rates
    price_digest: str
    cost_nusd: int | None
    started_at: datetime
    duration_ms: float
    finish_reason: str | None = None
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    web_searches: int = 0
    cost_provenance: CostProvenance = CostProvenance.PRICED
    stated_cost_nusd: int | None = None
    upstream_response_id: str | None = None
    tier: str = ""

    def __post_init__(self) -> None:
        # One comparison for all: the bits of amounts are together what they may be alone, and negative if one is.
        if (
            not 0
            <= (
                (self.cost_nusd or 0)
                | (self.stated_cost_nusd or 0)
                | self.input_tokens
                | self.cached_input_tokens
                | self.cache_write_tokens
                | self.cache_write_1h_tokens
                | self.audio_input_tokens
                | self.image_input_tokens
                | self.output_tokens
                | self.reasoning_tokens
                | self.audio_output_tokens
                | self.image_output_tokens
                | self.web_searches
            )
            <= _LARGEST
        ):
            amounts = {name: getattr(self, name) for name in (*TOKENS, "cost_nusd", "stated_cost_nusd")}
            _refuse_amounts(**{name: amount or 0 for name, amount in amounts.items()})
        if (self.cost_nusd is None) != (self.cost_provenance is CostProvenance.UNKNOWN):
            raise RowInvalid(
                f"cost_nusd is {self.cost_nusd} and its provenance {self.cost_provenance.value}; "
                "an unknown cost is None, and None is an unknown cost"
            )
        if self.started_at.tzinfo is None:
            _refuse_naive(self.started_at, "started_at")
        if not 0 <= self.duration_ms < _ENDLESS:
            raise RowInvalid(f"duration_ms is {self.duration_ms}; it must be a finite number, 0 or more")


class RequestRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One client request, whatever became of it.

    Attributes:
        path: "small", "small>large", "large~backup" (backup stood in for large), "cache:exact", "cache:semantic", or ""
            when nothing was served.
        model_asked: what the client wrote in `model`.
        confidence: the judge's, in [0, 1].
        similarity: of a semantic hit, in [-1, 1].
        cost_nusd: the sum of its charges when it was booked, without those whose cost is unknown.
        unknown_charges: how many those are.
        user_pseudonym: of the end user (see `pseudonyms`); None when the client named none.
        task_id: the agent's task, as the client named it (`task` is what the classifier took the request for).
        decision: why its rungs were chosen and kept or not, as JSON; None where nothing was to be decided.
        baseline_nusd: what the baseline would have cost, with its interval for the unseen output's length.
    """

    request_id: RequestId
    client_request_id: str | None
    tenant: TenantId
    key_id: str
    surface: str
    route: str | None
    model_asked: str
    path: str
    status: int
    error_code: str | None
    is_stream: bool
    confidence: float | None
    similarity: float | None
    task: str | None
    plan_reason: str | None
    policy_digest: str
    started_at: datetime
    ttft_ms: float | None
    total_ms: float
    overhead_ms: float
    cost_nusd: int
    baseline_model: ModelId | None
    baseline_nusd: int
    baseline_low_nusd: int
    baseline_high_nusd: int
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    session: str | None = None
    unknown_charges: int = 0
    user_pseudonym: str | None = None
    task_id: str | None = None
    decision: str | None = None

    def __post_init__(self) -> None:
        if not (
            0 <= self.cost_nusd <= _LARGEST
            and 0 <= self.unknown_charges <= _LARGEST
            and 0 <= self.baseline_low_nusd <= _LARGEST
            and 0 <= self.baseline_nusd <= _LARGEST
            and 0 <= self.baseline_high_nusd <= _LARGEST
        ):
            _refuse_amounts(
                cost_nusd=self.cost_nusd,
                unknown_charges=self.unknown_charges,
                baseline_low_nusd=self.baseline_low_nusd,
                baseline_nusd=self.baseline_nusd,
                baseline_high_nusd=self.baseline_high_nusd,
            )
        if self.started_at.tzinfo is None:
            _refuse_naive(self.started_at, "started_at")


class ReplicaPrice(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica costs while the gateway runs.

    Attributes:
        endpoint: its address, as charges name it.
        is_spot: the cloud may take it back.
        watts: what it draws while it works, on average; None: not stated.
    """

    endpoint: str
    usd_per_hour: Decimal
    is_spot: bool = False
    watts: int | None = None


class PoolPrice(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool costs while the gateway runs: the price of one replica's hour, and how many there are.

    Attributes:
        each: the replicas by name, each at its own price; empty in what was written before they had names.
    """

    pool: str
    usd_per_hour: Decimal
    replicas: int
    each: tuple[ReplicaPrice, ...] = ()


class EnergyRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica's cards drew between two looks at their meters.

    Attributes:
        millijoules: of all its cards together.
    """

    pool: str
    endpoint: str
    since: datetime
    until: datetime
    millijoules: int


class EpochRow(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a writer under one policy: its epochs tell when the pools were up and at which price."""

    writer: str
    epoch: int
    started_at: datetime
    last_seen_at: datetime
    policy_digest: str
    pools: tuple[PoolPrice, ...]


class HeartbeatRow(msgspec.Struct, frozen=True, kw_only=True):
    """The writer was alive."""

    epoch: int
    seen_at: datetime


def _refuse_amounts(**amounts: int) -> NoReturn:
    name, amount = next((name, amount) for name, amount in amounts.items() if not 0 <= amount <= _LARGEST)
    raise RowInvalid(f"{name} is {amount}; it must be between 0 and {_LARGEST}")


def _refuse_naive(moment: datetime, name: str) -> NoReturn:
    raise RowInvalid(f"{name} is {moment.isoformat()} without a time zone; take it from backends.clock")
