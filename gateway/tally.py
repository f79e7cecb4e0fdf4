"""Counters and histograms for the request's way: plain numbers that Prometheus reads when it asks.

prometheus_client's own cost 3 to 10 µs a call (a lock, a look-up of the labels, a cumulative sum); some twenty calls
are made for a request. These are written by the event loop's thread only and need no lock; a scrape in another thread
may see a request half counted, never a number half written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override


class Count:
    """A counter of one set of labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self.value += amount


class Counts(Collector):
    """A counter by labels. Args as prometheus_client's `Counter`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._children: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """Return the counter of these labels, in the order of their names."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Count()
        return child

    @override
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            family.add_metric(values, child.value)
        yield family


class Spread:
    """A histogram of one set of labels."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Spreads(Collector):
    """A histogram by labels. Args as prometheus_client's `Histogram`; `buckets` ascend and have no infinity."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._bounds = tuple(buckets)
        self._names = [str(floatToGoString(bound)) for bound in (*buckets, float("inf"))]  # type: ignore[no-untyped-call]
        self._children: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def labels(self, *values: str) -> Spread:
        """Return the histogram of these labels, in the order of their names."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Spread(self._bounds)
        return child

    @override
    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            buckets = list(zip(self._names, accumulate(child.counts), strict=True))
            family.add_metric(values, buckets, child.total)
        yield family
