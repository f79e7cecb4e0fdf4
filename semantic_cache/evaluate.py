"""How well acceptance does on labelled pairs: repeats served against traps served, with intervals.

Rules:
- What is measured is what serves: the request's own keys decide which prompts may be compared, then guard and score.
- A hit in hindsight takes the threshold that serves most repeats with at most so many of the traps; the operating point
  takes the artefact's own threshold, which was fixed before these pairs were seen.
- Intervals are percentiles of a bootstrap over groups of pairs that share a question: pairs of one question are no
  independent witnesses (Davison and Hinkley, "Bootstrap Methods and their Application", section 3.8).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np
from rich.progress import track

from backends.asks import parse_ask
from backends.errors import FloorError
from backends.words import Surface, TenantId
from semantic_cache.acceptance import READ_FROM, Accepted, Declined, is_doubtful
from semantic_cache.partition import Keys, Scope, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Console

    from backends.embedder import Embedder
    from backends.words import JsonValue
    from semantic_cache.acceptance import Acceptance

TRAP_RATES = (0.01, 0.02, 0.05)
"""The shares of traps served at which hits are told in hindsight."""

DRAWS = 500
"""Bootstrap samples: the ends of a 95 % interval then move by some percent of its width from seed to seed."""

_NEVER = -1.0
"""The score of what no threshold serves: another partition, or an objection of the guard."""

_SCOPE = Scope(tenant=TenantId("evaluate"), answers=())

OTHER_PARTITION = "partition"
"""The reason of pairs whose system prompt, earlier turns or other fields differ."""


class EvaluationError(Exception):
    """The pairs cannot be read, or nothing can be measured on them; the text names file, line and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A labelled pair as serving sees it.

    Attributes:
        asked: the last user text of one prompt.
        stored: that of the other, whose answer is stored.
        is_comparable: everything but the last user text is equal, so the two are in one partition.
        is_same: one stored answer serves both.
    """

    asked: str
    stored: str
    is_comparable: bool
    is_same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A share with its 95 % interval; all None where nothing was served or drawn."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one threshold serves.

    Attributes:
        hit_rate: repeats served, as a share of all repeats.
        trap_rate: traps served, as a share of all traps.
        served_wrong_share: traps as a share of what was served.
    """

    threshold: float | None
    hit_rate: Estimate
    trap_rate: Estimate
    served_wrong_share: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A point of the curve, without intervals; `threshold` is the lowest score served."""

    threshold: float
    hit_rate: float
    trap_rate: float
    precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one evaluation.

    Attributes:
        operating_point: at the threshold that belongs to `max_error`; nothing is served where there is none.
        in_hindsight: trap rate allowed -> the point that serves most repeats within it.
        curve: strictest first, one step for each different score.
        reasons: why pairs were not served at the operating point -> how many repeats, how many traps.
    """

    n_same: int
    n_different: int
    max_error: float
    operating_point: Point
    in_hindsight: Mapping[float, Point]
    curve: Sequence[Step]
    reasons: Mapping[str, tuple[int, int]]


# Reading ------------------------------------------------------------------------------------------------------------

_REQUIRED = ("a", "b", "same")
_LABELS = {0: False, 1: True}


def read_cases(paths: Iterable[Path]) -> list[Case]:
    """Read files of labelled pairs, one JSON object a line; empty lines are skipped.

    Raises:
        EvaluationError: a file cannot be read, a line is not such an object, or repeats or traps are missing.
    """
    paths = list(paths)
    cases = [case for path in paths for case in _cases_of(path)]
    named = ", ".join(str(path) for path in paths)
    if not cases:
        raise EvaluationError(f"{named} holds no pairs; it needs lines with {', '.join(_REQUIRED)}")
    repeats = sum(case.is_same for case in cases)
    if repeats in (0, len(cases)):
        only, missing = ("1", "0 (traps)") if repeats else ("0", "1 (repeats)")
        raise EvaluationError(
            f"{named}: all {len(cases)} pairs have same = {only}; hits are weighed against wrong hits, so pairs with "
            f"same = {missing} are needed too"
        )
    return cases


def _cases_of(path: Path) -> Iterable[Case]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            yield _case(line, f"{path}, line {number}")


def _case(line: bytes, where: str) -> Case:
    try:
        row: JsonValue = msgspec.json.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise EvaluationError(f"{where}: not JSON: {error}; one object a line is expected") from error
    if not isinstance(row, dict):
        raise EvaluationError(f"{where}: {type(row).__name__} instead of an object with {', '.join(_REQUIRED)}")
    missing = [name for name in _REQUIRED if name not in row]
    if missing:
        has = ", ".join(row) or "nothing"
        raise EvaluationError(
            f"{where}: no column {missing[0]!r}; needed are {', '.join(_REQUIRED)}, the line has: {has}"
        )
    if isinstance(row["same"], float | str | list | dict | None) or row["same"] not in _LABELS:
        raise EvaluationError(f"{where}: same = {row['same']!r}; allowed are 1 (one answer serves both) and 0")
    if isinstance(row["a"], str) != isinstance(row["b"], str):
        raise EvaluationError(f"{where}: a and b must both be texts or both be lists of messages")
    asked, its_frame = _prompt(row["a"], f"{where}, a")
    stored, other_frame = _prompt(row["b"], f"{where}, b")
    return Case(asked=asked, stored=stored, is_comparable=its_frame == other_frame, is_same=_LABELS[int(row["same"])])


def _prompt(value: JsonValue, where: str) -> tuple[str, bytes]:
    """Return the last user text and the partition of a request with this prompt."""
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(messages, list) or not messages:
        raise EvaluationError(f"{where}: {value!r} is neither a text nor a list of messages")
    body = msgspec.json.encode({"model": "auto", "temperature": 0, "messages": messages})
    try:
        ask = parse_ask(Surface.CHAT, body)
    except FloorError as error:
        raise EvaluationError(f"{where}: {error}") from error
    keys = keys_of(ask, _SCOPE, max_temperature=0)
    if not isinstance(keys, Keys) or not ask.last_user_text.strip():
        raise EvaluationError(f"{where}: no text of a user to compare")
    return ask.last_user_text, keys.partition


# Measuring ----------------------------------------------------------------------------------------------------------

Judged: TypeAlias = "Accepted | Declined"


def evaluate(
    cases: Sequence[Case],
    acceptance: Acceptance,
    embedder: Embedder,
    *,
    max_error: float,
    console: Console,
    seed: int = 0,
) -> Report:
    """Judge every pair as serving would, and count.

    Args:
        cases: repeats and traps, some of each.
        acceptance: what is measured.
        embedder: the one that it was fitted with.
        max_error: the promise whose operating point is told, in (0, 1).
        console: where progress is shown.
        seed: of the bootstrap.
    """
    seen = look(cases, acceptance, embedder, max_error=max_error, console=console)
    return measure(
        seen.scores,
        seen.is_same,
        seen.groups,
        threshold=acceptance.threshold(max_error),
        max_error=max_error,
        reasons=seen.reasons,
        seed=seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Pairs as guard and acceptance see them; rows of all arrays are the cases'.

    Attributes:
        scores: float64[n], the acceptance's exact scores; negative where partition or guard speak against a pair.
        doubtful: float64[n], the same, negative only where a model could not overrule what speaks against it.
        similarities: float64[n], cosines; 0 for pairs of different partitions.
        is_same: bool[n].
        groups: int64[n], the same number for pairs that share a question.
        reasons: why a pair is not served at the error asked about; None where it is.
    """

    scores: NDArray[np.float64]
    doubtful: NDArray[np.float64]
    similarities: NDArray[np.float64]
    is_same: NDArray[np.bool_]
    groups: NDArray[np.int64]
    reasons: Sequence[str | None]


def look(
    cases: Sequence[Case], acceptance: Acceptance, embedder: Embedder, *, max_error: float, console: Console
) -> Looked:
    """Judge every pair as serving would; see `evaluate`."""
    vectors = _embedded(cases, embedder, console)
    cosines = [float(vectors[c.asked] @ vectors[c.stored]) if c.is_comparable else 0.0 for c in cases]
    judged = [
        acceptance.judge(asked=case.asked, stored=case.stored, similarity=cosine, max_error=max_error)
        if case.is_comparable
        else None
        for case, cosine in zip(cases, track(cosines, "judging", console=console, transient=True), strict=True)
    ]
    doubtful = [
        _score(acceptance, case, judgement)
        for case, judgement in zip(cases, track(judged, "scoring", console=console, transient=True), strict=True)
    ]
    is_passed = [
        judgement is None or (getattr(judgement, "difference", None) is None and cosine >= READ_FROM)
        for judgement, cosine in zip(judged, cosines, strict=True)
    ]
    return Looked(
        scores=np.where(is_passed, doubtful, _NEVER),
        doubtful=np.array(doubtful),
        similarities=np.array(cosines),
        is_same=np.array([case.is_same for case in cases]),
        groups=groups_of((case.asked, case.stored) for case in cases),
        reasons=[_reason(judgement) for judgement in judged],
    )


def _embedded(cases: Sequence[Case], embedder: Embedder, console: Console) -> Mapping[str, NDArray[np.float32]]:
    compared = (case for case in cases if case.is_comparable)
    texts = list(dict.fromkeys(text for case in compared for text in (case.asked, case.stored)))
    return {text: embedder.embed([text])[0] for text in track(texts, "embedding", console=console, transient=True)}


def _score(acceptance: Acceptance, case: Case, judgement: Judged | None) -> float:
    if judgement is None or (isinstance(judgement, Declined) and not is_doubtful(judgement)):
        return _NEVER
    if isinstance(judgement, Accepted):
        return judgement.score
    # What was declined may carry a bound only; the curve needs the score.
    return acceptance.score(asked=case.asked, stored=case.stored, similarity=judgement.similarity)


def _reason(judgement: Judged | None) -> str | None:
    if isinstance(judgement, Accepted):
        return None
    return OTHER_PARTITION if judgement is None else str(judgement.reason)


def measure(
    scores: NDArray[np.float64],
    is_same: NDArray[np.bool_],
    groups: NDArray[np.int64],
    *,
    threshold: float | None,
    max_error: float,
    reasons: Sequence[str | None] = (),
    seed: int = 0,
    draws: int = DRAWS,
) -> Report:
    """Count hits and traps at the given threshold and along all thresholds.

    Args:
        scores: float64[n], higher is surer; negative is never served.
        is_same: bool[n].
        groups: int64[n], the same number for pairs that are not independent.
        threshold: of the operating point, None when nothing is served.
        max_error: what the threshold belongs to.
        reasons: per pair, why it is not served at the operating point; None where it is.
        seed: of the bootstrap.
        draws: how many samples it takes.
    """
    weights = _draws(groups, np.random.default_rng(seed))
    sample = _Sample(scores=scores, is_same=is_same, weights=weights, draws=draws)
    steps = _curve(scores, is_same)
    by_reason = Counter((reason, bool(same)) for reason, same in zip(reasons, is_same, strict=False) if reason)
    return Report(
        n_same=int(is_same.sum()),
        n_different=int((~is_same).sum()),
        max_error=max_error,
        operating_point=sample.point(threshold),
        in_hindsight={rate: sample.point_in_hindsight(_best(steps, rate), rate) for rate in TRAP_RATES},
        curve=steps,
        reasons={
            reason: (by_reason[reason, True], by_reason[reason, False])
            for reason in sorted({name for name, _ in by_reason})
        },
    )


def _draws(groups: NDArray[np.int64], random: np.random.Generator) -> Callable[[], NDArray[np.int64]]:
    """Return what draws groups with replacement and tells how often each pair was drawn, int64[n]."""
    _, members = np.unique(groups, return_inverse=True)
    many = int(members.max()) + 1

    def draw() -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = np.bincount(random.integers(0, many, many), minlength=many)[members]
        return drawn

    return draw


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """The scored pairs, and what redraws them."""

    scores: NDArray[np.float64]
    is_same: NDArray[np.bool_]
    weights: Callable[[], NDArray[np.int64]]
    draws: int

    def point(self, threshold: float | None) -> Point:
        """Return what a threshold fixed beforehand serves; nothing where it is None."""
        once = np.ones(len(self.scores), dtype=np.int64)
        value = self._shares(threshold, once)
        drawn = [self._shares(threshold, self.weights()) for _ in range(self.draws)]
        return _point(threshold, value, drawn)

    def point_in_hindsight(self, threshold: float | None, trap_rate: float) -> Point:
        """As `point`; the threshold is chosen anew in every draw, so that the interval has the choice in it."""
        once = np.ones(len(self.scores), dtype=np.int64)
        order = np.argsort(-self.scores, kind="stable")
        drawn = []
        for _ in range(self.draws):
            weights = self.weights()
            drawn.append(self._shares(self._chosen(order, weights, trap_rate), weights))
        return _point(threshold, self._shares(threshold, once), drawn)

    def _chosen(self, order: NDArray[np.int64], weights: NDArray[np.int64], trap_rate: float) -> float | None:
        scores = self.scores[order]
        wrong = np.cumsum((weights * ~self.is_same)[order])
        # Equal scores are served together: only the last of them ends a step.
        is_end = np.append(scores[1:] != scores[:-1], True) & (scores >= 0)
        within = np.flatnonzero(is_end & (wrong <= trap_rate * max(int(wrong[-1]), 1)))
        return float(scores[within[-1]]) if len(within) else None

    def _shares(
        self, threshold: float | None, weights: NDArray[np.int64]
    ) -> tuple[float | None, float | None, float | None]:
        served = weights * (self.scores >= (np.inf if threshold is None else max(threshold, 0.0)))
        right, wrong = int(served[self.is_same].sum()), int(served[~self.is_same].sum())
        repeats, traps = int(weights[self.is_same].sum()), int(weights[~self.is_same].sum())
        return _share(right, repeats), _share(wrong, traps), _share(wrong, right + wrong)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _point(
    threshold: float | None,
    value: tuple[float | None, float | None, float | None],
    drawn: Sequence[tuple[float | None, float | None, float | None]],
) -> Point:
    hit, trap, wrong = (_estimate(share, [draw[at] for draw in drawn]) for at, share in enumerate(value))
    return Point(threshold=threshold, hit_rate=hit, trap_rate=trap, served_wrong_share=wrong)


def _estimate(value: float | None, drawn: Sequence[float | None]) -> Estimate:
    known = [share for share in drawn if share is not None]
    if value is None or not known:
        return Estimate(value=value, low=None, high=None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high))


def _curve(scores: NDArray[np.float64], is_same: NDArray[np.bool_]) -> list[Step]:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    right, wrong = np.cumsum(is_same[order]), np.cumsum(~is_same[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True) & (ordered >= 0))
    return [
        Step(
            threshold=float(ordered[at]),
            hit_rate=float(right[at] / right[-1]),
            trap_rate=float(wrong[at] / wrong[-1]),
            precision=float(right[at] / (right[at] + wrong[at])),
        )
        for at in ends
    ]


def _best(steps: Sequence[Step], trap_rate: float) -> float | None:
    """Return the loosest threshold that serves at most this share of the traps."""
    within = [step.threshold for step in steps if step.trap_rate <= trap_rate]
    return within[-1] if within else None


def groups_of(pairs: Iterable[tuple[str, str]]) -> NDArray[np.int64]:
    """Return int64[n], a number per pair, the same for pairs that share a question through any chain."""
    parents: dict[str, str] = {}

    def root(text: str) -> str:
        parents.setdefault(text, text)
        while parents[text] != text:
            parents[text] = parents[parents[text]]
            text = parents[text]
        return text

    keys = [(one.strip().lower(), other.strip().lower()) for one, other in pairs]
    for one, other in keys:
        parents[root(one)] = root(other)
    numbers: dict[str, int] = defaultdict(lambda: len(numbers))
    return np.array([numbers[root(one)] for one, _ in keys], dtype=np.int64)
