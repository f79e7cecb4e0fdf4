"""How promises stand, for who watches: gauges, readiness notes, and the rows of `faregate report --quality`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from backends.words import JsonValue
from gateway.audit import promises_of, standing_of
from policies.sequence import State, verdicts_needed

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.audit import Auditor
    from gateway.journey import Lane
    from gateway.verdicts import Verdicts
    from policies.sequence import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseLine:
    """One promise in a report.

    Attributes:
        subject: `route` or `semantic`.
        needed: verdicts without any loss that would certify it.
        how: verdicts by what they rest on.
        threshold: nothing below it is kept, by the latest recalibration from verdicts; None without one.
        spent_today_nusd: what today's audits cost.
    """

    route: str
    subject: str
    max_loss: float
    confidence: float
    is_audited: bool
    standing: Standing
    needed: int
    how: Mapping[str, int]
    threshold: float | None
    spent_today_nusd: int


def promise_lines(lanes: Mapping[str, Lane], verdicts: Verdicts, now: datetime) -> list[PromiseLine]:
    """Return how every promise of a policy stands by the verdicts of its folder."""
    lines = []
    for lane in lanes.values():
        for watched in promises_of(lane).values():
            which, stated = watched.id, watched.stated
            lines.append(
                PromiseLine(
                    route=which.route,
                    subject=which.subject,
                    max_loss=stated.max_loss,
                    confidence=stated.confidence,
                    is_audited=watched.audit is not None,
                    standing=standing_of(verdicts, which, stated, can_gain=watched.can_gain),
                    needed=verdicts_needed(stated.max_loss, stated.confidence),
                    how=verdicts.how(which),
                    threshold=verdicts.threshold(which),
                    spent_today_nusd=verdicts.spent_nusd(now.date().isoformat(), which.route, which.subject),
                )
            )
    return lines


def breaches(auditor: Auditor) -> list[JsonValue]:
    """Return the promises that are breached, for readiness: the gateway is ready, and somebody should look."""
    return [
        {"route": which.route, "subject": which.subject, "state": state}
        for which, _, state, _ in auditor.watched()
        if state is State.BREACHED
    ]


class PromiseWatch(Collector):
    """Shows how promises stand among the metrics; they are looked at when the metrics are read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._auditor: Auditor | None = None
        registry.register(self)

    def watch(self, auditor: Auditor) -> None:
        """Show the promises of this auditor, in place of a former one's."""
        self._auditor = auditor

    @override
    def collect(self) -> Iterator[Metric]:
        labels = ["route", "subject"]
        states = GaugeMetricFamily("faregate_promise_state", "1 for the state.", labels=[*labels, "state"])
        bounds = GaugeMetricFamily("faregate_promise_bound", "What the expected loss is below.", labels=labels)
        stated = GaugeMetricFamily("faregate_promise_max_loss", "The loss that is promised.", labels=labels)
        counts = GaugeMetricFamily("faregate_promise_verdicts", "Verdicts it rests on.", labels=labels)
        for which, promised, present, standing in self._auditor.watched() if self._auditor is not None else ():
            at = [which.route, which.subject]
            stated.add_metric(at, promised.max_loss)
            for state in State:
                states.add_metric([*at, state], state is present)
            if standing is not None:
                bounds.add_metric(at, standing.bound)
                counts.add_metric(at, standing.n)
        yield from (states, bounds, stated, counts)
