"""`faregate calibrate --outcomes` where the route's artefact decides: the threshold that keeps the route's promise.

The artefact's whole plan is replayed on records of the route's own models, and only the threshold is chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.commands.quality import tell
from gateway.commands.records import Given, embedded, fail, route_records, stated

if TYPE_CHECKING:
    from rich.console import Console

    from router.artefact import Artefact


def certify_route(given: Given, file: Path) -> int:
    """Choose a threshold for the artefact in `file`, print what it promises, and write it; return the exit status.

    Status 1: no threshold keeps the promise, or the records do not fit the route; nothing is written.
    """
    from rich.console import Console

    from router.artefact import ArtefactError
    from router.train_outcomes import TrainingError

    try:
        artefact = _certified(given, file, Console(stderr=True))
        if given.out is not None:
            given.out.write_text(artefact.dump(), encoding="utf-8")
    except (TrainingError, ArtefactError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write {given.out}: {error.strerror}")
    tell(artefact, given.out)
    if given.out is not None:
        click.echo(f"name it in routes.{given.route.name}.router.artefact")
    return 0


def _certified(given: Given, file: Path, console: Console) -> Artefact:
    from backends.clock import SystemClock
    from backends.embedder import EMBEDDER_ID
    from router.artefact import Artefact
    from router.train_artefact import certified, sources
    from router.train_outcomes import TrainingError

    max_loss, confidence = stated(given)
    read = route_records(given)
    made, source = SystemClock().now().date().isoformat(), sources(given.files)
    found = embedded(read.prompts, given.vectors, console)
    artefact = Artefact.load(file)
    artefact.check(ladder=read.models, embedder=EMBEDDER_ID)
    known = [one for one in source.split(", ") if one.split(" (")[1] in artefact.source]
    if known:
        raise TrainingError(
            f"the artefact was made of {known[0]}, so that it does better there than elsewhere; use others"
        )
    return certified(artefact, read, found, max_loss=max_loss, confidence=confidence, made=made, source=source)
