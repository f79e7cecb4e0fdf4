"""Adding up what several workers count, for one page of metrics.

Counters and histograms are summed; so are gauges: requests in flight, and how many workers' breakers are in a state.
How promises stand is the folder's, not a worker's: there the highest figure is taken; a worker may be seconds late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from backends.breaker import Standing
from gateway.ledger.seam import LedgerStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backends.pool import Pool

_GROWING = frozenset({"counter", "histogram"})
_OF_ALL = frozenset(
    (
        *(f"faregate_promise_{what}" for what in ("state", "bound", "max_loss", "verdicts")),
        "faregate_artefact_state",
        "faregate_artefact_outside_share",
    )
)


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line of the page: its labels are pairs, in their order."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with all its lines."""

    name: str
    documentation: str
    kind: str
    samples: tuple[Sample, ...]


Figures = tuple[Family, ...]


def figures_of(registry: Collector) -> Figures:
    """Return what a registry shows now."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple(
                Sample(sample.name, tuple(sample.labels.items()), float(sample.value))
                for sample in metric.samples
                if math.isfinite(sample.value)  # JSON has no others, and none can be added up
            ),
        )
        for metric in registry.collect()
    )


def total(parts: Iterable[Figures]) -> Figures:
    """Return the sums over several processes; of what all of them share, the highest."""
    heads: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (family for part in parts for family in part):
        heads.setdefault(family.name, family)
        lines = sums.setdefault(family.name, {})
        for sample in family.samples:
            key = (sample.name, sample.labels)
            former = lines.get(key, 0.0)
            lines[key] = max(former, sample.value) if family.name in _OF_ALL else former + sample.value
    return tuple(
        Family(
            head.name,
            head.documentation,
            head.kind,
            tuple(Sample(name, labels, value) for (name, labels), value in sums[head.name].items()),
        )
        for head in heads.values()
    )


def grown(figures: Figures) -> Figures:
    """Return what only ever grows: it stays counted when its worker is gone, or sums would fall."""
    return tuple(family for family in figures if family.kind in _GROWING)


def page(figures: Figures) -> bytes:
    """Return Prometheus' text format."""
    return generate_latest(_Shown(figures))


class _Shown(CollectorRegistry):
    """Figures as a registry, which is what the renderer takes."""

    def __init__(self, figures: Figures) -> None:
        super().__init__()
        self._figures = figures

    @override
    def collect(self) -> Iterator[Metric]:
        for family in self._figures:
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric


class EndpointStatus(msgspec.Struct, frozen=True):
    """What a worker, or all of them, know of an endpoint."""

    endpoint: str
    state: str
    in_flight: int
    openings: int
    failures: dict[str, int]


class PoolStatus(msgspec.Struct, frozen=True):
    """What a worker, or all of them, know of a pool; its endpoints are in the policy's order."""

    endpoints: tuple[EndpointStatus, ...]
    retries: int
    retries_refused: int


class MemberStatus(msgspec.Struct, frozen=True):
    """How a worker is."""

    slot: int
    pid: int
    is_stopping: bool
    ledger: LedgerStatus
    pools: dict[str, PoolStatus]


class Household(msgspec.Struct, frozen=True):
    """How a gateway of several workers is.

    Attributes:
        ledger: of all journals and the store.
        restarts: workers that were started anew.
        answering: the slot of the worker that was asked.
    """

    ledger: LedgerStatus
    pools: dict[str, PoolStatus]
    workers: tuple[MemberStatus, ...]
    restarts: int
    warnings: tuple[str, ...]
    answering: int


def pools_now(pools: Mapping[str, Pool]) -> dict[str, PoolStatus]:
    """Return what this process knows of its endpoints."""
    return {
        name: PoolStatus(
            endpoints=tuple(
                EndpointStatus(
                    endpoint=status.endpoint,
                    state=status.standing.value,
                    in_flight=status.in_flight,
                    openings=status.openings,
                    failures={blame.value: count for blame, count in status.failures.items()},
                )
                for status in pool.endpoints()
            ),
            retries=pool.retries,
            retries_refused=pool.refused_retries,
        )
        for name, pool in pools.items()
    }


def pools_together(parts: Iterable[Mapping[str, PoolStatus]]) -> dict[str, PoolStatus]:
    """Return every worker's pools as one: counts added, of the breakers' states the worst."""
    together: dict[str, PoolStatus] = {}
    for name, pool in (item for each in parts for item in each.items()):
        known = together.get(name)
        together[name] = pool if known is None else _both(known, pool)
    return together


_WORST = tuple(standing.value for standing in (Standing.RESTING, Standing.PROBING, Standing.DUE, Standing.READY))


def _both(one: PoolStatus, other: PoolStatus) -> PoolStatus:
    return PoolStatus(
        endpoints=tuple(
            EndpointStatus(
                endpoint=a.endpoint,
                state=min(a.state, b.state, key=_WORST.index),
                in_flight=a.in_flight + b.in_flight,
                openings=a.openings + b.openings,
                failures={
                    blame: a.failures.get(blame, 0) + b.failures.get(blame, 0) for blame in {**a.failures, **b.failures}
                },
            )
            for a, b in zip(one.endpoints, other.endpoints, strict=True)
        ),
        retries=one.retries + other.retries,
        retries_refused=one.retries_refused + other.retries_refused,
    )
