"""`faregate evaluate cache --verifier MODEL`: the semantic cache with a model behind it, on labelled pairs."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from backends.embedder import MiniLM
    from backends.words import JsonValue
    from gateway.measuring import Heard
    from policies.schema import Policy
    from semantic_cache.acceptance import Acceptance
    from semantic_cache.evaluate import Case, Looked, Report
    from semantic_cache.verifier import VerifierCalibration

DEMO = "demo"
"""In place of a model: the demo's larger one, started for the purpose."""

Story: TypeAlias = "dict[str, JsonValue]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command was asked.

    Attributes:
        model: a name of the policy's catalog, or DEMO.
        policy: the policy file; None with DEMO.
        calibration: the verifier's; None: a shipped one that fits, else cross-validation.
        weights: what tells the model's weights apart where its name does not.
        answers: the file of answers; None: one in the user's cache folder.
        save: where a calibration made on these pairs is written; None: none is made.
    """

    pairs: tuple[Path, ...]
    max_error: float
    model: str
    policy: Path | None
    calibration: Path | None
    weights: str
    answers: Path | None
    save: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What pairs are measured with, and where progress is shown."""

    acceptance: Acceptance
    embedder: MiniLM
    console: Console


def measured(asked: Asked, bench: Bench) -> tuple[Report, Story]:
    """Ask the model, and return the figures and what is known of the model.

    Raises:
        EvaluationError: the pairs cannot be read.
        VerifierError: the model cannot be asked, or the calibration is not for it.
    """
    from semantic_cache.verifier import VerifierError

    if asked.model == DEMO and asked.policy is None:
        from gateway.demo.run import run_with_large

        found: list[tuple[Report, Story]] = []

        async def work(policy: Policy, name: str) -> int:
            found.append(await _measure(asked, policy, name, bench))
            return 0

        if run_with_large(work) or not found:
            raise VerifierError("the demo's model could not be asked")
        return found[0]
    from gateway.settings import environment
    from policies.loader import load_policy

    if asked.policy is None:
        raise VerifierError(f"--verifier {asked.model} needs --policy, whose catalog has it (or use --verifier {DEMO})")
    policy = load_policy(asked.policy, environment())
    return asyncio.run(_measure(asked, policy, asked.model, bench))


async def _measure(asked: Asked, policy: Policy, name: str, bench: Bench) -> tuple[Report, Story]:
    from gateway.measuring import ask_about, known_model
    from semantic_cache.evaluate import look, read_cases
    from semantic_cache.evaluate_verified import evaluate_verified, said_of, to_ask

    known_as, acceptance = known_model(policy, name), bench.acceptance
    calibration = _calibration(asked, known_as, acceptance)
    cases = read_cases(asked.pairs)
    seen = look(cases, acceptance, bench.embedder, max_error=asked.max_error, console=bench.console)
    if calibration is None:
        seen = _out_of_fold(asked, cases, seen, bench)
    heard = await ask_about(
        to_ask(cases, seen, _accepted_from(asked, seen, acceptance, calibration)),
        policy,
        name,
        weights=asked.weights,
        answers=asked.answers or _answers(known_as, asked.weights),
        console=bench.console,
    )
    said = said_of(cases, heard.said)
    if calibration is not None:
        report = evaluate_verified(seen, said, acceptance, calibration, max_error=asked.max_error)
    else:
        from semantic_cache.train_verifier import calibrated, evaluate_crossed, told_of

        told = told_of(seen, said)
        report = evaluate_crossed(told, acceptance, max_error=asked.max_error)
        if asked.save is not None:
            made = calibrated(told, acceptance, asked.pairs, model=known_as, weights=asked.weights)
            asked.save.parent.mkdir(parents=True, exist_ok=True)
            asked.save.write_text(made.dump())
            bench.console.print(f"wrote {asked.save}")
    return report, _story(asked, known_as, calibration, heard)


def _calibration(asked: Asked, known_as: str, acceptance: Acceptance) -> VerifierCalibration | None:
    """Return the calibration to measure; None: thresholds are to be made on the pairs themselves.

    Raises:
        VerifierError: the one that was named was made for something else.
    """
    from policies.loader import SHIPPED_VERIFIERS
    from semantic_cache.verifier import VerifierCalibration, VerifierError

    if asked.save is not None:
        return None
    here = {"model": known_as, "weights": asked.weights, "acceptance": acceptance.digest}
    if asked.calibration is not None:
        calibration = VerifierCalibration.load(asked.calibration)
        unfit = calibration.mismatch(**here)
        if unfit is not None:
            raise VerifierError(f"{asked.calibration} cannot be used: {unfit}")
        return calibration
    shipped = (VerifierCalibration.load(file) for file in sorted(SHIPPED_VERIFIERS.glob("*.json")))
    return next((each for each in shipped if each.mismatch(**here) is None), None)


def _accepted_from(
    asked: Asked, seen: Looked, acceptance: Acceptance, calibration: VerifierCalibration | None
) -> float | None:
    """Return from which of the acceptance's scores on a pair is served without a question."""
    if calibration is None:
        import numpy as np

        from semantic_cache.train_verifier import alone_from, told_of

        return alone_from(told_of(seen, np.full(len(seen.scores), np.nan)), acceptance)
    point = calibration.point(asked.max_error)
    return acceptance.threshold(asked.max_error) if point is None else calibration.alone_from


def _out_of_fold(asked: Asked, cases: Sequence[Case], seen: Looked, bench: Bench) -> Looked:
    """Return the pairs with scores of fits that did not see them, where the acceptance was fitted on some of them."""
    from gateway.commands.records import need_training

    need_training()
    from semantic_cache.train_verifier import accepted_of, crossed_look

    return crossed_look(cases, seen, accepted_of(asked.pairs, bench.acceptance, bench.embedder, bench.console))


def _answers(known_as: str, weights: str) -> Path:
    from gateway.settings import cache_folder, environment
    from semantic_cache.verifier import wording_id

    name = hashlib.sha256(f"{known_as}\0{weights}\0{wording_id()}".encode()).hexdigest()[:16]
    return cache_folder(environment()) / "verifier" / f"{name}.jsonl"


def _story(asked: Asked, known_as: str, calibration: VerifierCalibration | None, heard: Heard) -> Story:
    from semantic_cache.verifier import wording_id

    unclear = sum(word is None for word in heard.said.values())
    return {
        "model": known_as,
        "weights": asked.weights,
        "wording": wording_id(),
        "thresholds": "cross-validated on these pairs" if calibration is None else f"calibrated {calibration.made}",
        "asked": len(heard.said),
        "unclear": unclear,
        "p50_s": median(heard.seconds) if heard.seconds else None,
    }
