"""A pool's throughput by class of tokens, fitted to what vLLM measured while it worked.

The rates of a pool are its hourly price spread over what a replica does in a busy second
(`backends.prices.pool_rates`). They are right when the charges of a busy second make what the second costs, so the fit
takes the seconds in which at least one request ran, and splits them between reading and writing as vLLM's own phases
did: requests that run side by side share a second evenly, which is how a batch uses the machine. Cached input gets a
rate of its own where the prefill times of the samples tell it apart from fresh input (least squares); else it is
charged like fresh input.

Names of the metrics: vLLM 0.32. Source of the split: activity-based costing, request-seconds of each phase as driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from itertools import pairwise
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

_RUNNING: Final = "vllm:num_requests_running"
_COUNTED: Final = {
    "prompt": "vllm:prompt_tokens_total",
    "cached": "vllm:prefix_cache_hits_total",
    "generated": "vllm:generation_tokens_total",
    "prefill_s": "vllm:request_prefill_time_seconds_sum",
    "decode_s": "vllm:request_decode_time_seconds_sum",
}
_FEWEST_TOKENS: Final = 1_000
"""Of each class in a measurement; fewer say nothing."""
_FEWEST_SAMPLES: Final = 5
_DIGITS: Final = 4


class FitImpossible(ValueError):
    """What was measured says nothing of the throughput; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One server's counters at one moment.

    Attributes:
        at_s: seconds of any clock that does not jump.
        running: requests that run.
        prompt: tokens of prompts so far, cached ones among them.
        cached: of them found in the prefix cache.
        generated: tokens written so far.
        prefill_s: seconds of requests in prefill so far, of requests that are done.
        decode_s: the same for decoding.
    """

    at_s: float
    running: float
    prompt: float
    cached: float
    generated: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What one replica does in a busy second, and what that was read off.

    Attributes:
        cached_input_tokens_per_s: None where the samples do not tell it.
        busy_s: seconds in which something ran, over all replicas.
        watched_s: seconds that were watched, over all replicas.
    """

    input_tokens_per_s: Decimal
    output_tokens_per_s: Decimal
    cached_input_tokens_per_s: Decimal | None
    busy_s: float
    watched_s: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def read_sample(text: str, at_s: float) -> Sample:
    """Read vLLM's metrics; counters of several engines and models are added up.

    Raises:
        FitImpossible: the page is not vLLM's.
    """
    found: dict[str, float] = {}
    names = {name: field for field, name in (*_COUNTED.items(), ("running", _RUNNING))}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if (field := names.get(sample.name)) is not None:
                    found[field] = found.get(field, 0.0) + sample.value
    except ValueError as error:
        raise FitImpossible(f"the page is no Prometheus text ({error}); give the address of a vLLM server") from error
    missing = [name for name, field in names.items() if field not in found]
    if missing:
        raise FitImpossible(f"the server does not tell {', '.join(missing)}; only vLLM 0.10 or newer can be measured")
    return Sample(at_s=at_s, **found)


def fit(replicas: Iterable[Sequence[Sample]]) -> Fitted:
    """Fit a pool's throughput to its replicas' samples, each oldest first.

    Raises:
        FitImpossible: too little was done, or a server was restarted meanwhile.
    """
    steps = [step for samples in replicas for step in pairwise(samples)]
    busy_s = sum(later.at_s - earlier.at_s for earlier, later in steps if _is_busy(earlier, later))
    watched_s = sum(later.at_s - earlier.at_s for earlier, later in steps)
    done = {name: sum(_more(step, name) for step in steps) for name in _COUNTED}
    if any(_more(step, field.name) < 0 for step in steps for field in fields(Sample) if field.name in _COUNTED):
        raise FitImpossible("a counter went back: a server was started anew meanwhile; measure again")
    fresh = done["prompt"] - done["cached"]
    phases_s = done["prefill_s"] + done["decode_s"]
    if min(fresh, done["generated"]) < _FEWEST_TOKENS or not (busy_s and done["prefill_s"] and done["decode_s"]):
        raise FitImpossible(
            f"only {fresh:.0f} tokens were read and {done['generated']:.0f} written in {watched_s:.0f} s; measure "
            f"under load, at least {_FEWEST_TOKENS} of each (a larger --over)"
        )
    reading_s = busy_s * done["prefill_s"] / phases_s
    ratio = _cached_ratio(steps)
    weighed = fresh if ratio is None else fresh + ratio * done["cached"]
    if ratio is None:
        weighed = done["prompt"]  # charged like fresh input, so it must count like it
    read_per_s = weighed / reading_s
    return Fitted(
        input_tokens_per_s=_rounded(read_per_s),
        output_tokens_per_s=_rounded(done["generated"] / (busy_s - reading_s)),
        cached_input_tokens_per_s=None if ratio is None else _rounded(read_per_s / ratio),
        busy_s=busy_s,
        watched_s=watched_s,
        input_tokens=round(fresh),
        cached_tokens=round(done["cached"]),
        output_tokens=round(done["generated"]),
    )


def as_yaml(pool: str, fitted: Fitted, *, day: str) -> str:
    """Return the lines for the policy, with what they were read off."""
    cached = fitted.cached_input_tokens_per_s
    parts = [
        f"input_tokens_per_s: {fitted.input_tokens_per_s}",
        *([] if cached is None else [f"cached_input_tokens_per_s: {cached}"]),
        f"output_tokens_per_s: {fitted.output_tokens_per_s}",
    ]
    return (
        "pools:\n"
        f"  {pool}:\n"
        f"    # measured on {day}: {fitted.busy_s:.0f} busy of {fitted.watched_s:.0f} s, "
        f"{fitted.input_tokens} tokens read\n"
        f"    # and {fitted.cached_tokens} from the prefix cache, {fitted.output_tokens} written\n"
        f"    throughput: {{{', '.join(parts)}}}\n"
    )


def _is_busy(earlier: Sample, later: Sample) -> bool:
    return earlier.running > 0 or later.running > 0 or later.generated > earlier.generated


def _more(step: tuple[Sample, Sample], name: str) -> float:
    return float(getattr(step[1], name) - getattr(step[0], name))


def _cached_ratio(steps: Sequence[tuple[Sample, Sample]]) -> float | None:
    """Return what a cached token takes as a share of a fresh one's time, by least squares over the samples.

    None unless the samples tell: enough of them with cached tokens, both terms above 0, and the ratio below 1.
    """
    rows = [(_more(s, "prompt") - _more(s, "cached"), _more(s, "cached"), _more(s, "prefill_s")) for s in steps]
    rows = [row for row in rows if row[2] > 0]
    if sum(cached > 0 for _, cached, _ in rows) < _FEWEST_SAMPLES or sum(row[1] for row in rows) < _FEWEST_TOKENS:
        return None
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    at, bt = (sum(row[i] * row[2] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    if determinant <= 1e-9 * aa * bb:  # the two grew in step: nothing tells them apart
        return None
    fresh_s, cached_s = (at * bb - bt * ab) / determinant, (bt * aa - at * ab) / determinant
    return cached_s / fresh_s if 0 < cached_s < fresh_s else None


def _rounded(per_s: float) -> Decimal:
    """Return it with four significant digits: more would claim what no measurement knows."""
    exact = Decimal(per_s)
    return exact.quantize(Decimal(1).scaleb(exact.adjusted() - _DIGITS + 1)).normalize() + Decimal(0)
