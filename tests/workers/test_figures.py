"""What several workers count, as one page; and how long a dead one's place stays empty."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry, Gauge

from gateway.tally import Counts, Spreads
from gateway.workers.figures import (
    EndpointStatus,
    Figures,
    PoolStatus,
    figures_of,
    grown,
    page,
    pools_together,
    total,
)
from gateway.workers.supervisor import rest_s


def a_worker(*, requests: float, seconds: float, in_flight: float) -> Figures:
    """Return what a worker counts, as it comes over the line."""
    registry = CollectorRegistry()
    Counts("asked", "Requests.", ["route"], registry=registry).labels("plain").inc(requests)
    Spreads("took_seconds", "Time.", ["route"], buckets=(0.1, 1.0), registry=registry).labels("plain").observe(seconds)
    Gauge("in_flight", "Being answered.", registry=registry).set(in_flight)
    return msgspec.json.decode(msgspec.json.encode(figures_of(registry)), type=Figures)


def lines(figures: Figures) -> list[str]:
    return [line for line in page(figures).decode().splitlines() if not line.startswith("#")]


def test_what_all_workers_share_is_shown_once():
    registry = CollectorRegistry()
    Gauge("faregate_promise_verdicts", "Verdicts it rests on.", registry=registry).set(40)

    assert lines(total([figures_of(registry)] * 3)) == ["faregate_promise_verdicts 40.0"]


def test_counts_of_all_workers_are_added():
    both = total(
        [
            a_worker(requests=2, seconds=0.5, in_flight=1),
            a_worker(requests=3, seconds=0.05, in_flight=4),
        ]
    )
    assert lines(both) == [
        'asked_total{route="plain"} 5.0',
        'took_seconds_bucket{le="0.1",route="plain"} 1.0',
        'took_seconds_bucket{le="1.0",route="plain"} 2.0',
        'took_seconds_bucket{le="+Inf",route="plain"} 2.0',
        'took_seconds_count{route="plain"} 2.0',
        'took_seconds_sum{route="plain"} 0.55',
        "in_flight 5.0",
    ]


def test_what_a_worker_that_is_gone_had_counted_stays_counted_and_what_it_had_in_flight_does_not():
    gone = grown(a_worker(requests=2, seconds=0.5, in_flight=7))
    now = lines(total([gone, a_worker(requests=1, seconds=0.5, in_flight=1)]))
    assert (now[0], now[-1]) == ('asked_total{route="plain"} 3.0', "in_flight 1.0")


def a_pool(state: str, in_flight: int) -> dict[str, PoolStatus]:
    endpoint = EndpointStatus("http://a", state, in_flight, 1, {"endpoint": 2})
    return {"small": PoolStatus((endpoint,), 3, 4)}


def test_an_endpoint_is_shown_as_the_worker_sees_it_that_sees_the_worst():
    together = pools_together([a_pool("closed", 1), a_pool("open", 2), a_pool("half_open", 0)])
    assert together == {
        "small": PoolStatus((EndpointStatus("http://a", "open", 3, 3, {"endpoint": 6}),), 9, 12),
    }


def test_a_worker_that_keeps_dying_is_started_ever_more_rarely():
    assert [rest_s(deaths) for deaths in (1, 2, 3, 4, 20)] == [0.0, 0.2, 0.4, 0.8, 10.0]
