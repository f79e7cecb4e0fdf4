"""`faregate calibrate --outcomes` where the route's artefact decides: the threshold that keeps the route's promise.

The artefact's whole plan is replayed on records of the route's own models, and only the threshold is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.commands.quality import tell
from gateway.commands.records import embedded, fail, need_training

if TYPE_CHECKING:
    from rich.console import Console

    from policies.schema import Policy, Route
    from router.artefact import Artefact
    from router.train_records import Outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be promised by which records.

    Attributes:
        max_loss: None: as the route's `quality` says.
        confidence: likewise.
        vectors: where the prompts' embeddings are kept between runs.
        out: the artefact to write; None to say only what could be promised.
    """

    files: tuple[Path, ...]
    max_loss: float | None
    confidence: float | None
    vectors: Path | None
    out: Path | None


def certify_route(policy: Policy, route: Route, file: Path, asked: Asked) -> int:
    """Choose a threshold for the artefact in `file`, print what it promises, and write it; return the exit status.

    Status 1: no threshold keeps the promise, or the records do not fit the route; nothing is written.
    """
    need_training()
    from rich.console import Console

    from router.artefact import ArtefactError
    from router.train_outcomes import TrainingError

    try:
        artefact = _certified(policy, route, file, asked, Console(stderr=True))
        if asked.out is not None:
            asked.out.write_text(artefact.dump(), encoding="utf-8")
    except (TrainingError, ArtefactError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {asked.out}: {error.strerror}")
    tell(artefact, asked.out)
    if asked.out is not None:
        click.echo(f"name it in routes.{route.name}.router.artefact")
    return 0


def _certified(policy: Policy, route: Route, file: Path, asked: Asked, console: Console) -> Artefact:
    from backends.clock import SystemClock
    from backends.embedder import EMBEDDER_ID
    from policies.schema import DEFAULT_CONFIDENCE
    from router.artefact import Artefact
    from router.train_artefact import certified, sources
    from router.train_outcomes import TrainingError

    quality = route.quality
    max_loss = asked.max_loss or (quality.max_loss if quality is not None else None)
    if max_loss is None:
        raise TrainingError(f"route {route.name} promises nothing; say what with --max-loss, or give it `quality`")
    confidence = asked.confidence or (quality.confidence if quality is not None else DEFAULT_CONFIDENCE)
    read = _records(policy, route, asked.files)
    made, source = SystemClock().now().date().isoformat(), sources(asked.files)
    found = embedded(read.prompts, asked.vectors, console)
    artefact = Artefact.load(file)
    artefact.check(ladder=read.models, embedder=EMBEDDER_ID)
    known = [one for one in source.split(", ") if one.split(" (")[1] in artefact.source]
    if known:
        raise TrainingError(
            f"the artefact was made of {known[0]}, so that it does better there than elsewhere; use others"
        )
    return certified(artefact, read, found, max_loss=max_loss, confidence=confidence, made=made, source=source)


def _records(policy: Policy, route: Route, files: tuple[Path, ...]) -> Outcomes:
    """Return the records of the route's models, under the names sent upstream or those of the catalog."""
    from dataclasses import replace

    from router.train_outcomes import TrainingError
    from router.train_records import read_records

    variants = tuple(policy.models[model].variant for model in route.ladder)
    try:
        return read_records(files, variants)
    except TrainingError as error:
        try:
            read = read_records(files, tuple(route.ladder))
        except TrainingError:
            raise error from None
        return replace(read, models=variants)
