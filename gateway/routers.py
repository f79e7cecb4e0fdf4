"""How routes' trained artefacts are used, for who watches: metrics, readiness notes and the log.

A refused artefact is an alarm, not an outage: its route runs on its static ladder, which keeps the promise without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

if TYPE_CHECKING:
    from backends.words import JsonValue
    from gateway.journey import Lane

_log = logging.getLogger("faregate")


class Standing(StrEnum):
    """What becomes of a route's artefact."""

    SERVING = "serving"
    ASIDE = "aside"
    """Too many of the route's prompts are unlike its training prompts."""
    REFUSED = "refused"
    """It is damaged, or was made for something else."""


def standing_of(lane: Lane) -> Standing | None:
    """Return what becomes of a route's artefact; None where it has none."""
    if lane.refused_artefact is not None:
        return Standing.REFUSED
    if lane.sight is None:
        return None
    return Standing.ASIDE if lane.sight.gate.is_aside else Standing.SERVING


def refusals(lanes: Mapping[str, Lane]) -> list[JsonValue]:
    """Return the routes whose artefact was refused, for readiness: they answer, and somebody should look."""
    return [
        {"route": name, "reason": lane.refused_artefact}
        for name, lane in lanes.items()
        if lane.refused_artefact is not None
    ]


class RouterWatch(Collector):
    """Shows what becomes of artefacts among the metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lanes: Mapping[str, Lane] = {}
        registry.register(self)

    def watch(self, lanes: Mapping[str, Lane]) -> None:
        """Show the artefacts of these routes, in place of former ones, and say in the log which were refused."""
        self._lanes = lanes
        for name, lane in lanes.items():
            if lane.refused_artefact is not None:
                _log.error("artefact_refused", extra={"route": name, "reason": lane.refused_artefact})

    @override
    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "faregate_artefact_state", "1 for what becomes of a route's artefact.", labels=["route", "state"]
        )
        shares = GaugeMetricFamily(
            "faregate_artefact_outside_share",
            "Recent prompts that are unlike the artefact's training prompts.",
            labels=["route"],
        )
        for name, lane in self._lanes.items():
            present = standing_of(lane)
            for state in Standing if present is not None else ():
                states.add_metric([name, state], state is present)
            if lane.sight is not None:
                shares.add_metric([name], lane.sight.gate.share_outside)
        yield from (states, shares)
