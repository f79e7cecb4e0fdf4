"""What a policy says of money: prices, pools, budgets, revenue and the ledger.

`policies.schema` has these names too: it is where the others import them from.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    StringConstraints,
    Tag,
    model_validator,
)

from backends.words import JsonValue
from policies.content import Content, as_content
from policies.values import (
    BudgetUsd,
    Moment,
    Name,
    Part,
    ScopeValue,
    Secret,
    Size,
    TenantName,
    TokensPerSecond,
    Url,
    Usd,
    ZoneName,
    frozen,
)
from policies.windows import Per

DEFAULT_LEDGER_BUFFER_BYTES: Final = 64_000_000  # the rows of some 30,000 requests


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
        Mapping[Name, Annotated[Decimal, Field(gt=0, le=100)]], AfterValidator(frozen), PlainSerializer(dict)
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


class Throughput(Part):
    """What one replica of a pool processes per second when busy, by token class; rates derive from it.

    `cached_input_tokens_per_s` left out: cached input is charged like uncached input.
    """

    input_tokens_per_s: TokensPerSecond
    output_tokens_per_s: TokensPerSecond
    cached_input_tokens_per_s: TokensPerSecond | None = None


_GPU_ID: Final = re.compile(r"(GPU|MIG)-[0-9a-fA-F-]{8,64}")
_MOST_GPUS: Final = 1_024


def _gpu(value: JsonValue) -> JsonValue:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_GPUS
    if is_number or (isinstance(value, str) and _GPU_ID.fullmatch(value)):
        return value
    raise ValueError(
        "expected a card's number such as 0, or its id such as GPU-8c5f6a3e-… (`nvidia-smi -L` lists them)"
    )


Gpu = Annotated[int | str, BeforeValidator(_gpu)]
"""A card of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A replica with all that holds for it; see `Replica` and `Pool`."""

    endpoint: str
    usd_per_hour: Decimal
    is_spot: bool
    watts: int | None
    gpus: tuple[int | str, ...]


class Replica(Part):
    """What sets one replica of a pool apart from the others.

    Attributes:
        endpoint: which of the pool's `endpoints` it is.
        usd_per_hour, spot, watts: its own, in place of the pool's.
        gpus: the cards it runs on, where they are this machine's: by number (0 is the first) or by id (`GPU-…`). What
            they draw is read off their meters (NVML) and stands in the bill as measured, in place of `watts`.
    """

    endpoint: Url
    usd_per_hour: Usd | None = None
    spot: bool | None = None
    watts: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    gpus: tuple[Gpu, ...] = ()


class Pool(Part):
    """The replicas that serve one model; each costs `usd_per_hour` unless `replicas` says otherwise.

    A replica that comes or goes is a change of `endpoints`: the ledger bills each from the moment a policy names it
    until one no longer does, or by the cloud's own hours (`faregate report --hours`).

    Attributes:
        replicas: those that cost something else than the pool says, such as spot machines beside on-demand ones.
        spot: they are spot machines, which the cloud may take back; the bill says so.
        watts: what one of them draws while it works, on average; the bill estimates energy from it.
    """

    endpoints: Annotated[tuple[Url, ...], Field(min_length=1)]
    usd_per_hour: Usd
    spot: bool = False
    watts: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    throughput: Throughput | None = None
    api_key: Secret | None = None
    replicas: tuple[Replica, ...] = ()

    @property
    def machines(self) -> "tuple[Machine, ...]":
        """Return every replica with what holds for it, in the order of the endpoints."""
        own = {replica.endpoint: replica for replica in self.replicas}
        return tuple(self._machine(endpoint, own.get(endpoint)) for endpoint in self.endpoints)

    def _machine(self, endpoint: str, own: Replica | None) -> Machine:
        return Machine(
            endpoint=endpoint,
            usd_per_hour=own.usd_per_hour if own and own.usd_per_hour is not None else self.usd_per_hour,
            is_spot=own.spot if own and own.spot is not None else self.spot,
            watts=own.watts if own and own.watts is not None else self.watts,
            gpus=own.gpus if own else (),
        )


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
        content: whether prompts and answers are stored beside it, and how; by default they are not.
    """

    durability: Durability = Durability.PROCESS
    on_failure: OnFailure = OnFailure.REFUSE
    buffer_bytes: Size = DEFAULT_LEDGER_BUFFER_BYTES
    roots: Path | None = None
    content: Annotated[Content, BeforeValidator(as_content)] = Content()
