"""How promises stand, for who watches: gauges, readiness notes, and the rows of `faregate report --quality`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from backends.words import JsonValue
from gateway.audit import is_kept_small, promises_of, standing_of
from gateway.recalibrate import needed
from gateway.verdicts import Kind, Subject
from policies.sequence import State

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.audit import Auditor, Watched
    from gateway.journey import Lane
    from gateway.verdicts import Verdicts
    from policies.schema import Policy
    from policies.sequence import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseLine:
    """One promise in a report.

    Attributes:
        subject: `route` or `semantic`.
        space: whose cache it is, where each tenant has its own; else "".
        needed: verdicts without any loss that would certify it.
        how: verdicts by what they rest on.
        threshold: nothing below it is kept, by the latest recalibration from verdicts; None without one.
        spent_today_nusd: what today's audits cost.
    """

    route: str
    subject: str
    space: str
    max_loss: float
    confidence: float
    is_audited: bool
    standing: Standing
    needed: int
    how: Mapping[str, int]
    threshold: float | None
    spent_today_nusd: int


def promise_lines(lanes: Mapping[str, Lane], policy: Policy, verdicts: Verdicts, now: datetime) -> list[PromiseLine]:
    """Return how every promise of a policy stands by the verdicts of its folder."""
    lines = []
    for lane in lanes.values():
        promises = [watched for watched in promises_of(lane, policy) if watched.id.subject.kind is None]
        known = [_line(watched, verdicts, now) for watched in promises]
        # Where each tenant has its own cache, those that verdicts say something of; or one for all of them.
        told = [line for line in known if not line.space or line.standing.n or line.standing.state is not State.PRIOR]
        silent = [replace(line, space="") for line in known if line.space]
        lines += told if any(line.subject == Subject.SEMANTIC for line in told) else [*told, *silent[:1]]
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class KindLine:
    """One kind of request on a route that promises something, by its own verdicts.

    Attributes:
        is_kept: whether it may be answered below the baseline.
        state: of its own promise; None where it has none (single questions, and routes that are not audited).
        answers: how many the verdicts speak for.
        loss: observed; None without a verdict.
        bound: what the expected loss is below, at the route's confidence, at the judge's threshold in force.
        tried: verdicts on answers that nobody was served.
        turns: messages of the longest that verdicts speak of.
    """

    route: str
    kind: Kind
    is_kept: bool
    state: State | None
    n: int
    answers: int
    loss: float | None
    bound: float
    tried: int
    turns: int


def kind_lines(lanes: Mapping[str, Lane], policy: Policy, verdicts: Verdicts) -> list[KindLine]:
    """Return how every kind of request stands on the routes that promise something and have judges."""
    lines = []
    for lane in lanes.values():
        promises = {watched.id.subject: watched for watched in promises_of(lane, policy)}
        own = promises.get(Subject.ROUTE)
        if own is not None and lane.judges:
            kinds = (Kind.SINGLE, Kind.CONVERSATION, Kind.TOOLS)
            by_kind = {watched.id.subject.kind: watched for watched in promises.values()}
            lines += [_kind_line(lane, kind, by_kind.get(kind), own, verdicts) for kind in kinds]
    return lines


def _kind_line(lane: Lane, kind: Kind, watched: Watched | None, own: Watched, verdicts: Verdicts) -> KindLine:
    which = own.id if watched is None else watched.id
    threshold = max(*(judge.promise.threshold for judge in lane.judges.values()), verdicts.threshold(own.id) or 0.0)
    served = verdicts.series_of(which, kind, can_gain=own.can_gain, is_served=True)
    series = verdicts.series_of(which, kind, threshold=threshold, can_gain=own.can_gain)
    state = None if watched is None else verdicts.state(watched.id)
    is_breached = verdicts.state(own.id) is State.BREACHED
    return KindLine(
        route=lane.route.name,
        kind=kind,
        is_kept=not is_breached and is_kept_small(lane, kind, state or State.PRIOR),
        state=state,
        n=series.n,
        answers=series.units,
        loss=series.mean,
        bound=series.upper(own.stated.confidence),
        tried=series.n - served.n,
        turns=verdicts.longest(which, kind),
    )


def _line(watched: Watched, verdicts: Verdicts, now: datetime) -> PromiseLine:
    which, stated = watched.id, watched.stated
    return PromiseLine(
        route=which.route,
        subject=which.subject,
        space=which.space,
        max_loss=stated.max_loss,
        confidence=stated.confidence,
        is_audited=watched.audit is not None,
        standing=standing_of(verdicts, which, stated, can_gain=watched.can_gain),
        needed=needed(stated),
        how=verdicts.how(which),
        threshold=verdicts.threshold(which),
        spent_today_nusd=verdicts.spent_nusd(now.date().isoformat(), which.route, which.subject),
    )


def breaches(auditor: Auditor) -> list[JsonValue]:
    """Return the promises that are breached, for readiness: the gateway is ready, and somebody should look."""
    return [
        {"route": which.route, "subject": which.subject, "state": state}
        | ({"tenant": which.space} if which.space else {})
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
        labels = ["route", "subject", "tenant"]
        states = GaugeMetricFamily("faregate_promise_state", "1 for the state.", labels=[*labels, "state"])
        bounds = GaugeMetricFamily("faregate_promise_bound", "What the expected loss is below.", labels=labels)
        stated = GaugeMetricFamily("faregate_promise_max_loss", "The loss that is promised.", labels=labels)
        counts = GaugeMetricFamily("faregate_promise_verdicts", "Verdicts it rests on.", labels=labels)
        for which, promised, present, standing in self._auditor.watched() if self._auditor is not None else ():
            at = [which.route, which.subject, which.space]
            stated.add_metric(at, promised.max_loss)
            for state in State:
                states.add_metric([*at, state], state is present)
            if standing is not None:
                bounds.add_metric(at, standing.bound)
                counts.add_metric(at, standing.n)
        raised = GaugeMetricFamily("faregate_promise_threshold", "What verdicts set; nothing below it.", labels=labels)
        for which, threshold in self._auditor.thresholds() if self._auditor is not None else ():
            raised.add_metric([which.route, which.subject, which.space], threshold)
        yield from (states, bounds, stated, counts, raised)
