"""The policy as typed, frozen values: what each key of the YAML means, its bounds and its default.

- Unknown keys are errors; a key whose value is empty (`null`) counts as absent.
- Money is `Decimal` dollars, durations are `timedelta`, sizes are bytes. No float ever holds money.
- What spans two parts (a route names a model) is checked in `policies.checks`, what a file says in `policies.loader`.
- A relative `storage.folder` starts at the working directory: the shipped policies live where nothing may be written.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    StringConstraints,
)

from backends.sse import EVENT_LIMIT_BYTES
from backends.words import Capability, JsonValue, ModelId, TenantId
from policies.money import (
    DEFAULT_LEDGER_BUFFER_BYTES,
    AtLimit,
    Budget,
    BudgetMatch,
    BudgetRule,
    Dimension,
    Durability,
    Ledger,
    OnFailure,
    Pool,
    Price,
    Prices,
    PriceTier,
    RevenueRule,
    Stated,
    Throughput,
    TokenPrices,
)
from policies.signals import Signal
from policies.values import (
    BudgetUsd,
    CacheAddress,
    CalibrationName,
    Duration,
    ModelName,
    Name,
    OutputTokens,
    Part,
    Seconds,
    Secret,
    Share,
    Size,
    TenantName,
    Url,
    VectorsAddress,
    ZoneName,
    canonical,
    frozen,
)

# What `policies.money` says is imported from here, too; other public names need no line.
__all__ = (
    "DEFAULT_LEDGER_BUFFER_BYTES",
    "AtLimit",
    "Budget",
    "BudgetMatch",
    "BudgetRule",
    "Dimension",
    "Durability",
    "Ledger",
    "OnFailure",
    "Policy",
    "Pool",
    "Price",
    "PriceTier",
    "Prices",
    "RevenueRule",
    "Stated",
    "Throughput",
    "TokenPrices",
)

# --- the defaults, all of them -----------------------------------------------------------------------------------

DEFAULT_OPENAI_URL: Final = "https://api.openai.com/v1"
DEFAULT_OPENAI_PROVIDER: Final = "openai"
DEFAULT_CONTEXT_TOKENS: Final = 32_768
DEFAULT_CONFIDENCE: Final = 0.95
DEFAULT_HOLDBACK_TOKENS: Final = 32
DEFAULT_HOLDBACK_MS: Final = 1_500
DEFAULT_AUDIT_SHARE: Final = 0.02
DEFAULT_AUDIT_USD_PER_DAY: Final = Decimal("1.00")
DEFAULT_AGREEMENT: Final = 0.85
DEFAULT_LEAST_GAIN: Final = 0.1
DEFAULT_EXACT_TTL: Final = timedelta(hours=24)
DEFAULT_SEMANTIC_TTL: Final = timedelta(hours=1)
DEFAULT_SEMANTIC_MAX_ERROR: Final = 0.01  # the smallest that the shipped calibration can keep
DEFAULT_VERIFIER_TIMEOUT_MS: Final = 2_000  # longer than a question takes where a request waits for one
DEFAULT_VERIFIER_USD_PER_DAY: Final = Decimal("1.00")
DEFAULT_MAX_TEMPERATURE: Final = 0.0  # an answer that was meant to vary is not one to repeat
DEFAULT_SEMANTIC_CHARACTERS: Final = 2_000
DEFAULT_STORE_REFUSALS: Final = False  # another try may do better, and a stored refusal is repeated for a day
DEFAULT_FLIGHT_WAIT_S: Final = 60.0  # as long as an upstream may take to begin
DEFAULT_CONNECT_S: Final = 5.0
DEFAULT_FIRST_BYTE_S: Final = 60.0
DEFAULT_IDLE_S: Final = 30.0
DEFAULT_TOTAL_S: Final = 600.0
DEFAULT_RETRIES: Final = 2
DEFAULT_RETRY_SHARE: Final = 0.2  # Finagle's, and Envoy's
DEFAULT_RETRIES_PER_S: Final = 1.0
DEFAULT_RETRY_WAIT_S: Final = 2.0  # above it the client, which knows its own patience, had better wait itself
DEFAULT_REQUEST_S: Final = 60.0
DEFAULT_NOTICE_S: Final = 1.0
MOST_WORKERS: Final = 64
DEFAULT_GRACE_S: Final = 20.0  # most answers are done by then; Kubernetes kills at 30
DEFAULT_MAX_BODY_BYTES: Final = 20_000_000
DEFAULT_MAX_HEAD_BYTES: Final = 64 * 2**10  # nginx takes 32 kB, Node 16 kB
DEFAULT_MAX_ANSWER_BYTES: Final = 100 * 2**20  # the largest real ones, batches of embeddings, are a tenth of it
DEFAULT_MAX_BUFFERED_BYTES: Final = 1_000_000_000
DEFAULT_MAX_IN_FLIGHT: Final = 512
DEFAULT_FOLDER: Final = Path("faregate-data")
DEFAULT_CACHE_ENTRIES: Final = 50_000
DEFAULT_CACHE_DEADLINE_MS: Final = 20  # a cache that is slower than that is no help
DEFAULT_CACHE_BYTES: Final = 512_000_000
DEFAULT_HOST: Final = "127.0.0.1"  # reachable from this machine only, until the operator says otherwise
DEFAULT_PORT: Final = 4_000
DEFAULT_CORS_AGE_S: Final = 600  # Chrome remembers no longer than two hours
DEFAULT_TENANT: Final = TenantId("default")
DEFAULT_TIMEZONE: Final = "UTC"
DEFAULT_WEB_SEARCHES: Final = 10  # twice what providers' own examples cap theirs at
RESEARCH_WEB_SEARCHES: Final = 100  # Perplexity's and OpenAI's research models run some 30
DEFAULT_MAX_OUTPUT_TOKENS: Final = 4_096  # no model of the price list answers more unless it is asked to

AUTO: Final = "auto"
"""The model a client asks for when the policy shall choose; no route or model may take the name."""


class BackendKind(StrEnum):
    """Which server answers. All speak the OpenAI protocol; they differ in what is assumed of them unasked."""

    VLLM = "vllm"
    LLAMACPP = "llamacpp"
    OPENAI = "openai"


DEFAULT_CAPABILITIES: Final[Mapping[BackendKind, frozenset[Capability]]] = MappingProxyType(
    {
        # Neither server calls tools unless it is started with its own flag for it, so tools are not assumed.
        BackendKind.VLLM: frozenset(
            {Capability.CHAT, Capability.COMPLETIONS, Capability.JSON_SCHEMA, Capability.LOGPROBS}
        ),
        BackendKind.LLAMACPP: frozenset(
            {Capability.CHAT, Capability.COMPLETIONS, Capability.JSON_SCHEMA, Capability.LOGPROBS}
        ),
        # Reasoning models refuse log-probabilities and the legacy surface, so neither is assumed.
        BackendKind.OPENAI: frozenset({Capability.CHAT, Capability.TOOLS, Capability.JSON_SCHEMA}),
    }
)

# --- the parts ---------------------------------------------------------------------------------------------------


def _default_capabilities(fields: Mapping[str, JsonValue]) -> frozenset[Capability]:
    return DEFAULT_CAPABILITIES[fields["backend"]]


def _default_base_url(fields: Mapping[str, JsonValue]) -> str | None:
    is_openai = fields["backend"] is BackendKind.OPENAI
    return DEFAULT_OPENAI_URL if is_openai and fields["pool"] is None else None


def _default_provider(fields: Mapping[str, JsonValue]) -> str | None:
    return DEFAULT_OPENAI_PROVIDER if fields["base_url"] == DEFAULT_OPENAI_URL else None


_SEARCHING: Final = ("search", "sonar", "compound", ":online")
"""In the names of models that search unasked: OpenAI's `…-search-preview`, `…-deep-research`, Perplexity's, Groq's."""

_THE_REQUESTS: Final = frozenset(
    {
        *("model", "messages", "prompt", "input", "suffix", "stream", "stream_options", "user", "safety_identifier"),
        *("n", "best_of", "logprobs", "top_logprobs", "tools", "tool_choice", "functions", "function_call"),
        *("response_format", "temperature", "stop", "store", "metadata"),
    }
)
"""What a request is about, or what the gateway, its caches and its judge go by: never a model's to change."""

CAP_PARAMETERS: Final = frozenset({"max_tokens", "max_completion_tokens"})
"""Parameters that may only lower the client's own cap."""


def _parameters(value: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    for name in sorted(_THE_REQUESTS.intersection(value)):
        raise ValueError(f"\"{name}\" is the request's own and cannot be a model's parameter; delete it")
    for name in sorted(CAP_PARAMETERS.intersection(value)):
        cap = value[name]
        if not isinstance(cap, int) or isinstance(cap, bool) or not 1 <= cap <= 10_000_000:
            raise ValueError(f"{name} must be a number of tokens from 1 to 10000000, not {cap!r}")
    if len(CAP_PARAMETERS.intersection(value)) > 1:
        raise ValueError("max_tokens and max_completion_tokens are one cap under two names; give one of them")
    return MappingProxyType({name: _plain(item) for name, item in value.items()})


def _plain(value: JsonValue) -> JsonValue:
    """Return the same with binary numbers: a parameter is no money, and JSON's writers know no `Decimal`."""
    match value:
        case Decimal():
            return float(value)
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value


class WebSearches(Part):
    """How many searches of the provider one answer may be billed for.

    Attributes:
        max: the most of them; a request's own `max_uses` lowers it. Left out: 10, and 100 for models with "research" in
            their name.
        unasked: whether the model searches without being asked; otherwise only requests with `web_search_options`,
            `search_parameters`, `plugins`, `enable_search` or a search tool are taken to search. Left out: models with
            "search", "sonar" or "compound" in their name do.
    """

    max: Annotated[int, Field(ge=0, le=10_000)] | None = None
    unasked: bool | None = None


class Model(Part):
    """An entry of the catalog: what can answer, where it is, what it can do and what it costs.

    Exactly one of `pool` and `base_url` says where; `base_url` is filled in for `backend: openai` without a pool.

    Attributes:
        name: the name sent upstream.
        provider: the price list's provider id; None for a pool's model and for one priced by `price` alone.
        price: the operator's own, or a list of them, each with the time it is valid.
        context_tokens: what input and output together may reach.
        equivalents: models that answer in this one's place, in order, when all its endpoints fail; none is asked unless
            it is named here, and embeddings go only to one of the same `name`. Each can do what this one can.
        max_output_tokens: the cap sent upstream for a request under a budget whose client set none; a route's own
            may only lower it.
        web_searches: how many searches one answer may be billed for; budgets hold their fees beside the tokens'.
        parameters: fields sent upstream with every chat and legacy completion, in place of the client's own: the same
            model thinking less or more is another entry (`large@low: {…, parameters: {reasoning_effort: low}}`), on the
            same pool and at the same price. `max_tokens` or `max_completion_tokens` lowers the client's own cap.
    """

    backend: BackendKind
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    pool: Name | None = None
    base_url: Url | None = Field(default_factory=_default_base_url)
    api_key: Secret | None = None
    provider: Name | None = Field(default_factory=_default_provider)
    price: Prices | None = None
    capabilities: Annotated[frozenset[Capability], Field(min_length=1), PlainSerializer(sorted)] = Field(
        default_factory=_default_capabilities
    )
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)] = DEFAULT_CONTEXT_TOKENS
    equivalents: tuple[ModelName, ...] = ()
    max_output_tokens: OutputTokens = DEFAULT_MAX_OUTPUT_TOKENS
    web_searches: WebSearches = WebSearches()
    parameters: Annotated[Mapping[str, JsonValue], AfterValidator(_parameters), PlainSerializer(dict)] = Field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def variant(self) -> str:
        """Name what answers: the served name, with the parameters where there are any; calibrations go by it."""
        return f"{self.name} {canonical(self.parameters)}" if self.parameters else self.name

    @property
    def most_web_searches(self) -> int:
        """Return how many searches one answer may be billed for."""
        if self.web_searches.max is not None:
            return self.web_searches.max
        return RESEARCH_WEB_SEARCHES if "research" in self.name.lower() else DEFAULT_WEB_SEARCHES

    @property
    def searches_unasked(self) -> bool:
        """Tell whether requests search that do not ask for it."""
        stated = self.web_searches.unasked
        return any(word in self.name.lower() for word in _SEARCHING) if stated is None else stated

    @property
    def prices(self) -> tuple[Price, ...]:
        """Return the operator's own prices, in the file's order."""
        if self.price is None:
            return ()
        return (self.price,) if isinstance(self.price, Price) else self.price


class Match(Part):
    """Which requests a route takes; every key is optional, and without any it takes all.

    Attributes:
        tenant: who pays.
        model: what the client asks for: any name, which need not be a route's or a model's.
    """

    tenant: TenantName | None = None
    model: Name | None = None

    def covers(self, other: "Match") -> bool:
        """Tell whether everything `other` takes would be taken here."""
        return self.tenant in {None, other.tenant} and self.model in {None, other.model}

    def takes(self, tenant: TenantId, model: str) -> bool:
        """Tell whether a request of `tenant` that asks for `model` falls under this match."""
        return self.tenant in {None, tenant} and self.model in {None, model}


class Audit(Part):
    """How a promise is watched: some served answers are compared with the baseline's, asked for afterwards.

    Attributes:
        share: of the answers that may have lost something, in (0, 1].
        usd_per_day: what audits may cost in a day (UTC); when it is spent, nothing is sampled until the next.
        judge: the model that tells which of two different answers is better; without one, other wording counts as
            lost unless its vector is close, which overstates the loss of free prose.
        agreement: the least cosine of two answers that say the same, in (0, 1); for audits without a judge.
        recalibrate: whether the gateway itself takes the loosest threshold that keeps the promise by the verdicts, when
            it is breached or looks it. While a route is breached, `share` of its requests are also answered by its
            first rung in the background, so that there is something to go by. Likewise `share` of the conversations and
            of the questions with tools that go to the baseline only because the route's one calibration has seen none:
            they are answered below it once verdicts keep the promise for them. False: `faregate calibrate` does it, and
            nothing is tried.
    """

    share: Annotated[float, Field(gt=0, le=1)] = DEFAULT_AUDIT_SHARE
    usd_per_day: BudgetUsd = DEFAULT_AUDIT_USD_PER_DAY
    judge: ModelName | None = None
    agreement: Share = DEFAULT_AGREEMENT
    recalibrate: bool = True


class Quality(Part):
    """What a route promises against its baseline.

    Attributes:
        max_loss: the largest expected quality lost, in (0, 1).
        confidence: 1 minus the probability that the promise was certified wrongly, in (0, 1).
        calibration: a shipped artefact's name, or a path (with a "/" or ending in ".json") relative to the policy
            file; without one nothing below the baseline is used.
        calibrations: the same for a ladder with several judged rungs: one artefact for each of them, made for it below
            the baseline, in any order. Rungs that none speaks for answer nothing. Those of `faregate calibrate
            --outcomes` were fitted together and are named all, or none is used.
        audit: how the promise is watched; without it, it rests on the calibration for ever.
        signals: what each judged rung's answers are weighed by, from a model of the ladder to `logprobs`, `text`,
            `self_check` or `agreement`. `faregate calibrate` fits with it, and a calibration made with another one is
            not used. A rung that is left out goes by its calibration; `calibrate` then takes `logprobs` of a model
            that has them, else `text`, which costs nothing. `self_check` asks the model about each of its answers,
            `agreement` has it answer twice.
    """

    max_loss: Share
    confidence: Share = DEFAULT_CONFIDENCE
    calibration: CalibrationName | None = None
    calibrations: tuple[CalibrationName, ...] = ()
    audit: Audit | None = None
    signals: Annotated[Mapping[ModelName, Signal], AfterValidator(frozen), PlainSerializer(dict)] = Field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Return the calibrations' names, under whichever key they are."""
        return self.calibrations or (() if self.calibration is None else (self.calibration,))


NO_ARTEFACT: Final = "none"
DEFAULT_ARTEFACT: Final = "default"


class Router(Part):
    """Which trained artefact chooses the rung a question starts at, and which answers are kept where it judges them.

    Attributes:
        artefact: `default` (it ships, for ladders of two), `none`, or a path (with a "/" or ending in ".json") relative
            to the policy file, of a file made by `faregate train`. Left out: `default` on ladders of two rungs without
            `quality`, else `none`. On a route with `quality` it needs a threshold of its own that keeps `max_loss`
            (`faregate train --max-loss`); one of mode `cascade` or `combined` always does, and judges whole answers by
            their log-probabilities. Beside calibrations it only chooses: their judges keep what they keep, by bounds
            that hold whatever it chooses.
        least_gain: quality points, in (0, 1), that the baseline has to be expected to gain for its full price, else a
            cheaper rung answers; for artefacts of mode `route` on routes without `quality`.
    """

    artefact: CalibrationName | None = None
    least_gain: Share | None = None


class Stream(Part):
    """How much of a stream is held back before a rung must be judged: the first limit reached decides."""

    holdback_tokens: Annotated[int, Field(ge=1, le=100_000)] = DEFAULT_HOLDBACK_TOKENS
    holdback_ms: Annotated[int, Field(ge=1, le=600_000)] = DEFAULT_HOLDBACK_MS


class ExactCache(Part):
    """Answer a request that equals an earlier one in every field that matters."""

    ttl: Duration = DEFAULT_EXACT_TTL


class Bypassed(StrEnum):
    """What the semantic cache leaves alone unless a route allows it: there, little tells two answers apart."""

    TURNS = "turns"
    """Conversations; all earlier turns have to be the same."""
    TOOLS = "tools"
    """Requests that offer tools."""
    TIME_SENSITIVE = "time_sensitive"
    """Wording such as "today" or "latest"."""
    CODE = "code"
    MATHS = "maths"


class Patience(StrEnum):
    """Whether a request waits for the verifier's word."""

    AUTO = "auto"
    """Where the verifier takes well below the time and the money of the answer it may save."""
    ALWAYS = "always"
    NEVER = "never"
    """It is asked afterwards, and what it says serves the next time."""


class Verifier(Part):
    """A model that is asked whether one answer would serve both questions, where the score leaves it open.

    Attributes:
        model: of the catalog; it must tell log-probabilities.
        calibration: how far its word goes: a shipped artefact's name, or a path (with a "/" or ending in ".json")
            relative to the policy file. `faregate evaluate cache --verifier MODEL --save FILE` makes one.
        weights: what tells the model's weights apart where its name does not (a quantisation, a file's sha256); it must
            be what the calibration was made with.
        wait: whether a request waits for its word.
        timeout_ms: how long a request waits for it at most, in milliseconds, in [1, 60000].
        usd_per_day: what its questions may cost in a day (UTC) on this route; when it is spent, nothing is asked.
    """

    model: ModelName
    calibration: CalibrationName
    weights: Annotated[str, StringConstraints(max_length=128)] = ""
    wait: Patience = Patience.AUTO
    timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = DEFAULT_VERIFIER_TIMEOUT_MS
    usd_per_day: BudgetUsd = DEFAULT_VERIFIER_USD_PER_DAY


class SemanticCache(Part):
    """Answer a request that means the same as an earlier one.

    Attributes:
        max_error: wrong answers as a share of the semantic hits served, in (0, 1).
        allow: what is compared although it is left alone by default: `turns`, `tools`, `time_sensitive`, `code`,
            `maths`. Only the last user text is compared; all else has to be the same.
        max_characters: longer last user texts are not compared; the embedding sees some 1,000 characters of them.
        confidence: 1 minus the probability that verdicts certify `max_error` wrongly, in (0, 1).
        audit: how the promise is watched; left out: as the route's `quality.audit` says.
        verifier: who is asked about pairs that the score leaves open; without one they are misses.
    """

    max_error: Share = DEFAULT_SEMANTIC_MAX_ERROR
    ttl: Duration = DEFAULT_SEMANTIC_TTL
    allow: Annotated[frozenset[Bypassed], PlainSerializer(sorted)] = frozenset()
    max_characters: Annotated[int, Field(ge=1, le=100_000)] = DEFAULT_SEMANTIC_CHARACTERS
    confidence: Share = DEFAULT_CONFIDENCE
    audit: Audit | None = None
    verifier: Verifier | None = None


class Cache(Part):
    """A route's caches; a tier that is absent is off.

    Attributes:
        max_temperature: requests above it are never answered from a cache nor stored, in [0, 2].
        flight_wait_s: how long a request waits for the first of the answer that an equal request in flight gets, in
            seconds, before it asks by itself; 0: each asks by itself. Requests of other workers, and of other gateways
            on the same Redis, are waited for as well where the route has an exact cache.
        namespace: a name under which all tenants that come here share their answers, also with other routes of the same
            namespace, ladder and quality; left out: each tenant has its own.
        store_refusals: whether an answer that declines to answer is kept.
    """

    exact: ExactCache | None = None
    semantic: SemanticCache | None = None
    namespace: Name | None = None
    store_refusals: bool = DEFAULT_STORE_REFUSALS
    flight_wait_s: Annotated[float, Field(ge=0, le=86_400)] = DEFAULT_FLIGHT_WAIT_S
    max_temperature: Annotated[float, Field(ge=0, le=2)] = DEFAULT_MAX_TEMPERATURE


def _default_baseline(fields: Mapping[str, JsonValue]) -> ModelId:
    return ModelId(fields["ladder"][-1])


class Route(Part):
    """The rule a request falls under. `ladder` is cheapest first; `baseline` is its last rung.

    Attributes:
        max_output_tokens: the most output a request under a budget gets when its client set no cap of its own, in
            tokens; None: each model's `max_output_tokens`.
    """

    name: Name
    match: Match = Match()
    ladder: Annotated[tuple[ModelName, ...], Field(min_length=1)]
    baseline: ModelName = Field(default_factory=_default_baseline)
    quality: Quality | None = None
    router: Router = Router()
    stream: Stream = Stream()
    cache: Cache = Cache()
    max_output_tokens: OutputTokens | None = None

    @property
    def artefact(self) -> str | None:
        """Return the name of the artefact that chooses where questions start; None: none does."""
        if self.router.artefact is not None:
            return None if self.router.artefact == NO_ARTEFACT else self.router.artefact
        return DEFAULT_ARTEFACT if self.quality is None and len(self.ladder) == _DEFAULT_ARTEFACT_RUNGS else None


_DEFAULT_ARTEFACT_RUNGS: Final = 2


class RateLimits(Part):
    """How fast one tenant or one key may ask; what is left out is not limited.

    Attributes:
        rpm: requests in any 60 seconds, cache hits included.
        tpm: tokens in any 60 seconds: an estimate when a request is admitted, its usage afterwards.
        parallel: requests in flight at once.
    """

    rpm: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    tpm: Annotated[int, Field(ge=1, le=1_000_000_000_000)] | None = None
    parallel: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class Tenant(Part):
    """Who pays.

    Attributes:
        timezone: whose midnights begin this tenant's budget windows.
        budget: what the whole tenant may spend.
        limits: for all its keys together.
        key_limits: for each of its keys.
    """

    id: TenantName
    timezone: ZoneName = DEFAULT_TIMEZONE
    budget: Budget | None = None
    limits: RateLimits = RateLimits()
    key_limits: RateLimits = RateLimits()


class Timeouts(Part):
    """Deadlines in seconds.

    Attributes:
        connect_s: until a connection stands.
        first_byte_s: until a stream's first event.
        idle_s: between two events of a stream.
        total_s: for the whole request, all its attempts together; the only one that a whole answer has.
        request_s: until a client's request is whole, from its first byte; slower ones get 408.
    """

    connect_s: Seconds = DEFAULT_CONNECT_S
    first_byte_s: Seconds = DEFAULT_FIRST_BYTE_S
    idle_s: Seconds = DEFAULT_IDLE_S
    total_s: Seconds = DEFAULT_TOTAL_S
    request_s: Seconds = DEFAULT_REQUEST_S


class Retries(Part):
    """How often a request that failed before its first byte is tried again, at each model that may answer it.

    Attributes:
        max: tries beyond the first, at other endpoints or the same one, in 0 to 20.
        budget_share: retries as a share of a pool's requests of the last 10 seconds, in [0, 1].
        min_per_s: retries a second that are allowed beside the share, in [0, 1000].
        max_wait_s: the longest wait between two tries, in seconds; an upstream that asks for more (Retry-After) is
            not waited for: the client is told.
    """

    max: Annotated[int, Field(ge=0, le=20)] = DEFAULT_RETRIES
    budget_share: Annotated[float, Field(ge=0, le=1)] = DEFAULT_RETRY_SHARE
    min_per_s: Annotated[float, Field(ge=0, le=1_000)] = DEFAULT_RETRIES_PER_S
    max_wait_s: Seconds = DEFAULT_RETRY_WAIT_S


class Limits(Part):
    """What one gateway process accepts.

    A request in flight keeps three times its body in memory at most (as it came, its text, as it is sent on), and of an
    answer that is no stream twice its size (as it came, its text). What streams is sent on as its client reads it.

    Attributes:
        max_body_bytes: of a request's body; a larger one is refused with 413.
        max_head_bytes: of a request's header section, 1 KB to 1 MB; a larger one is refused with 431.
        max_answer_bytes: of an upstream's answer that is no stream; a larger one is a fault of the upstream's (502).
        max_event_bytes: of one event of an upstream's stream, likewise.
        max_buffered_bytes: of the large ones among them (over 1 MiB) all that are kept at once, in requests that are
            being received or answered; one more gets 503. At least `max_body_bytes` and `max_answer_bytes`.
        max_in_flight: requests being answered at once; one more gets 503.
    """

    max_body_bytes: Size = DEFAULT_MAX_BODY_BYTES
    max_head_bytes: Annotated[Size, Field(ge=1_000, le=1_000_000)] = DEFAULT_MAX_HEAD_BYTES
    max_answer_bytes: Size = DEFAULT_MAX_ANSWER_BYTES
    max_event_bytes: Size = EVENT_LIMIT_BYTES
    max_buffered_bytes: Size = DEFAULT_MAX_BUFFERED_BYTES
    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] = DEFAULT_MAX_IN_FLIGHT


EMBEDDED: Final = "embedded"
"""In the gateway's own process, in its folder."""


class CacheStore(Part):
    """Where the caches of all routes are, and how much they may keep together.

    Attributes:
        at: `embedded`, or the address of a Redis or Valkey that several gateways share: `redis://`, `rediss://`,
            `unix://`. A cache written as an address alone has the other keys' defaults.
        vectors: `embedded`, or the address of a Qdrant server: the semantic cache of gateways that share a Redis.
        vectors_key: the Qdrant server's API key.
        deadline_ms: how long the servers may hold a request up, in milliseconds, with all that is asked of them; what
            is not answered then is a miss.
        max_entries: entries kept; over it expired ones go first, then the oldest.
        max_bytes: bytes of bodies, texts and embedded vectors kept, likewise.
    """

    at: CacheAddress = SecretStr(EMBEDDED)
    vectors: VectorsAddress = EMBEDDED
    vectors_key: Secret | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=1_000)] = DEFAULT_CACHE_DEADLINE_MS
    max_entries: Annotated[int, Field(ge=1, le=100_000_000)] = DEFAULT_CACHE_ENTRIES
    max_bytes: Size = DEFAULT_CACHE_BYTES

    @property
    def is_shared(self) -> bool:
        """Whether it is in a server."""
        return self.at.get_secret_value() != EMBEDDED


def _as_cache_store(value: JsonValue) -> JsonValue:
    return {"at": value} if isinstance(value, str) else value


class Storage(Part):
    """Where the gateway keeps its keys, journal and ledger."""

    folder: Path = DEFAULT_FOLDER
    cache: Annotated[CacheStore, BeforeValidator(_as_cache_store)] = CacheStore()


class TransportKind(StrEnum):
    """Which HTTP client asks the upstreams; both keep the same contract (`backends.transport`)."""

    WIRE = "wire"
    """The gateway's own, made for relaying; costs a fraction of the other's processor time."""
    AIOHTTP = "aiohttp"
    """The one that others use, too; for the day when the first is suspected of a fault."""


def _origin(value: str) -> str:
    if value == "*":
        return value
    try:
        url = urlsplit(value)
        is_good = url.scheme in {"http", "https"} and bool(url.hostname) and url.netloc == value.partition("://")[2]
        is_good = is_good and "@" not in value and (url.port is None or url.port > 0) and value == value.lower()
    except ValueError:
        is_good = False
    if not is_good or not value.isascii() or re.search(r"\s", value):
        raise ValueError(
            "expected an origin as browsers send it, such as https://app.example or http://localhost:3000 (lower case, "
            'no path), or "*"'
        )
    return value


class Cors(Part):
    """Which web pages may ask from a browser, for `/v1` alone.

    Attributes:
        origins: whose pages, as `https://app.example`; `"*"`: anybody's. The key such a page sends is in the hands of
            whoever opens it: give it one of its own, with a budget.
        max_age_s: how long a browser may remember that it may ask, in seconds, 0 to 86400.
    """

    origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], Field(min_length=1)]
    max_age_s: Annotated[int, Field(ge=0, le=86_400)] = DEFAULT_CORS_AGE_S


class Server(Part):
    """Where the gateway listens, how it asks, and how it stops.

    Attributes:
        host: the address listened on.
        port: 0 takes any free one.
        transport: the client of all upstream requests.
        notice_s: seconds from SIGTERM until the port is closed: readiness is already false, so that a load balancer
            sends its requests elsewhere, and requests are still answered.
        grace_s: seconds that requests in flight have to finish after that.
        workers: processes that answer, best one a core; with more than one a supervisor beside them keeps the ledger,
            the budgets and the rate limits, and starts anew whichever dies. From 1 to 64.
        cors: which web pages may ask from a browser; left out: none.
    """

    host: Annotated[str, StringConstraints(min_length=1, pattern=r"^[A-Za-z0-9.:_-]+$")] = DEFAULT_HOST
    port: Annotated[int, Field(ge=0, le=65_535)] = DEFAULT_PORT
    transport: TransportKind = TransportKind.WIRE
    notice_s: Annotated[float, Field(ge=0, le=3_600)] = DEFAULT_NOTICE_S
    grace_s: Seconds = DEFAULT_GRACE_S
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1
    cors: Cors | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a request falls under.

    Attributes:
        route: its route.
        pinned: the catalog model the client asked for by name, to be used instead of the ladder; None when the
            route chooses.
    """

    route: Route
    pinned: ModelId | None = None


class Policy(Part):
    """A whole policy whose references hold. Made by `policies.loader.load_policy`, shared and never changed."""

    version: Literal[1]
    models: Annotated[
        Mapping[ModelName, Model], Field(min_length=1), AfterValidator(frozen), PlainSerializer(dict[str, Model])
    ]
    pools: Annotated[Mapping[Name, Pool], AfterValidator(frozen), PlainSerializer(dict[str, Pool])] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]
    tenants: Annotated[tuple[Tenant, ...], Field(min_length=1)] = (Tenant(id=DEFAULT_TENANT),)
    revenue: tuple[RevenueRule, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    limits: Limits = Limits()
    storage: Storage = Storage()
    ledger: Ledger = Ledger()
    server: Server = Server()

    _calibrations: Mapping[str, Path] = PrivateAttr(default_factory=dict)
    _artefacts: Mapping[str, Path] = PrivateAttr(default_factory=dict)
    _verifiers: Mapping[str, Path] = PrivateAttr(default_factory=dict)

    def with_files(
        self, *, calibrations: Mapping[str, Path], artefacts: Mapping[str, Path], verifiers: Mapping[str, Path]
    ) -> "Policy":
        """Return the same policy knowing where the files lie that its routes name, by the name in the policy.

        Args:
            calibrations: those of `quality`.
            artefacts: those of `router`.
            verifiers: calibrations of the semantic caches' verifiers.
        """
        located = self.model_copy()
        located._calibrations = MappingProxyType(dict(calibrations))  # our own copy, not yet shared
        located._artefacts = MappingProxyType(dict(artefacts))
        located._verifiers = MappingProxyType(dict(verifiers))
        return located

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of the policy's canonical JSON.

        Secrets are masked, so that a rotated one leaves the digest as it was.
        """
        document = self.model_dump(mode="json")
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def tenant_ids(self) -> tuple[TenantId, ...]:
        """Return the tenants' ids, in the file's order."""
        return tuple(tenant.id for tenant in self.tenants)

    def select(self, tenant: TenantId, model: str) -> Selection | None:
        """Return what a request falls under, or None when `tenant` may not ask for `model`.

        A route's name chooses that route; `auto`, a name in a `match` and a catalog model choose the first route whose
        match takes the request. A catalog model is pinned unless that route's match names it.
        """
        for route in self.routes:
            if route.name == model and route.match.tenant in {None, tenant}:
                return Selection(route=route)
        is_model = model in self.models
        for route in self.routes:
            if not route.match.takes(tenant, model):
                continue
            if model in {route.match.model, AUTO}:
                return Selection(route=route)
            if is_model:
                return Selection(route=route, pinned=ModelId(model))
        return None

    def names_for(self, tenant: TenantId) -> tuple[str, ...]:
        """Return every name `tenant` may ask for: `auto`, routes, names in matches, catalog models; no name twice."""
        open_routes = [route for route in self.routes if route.match.tenant in {None, tenant}]
        aliases = [route.match.model for route in open_routes if route.match.model is not None]
        names = dict.fromkeys([AUTO, *(route.name for route in open_routes), *aliases, *self.models])
        return tuple(name for name in names if self.select(tenant, name) is not None)

    def endpoints_of(self, model: ModelId) -> tuple[str, ...]:
        """Return the base addresses that serve a catalog model: its pool's replicas, or its own."""
        entry = self.models[model]
        if entry.pool is not None:
            return self.pools[entry.pool].endpoints
        return (entry.base_url,) if entry.base_url is not None else ()

    def api_key_of(self, model: ModelId) -> SecretStr | None:
        """Return the secret a catalog model's endpoints want; None when they want none."""
        entry = self.models[model]
        return self.pools[entry.pool].api_key if entry.pool is not None else entry.api_key

    def calibration_files(self, route: Route) -> tuple[Path, ...]:
        """Return where the calibrations of a route lie, in the policy's order."""
        return tuple(self._calibrations[name] for name in route.quality.artefacts) if route.quality else ()

    def verifier_file(self, verifier: Verifier) -> Path:
        """Return where the calibration of a route's verifier lies."""
        return self._verifiers[verifier.calibration]

    def artefact_file(self, route: Route) -> Path | None:
        """Return where the artefact of a route lies; None where it has none."""
        return None if route.artefact is None else self._artefacts[route.artefact]
