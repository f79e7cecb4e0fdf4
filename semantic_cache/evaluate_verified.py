"""How well acceptance does with a verifier behind it: what both serve together, by the rules of `evaluate`.

Rules:
- Served without a question is what the acceptance scores `alone_from` of the calibration's; the curve and the figures
  in hindsight move the verifier's threshold only.
- Only what serving would ask about is looked at: comparable pairs that the guard lets pass or only doubts, with a
  cosine of `verifier.ASKED_FROM` or more. The others are never served by the model's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from semantic_cache.evaluate import measure
from semantic_cache.verifier import ASKED_FROM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from semantic_cache.acceptance import Acceptance
    from semantic_cache.evaluate import Case, Looked, Report
    from semantic_cache.verifier import VerifierCalibration

ALONE = 2.0
"""Added to the scores of pairs that are served without a question: they stand above all that are asked about."""


def to_ask(cases: Sequence[Case], seen: Looked, accepted_from: float | None) -> list[tuple[str, str]]:
    """Return the pairs that a verifier would be asked about, each once, in order.

    Args:
        cases: the pairs.
        seen: what guard and acceptance say of them.
        accepted_from: from which score on nobody is asked; None: everybody is.
    """
    is_alone = seen.scores >= (np.inf if accepted_from is None else accepted_from)
    is_grey = (seen.doubtful >= 0) & ~is_alone
    asked = is_grey & (seen.similarities >= ASKED_FROM)
    return list(
        dict.fromkeys((case.asked, case.stored) for case, is_asked in zip(cases, asked, strict=True) if is_asked)
    )


def said_of(cases: Sequence[Case], said: Mapping[tuple[str, str], float | None]) -> NDArray[np.float64]:
    """Return float64[n], the model's log-odds of every case; NaN where it was not asked or did not say."""
    found = (said.get((case.asked, case.stored)) for case in cases)
    return np.array([np.nan if each is None else each for each in found])


def evaluate_verified(
    seen: Looked,
    said: NDArray[np.float64],
    acceptance: Acceptance,
    calibration: VerifierCalibration,
    *,
    max_error: float,
    seed: int = 0,
) -> Report:
    """Count hits and traps as a route with this verifier would serve them.

    Args:
        seen: what guard and acceptance say of the pairs.
        said: float64[n], see `said_of`.
        acceptance: whose scores are in `seen`.
        calibration: the verifier's.
        max_error: the route's promise.
        seed: of the bootstrap.
    """
    point = calibration.point(max_error)
    accepted_from = acceptance.threshold(max_error) if point is None else calibration.alone_from
    scores = joined(seen, said, calibration, accepted_from=accepted_from)
    threshold = ALONE if point is None or point.threshold is None else point.threshold
    is_served = scores >= threshold
    reasons = [None if served else reason or "verifier" for served, reason in zip(is_served, seen.reasons, strict=True)]
    return measure(
        scores, seen.is_same, seen.groups, threshold=threshold, max_error=max_error, reasons=reasons, seed=seed
    )


def joined(
    seen: Looked, said: NDArray[np.float64], calibration: VerifierCalibration, *, accepted_from: float | None
) -> NDArray[np.float64]:
    """Return float64[n]: ALONE and more for what is served without a question, in [0, 1] for what was asked about.

    Negative is never served: the guard objects, or nobody was asked, or nothing was said.
    """
    scores = np.full(len(said), -1.0)
    for at, (score, doubtful, word) in enumerate(zip(seen.scores, seen.doubtful, said, strict=True)):
        if accepted_from is not None and score >= accepted_from:
            scores[at] = ALONE + score
        elif doubtful >= 0 and not np.isnan(word):
            scores[at] = calibration.score(float(word), float(doubtful))
    return scores
