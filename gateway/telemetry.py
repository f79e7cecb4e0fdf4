"""What can be watched: Prometheus metrics always, one OpenTelemetry span a request when an exporter is configured.

The span is written after the answer, from the journey's own times: the way itself never waits for telemetry. Names
follow OpenTelemetry's GenAI semantic conventions (all "Development" as of 2026-11); money has no attribute there, so it
is under `faregate.`. Nothing of a prompt or an answer is ever an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from backends.breaker import Standing
from backends.pool import Pool
from backends.prices import NANO_PER_USD, usd
from backends.words import Surface, Usage
from gateway.journey import Attempt, Journey
from gateway.ledger.budgets import Cap
from gateway.ledger.rows import RequestRow
from gateway.settlement import usage_of
from gateway.spending import BudgetEvent
from gateway.tally import Count, Counts, Spread, Spreads
from policies.schema import BackendKind
from router.judge import Verdict
from semantic_cache.seam import Bypass, Hit, Lookup, Miss

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)

_JUDGE_SECONDS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005)

_OPERATIONS = {Surface.CHAT: "chat", Surface.COMPLETIONS: "text_completion", Surface.EMBEDDINGS: "embeddings"}
_PROVIDERS = {BackendKind.OPENAI: "openai", BackendKind.VLLM: "vllm", BackendKind.LLAMACPP: "llama.cpp"}

_RESULTS: Mapping[type[Lookup], str] = {Hit: "hit", Miss: "miss", Bypass: "bypass"}

EXPORT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The standard variables; spans are made only when one of them is set."""


class Telemetry:
    """Observes finished journeys.

    Args:
        environ: where the standard OTEL variables are looked up; the exporter reads the rest of them itself.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.in_flight = Count()
        gauge = Gauge("faregate_requests_in_flight", "Requests being answered.", registry=registry)
        gauge.set_function(lambda: self.in_flight.value)
        self._times = _Times(registry)
        self._money = _Money(registry)
        self._judging = _Judged(registry)
        self._lookups = Counts(
            "faregate_cache_lookups", "Cache lookups by result.", ["tier", "result"], registry=registry
        )
        self._reloads = Counts(
            "faregate_policy_reloads", "Policies taken or refused while running.", ["result"], registry=registry
        )
        self._contents = Counts(
            "faregate_contents", "Prompts and answers stored, dropped or failed.", ["result"], registry=registry
        )
        self._pools: _Pools | None = None
        self._kinds: dict[tuple[str, str, int], tuple[Count, Spread, Spread, Spread]] = {}
        self._looked: dict[tuple[str, type[Lookup]], Count] = {}
        self._provider = _provider(environ)

    @property
    def is_tracing(self) -> bool:
        """Whether spans are made."""
        return self._provider is not None

    def observe(self, journey: Journey, row: RequestRow) -> None:
        """Count a finished journey and export its span."""
        route = row.route or ""
        # Unknown keys and models make unbounded paths nowhere: labels come from the policy and from fixed words.
        kind = self._kinds.get((route, row.path, row.status)) or self._kind(route, row.path, row.status)
        requests, duration, overhead, ttft = kind
        requests.value += 1
        duration.observe(row.total_ms / 1e3)
        overhead.observe(row.overhead_ms / 1e3)
        if row.ttft_ms is not None:
            ttft.observe(row.ttft_ms / 1e3)
        for tier, lookup in journey.lookups.items():
            kind_of = (tier, type(lookup))
            looked = self._looked.get(kind_of)
            if looked is None:
                looked = self._looked[kind_of] = self._lookups.labels(tier, _RESULTS[type(lookup)])
            looked.value += 1
        if journey.verdict is not None:
            self._observe_judges(journey, route, journey.verdict)
        for attempt in journey.attempts:
            self._count(journey, attempt)
        if self._provider is not None:
            self._export(self._provider, journey, row)

    def _observe_judges(self, journey: Journey, route: str, verdict: Verdict) -> None:
        self._judging.judged.labels(route, str(verdict.is_kept).lower()).inc()
        for (model, _), cost in zip(journey.verdicts, journey.judgings, strict=True):
            self._judging.held.labels(route).observe(cost.held_ms / 1e3)
            self._judging.weighed.labels(route).observe(cost.weighed_ms / 1e3)
            self._judging.dropped.labels(route, model).inc(cost.dropped_tokens)

    def count_content(self, result: str) -> None:
        """Count what became of a prompt that was to be stored."""
        self._contents.labels(result).inc()

    def observe_audit(self, journey: Journey) -> None:
        """Count what an audit of a finished journey cost."""
        for attempt in journey.attempts:
            self._count(journey, attempt)

    def count_audit(self, route: str, origin: str, result: str) -> None:
        """Count an audit by what came of it."""
        self._judging.audits.labels(route, origin, result).inc()

    def count_verifier(self, route: str, result: str) -> None:
        """Count a doubtful neighbour of the semantic cache by what came of it."""
        self._judging.verified.labels(route, result).inc()

    def watch(self, pools: Mapping[str, Pool]) -> None:
        """Tell of these pools' endpoints, by the pools' names; they are looked at when the metrics are read.

        Called again after a reload: then of these only.
        """
        if self._pools is None:
            self._pools = _Pools(pools)
            self.registry.register(self._pools)
        self._pools.pools = pools

    def reloaded(self, *, is_taken: bool) -> None:
        """Count a policy that was taken, or refused, while the gateway ran."""
        self._reloads.labels("taken" if is_taken else "refused").inc()

    def watch_budgets(self, caps: Iterable[Cap], left_nusd: Callable[[Cap], int]) -> None:
        """Show what is left of the tenants' own budgets; those of users or sessions would be labels without bound.

        Args:
            caps: the policy's budgets.
            left_nusd: read at every scrape.
        """
        for cap in caps:
            if cap.name == f"tenant:{cap.tenant}":
                gauge = self._money.budget_left.labels(cap.tenant, cap.per.value)
                gauge.set_function(lambda cap=cap: float(usd(left_nusd(cap))))  # type: ignore[misc]  # bound now

    def note_budget(self, event: BudgetEvent) -> None:
        """Count what a budget did."""
        self._money.budget_events.labels(event.budget, event.event).inc()
        if event.nusd:
            self._money.overruns.labels(event.budget).inc(float(usd(event.nusd)))

    def rate_limited(self, tenant: str, limit: str) -> None:
        """Count a request that a rate limit refused."""
        self._money.rate_limited.labels(tenant, limit).inc()

    def close(self) -> None:
        """Send what is still queued."""
        if self._provider is not None:
            self._provider.shutdown()

    def _kind(self, route: str, path: str, status: int) -> tuple[Count, Spread, Spread, Spread]:
        """Return what counts requests of a kind: requests, duration, overhead, time to first byte."""
        self._kinds[route, path, status] = found = (
            self._times.requests.labels(route, path, str(status)),
            self._times.duration.labels(route),
            self._times.overhead.labels(route),
            self._times.ttft.labels(route),
        )
        return found

    def _count(self, journey: Journey, attempt: Attempt) -> None:
        if attempt.kind is None:
            return
        usage, model = usage_of(journey, attempt), attempt.model.id
        self._money.cost.labels(model, attempt.kind).value += attempt.cost_nusd / NANO_PER_USD
        if attempt.is_cost_unknown:
            self._money.unknown.labels(model, attempt.kind).inc()
        if usage.input_tokens:
            self._money.tokens.labels(model, "input").value += usage.input_tokens
        if usage.output_tokens:
            self._money.tokens.labels(model, "output").value += usage.output_tokens
        if usage.total_input_tokens + usage.total_output_tokens != usage.input_tokens + usage.output_tokens:
            self._count_rare(model, usage)

    def _count_rare(self, model: str, usage: Usage) -> None:
        """Count the classes of tokens that few answers have."""
        for name, tokens in (
            ("cached_input", usage.cached_input_tokens),
            ("cache_write", usage.cache_write_tokens),
            ("cache_write_1h", usage.cache_write_1h_tokens),
            ("audio_input", usage.audio_input_tokens),
            ("image_input", usage.image_input_tokens),
            ("reasoning", usage.reasoning_tokens),
            ("audio_output", usage.audio_output_tokens),
            ("image_output", usage.image_output_tokens),
        ):
            if tokens:
                self._money.tokens.labels(model, name).inc(tokens)

    def _export(self, provider: TracerProvider, journey: Journey, row: RequestRow) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tracer = provider.get_tracer("faregate")
        parent = TraceContextTextMapPropagator().extract({"traceparent": journey.call.traceparent or ""})
        start_ns = int(journey.started_at.timestamp() * 1e9)
        operation = _OPERATIONS[journey.call.surface]
        span = tracer.start_span(
            f"{operation} {row.model_asked}".strip(),
            context=parent,
            kind=SpanKind.SERVER,
            start_time=start_ns,
            attributes=_attributes(journey, row, operation),
        )
        for step in journey.steps:
            child = tracer.start_span(step.name, context=set_span_in_context(span), start_time=step.start_ns)
            child.end(step.end_ns)
        if row.error_code is not None:
            span.set_status(Status(StatusCode.ERROR, row.error_code))
        span.end(start_ns + int(row.total_ms * 1e6))


class _Times:
    """Requests, and how long they took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counts(
            "faregate_requests", "Requests by what became of them.", ["route", "path", "status"], registry=registry
        )
        self.duration = Spreads(
            "faregate_request_seconds", "Whole time.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.ttft = Spreads(
            "faregate_time_to_first_byte_seconds",
            "Until the first byte.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.overhead = Spreads(
            "faregate_overhead_seconds",
            "Time not spent waiting for upstreams.",
            ["route"],
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )


class _Money:
    """What was spent, and what budgets and rate limits made of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.cost = Counts(
            "faregate_cost_usd", "Charges (the ledger has them exactly).", ["model", "kind"], registry=registry
        )
        self.unknown = Counts(
            "faregate_unknown_cost_charges", "Charges whose cost nobody knows.", ["model", "kind"], registry=registry
        )
        self.tokens = Counts("faregate_tokens", "Tokens by class.", ["model", "class"], registry=registry)
        self.budget_events = Counts(
            "faregate_budget_events",
            "Requests blocked, degraded, warned; overruns.",
            ["budget", "event"],
            registry=registry,
        )
        self.overruns = Counts(
            "faregate_budget_overrun_usd", "Spent beyond what was held for an attempt.", ["budget"], registry=registry
        )
        self.budget_left = Gauge(
            "faregate_budget_left_usd",
            "What a tenant's budget has left in its present window.",
            ["tenant", "per"],
            registry=registry,
        )
        self.rate_limited = Counts(
            "faregate_rate_limited", "Requests refused by a rate limit.", ["tenant", "limit"], registry=registry
        )


class _Judged:
    """What judges, audits and the cache's verifier did, and what it cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.audits = Counts(
            "faregate_audits", "Audits by what came of them.", ["route", "origin", "result"], registry=registry
        )
        self.verified = Counts(
            "faregate_cache_verifier",
            "Doubtful neighbours by what came of them.",
            ["route", "result"],
            registry=registry,
        )
        self.judged = Counts("faregate_judged", "Answers judged.", ["route", "kept"], registry=registry)
        self.held = Spreads(
            "faregate_judge_held_seconds",
            "From an answer's first event until its judge's verdict.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.weighed = Spreads(
            "faregate_judge_seconds",
            "What a judge takes of the event loop.",
            ["route"],
            buckets=_JUDGE_SECONDS,
            registry=registry,
        )
        self.dropped = Counts(
            "faregate_dropped_tokens", "Tokens of answers that no client saw.", ["route", "model"], registry=registry
        )


class _Pools(Collector):
    """What pools know of their endpoints; counting costs the way nothing."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self.pools = pools

    @override
    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        place = ["pool", "endpoint"]
        states = GaugeMetricFamily(
            "faregate_endpoint_state", "Workers whose breaker is in that state.", labels=[*place, "state"]
        )
        openings = CounterMetricFamily("faregate_endpoint_openings", "Times its breaker opened.", labels=place)
        failures = CounterMetricFamily(
            "faregate_endpoint_failures", "Failed tries, by whose fault they seemed.", labels=[*place, "blame"]
        )
        retries = CounterMetricFamily("faregate_retries", "Tries beyond a request's first.", labels=["pool"])
        refused = CounterMetricFamily(
            "faregate_retries_refused", "Retries that retries.budget_share left no room for.", labels=["pool"]
        )
        for name, pool in self.pools.items():
            retries.add_metric([name], pool.retries)
            refused.add_metric([name], pool.refused_retries)
            for status in pool.endpoints():
                at = [name, status.endpoint]
                openings.add_metric(at, status.openings)
                for state in Standing:
                    states.add_metric([*at, state.value], status.standing is state)
                for blame, count in status.failures.items():
                    failures.add_metric([*at, blame.value], count)
        yield from (states, openings, failures, retries, refused)


def _attributes(journey: Journey, row: RequestRow, operation: str) -> dict[str, str | bool | int | float]:
    served = journey.served if journey.hit is None else None
    attributes: dict[str, str | bool | int | float | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS[served.model.kind] if served else "faregate",
        "gen_ai.request.model": row.model_asked,
        "gen_ai.request.stream": row.is_stream,
        "gen_ai.response.model": served.model.name if served else None,
        "gen_ai.response.time_to_first_chunk": None if row.ttft_ms is None else row.ttft_ms / 1e3,
        "error.type": row.error_code,
        "http.response.status_code": row.status,
        "faregate.request_id": row.request_id,
        "faregate.tenant": row.tenant,
        "faregate.route": row.route,
        "faregate.path": row.path,
        "faregate.confidence": row.confidence,
        "faregate.cost_nusd": row.cost_nusd,
        "faregate.baseline_nusd": row.baseline_nusd,
    }
    if served is not None and served.kind is not None:
        usage = usage_of(journey, served)
        # The conventions count cached tokens inside the input.
        attributes["gen_ai.usage.input_tokens"] = usage.total_input_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.total_output_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_input_tokens
    return {name: value for name, value in attributes.items() if value is not None}


def _provider(environ: Mapping[str, str]) -> TracerProvider | None:
    """Return a provider that exports by OTLP over HTTP, None when no standard variable asks for it."""
    is_disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_disabled or not any(environ.get(name) for name in EXPORT_VARIABLES):
        return None
    # Imported here: the SDK and its exporter cost 0.3 s of start-up that nobody without a collector needs to pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": environ.get("OTEL_SERVICE_NAME", "faregate")}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
