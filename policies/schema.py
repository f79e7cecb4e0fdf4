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
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    Tag,
    model_validator,
)

from backends.words import Capability, JsonValue, ModelId, TenantId
from policies.windows import Per, UnknownTimeZone, zone_names, zone_of

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
DEFAULT_EXACT_TTL: Final = timedelta(hours=24)
DEFAULT_SEMANTIC_TTL: Final = timedelta(hours=1)
DEFAULT_SEMANTIC_MAX_ERROR: Final = 0.03  # the smallest that the shipped calibration can keep
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
DEFAULT_MAX_IN_FLIGHT: Final = 512
DEFAULT_FOLDER: Final = Path("faregate-data")
DEFAULT_CACHE_ENTRIES: Final = 50_000
DEFAULT_CACHE_DEADLINE_MS: Final = 20  # a cache that is slower than that is no help
DEFAULT_CACHE_BYTES: Final = 512_000_000
DEFAULT_LEDGER_BUFFER_BYTES: Final = 64_000_000  # the rows of some 30,000 requests
DEFAULT_HOST: Final = "127.0.0.1"  # reachable from this machine only, until the operator says otherwise
DEFAULT_PORT: Final = 4_000
DEFAULT_TENANT: Final = TenantId("default")
DEFAULT_TIMEZONE: Final = "UTC"
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

# --- scalars -----------------------------------------------------------------------------------------------------

# Names appear in headers such as `x-faregate-path: small>large` and `cache:exact`: no ":", ">", comma or blank.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/@+-]{0,127}$"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_SECONDS: Final[Mapping[str, Decimal]] = MappingProxyType(
    {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?")
_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
)


def _duration(value: JsonValue) -> JsonValue:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not Decimal(match[1]):
        raise ValueError("expected a duration above 0 with its unit: 24h, 30m, 10s or 500ms")
    return timedelta(seconds=float(Decimal(match[1]) * _SECONDS[match[2]]))


def _size(value: JsonValue) -> JsonValue:
    match = _SIZE.fullmatch(str(value)) if isinstance(value, int | str) else None
    if match is None:
        raise ValueError("expected a size such as 20MB, 512KiB or 1000000 (units: B, KB, MB, GB, KiB, MiB, GiB)")
    return int(Decimal(match[1]) * _BYTES[match[2] or "B"])


def _moment(value: JsonValue) -> JsonValue:
    if isinstance(value, datetime):
        return value
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is None and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        moment = moment.replace(tzinfo=UTC)
    if moment is None or moment.tzinfo is None:
        raise ValueError(
            "expected a date such as 2026-11-01 (UTC), or a moment with its zone: 2026-11-01T08:00:00+01:00"
        )
    return moment.astimezone(UTC)


def _url(value: str) -> str:
    try:
        url = urlsplit(value)
        has_place = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        url, has_place = urlsplit(""), False
    if url.scheme not in {"http", "https"} or not has_place or not value.isascii() or re.search(r"\s", value):
        raise ValueError("expected an address such as http://127.0.0.1:8000/v1 (http or https)")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("an address holds no user, password, query or fragment: put the secret in `api_key`")
    return value.rstrip("/")


def _cache_address(value: SecretStr) -> SecretStr:
    address = value.get_secret_value()
    try:
        url = urlsplit(address)
        is_good = (url.scheme in {"redis", "rediss"} and bool(url.hostname)) or (
            url.scheme == "unix" and bool(url.path)
        )
    except ValueError:
        is_good = False
    if address != "embedded" and not is_good:
        raise ValueError(
            "expected `embedded`, or an address such as redis://:${REDIS_PASSWORD}@host:6379/0 or unix:///path"
        )
    return value


def _vectors_address(value: str) -> str:
    return value if value == "embedded" else _url(value)


def _header_safe(value: SecretStr) -> SecretStr:
    if re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()) is None:
        raise ValueError("expected a key of visible ASCII characters without blanks (it is sent in a header)")
    return value


def _zone(name: str) -> str:
    try:
        zone_of(name)
    except UnknownTimeZone:
        lowered = {known.lower(): known for known in sorted(zone_names())}
        parts = {known.lower().rpartition("/")[2]: known for known in sorted(zone_names())}
        wanted = name.lower().replace(" ", "_")
        near = [lowered[found] for found in get_close_matches(wanted, lowered, n=3, cutoff=0.7)]
        near += [parts[found] for found in get_close_matches(wanted.rpartition("/")[2], parts, n=2, cutoff=0.75)]
        meant = ", ".join(f'"{known}"' for known in dict.fromkeys(near))
        hint = f"; did you mean {meant}?" if meant else ""
        raise ValueError(
            f"no such time zone; expected an IANA name such as Europe/Berlin, America/New_York or UTC{hint}"
        ) from None
    return name


_Key = TypeVar("_Key", bound=str)
_Value = TypeVar("_Value")


def _canonical(value: Mapping[str, JsonValue]) -> str:
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _frozen(value: Mapping[_Key, _Value]) -> Mapping[_Key, _Value]:
    return MappingProxyType(dict(value))


Name = Annotated[str, StringConstraints(pattern=_NAME)]
ModelName = Annotated[ModelId, StringConstraints(pattern=_NAME)]
TenantName = Annotated[TenantId, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
Url = Annotated[str, AfterValidator(_url)]
Secret = Annotated[SecretStr, AfterValidator(_header_safe)]
CacheAddress = Annotated[SecretStr, AfterValidator(_cache_address)]
VectorsAddress = Annotated[str, AfterValidator(_vectors_address)]
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
BudgetUsd = Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=9)]
OutputTokens = Annotated[int, Field(ge=1, le=10_000_000)]
ZoneName = Annotated[str, AfterValidator(_zone)]
ScopeValue = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokensPerSecond = Annotated[Decimal, Field(gt=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Share = Annotated[float, Field(gt=0, lt=1)]
CalibrationName = Annotated[str, StringConstraints(min_length=1)]


class Part(BaseModel):
    """What every part of a policy is: frozen, closed to unknown keys, and deaf to keys without a value."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: JsonValue) -> JsonValue:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None or key not in cls.model_fields}


# --- the parts ---------------------------------------------------------------------------------------------------


class Stated(StrEnum):
    """What becomes of the cost a provider states in its answers (OpenRouter's `usage.cost`)."""

    TRUST = "trust"
    """It is the charge."""
    RECONCILE = "reconcile"
    """It is kept beside the charge, to be compared with it."""


class TokenPrices(Part):
    """Dollars per million tokens, by class; see `words.Usage` for what each class holds.

    Attributes:
        cache_write_usd_per_mtok: writes that live minutes; `cache_write_1h_usd_per_mtok` those that live an hour.
    """

    input_usd_per_mtok: Usd | None = None
    output_usd_per_mtok: Usd | None = None
    cached_input_usd_per_mtok: Usd | None = None
    cache_write_usd_per_mtok: Usd | None = None
    cache_write_1h_usd_per_mtok: Usd | None = None
    reasoning_usd_per_mtok: Usd | None = None
    audio_input_usd_per_mtok: Usd | None = None
    image_input_usd_per_mtok: Usd | None = None
    audio_output_usd_per_mtok: Usd | None = None
    image_output_usd_per_mtok: Usd | None = None

    @property
    def usd_per_mtok(self) -> dict[str, Decimal]:
        """Return what is stated, by class."""
        stated = {name.removesuffix("_usd_per_mtok"): getattr(self, name) for name in TokenPrices.model_fields}
        return {name: usd for name, usd in stated.items() if usd is not None}


class PriceTier(TokenPrices):
    """Prices of all tokens of an attempt whose input exceeds a number of tokens; what is left out costs as below it."""

    above_input_tokens: Annotated[int, Field(ge=1, le=100_000_000)]


class Price(TokenPrices):
    """An operator's own price of a model, in US dollars.

    With `input_usd_per_mtok` and `output_usd_per_mtok` it outranks the provider's list and the pool's rates. A class
    that is left out then costs what its nearest class costs: cached input, cache writes and pictures what input costs,
    an hour's cache write what a short one costs, reasoning what output costs. Sound, made pictures and searches have no
    near class: unless they are priced, an attempt that has some has no known cost. Without the two, the provider's list
    holds, less `discount`, and what is stated replaces its class of the list.

    Attributes:
        valid_from: when it begins, a date (its midnight in UTC) or a moment with its zone; left out: it always was.
        valid_to: when it ends, itself excluded; left out: it never does. What no price covers costs what the list says.
        discount: a contract's share off everything on the list, in (0, 1).
        tiers: prices of long contexts.
        service_tiers: from a service tier (`batch`, `flex`, `priority`) to what its tokens cost as a multiple of the
            standard tier's, in (0, 100].
        usd_per_request: a fee per attempt.
        usd_per_web_search: a fee per search the provider runs.
        stated: what becomes of the cost the provider states; left out: it is trusted of `provider: openrouter`, and
            elsewhere it stands in where nothing else can tell the cost.
    """

    valid_from: Moment | None = None
    valid_to: Moment | None = None
    discount: Annotated[Decimal, Field(gt=0, lt=1)] | None = None
    tiers: tuple[PriceTier, ...] = ()
    service_tiers: Annotated[
        Mapping[Name, Annotated[Decimal, Field(gt=0, le=100)]], AfterValidator(_frozen), PlainSerializer(dict)
    ] = Field(default_factory=lambda: MappingProxyType({}))
    usd_per_request: Usd | None = None
    usd_per_web_search: Usd | None = None
    stated: Stated | None = None


def _price_shape(value: JsonValue) -> str:
    return "[prices]" if isinstance(value, list | tuple) else "[price]"


Prices = Annotated[
    Annotated[Price, Tag("[price]")] | Annotated[tuple[Price, ...], Field(min_length=1), Tag("[prices]")],
    Discriminator(_price_shape),
]
"""One price, or several that follow one another; the tags are no keys of the file, and mistakes leave them out."""


def _default_capabilities(fields: Mapping[str, JsonValue]) -> frozenset[Capability]:
    return DEFAULT_CAPABILITIES[fields["backend"]]


def _default_base_url(fields: Mapping[str, JsonValue]) -> str | None:
    is_openai = fields["backend"] is BackendKind.OPENAI
    return DEFAULT_OPENAI_URL if is_openai and fields["pool"] is None else None


def _default_provider(fields: Mapping[str, JsonValue]) -> str | None:
    return DEFAULT_OPENAI_PROVIDER if fields["base_url"] == DEFAULT_OPENAI_URL else None


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
    parameters: Annotated[Mapping[str, JsonValue], AfterValidator(_parameters), PlainSerializer(dict)] = Field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def variant(self) -> str:
        """Name what answers: the served name, with the parameters where there are any; calibrations go by it."""
        return f"{self.name} {_canonical(self.parameters)}" if self.parameters else self.name

    @property
    def prices(self) -> tuple[Price, ...]:
        """Return the operator's own prices, in the file's order."""
        if self.price is None:
            return ()
        return (self.price,) if isinstance(self.price, Price) else self.price


class Throughput(Part):
    """What one replica of a pool processes per second when busy, by token class; rates derive from it.

    `cached_input_tokens_per_s` left out: cached input is charged like uncached input.
    """

    input_tokens_per_s: TokensPerSecond
    output_tokens_per_s: TokensPerSecond
    cached_input_tokens_per_s: TokensPerSecond | None = None


class Pool(Part):
    """The replicas that serve one model; each costs `usd_per_hour`.

    Attributes:
        spot: they are spot machines, which the cloud may take back; the bill says so.
        watts: what one of them draws while it works, on average; the bill estimates energy from it.
    """

    endpoints: Annotated[tuple[Url, ...], Field(min_length=1)]
    usd_per_hour: Usd
    spot: bool = False
    watts: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    throughput: Throughput | None = None
    api_key: Secret | None = None


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
    """

    share: Annotated[float, Field(gt=0, le=1)] = DEFAULT_AUDIT_SHARE
    usd_per_day: BudgetUsd = DEFAULT_AUDIT_USD_PER_DAY
    judge: ModelName | None = None
    agreement: Share = DEFAULT_AGREEMENT


class Quality(Part):
    """What a route promises against its baseline.

    Attributes:
        max_loss: the largest expected quality lost, in (0, 1).
        confidence: 1 minus the probability that the promise was certified wrongly, in (0, 1).
        calibration: a shipped artefact's name, or a path (with a "/" or ending in ".json") relative to the policy
            file; without one nothing below the baseline is used.
        calibrations: the same for a ladder with several judged rungs: one artefact for each of them, made for it below
            the baseline, in any order. Rungs that none speaks for answer nothing.
        audit: how the promise is watched; without it, it rests on the calibration for ever.
    """

    max_loss: Share
    confidence: Share = DEFAULT_CONFIDENCE
    calibration: CalibrationName | None = None
    calibrations: tuple[CalibrationName, ...] = ()
    audit: Audit | None = None

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Return the calibrations' names, under whichever key they are."""
        return self.calibrations or (() if self.calibration is None else (self.calibration,))


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


class SemanticCache(Part):
    """Answer a request that means the same as an earlier one.

    Attributes:
        max_error: wrong answers as a share of the semantic hits served, in (0, 1).
        allow: what is compared although it is left alone by default: `turns`, `tools`, `time_sensitive`, `code`,
            `maths`. Only the last user text is compared; all else has to be the same.
        max_characters: longer last user texts are not compared; the embedding sees some 1,000 characters of them.
        confidence: 1 minus the probability that verdicts certify `max_error` wrongly, in (0, 1).
        audit: how the promise is watched; left out: as the route's `quality.audit` says.
    """

    max_error: Share = DEFAULT_SEMANTIC_MAX_ERROR
    ttl: Duration = DEFAULT_SEMANTIC_TTL
    allow: Annotated[frozenset[Bypassed], PlainSerializer(sorted)] = frozenset()
    max_characters: Annotated[int, Field(ge=1, le=100_000)] = DEFAULT_SEMANTIC_CHARACTERS
    confidence: Share = DEFAULT_CONFIDENCE
    audit: Audit | None = None


class Cache(Part):
    """A route's caches; a tier that is absent is off.

    Attributes:
        max_temperature: requests above it are never answered from a cache nor stored, in [0, 2].
        flight_wait_s: how long a request waits for the first of the answer that an equal request in flight gets, in
            seconds, before it asks by itself; 0: each asks by itself.
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
    stream: Stream = Stream()
    cache: Cache = Cache()
    max_output_tokens: OutputTokens | None = None


class AtLimit(StrEnum):
    """What becomes of a request whose worst case a budget has no room for."""

    BLOCK = "block"
    """It is refused with 402 and the time the budget is full again."""
    DEGRADE = "degrade"
    """It is answered by a cheaper rung of its ladder that fits; where none does, it is refused."""
    WARN = "warn"
    """It is served, and the answer says so in a header."""


class Budget(Part):
    """How much may be spent in a window.

    Attributes:
        usd: the cap in dollars, down to the nano-dollar; 0 lets nothing be bought.
        per: `day`, `week` (from Monday), `month` (from the 1st) or `total`.
        at_limit: `block`, `degrade` or `warn`. Only the first two are hard: committed + held ≤ cap at every instant.
        timezone: whose midnights begin a window, as an IANA name; left out: the tenant's.
    """

    usd: BudgetUsd
    per: Per
    at_limit: AtLimit = AtLimit.BLOCK
    timezone: ZoneName | None = None


class Dimension(StrEnum):
    """What a budget may be for. `feature` and `task` are tags (`x-faregate-tags: feature=search,task=7`)."""

    TENANT = "tenant"
    KEY = "key"
    ROUTE = "route"
    FEATURE = "feature"
    USER = "user"
    SESSION = "session"
    TASK = "task"


class BudgetMatch(Part):
    """Which requests a budget counts; every key is optional, and without any it counts all.

    Attributes:
        tenant: who pays.
        key: an API key's id (`faregate keys list`).
        route: a route's name.
        feature: the tag `feature`.
        user: the end user: the body's `safety_identifier`, else its `user`.
        session: the header `x-faregate-session`.
        task: the tag `task`: one run of an agent.
    """

    tenant: TenantName | None = None
    key: ScopeValue | None = None
    route: Name | None = None
    feature: ScopeValue | None = None
    user: ScopeValue | None = None
    session: ScopeValue | None = None
    task: ScopeValue | None = None


def _listed(value: JsonValue) -> JsonValue:
    return [value] if isinstance(value, str) else value


class BudgetRule(Budget):
    """A budget for something other than a whole tenant.

    Without `each` everything that matches draws from one pot. With `each` every different value has a pot of its own,
    of `usd` each: `{name: sessions, each: session, usd: 1, per: total}`. A request without that value (no session
    header) is not counted here: what the client says of itself is its own word, so the hard fence is the tenant's or
    the key's budget. Keys, features, users, sessions and tasks are a tenant's own words: the pots of `each` are never
    shared between tenants. A `match` without a tenant counts all tenants together, but for `user`, which is always one
    tenant's.
    """

    name: Name
    match: BudgetMatch = BudgetMatch()
    each: Annotated[tuple[Dimension, ...], BeforeValidator(_listed)] = ()


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


class RevenueRule(Part):
    """What some requests bring in, for the margin in reports; at least one amount.

    Attributes:
        tenant: only this tenant's requests; left out: anybody's.
        feature: only those with this tag `feature`.
        usd_per_request: for each request.
        usd_per_answer: for each successful answer.
        usd_per_month: for a calendar month, spread over its requests.
    """

    tenant: TenantName | None = None
    feature: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    usd_per_request: Usd | None = None
    usd_per_answer: Usd | None = None
    usd_per_month: Usd | None = None

    @model_validator(mode="after")
    def _states_an_amount(self) -> "RevenueRule":
        if self.usd_per_request is None and self.usd_per_answer is None and self.usd_per_month is None:
            raise ValueError("expected usd_per_request, usd_per_answer or usd_per_month")
        return self


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
    """What one gateway process accepts."""

    max_body_bytes: Size = DEFAULT_MAX_BODY_BYTES
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
        deadline_ms: how long a question to a server may take, in milliseconds; then it is a miss.
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


class Durability(StrEnum):
    """What a hold survives from the moment the upstream is called."""

    PROCESS = "process"
    """The gateway's death, `kill -9` included: the kernel has the record."""
    POWER = "power"
    """A power cut too: the upstream is called when the disk has the record (one sync for all that wait)."""


class OnFailure(StrEnum):
    """What becomes of requests while the journal cannot be written: a full or read-only disk."""

    REFUSE = "refuse"
    """Nothing is bought (503)."""
    BUFFER = "buffer"
    """They are served; their rows wait in memory, up to a limit, and are lost with the process."""


class Ledger(Part):
    """How careful the ledger is.

    Attributes:
        buffer_bytes: how much `on_failure: buffer` keeps in memory before it refuses too.
        roots: the file for the daily roots of the hash chains, best on another disk or machine; left out:
            `roots.jsonl` in `storage.folder`.
    """

    durability: Durability = Durability.PROCESS
    on_failure: OnFailure = OnFailure.REFUSE
    buffer_bytes: Size = DEFAULT_LEDGER_BUFFER_BYTES
    roots: Path | None = None


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
    """

    host: Annotated[str, StringConstraints(min_length=1, pattern=r"^[A-Za-z0-9.:_-]+$")] = DEFAULT_HOST
    port: Annotated[int, Field(ge=0, le=65_535)] = DEFAULT_PORT
    transport: TransportKind = TransportKind.WIRE
    notice_s: Annotated[float, Field(ge=0, le=3_600)] = DEFAULT_NOTICE_S
    grace_s: Seconds = DEFAULT_GRACE_S
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1


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
        Mapping[ModelName, Model], Field(min_length=1), AfterValidator(_frozen), PlainSerializer(dict[str, Model])
    ]
    pools: Annotated[Mapping[Name, Pool], AfterValidator(_frozen), PlainSerializer(dict[str, Pool])] = Field(
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

    def with_calibrations(self, files: Mapping[str, Path]) -> "Policy":
        """Return the same policy knowing where the calibrations its routes name lie, by the name in the policy."""
        located = self.model_copy()
        located._calibrations = MappingProxyType(dict(files))  # our own copy, not yet shared
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

    def route_for(self, tenant: TenantId, model: str) -> Route | None:
        """Return the route of `select`."""
        selection = self.select(tenant, model)
        return selection.route if selection else None

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
