"""What routing adds to a request: embedding and forecast in their thread, plan and judgement on the event loop.

    .venv/bin/python -m load_tests.routing_cost [--rounds 2000]

Prints quantiles of each, in microseconds of processor time of the thread that does it: as in the gateway, embedding and
forecast run in a thread of their own, and the event loop's steps in another. One step comes after the other in every
round, so that each finds the caches as the others leave them; on a busy machine the 5th percentile is what the work
itself takes. Plans are those of three rungs with two judges, a session's cached prefix and prices of a real book,
the dearest there are but for longer ladders, and those of the artefact that ships. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
from router.artefact import SHIPPED
from router.by_prompt import ByPrompt
from router.foresight import Foresight, Sight
from router.judge import Calibration, Evidence, Judge
from router.strategy import Candidate, Cascade, Judged, Tables

_QUESTION = (
    "A train leaves at 14:05 and arrives at 17:40; how long does it take, and what is its mean speed over 250 km?"
)
_CALIBRATION = Path(__file__).parents[1] / "router" / "calibrations" / "qwen2.5-coder-0.5b-1.5b.json"
_WINDOW = 32
_ASIDE = "(thread)"


_NAMES = [ModelId(name) for name in ("small", "middle", "large")]
_USD_PER_MTOK = (("0.15", "0.60"), ("0.9", "0.9"), ("2.5", "10"))
_BOOK = PriceBook(
    schedules={
        name: Schedule.constant(override_rates({"input": Decimal(i), "output": Decimal(o)}, tiers={}))
        for name, (i, o) in zip(_NAMES, _USD_PER_MTOK, strict=True)
    }
)
_COSTS = BookCosts(_BOOK, SystemClock())


def _ladder() -> list[Candidate]:
    can = frozenset({Capability.CHAT, Capability.LOGPROBS})
    return [Candidate(model=name, capabilities=can, context_tokens=32_768) for name in _NAMES]


def _judge() -> Judge:
    calibration = Calibration.load(_CALIBRATION)
    starts = replace(
        calibration, steps=tuple(replace(s, start_small=(True,) * len(s.start_small)) for s in calibration.steps)
    )
    judge = starts.judge(max_loss=0.2, confidence=0.9)
    if not isinstance(judge, Judge):
        raise click.ClickException(judge.reason)
    return judge


def _strategy(judge: Judge) -> Cascade:
    judged = [Judged(model=name, judge=judge, temperature=0.0) for name in _NAMES[:2]]
    return Cascade(_ladder(), judged=judged, estimator=Tables(judged, _COSTS))


def _by_artefact(foresight: Foresight) -> ByPrompt:
    """Return the plan that a route of two rungs without a promise has."""
    ladder = [_ladder()[0], _ladder()[-1]]
    static = Cascade(ladder, judged=(), estimator=Tables((), _COSTS))
    return ByPrompt(ladder, sight=Sight(foresight), costs=_COSTS, least_gain=0.1, static=static)


def _times_us(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in steps}
    with ThreadPoolExecutor(1) as embedders_thread:
        for _ in range(rounds):
            for name, step in steps.items():
                is_aside = name.endswith(_ASIDE)
                taken[name].append(embedders_thread.submit(_time_us, step).result() if is_aside else _time_us(step))
    return taken


def _time_us(step: Callable[[], object]) -> float:
    start = time.thread_time_ns()
    step()
    return (time.thread_time_ns() - start) / 1e3


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
    inside = Calibration.load(_CALIBRATION).centres()[0]
    cached = {ModelId("large"): 20}
    foresight = Foresight.load(SHIPPED, name="default", ladder=("small", "large"))
    by_artefact, told = _by_artefact(foresight), replace(foresight(_QUESTION, vector), cutoff=-1.0)
    tokens = (TokenLogprob(-0.1, (-0.1, -3.0, -4.0, -5.0, -6.0)),) * _WINDOW
    evidence = Evidence(tokens=tokens, is_finished=False, finish_reason=None)
    steps: dict[str, Callable[[], object]] = {
        f"embedding {_ASIDE}": lambda: embedder.embed([_QUESTION]),
        f"forecast of the artefact {_ASIDE}": lambda: foresight(_QUESTION, vector),
        "plan by the artefact (loop)": lambda: by_artefact.plan(ask, vector, {}, told),
        "plan, question as it is (loop)": lambda: strategy.plan(ask, vector),
        "plan, all ways weighed (loop)": lambda: strategy.plan(ask, inside, cached),
        f"judge, {_WINDOW} tokens (loop)": lambda: judge.weigh(evidence, "x"),
    }
    _times_us(steps, 3)
    for name, taken in _times_us(steps, rounds).items():
        low, median, high = np.quantile(taken, (0.05, 0.5, 0.99))
        print(f"{name:40} p5 {low:8.1f} us   p50 {median:8.1f} us   p99 {high:8.1f} us")


if __name__ == "__main__":
    main()
