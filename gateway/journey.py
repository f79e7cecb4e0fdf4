"""What became of one request so far: the record that its way writes and settlement reads.

A `Journey` and its `Attempt`s are the only mutable values of the way; each belongs to one task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, TypeGuard

import msgspec

from backends.asks import NO_PARAMETERS, Parameters
from backends.clock import Clock
from backends.pool import Pool
from backends.prices import Schedule
from backends.usage import merge_usage
from backends.words import Ask, Capability, Chunk, Event, ModelId, RequestId, Run, TenantId, Usage
from gateway.calls import Call
from gateway.leads import Lead
from gateway.ledger.budgets import Hold, PotId
from gateway.ledger.rows import ChargeKind, ChargeRow, RequestRow
from gateway.limits import Admission
from gateway.repeats import Repeat
from policies.schema import DEFAULT_MAX_OUTPUT_TOKENS, DEFAULT_WEB_SEARCHES, BackendKind, Route, Stated
from router.foresight import Foreseen, Sight
from router.judge import Verdict
from router.strategy import Cached, Plan, Strategy
from router.weighing import AnswerJudge
from semantic_cache.partition import Keys
from semantic_cache.seam import Hit, Lookup, Vector
from semantic_cache.verifier import VerifierCalibration

if TYPE_CHECKING:
    from gateway.content.tape import Tape


class Caller(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who pays: the tenant of the key that was shown."""

    tenant: TenantId
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """A model of the policy, ready to be used.

    Attributes:
        name: the name sent upstream.
        rates: its prices at every moment.
        output_tokens_per_s: its pool's measured speed, for answers that nobody saw the end of; None for providers.
        stated: what becomes of the cost that its provider states.
        equivalents: the models that may answer in its place when it fails, in order.
        context_tokens: what input and output together may reach; None: not known.
        max_output_tokens: the cap for answers under a budget whose client set none.
        most_web_searches: how many searches one of its answers may be billed for.
        searches_unasked: whether it searches without being asked.
        cap_field: the name under which its upstream understands a chat answer's cap.
        parameters: what its requests have beside the client's own fields.
        variant: its name with its parameters: two entries of one name and other parameters answer otherwise.
    """

    id: ModelId
    name: str
    kind: BackendKind
    pool: str | None
    backend: Pool
    rates: Schedule
    capabilities: frozenset[Capability]
    output_tokens_per_s: Decimal | None
    stated: Stated | None = None
    equivalents: tuple[ModelId, ...] = ()
    context_tokens: int | None = None
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    most_web_searches: int = DEFAULT_WEB_SEARCHES
    searches_unasked: bool = False
    cap_field: str = "max_tokens"
    parameters: Parameters = NO_PARAMETERS
    variant: str = ""


class Quote(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an attempt can cost at most.

    Attributes:
        input_tokens: estimated from the request's size.
        output_cap_tokens: the most output of one choice.
        is_cap_sent: whether the upstream is told that cap, because the client set none and a budget counts on it.
        upper_bound_nusd: all choices at the dearest rate that can apply, for the input as estimated, fees included.
        worst_nusd: the same for the most input that its bytes can be: what budgets hold; 0 where none applies.
    """

    input_tokens: int
    output_cap_tokens: int
    is_cap_sent: bool
    upper_bound_nusd: int
    worst_nusd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRatio:
    """How much longer the baseline's answers are than the small rung's: tokens over tokens, as quantiles."""

    low: float = 1.0
    middle: float = 1.0
    high: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A route made ready: who decides, what would answer, and what savings are measured against.

    Attributes:
        answers: what tells its answers apart from another route's in the caches.
        judges: who decides about the answers of rungs below the baseline, by model.
        output_ratios: how much longer the baseline's answers are, by the model below it.
        verifier: what tells how far the word of the cache's verifier goes; None where none is asked.
        acceptance: digest of what lets its semantic hits be served; "" without a semantic cache.
        sight: the artefact that chooses where questions start; None without one.
        refused_artefact: why the route's artefact is not used, so that it runs on its static ladder; None where it is.
    """

    route: Route
    strategy: Strategy
    baseline: ModelId
    baseline_rates: Schedule
    answers: tuple[str, ...]
    judges: Mapping[ModelId, AnswerJudge] = field(default_factory=dict)
    output_ratios: Mapping[ModelId, OutputRatio] = field(default_factory=dict)
    verifier: VerifierCalibration | None = None
    acceptance: str = ""
    sight: Sight | None = None
    refused_artefact: str | None = None

    @property
    def is_audited(self) -> bool:
        """Tell whether answers it bought may be compared with the baseline's."""
        return self.route.quality is not None and self.route.quality.audit is not None


class Attempt(msgspec.Struct, kw_only=True, eq=False):
    """One call to one endpoint of a model. `kind` is None while it is open and stays None when it cost nothing.

    `stands_in_for` is the planned model that failed, when this one is its equivalent; `booked_usage` what was charged;
    `aside`: what it is booked as when it is none of the answers, but made beside one (see `gateway.asides`); `is_late`:
    whether that is made when the request was booked, as audits always are.
    """

    number: int
    model: CatalogModel
    started_at: datetime
    started: float
    asks_logprobs: bool
    quote: Quote
    hold: Hold | None = None
    stands_in_for: ModelId | None = None
    endpoint: str = ""
    usage: Usage | None = None
    seen_tokens: int = 0
    seen_bytes: int = 0
    finish_reason: str | None = None
    response_id: str | None = None
    tier: str | None = None
    kind: ChargeKind | None = None
    ended: float | None = None
    cost_nusd: int = 0
    is_cost_unknown: bool = False
    is_settled: bool = False
    booked_usage: Usage | None = None
    aside: ChargeKind | None = None
    is_late: bool = False

    def note(self, event: Event | Run) -> None:
        """Take what an event says about the attempt's cost and end."""
        if isinstance(event, Run):
            self.seen_tokens += event.token_count
            return
        if event.usage is not None:
            self.usage = merge_usage(self.usage, event.usage)
            self.tier = event.usage.tier or self.tier
        self.tier = event.tier or self.tier
        self.response_id = self.response_id or event.response_id
        self.finish_reason = event.finish_reason or self.finish_reason
        if isinstance(event, Chunk) and event.is_bulk:
            self.seen_bytes += len(event.payload) if event.has_other else len(event.content.encode())
        elif isinstance(event, Chunk):
            # An event without log-probabilities is one token on vLLM and llama.cpp, more on some providers.
            self.seen_tokens += len(event.tokens) or int(bool(event.content) or event.has_other)
        else:
            self.seen_tokens = len(event.tokens)
            # Of ASCII as many as characters: to encode a large answer would need its size once more.
            self.seen_bytes = len(event.content) if event.content.isascii() else len(event.content.encode())

    @property
    def is_audit(self) -> bool:
        """Whether it is made after its request was booked."""
        return self.is_late or self.aside is ChargeKind.AUDIT

    @property
    def has_called_tools(self) -> bool:
        """Whether the answer is a call, which has tokens and no text."""
        return self.finish_reason in {"tool_calls", "function_call"}

    def end(self, kind: ChargeKind | None, now: float) -> None:
        """Say what became of the attempt; only the first word counts."""
        if self.ended is None:
            self.kind = kind
            self.ended = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What judging one answer cost beside money.

    Attributes:
        held_ms: from the upstream's first event until the verdict: what of the answer there was then had to wait.
        asked_ms: how much of that was asking the model again.
        weighed_ms: how much of it was the judge itself, on the event loop.
        dropped_tokens: of an answer that was not kept: generated, paid for, and seen by nobody.
    """

    held_ms: float
    asked_ms: float
    weighed_ms: float
    dropped_tokens: int


def tells(usage: Usage | None) -> TypeGuard[Usage]:
    """Tell whether a report says anything: some upstreams put zeros on every chunk, and no answer costs no tokens."""
    return usage is not None and usage.total_input_tokens + usage.total_output_tokens > 0


class Journey(msgspec.Struct, kw_only=True, eq=False):
    """One request's way.

    Attributes:
        waited_s: time spent waiting for upstreams: what is left of the total is the gateway's own overhead.
        store_s: time spent waiting for a cache's store in a server.
        lead: what makes other processes wait for its answer, until that is on its way into the store.
        max_loss: what the client asked for below the route's own; None: nothing less.
        foreseen: what the route's artefact expects of each rung; None where it was not asked.
        cached_tokens: what models' prompt caches are taken to hold of the prompt.
        verdict: the last judge's.
        verdicts: every judge's, in the ladder's order.
        judgings: what each of them cost, in the same order.
        repeat: the same request, to which a stored answer was served before.
        path_models: the models whose answers arrived, in order; the last one is committed.
        stood_in_for: the planned model in whose place the last of them answers, if it is an equivalent.
        body: the whole answer as JSON, where somebody wants it.
        told: what an answer that a judge read whole says: its text, or its calls as JSON.
        tape: what is sent of a stream, where prompts and answers are stored.
        is_traced: whether a span will be made of it, with its steps.
        pots: the budgets' pots its money is drawn from.
        notices: what budgets and limits tell the client beside the answer, as headers.
        user_pseudonym: of the end user; None when the client named none.
        is_answered: the whole answer was handed over; a client that leaves now leaves with it.
        unwritten: what attempts cost that the ledger has not been told yet.
        row: as it was booked.
    """

    request_id: RequestId
    call: Call
    clock: Clock
    started_at: datetime
    started: float
    caller: Caller | None = None
    ask: Ask | None = None
    lane: Lane | None = None
    repeat: Repeat | None = None
    keys: Keys | None = None
    vector: Vector | None = None
    foreseen: Foreseen | None = None
    lookups: dict[str, Lookup] = msgspec.field(default_factory=dict)
    hit: Hit | None = None
    plan: Plan | None = None
    max_loss: float | None = None
    cached_tokens: Cached = msgspec.field(default_factory=dict)
    admission: Admission | None = None
    pots: tuple[PotId, ...] = ()
    user_pseudonym: str | None = None
    notices: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    verdict: Verdict | None = None
    verdicts: list[tuple[ModelId, Verdict]] = msgspec.field(default_factory=list)
    judgings: list[Judging] = msgspec.field(default_factory=list)
    attempts: list[Attempt] = msgspec.field(default_factory=list)
    path_models: list[ModelId] = msgspec.field(default_factory=list)
    stood_in_for: ModelId | None = None
    status: int = 0
    error_code: str | None = None
    waited_s: float = 0.0
    store_s: float = 0.0
    lead: Lead | None = None
    first_byte: float | None = None
    is_answered: bool = False
    body: bytes | None = None
    told: str | None = None
    tape: Tape | None = None
    is_traced: bool = False
    steps: list[Step] = msgspec.field(default_factory=list)
    unwritten: list[ChargeRow] = msgspec.field(default_factory=list)
    row: RequestRow | None = None

    @property
    def path(self) -> str:
        """`small`, `small>large`, `cache:exact`, `cache:semantic`; "" while nothing was served.

        `large~backup`: large failed, and its equivalent backup answered in its place.
        """
        if self.hit is not None:
            return f"cache:{self.hit.tier}"
        if len(self.path_models) == 1 and self.stood_in_for is None:
            return self.path_models[0]
        models: list[str] = list(self.path_models)
        if models and self.stood_in_for is not None:
            models[-1] = f"{self.stood_in_for}~{models[-1]}"
        return ">".join(models)

    @property
    def wants_body(self) -> bool:
        """Tell whether somebody will want a stream's whole answer: a cache, or an audit."""
        return self.keys is not None or (self.lane is not None and self.lane.is_audited)

    @property
    def served(self) -> Attempt | None:
        """The last attempt at an answer: the one that was sent, if any was."""
        for attempt in reversed(self.attempts):
            if attempt.aside is None:
                return attempt
        return None

    @property
    def elapsed_s(self) -> float:
        """Time since the request was received."""
        return self.clock.monotonic() - self.started

    @property
    def overhead_ms(self) -> float:
        """The gateway's own share of the time so far."""
        return max(0.0, self.elapsed_s - self.waited_s) * 1e3

    def step(self, name: str) -> Step | Untimed:
        """Note a step's time, as a context manager; nothing is noted when no span will be made of it."""
        return Step(self, name) if self.is_traced else UNTIMED

    def passed(self, name: str, since: float) -> float:
        """Note a step of a traced request that began at `since`, monotonic seconds, and ends now; return that."""
        now = self.clock.monotonic()
        step = Step(self, name)
        step.end()
        step.start_ns = step.end_ns - int((now - since) * 1e9)
        return now

    def waited(self, since: float, step: str = "", subject: str = "") -> None:
        """Note that the time from `since`, monotonic seconds, until now was an upstream's, and the step it was."""
        self.waited_s += self.clock.monotonic() - since
        if step and self.is_traced:
            self.passed(step + subject, since)

    def waiting(self) -> Waiting:
        """Note that the time until the end of the block is an upstream's."""
        return Waiting(self)


class Untimed:
    """A block of which nothing is noted."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


UNTIMED = Untimed()


class Step:
    """One step of the way, for the trace: wall times in nanoseconds since 1970, known when its block has ended."""

    __slots__ = ("_journey", "end_ns", "name", "start_ns")

    def __init__(self, journey: Journey, name: str) -> None:
        self._journey = journey
        self.name = name
        self.start_ns = self.end_ns = 0

    def __enter__(self) -> None:
        """Begin."""
        self.start_ns = self._now_ns()

    def __exit__(self, *_: object) -> None:
        """End."""
        self.end()

    def end(self) -> None:
        """End, and be one of the journey's steps."""
        self.end_ns = self._now_ns()
        self._journey.steps.append(self)

    def _now_ns(self) -> int:
        # From two clocks: steps may not go backwards when the wall clock is set.
        return int(self._journey.started_at.timestamp() * 1e9) + int(self._journey.elapsed_s * 1e9)


class Waiting:
    """A block whose time is an upstream's."""

    __slots__ = ("_begun", "_journey")

    def __init__(self, journey: Journey) -> None:
        self._journey = journey

    def __enter__(self) -> None:
        """Begin."""
        self._begun = self._journey.clock.monotonic()

    def __exit__(self, *_: object) -> None:
        """End."""
        self._journey.waited_s += self._journey.clock.monotonic() - self._begun
