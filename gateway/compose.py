"""The composition root: opens what a gateway needs, in order, and closes it in reverse."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backends.asks import NO_PARAMETERS, Parameters
from backends.clock import Clock
from backends.embedder import DIMENSIONS, Embedder, MiniLM, WordStates
from backends.http import HttpBackend
from backends.pool import Pool
from backends.prices import PriceBook, Schedule
from backends.retries import RetryRules
from backends.seam import Timeouts
from backends.transport import Transport
from backends.words import ModelId
from gateway.audit import Auditor
from gateway.caching import Caches
from gateway.energy import metering
from gateway.journey import CatalogModel
from gateway.ledger.budgets import BudgetAuthority, Budgets, Cap, LocalBudgets
from gateway.ledger.following import BooksFollower
from gateway.ledger.journal import Files
from gateway.ledger.journaled import JournaledLedger
from gateway.ledger.pseudonyms import Pseudonyms
from gateway.ledger.rows import PoolPrice, ReplicaPrice
from gateway.ledger.seam import EpochInfo, Ledger, Terms
from gateway.ledger.spent import read_spent
from gateway.limits import Limiter, Limits, LocalLimits
from gateway.pipeline import Gateway, Parts
from gateway.prepare import PreparedLane, candidates, lanes, price_book, stated_use
from gateway.promises import watch_promises
from gateway.settlement import Cashier
from gateway.spending import Pseudonym, Spending, caps_of, overspent_warnings, unknown_warnings
from gateway.stores import open_store
from gateway.telemetry import Telemetry
from gateway.verdicts import Verdicts
from gateway.worker import Worker
from policies.keys import FILE_NAME, KeyRing
from policies.schema import DEFAULT_OPENAI_PROVIDER, Policy, Route, TransportKind
from semantic_cache.acceptance import Acceptance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.workers.member import Crew


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A running gateway and what its other doors (health, metrics, admin) look at.

    Attributes:
        crew: the workers it is one of; None where it is alone.
        books: to be asked now and then to look; None where the supervisor does.
    """

    gateway: Gateway
    ledger: Ledger
    warnings: tuple[str, ...]
    crew: Crew | None = None
    books: BooksFollower | None = None


class LazyEmbedder:
    """The shipped embedder, loaded at its first use: onnxruntime would cost a third of the start-up budget."""

    def __init__(self) -> None:
        self._loaded: MiniLM | None = None

    @property
    def id(self) -> str:
        """Name the exact weights."""
        return self._model().id

    @property
    def dimensions(self) -> int:
        """Return the width of a vector."""
        return DIMENSIONS

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32[n, 384], rows of unit length."""
        return self._model().embed(texts)

    def states(self, text: str) -> WordStates:
        """Return the states of a text's words."""
        return self._model().states(text)

    def _model(self) -> MiniLM:
        if self._loaded is None:
            self._loaded = MiniLM.load()
        return self._loaded


@asynccontextmanager
async def open_gateway(
    policy: Policy,
    *,
    environ: Mapping[str, str],
    clock: Clock,
    embedder: Embedder | None = None,
    acceptance: Acceptance | None = None,
    files: Files | None = None,
    draw: Callable[[], float] | None = None,
) -> AsyncIterator[Opened]:
    """Open everything a policy names, and close it at the end.

    Args:
        policy: a loaded policy.
        environ: where telemetry's standard variables are looked up.
        clock: the time.
        embedder: the base embedder; the shipped one, loaded at its first use, when None.
        acceptance: decides about semantic hits; the shipped calibration when None.
        files: the journal's system calls; the real ones when None.
        draw: uniform numbers in [0, 1) for what is audited; the kernel's when None.

    Raises:
        PolicyUnusable: a model without a price, a calibration for other models.
        LedgerError: the folder cannot be used, or another gateway uses it.
    """
    prepared = prepare(policy, clock)
    folder = Path(policy.storage.folder)
    ledger = JournaledLedger.open(folder, clock, epoch_of(policy), terms=terms_of(policy), files=files)
    try:
        # After the ledger has closed what a killed gateway left open, before any request: budgets know all or nothing.
        known_as = Pseudonyms(folder).of
        authority, books, warnings = open_authority(policy, known_as, clock)
        purse = Purse(
            ledger=ledger,
            budgets=LocalBudgets(authority),
            caps=authority.caps,
            known_as=known_as,
            limits=LocalLimits(Limiter(policy)),
            warnings=warnings,
        )
        async with open_way(
            policy,
            prepared,
            purse,
            environ=environ,
            clock=clock,
            embedder=embedder,
            acceptance=acceptance,
            draw=draw,
        ) as opened:
            watch_budgets(opened.gateway.parts.telemetry, authority, clock)
            yield replace(opened, books=books)
    finally:
        ledger.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a policy comes to without opening anything: prices and lanes."""

    book: PriceBook
    lanes: Mapping[str, PreparedLane]


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """What all workers of a gateway share, as one of them sees it: where it books, what it may spend and admit.

    Attributes:
        caps: the policy's budgets.
        known_as: what end users are known by.
        warnings: what an operator should know of the budgets.
    """

    ledger: Ledger
    budgets: Budgets
    caps: tuple[Cap, ...]
    known_as: Pseudonym
    limits: Limits
    warnings: tuple[str, ...] = ()


def prepare(policy: Policy, clock: Clock) -> Prepared:
    """Return a policy's prices and lanes.

    Raises:
        PolicyUnusable: a model without a price, a calibration for other models.
    """
    book = price_book(policy, clock.now())
    return Prepared(book=book, lanes=lanes(policy, book, clock))


def open_authority(
    policy: Policy, known_as: Pseudonym, clock: Clock
) -> tuple[BudgetAuthority, BooksFollower, tuple[str, ...]]:
    """Return the budgets' state, rebuilt from the ledger, who keeps it up to date, and what an operator should know.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    caps = caps_of(policy, known_as)
    authority = BudgetAuthority(caps, clock.now())
    spent = read_spent(Path(policy.storage.folder), caps, clock.now())
    overspent = authority.rebuild(spent.nusd, clock.now(), carried=spent.carried)
    follower = BooksFollower(Path(policy.storage.folder), authority, clock, last_booking=spent.last_booking)
    return authority, follower, (*overspent_warnings(overspent), *unknown_warnings(spent))


def watch_budgets(telemetry: Telemetry, authority: BudgetAuthority, clock: Clock) -> None:
    """Show at every scrape what the budgets have left."""
    telemetry.watch_budgets(authority.caps, lambda cap: authority.pot((cap.name, cap.tenant), clock.now()).left_nusd)


@asynccontextmanager
async def open_way(
    policy: Policy,
    prepared: Prepared,
    purse: Purse,
    *,
    environ: Mapping[str, str],
    clock: Clock,
    embedder: Embedder | None = None,
    acceptance: Acceptance | None = None,
    draw: Callable[[], float] | None = None,
    is_metering: bool = True,
) -> AsyncIterator[Opened]:
    """Open what every worker has of its own: caches' connections, upstreams, telemetry; see `open_gateway`.

    One of several workers is the one that reads the cards' meters (`is_metering`).
    """
    folder, book = Path(policy.storage.folder), prepared.book
    served = {name: lane.lane for name, lane in prepared.lanes.items()}
    async with AsyncExitStack() as stack:
        seeing = _open_seeing(policy, stack, embedder=embedder, acceptance=acceptance)
        verdicts = Verdicts.open(folder)
        stack.callback(verdicts.close)
        telemetry = Telemetry(environ)
        stack.callback(telemetry.close)
        transport = await stack.enter_async_context(open_transport(policy))
        catalog = open_catalog(policy, transport, clock, book.schedules)
        telemetry.watch(pools_of(catalog))
        spending = Spending(
            caps=purse.caps, budgets=purse.budgets, notice=telemetry.note_budget, pseudonym=purse.known_as
        )
        cashier = Cashier(ledger=purse.ledger, prices=book, policy_digest=policy.digest, spending=spending)
        auditor = Auditor(
            policy=policy,
            lanes=served,
            catalog=catalog,
            candidates=candidates(policy),
            cashier=cashier,
            verdicts=verdicts,
            embedder=seeing.embedder,
            worker=seeing.worker,
            acceptance=seeing.acceptance,
            clock=clock,
            draw=draw or SystemRandom().random,
            observe=telemetry.observe_audit,
            count=telemetry.count_audit,
        )
        watch_promises(auditor, telemetry.registry)
        parts = Parts(
            policy=policy,
            tenants=frozenset(policy.tenant_ids),
            clock=clock,
            keys=KeyRing(folder / FILE_NAME),
            catalog=catalog,
            lanes=served,
            candidates=candidates(policy),
            caches=seeing.caches,
            cashier=cashier,
            limiter=purse.limits,
            telemetry=telemetry,
            auditor=auditor,
        )
        ready = prepared.lanes.values()
        metered = metering(policy, purse.ledger.meter, clock) if is_metering else nullcontext(())
        unmetered = await stack.enter_async_context(metered)
        warnings = (*(warning for lane in ready for warning in lane.warnings), *purse.warnings, *unmetered)
        seeing.caches.warm_up(is_needed=any(_embeds(lane.lane.route) or lane.lane.judges for lane in ready))
        await stack.enter_async_context(auditor.running())
        yield Opened(gateway=Gateway(parts), ledger=purse.ledger, warnings=warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seeing:
    """The caches, and what they share with audits: the embedder, its thread, and what accepts a neighbour's answer."""

    caches: Caches
    embedder: Embedder
    worker: Worker
    acceptance: Callable[[], Acceptance]


def _open_seeing(
    policy: Policy, stack: AsyncExitStack, *, embedder: Embedder | None, acceptance: Acceptance | None
) -> _Seeing:
    """Open the caches; the stack closes them and the worker."""
    shipped, worker = LazyEmbedder(), Worker()
    accepts = functools.cache(lambda: acceptance or Acceptance.load(states=shipped.states))
    caches = Caches(
        store=open_store(policy),
        acceptance=accepts,
        embedder=embedder or shipped,
        worker=worker,
        deadline_s=policy.storage.cache.deadline_ms / 1e3,
    )
    stack.callback(caches.close)
    return _Seeing(caches=caches, embedder=embedder or shipped, worker=worker, acceptance=accepts)


def terms_of(policy: Policy) -> Terms:
    """Return how careful the ledger shall be."""
    wanted = policy.ledger
    return Terms(
        durability=wanted.durability,
        on_failure=wanted.on_failure,
        buffer_bytes=wanted.buffer_bytes,
        roots=wanted.roots,
    )


def epoch_of(policy: Policy) -> EpochInfo:
    """Return what the ledger bills this life's pools by."""
    pools = tuple(
        PoolPrice(
            pool=name,
            usd_per_hour=pool.usd_per_hour,
            replicas=len(pool.endpoints),
            each=tuple(
                ReplicaPrice(
                    endpoint=each.endpoint, usd_per_hour=each.usd_per_hour, is_spot=each.is_spot, watts=each.watts
                )
                for each in pool.machines
            ),
        )
        for name, pool in policy.pools.items()
    )
    return EpochInfo(policy_digest=policy.digest, pools=pools)


def _embeds(route: Route) -> bool:
    return route.cache.semantic is not None


@asynccontextmanager
async def open_transport(policy: Policy) -> AsyncIterator[Transport]:
    """Open what all of a gateway's upstream requests go through, and close it at the end."""
    transport = _transport(policy.server.transport, policy.timeouts.connect_s)
    try:
        yield transport
    finally:
        await transport.aclose()


def _transport(kind: TransportKind, connect_s: float) -> Transport:
    """Import and make the one that is asked for: the other may cost a tenth of the start-up budget."""
    if kind is TransportKind.AIOHTTP:
        from backends.aiohttp_transport import AiohttpTransport

        return AiohttpTransport(connect_s=connect_s)
    from backends.wire import WireTransport

    return WireTransport(connect_s=connect_s)


def pools_of(catalog: Mapping[ModelId, CatalogModel]) -> dict[str, Pool]:
    """Return every set of endpoints once, by its pool's name or that of the first model that uses it."""
    named: dict[str, Pool] = {}
    for model in catalog.values():
        if model.backend not in named.values():
            name = model.pool or model.id
            named[name if name not in named else f"models.{model.id}"] = model.backend
    return named


def open_catalog(
    policy: Policy, transport: Transport, clock: Clock, rates: Mapping[ModelId, Schedule]
) -> dict[ModelId, CatalogModel]:
    """Return every model with its backend; models of one pool share it, so that its load is counted once."""
    timeouts = Timeouts(first_byte_s=policy.timeouts.first_byte_s, idle_s=policy.timeouts.idle_s)
    rules = RetryRules(
        max=policy.retries.max,
        budget_share=policy.retries.budget_share,
        min_per_s=policy.retries.min_per_s,
        max_wait_s=policy.retries.max_wait_s,
    )
    pools: dict[tuple[tuple[str, ...], str | None], Pool] = {}
    catalog: dict[ModelId, CatalogModel] = {}
    for model_id, model in policy.models.items():
        endpoints = policy.endpoints_of(model_id)
        secret = policy.api_key_of(model_id)
        api_key = None if secret is None else secret.get_secret_value()
        if (endpoints, api_key) not in pools:
            members = [
                HttpBackend(transport=transport, base_url=url, api_key=api_key, timeouts=timeouts) for url in endpoints
            ]
            pools[endpoints, api_key] = Pool(members, clock=clock, rules=rules)
        pool = policy.pools[model.pool] if model.pool is not None else None
        catalog[model_id] = CatalogModel(
            id=model_id,
            name=model.name,
            kind=model.backend,
            pool=model.pool,
            backend=pools[endpoints, api_key],
            rates=rates[model_id],
            stated=stated_use(model),
            capabilities=model.capabilities,
            output_tokens_per_s=pool.throughput.output_tokens_per_s if pool and pool.throughput else None,
            equivalents=model.equivalents,
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            most_web_searches=model.most_web_searches,
            searches_unasked=model.searches_unasked,
            # OpenAI's own models refuse `max_tokens`; other servers of its protocol may not know the newer name.
            cap_field="max_completion_tokens" if model.provider == DEFAULT_OPENAI_PROVIDER else "max_tokens",
            parameters=Parameters.of(model.parameters) if model.parameters else NO_PARAMETERS,
            variant=model.variant,
        )
    return catalog
