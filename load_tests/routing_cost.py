"""What routing adds to a request: the embedding in its thread, and the plan and judgement on the event loop.

    .venv/bin/python -m load_tests.routing_cost [--rounds 2000]

Prints quantiles of each, in microseconds; on a busy machine the 5th percentile is what the work itself takes. Three
rungs with two judges, a session's cached prefix and prices of a real book: the dearest plan there is but for longer
ladders. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import click
import numpy as np

from backends.asks import parse_ask
from backends.clock import SystemClock
from backends.embedder import MiniLM
from backends.prices import PriceBook, Schedule, override_rates
from backends.words import Capability, ModelId, Surface, TokenLogprob
from gateway.prepare import BookCosts
from router.judge import Calibration, Evidence, Judge
from router.strategy import Candidate, Cascade, Judged, Tables

_QUESTION = (
    "A train leaves at 14:05 and arrives at 17:40; how long does it take, and what is its mean speed over 250 km?"
)
_SHIPPED = Path(__file__).parents[1] / "router" / "calibrations" / "qwen2.5-coder-0.5b-1.5b.json"
_WINDOW = 32


def _judge() -> Judge:
    calibration = Calibration.load(_SHIPPED)
    starts = replace(
        calibration, steps=tuple(replace(s, start_small=(True,) * len(s.start_small)) for s in calibration.steps)
    )
    judge = starts.judge(max_loss=0.2, confidence=0.9)
    if not isinstance(judge, Judge):
        raise click.ClickException(judge.reason)
    return judge


def _strategy(judge: Judge) -> Cascade:
    names = [ModelId(name) for name in ("small", "middle", "large")]
    prices = (("0.15", "0.60"), ("0.9", "0.9"), ("2.5", "10"))
    book = PriceBook(
        schedules={
            name: Schedule.constant(override_rates({"input": Decimal(i), "output": Decimal(o)}, tiers={}))
            for name, (i, o) in zip(names, prices, strict=True)
        }
    )
    can = frozenset({Capability.CHAT, Capability.LOGPROBS})
    ladder = [Candidate(model=name, capabilities=can, context_tokens=32_768) for name in names]
    judged = [Judged(model=name, judge=judge, temperature=0.0) for name in names[:2]]
    return Cascade(ladder, judged=judged, estimator=Tables(judged, BookCosts(book, SystemClock())))


def _times_us(what: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        what()
        taken.append((time.perf_counter_ns() - start) / 1e3)
    low, median, high = np.quantile(taken, (0.05, 0.5, 0.99))
    return float(low), float(median), float(high)


@click.command()
@click.option("--rounds", default=2000, show_default=True)
def main(rounds: int) -> None:
    """Measure what routing costs."""
    body = {"model": "auto", "temperature": 0, "messages": [{"role": "user", "content": _QUESTION}]}
    ask = parse_ask(Surface.CHAT, json.dumps(body).encode())
    embedder, judge = MiniLM.load(), _judge()
    strategy = _strategy(judge)
    vector = embedder.embed([_QUESTION])[0]
    # The centre of a cluster: inside, so that everything is weighed.
    inside = Calibration.load(_SHIPPED).centres()[0]
    cached = {ModelId("large"): 20}
    tokens = (TokenLogprob(-0.1, (-0.1, -3.0, -4.0, -5.0, -6.0)),) * _WINDOW
    evidence = Evidence(tokens=tokens, is_finished=False, finish_reason=None)
    steps: dict[str, Callable[[], object]] = {
        "embedding (thread)": lambda: embedder.embed([_QUESTION]),
        "plan, question as it is (loop)": lambda: strategy.plan(ask, vector),
        "plan, all ways weighed (loop)": lambda: strategy.plan(ask, inside, cached),
        f"judge, {_WINDOW} tokens (loop)": lambda: judge.weigh(evidence, "x"),
    }
    for name, step in steps.items():
        step()
        low, median, high = _times_us(step, rounds)
        print(f"{name:32} p5 {low:8.1f} us   p50 {median:8.1f} us   p99 {high:8.1f} us")


if __name__ == "__main__":
    main()
