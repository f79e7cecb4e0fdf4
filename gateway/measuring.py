"""Asks a model about labelled pairs, as a verifier is asked: for `faregate evaluate cache --verifier`.

Answers are appended to a file as they come, under the pairs' digests: an interrupted run goes on where it stopped, and
no text is kept. A question goes through the same backend as when serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backends.asks import outbound_body, parse_ask
from backends.clock import SystemClock
from backends.errors import FloorError, ReplyMalformed
from backends.seam import Outbound
from backends.words import Capability, ModelId, RequestId, Surface, Whole
from gateway.compose import open_catalog
from gateway.journey import CatalogModel
from gateway.prepare import price_book
from gateway.upstreams import Upstreams
from policies.schema import Policy
from semantic_cache.verifier import VerifierError, pair_key, request_for, score_of


class _Line(msgspec.Struct, frozen=True):
    """An answer in the file: the pair's digest in hex, the model's log-odds, and how many seconds it took."""

    pair: str
    log_odds: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a model said.

    Attributes:
        said: by pair, its log-odds; None where it did not say.
        seconds: what each question took, in no order.
    """

    said: Mapping[tuple[str, str], float | None]
    seconds: Sequence[float]


def known_model(policy: Policy, name: str) -> str:
    """Return what calibrations call a model of the catalog.

    Raises:
        VerifierError: there is none of that name, or it tells no log-probabilities.
    """
    model = policy.models.get(ModelId(name))
    if model is None:
        raise VerifierError(f'unknown model "{name}"; the catalog has: {", ".join(policy.models)}')
    if not {Capability.CHAT, Capability.LOGPROBS} <= model.capabilities:
        raise VerifierError(f'"{name}" cannot be asked: a verifier needs the capabilities chat and logprobs')
    return model.variant


async def ask_about(
    pairs: Sequence[tuple[str, str]], policy: Policy, name: str, *, weights: str, answers: Path, console: Console
) -> Heard:
    """Return what a model of the policy's catalog says of pairs (the question asked, the stored one).

    Args:
        pairs: each once.
        policy: where the model is.
        name: the model, in the catalog.
        weights: what tells its weights apart where its name does not.
        answers: the file of answers; made where it is not there.
        console: where progress is shown.

    Raises:
        VerifierError: the model cannot be asked, or its answers cannot be kept; those so far are.
        PolicyUnusable: a model has no price.
    """
    known_as = f"{known_model(policy, name)}\0{weights}"
    keys = {pair: pair_key(*pair, whose=b"measuring", model=known_as).hex() for pair in pairs}
    clock = SystemClock()
    try:
        answers.parent.mkdir(parents=True, exist_ok=True)
        lines = _read(answers)
        missing = [pair for pair in pairs if keys[pair] not in lines]
        async with Upstreams() as upstreams:
            rates = price_book(policy, clock.now()).schedules
            model = open_catalog(policy, upstreams, clock, rates)[ModelId(name)]
            with _progress(console) as progress, answers.open("ab") as file:
                task = progress.add_task("asking", total=len(pairs), completed=len(pairs) - len(missing))
                for pair in missing:
                    line = await _ask(model, pair, keys[pair])
                    file.write(msgspec.json.encode(line) + b"\n")
                    file.flush()
                    lines[line.pair] = line
                    progress.advance(task)
    except (FloorError, OSError) as error:
        raise VerifierError(f"{name} could not be asked: {error}; the answers so far are in {answers}") from error
    found = {pair: lines[key] for pair, key in keys.items()}
    return Heard(
        said={pair: line.log_odds for pair, line in found.items()}, seconds=[line.seconds for line in found.values()]
    )


def _read(file: Path) -> dict[str, _Line]:
    """Return the answers of a file by pair; a line cut by a crash is asked anew."""
    lines: dict[str, _Line] = {}
    for text in file.read_bytes().splitlines() if file.exists() else []:
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.MsgspecError:
            continue
        lines[line.pair] = line
    return lines


async def _ask(model: CatalogModel, pair: tuple[str, str], key: str) -> _Line:
    ask = parse_ask(Surface.CHAT, request_for(*pair, model=model.name))
    body = outbound_body(ask, model=model.name, top_logprobs=None, parameters=model.parameters)
    started = perf_counter()
    reply = await model.backend.open(
        Outbound(surface=ask.surface, body=body, is_stream=False, request_id=RequestId("measuring"), model=model.name)
    )
    try:
        whole = await anext(reply)
    finally:
        await reply.aclose()
    if not isinstance(whole, Whole):
        raise ReplyMalformed("a stream came where a whole answer was asked for")
    return _Line(key, score_of(msgspec.json.decode(whole.payload)), perf_counter() - started)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
