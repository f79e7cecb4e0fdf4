"""Asks a rung's model again before its answer is kept: paid for like any attempt, and never the client's problem.

Whatever goes wrong (the upstream fails, a budget or the time is spent, the embedder is busy) leaves the answer without
this evidence, so that its judge does not keep it and the ladder is climbed. The second call may take half of the time
that the request has left: the next rung needs some, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.embedder import EmbedderError
from backends.errors import BackendError
from backends.words import Capability
from gateway.asides import Aside, NoRoom, buy, shadow
from gateway.journey import Attempt
from gateway.ledger.budgets import BudgetsUnready
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.rows import ChargeKind
from gateway.worker import Worker, WorkerFull
from policies.signals import Signal
from router.probe import probe_ask, read_probe, wants_logprobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from backends.embedder import Embedder
    from backends.words import Ask, Whole
    from gateway.journey import CatalogModel, Journey
    from gateway.settlement import Cashier

_KINDS = {Signal.SELF_CHECK: ChargeKind.SELF_CHECK, Signal.AGREEMENT: ChargeKind.SAMPLE}
TOP_LOGPROBS = 5
"""Alternatives in which yes and no are looked for; every server allows at least five."""


class Prober:
    """Asks models again.

    Args:
        cashier: holds and books the second call's money.
        embedder: for two answers in different words; used on `worker`.
        worker: runs what would hold up the event loop.
        total_s: how long a request may take.
    """

    def __init__(self, *, cashier: Cashier, embedder: Embedder, worker: Worker, total_s: float) -> None:
        self._cashier = cashier
        self._embedder = embedder
        self._worker = worker
        self._total_s = total_s

    async def probe(
        self, journey: Journey, ask: Ask, model: CatalogModel, answer: str, signal: Signal
    ) -> tuple[float, ...] | None:
        """Return what a model says of its own answer, see `router.probe.PROBED`; None when it says nothing usable."""
        has_logprobs = Capability.LOGPROBS in model.capabilities
        left_s = self._total_s - journey.elapsed_s
        try:
            async with asyncio.timeout(max(0.0, left_s) / 2):
                again = probe_ask(signal, ask, answer, has_logprobs=has_logprobs)
                top = TOP_LOGPROBS if wants_logprobs(signal, has_logprobs=has_logprobs) else None
                reply = await self._ask(journey, again, model, kind=_KINDS[signal], top_logprobs=top)
                return await read_probe(signal, answer, reply, has_logprobs=has_logprobs, embed=self._embed)
        except (BackendError, TimeoutError, NoRoom, LedgerUnavailable, BudgetsUnready, WorkerFull, EmbedderError):
            return None

    async def _ask(
        self, journey: Journey, ask: Ask, model: CatalogModel, *, kind: ChargeKind, top_logprobs: int | None
    ) -> Whole:
        beside = shadow(journey, ask)
        attempt = Attempt(
            number=len(journey.attempts),
            model=model,
            started_at=journey.clock.now(),
            started=journey.clock.monotonic(),
            asks_logprobs=top_logprobs is not None,
            quote=self._cashier.quote(beside, model),
            aside=kind,
        )
        try:
            aside = Aside(journey=beside, ask=ask, attempt=attempt, top_logprobs=top_logprobs)
            return await buy(aside, self._cashier, kind=kind)
        finally:
            # Cancelled with its request as well: what was generated is booked, by its own prompt and not the client's.
            attempt.end(kind if beside.attempts else None, journey.clock.monotonic())
            self._cashier.settle(beside)
            journey.attempts.extend(beside.attempts)  # none where nothing was asked

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._worker.run(self._embedder.embed, list(texts))
