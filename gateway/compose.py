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
from backends.pool import Pool
from backends.prices import PriceBook, Schedule
from backends.room import Room
from backends.words import ModelId
from gateway.audit import Auditor
from gateway.caching import Caches
from gateway.content.keeper import Keeper
from gateway.energy import metering
from gateway.journey import CatalogModel, Lane
from gateway.leads import Leads, SharedLeads
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
from gateway.prober import Prober
from gateway.promises import PromiseWatch
from gateway.routers import RouterWatch
from gateway.settlement import Cashier
from gateway.spending import Pseudonym, Spending, caps_of, overspent_warnings, unknown_warnings
from gateway.stores import open_store
from gateway.telemetry import Telemetry
from gateway.upstreams import Upstreams
from gateway.verdicts import Verdicts
from gateway.verifying import Verifying
from gateway.worker import Worker
from policies.keys import FILE_NAME, KeyRing
from policies.schema import DEFAULT_OPENAI_PROVIDER, Policy
from semantic_cache.acceptance import Acceptance
from semantic_cache.sqlite_store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.ledger.store_process import StoreProcess
    from gateway.workers.member import Crew


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A running gateway and what its other doors (health, metrics, admin) look at.

    Attributes:
        purse, commons: what it shares with the gateways of policies that follow it (`open_generation`).
        crew: the workers it is one of; None where it is alone.
        books: to be asked now and then to look; None where the supervisor does.
    """

    gateway: Gateway
    ledger: Ledger
    warnings: tuple[str, ...]
    purse: Purse
    commons: Commons
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
    store: StoreProcess | None = None,
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
        store: the process that folds the ledger, hatched, and closed here; a thread of this process when None.

    Raises:
        PolicyUnusable: a model without a price, a calibration for other models.
        LedgerError: the folder cannot be used, or another gateway uses it.
    """
    prepared = prepare(policy, clock)
    folder = Path(policy.storage.folder)
    ledger = JournaledLedger.open(folder, clock, epoch_of(policy), terms=terms_of(policy), files=files, store=store)
    try:
        # After the ledger has closed what a killed gateway left open, before any request: budgets know all or nothing.
        known_as = Pseudonyms(folder).of
        authority, books, warnings = open_authority(policy, known_as, clock, lambda: ledger.last_booking)
        purse = Purse(
            ledger=ledger,
            budgets=LocalBudgets(authority),
            caps=authority.caps,
            known_as=known_as,
            limits=LocalLimits(Limiter(policy)),
            warnings=warnings,
            authority=authority,
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
        authority: of the budgets, where it is in this process.
        leads: who of them buys what several are asked at once.
    """

    ledger: Ledger
    budgets: Budgets
    caps: tuple[Cap, ...]
    known_as: Pseudonym
    limits: Limits
    warnings: tuple[str, ...] = ()
    authority: BudgetAuthority | None = None
    leads: Leads | None = None


def prepare(policy: Policy, clock: Clock) -> Prepared:
    """Return a policy's prices and lanes.

    Raises:
        PolicyUnusable: a model without a price, a calibration for other models.
    """
    book = price_book(policy, clock.now())
    return Prepared(book=book, lanes=lanes(policy, book, clock))


def open_authority(
    policy: Policy, known_as: Pseudonym, clock: Clock, latest: Callable[[], int]
) -> tuple[BudgetAuthority, BooksFollower, tuple[str, ...]]:
    """Return the budgets' state, rebuilt from the ledger, who keeps it up to date, and what an operator should know.

    Args:
        policy: tells the budgets.
        known_as: what end users are known by.
        clock: the time.
        latest: tells the number of the last row of the ledger's `books`.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    caps = caps_of(policy, known_as)
    authority = BudgetAuthority(caps, clock.now())
    folder = Path(policy.storage.folder)
    spent = read_spent(folder, caps, clock.now())
    overspent = authority.rebuild(spent.nusd, clock.now(), carried=spent.carried)
    follower = BooksFollower(
        Path(policy.storage.folder), authority, clock, last_booking=spent.last_booking, latest=latest
    )
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
    """Open what every worker has of its own, see `open_gateway`; one of several reads the meters (`is_metering`)."""
    async with AsyncExitStack() as stack:
        seeing = _open_seeing(policy, stack, embedder=embedder, acceptance=acceptance)
        verdicts = Verdicts.open(Path(policy.storage.folder))
        stack.callback(verdicts.close)
        telemetry = Telemetry(environ)
        stack.callback(telemetry.close)
        keeper = Keeper.open(policy.ledger.content, Path(policy.storage.folder), clock, telemetry.count_content)
        if keeper is not None:
            stack.callback(keeper.close)
        room = Room(policy.limits.max_buffered_bytes)
        commons = Commons(
            room=room,
            seeing=seeing,
            keeper=keeper,
            verdicts=verdicts,
            telemetry=telemetry,
            promises=PromiseWatch(telemetry.registry),
            routers=RouterWatch(telemetry.registry),
            upstreams=await stack.enter_async_context(Upstreams(room)),
            clock=clock,
            draw=draw or SystemRandom().random,
        )
        if seeing.leads is not None:
            await stack.enter_async_context(seeing.leads.running())
        opened = await stack.enter_async_context(open_generation(policy, prepared, purse, commons))
        metered = metering(policy, purse.ledger.meter, clock) if is_metering else nullcontext(())
        unmetered = await stack.enter_async_context(metered)
        show(opened)
        yield replace(opened, warnings=(*opened.warnings, *unmetered))


@dataclass(frozen=True, slots=True, kw_only=True)
class Commons:
    """What the gateways of one process share that follow one another as its policy is reloaded."""

    room: Room
    seeing: _Seeing
    keeper: Keeper | None
    verdicts: Verdicts
    telemetry: Telemetry
    promises: PromiseWatch
    routers: RouterWatch
    upstreams: Upstreams
    clock: Clock
    draw: Callable[[], float]


def show(opened: Opened) -> None:
    """Show a gateway's endpoints, promises and artefacts in place of a former one's, and take its room."""
    opened.commons.room.limit_bytes = opened.gateway.parts.policy.limits.max_buffered_bytes
    opened.commons.telemetry.watch(pools_of(opened.gateway.parts.catalog))
    opened.commons.promises.watch(opened.gateway.parts.auditor)
    opened.commons.routers.watch(opened.gateway.parts.lanes)


@asynccontextmanager
async def open_generation(policy: Policy, prepared: Prepared, purse: Purse, commons: Commons) -> AsyncIterator[Opened]:
    """Open a gateway on a policy: the first one, or one that follows another when the policy was changed."""
    ready = prepared.lanes.values()
    warnings = (*(warning for lane in ready for warning in lane.warnings), *purse.warnings)
    async with AsyncExitStack() as stack:
        parts = _parts(policy, prepared, purse, commons, stack)
        parts.caches.warm_up(is_needed=any(_embeds(lane) for lane in parts.lanes.values()))
        await stack.enter_async_context(parts.auditor.running())
        if any(lane.verifier is not None for lane in parts.lanes.values()):
            await stack.enter_async_context(parts.verifying.running())
        yield Opened(gateway=Gateway(parts), ledger=purse.ledger, warnings=warnings, purse=purse, commons=commons)


def _parts(policy: Policy, prepared: Prepared, purse: Purse, commons: Commons, stack: AsyncExitStack) -> Parts:
    """Make what a gateway works with; the stack closes what is one gateway's alone."""
    book, telemetry, seeing = prepared.book, commons.telemetry, commons.seeing
    served = {name: lane.lane for name, lane in prepared.lanes.items()}
    catalog = open_catalog(policy, commons.upstreams, commons.clock, book.schedules)
    spending = Spending(caps=purse.caps, budgets=purse.budgets, notice=telemetry.note_budget, pseudonym=purse.known_as)
    cashier = Cashier(ledger=purse.ledger, prices=book, policy_digest=policy.digest, spending=spending)
    return Parts(
        policy=policy,
        tenants=frozenset(policy.tenant_ids),
        clock=commons.clock,
        keys=KeyRing(Path(policy.storage.folder) / FILE_NAME),
        catalog=catalog,
        lanes=served,
        candidates=candidates(policy),
        caches=seeing.caches,
        cashier=cashier,
        prober=Prober(
            cashier=cashier,
            embedder=seeing.embedder,
            worker=seeing.worker,
            total_s=policy.timeouts.total_s,
        ),
        limiter=purse.limits,
        telemetry=telemetry,
        auditor=_auditor(policy, served, catalog, cashier, commons),
        verifying=_verifying(policy, served, catalog, cashier, commons=commons, stack=stack),
        leads=purse.leads if seeing.leads is None else seeing.leads,
        keeper=commons.keeper,
        room=commons.room,
    )


def _auditor(
    policy: Policy,
    lanes: Mapping[str, Lane],
    catalog: Mapping[ModelId, CatalogModel],
    cashier: Cashier,
    commons: Commons,
) -> Auditor:
    telemetry, seeing = commons.telemetry, commons.seeing
    return Auditor(
        policy=policy,
        lanes=lanes,
        catalog=catalog,
        candidates=candidates(policy),
        cashier=cashier,
        verdicts=commons.verdicts,
        embedder=seeing.embedder,
        worker=seeing.worker,
        acceptance=seeing.acceptance,
        likeliest=seeing.caches.likeliest,
        clock=commons.clock,
        draw=commons.draw,
        observe=telemetry.observe_audit,
        count=telemetry.count_audit,
    )


def _verifying(
    policy: Policy,
    lanes: Mapping[str, Lane],
    catalog: Mapping[ModelId, CatalogModel],
    cashier: Cashier,
    *,
    commons: Commons,
    stack: AsyncExitStack,
) -> Verifying:
    money = commons.verdicts
    if any(lane.verifier is not None for lane in lanes.values()):
        money = Verdicts.open(Path(policy.storage.folder))  # another connection: used from threads of its own
        stack.callback(money.close)
    return Verifying(
        catalog=catalog,
        caches=commons.seeing.caches,
        cashier=cashier,
        money=money,
        clock=commons.clock,
        observe=commons.telemetry.observe_audit,
        count=commons.telemetry.count_verifier,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seeing:
    """The caches, and what they share with audits: the embedder, its thread, and what accepts a neighbour's answer."""

    caches: Caches
    embedder: Embedder
    worker: Worker
    acceptance: Callable[[], Acceptance]
    leads: SharedLeads | None


def _open_seeing(
    policy: Policy, stack: AsyncExitStack, *, embedder: Embedder | None, acceptance: Acceptance | None
) -> _Seeing:
    """Open the caches; the stack closes them and the worker."""
    shipped, worker = LazyEmbedder(), Worker()
    accepts = functools.cache(lambda: acceptance or Acceptance.load(states=shipped.states))
    store = open_store(policy)
    caches = Caches(
        store=store,
        acceptance=accepts,
        embedder=embedder or shipped,
        worker=worker,
        deadline_s=policy.storage.cache.deadline_ms / 1e3,
    )
    stack.callback(caches.close)
    leads = None
    if not isinstance(store, SqliteStore):
        leads = SharedLeads(store, deadline_s=policy.storage.cache.deadline_ms / 1e3)
    return _Seeing(caches=caches, embedder=embedder or shipped, worker=worker, acceptance=accepts, leads=leads)


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


def _embeds(lane: Lane) -> bool:
    return lane.route.cache.semantic is not None or bool(lane.judges) or lane.sight is not None


def pools_of(catalog: Mapping[ModelId, CatalogModel]) -> dict[str, Pool]:
    """Return every set of endpoints once, by its pool's name or that of the first model that uses it."""
    named: dict[str, Pool] = {}
    for model in catalog.values():
        if model.backend not in named.values():
            name = model.pool or model.id
            named[name if name not in named else f"models.{model.id}"] = model.backend
    return named


def open_catalog(
    policy: Policy, upstreams: Upstreams, clock: Clock, rates: Mapping[ModelId, Schedule]
) -> dict[ModelId, CatalogModel]:
    """Return every model with its backend."""
    catalog: dict[ModelId, CatalogModel] = {}
    for model_id, model in policy.models.items():
        pool = policy.pools[model.pool] if model.pool is not None else None
        catalog[model_id] = CatalogModel(
            id=model_id,
            name=model.name,
            kind=model.backend,
            pool=model.pool,
            backend=upstreams.pool(policy, model_id, clock),
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
    upstreams.keep([model.backend for model in catalog.values()])
    return catalog
