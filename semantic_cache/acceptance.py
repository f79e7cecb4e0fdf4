"""Acceptance: may the answer to a stored question serve the question asked? Guard, then score, then threshold.

The promise is `max_error`: wrong answers as a share of the semantic hits served. It is kept by a threshold on a
calibrated score, chosen by fixed-sequence testing (Angelopoulos et al., "Learn then Test", arXiv:2110.01052, section
4.1): the thresholds are ordered beforehand from the strictest down, each is tested with the exact binomial bound of
Clopper and Pearson at the artefact's confidence, and the first that fails ends the sequence. Where even the strictest
testable one fails there is no threshold, and the semantic tier stays silent.

The shipped artefact is fitted by `semantic_cache.train_acceptance` on 626 public pairs (fow-cache, CC BY 4.0, and
CacheSafety-Bench, Apache-2.0; attributed in the artefact). It is a prior, fitted on other people's traffic: its bound
holds where two of five near neighbours are traps, of those kinds. Out of fold, at max_error 0.01: 160 served, none
wrong, 50 % of repeats; at 0.05: 210 served, 1 wrong, 65 %. The guard's word tables were completed with these pairs in
view, so fresh pairs fare worse; random Quora pairs much worse (the prior does not carry over to such traffic). Only
verdicts on a route's own traffic make the prior a promise. Serving needs numpy, the embedder's word states, and
`cross_encoder`.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np

from backends.embedder import MiniLM, WordStates, known_words
from semantic_cache.cross_encoder import DIGEST, MOST, CrossEncoder, CrossEncoderError
from semantic_cache.guard import (
    DOUBTS,
    Difference,
    Objection,
    Reading,
    canonical,
    difference,
    read,
    without_shared_ending,
)
from semantic_cache.lexicon import STOPWORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SHIPPED = Path(__file__).parent / "calibrations" / "acceptance.json"
FORMAT = 3
FEATURES = (
    "cosine",
    "jaccard",
    "containment",
    "substitutions",
    "additions",
    "misspellings",
    "in_frame",
    "length_ratio",
    "trigrams",
    "worst_word",
    "mean_word",
    "read_together",
)
SIGNS = (1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, 1)
"""Which way each feature may move the score. Free signs fit how a data set was made: traps in fow_pairs are minimal
edits and repeats are not, so a free fit *rewards* texts for sharing fewer letters."""
READ_FROM = 0.5
"""Below this cosine of the whole texts their words are not read, and the answer is not served: hardly any repeat has
less. A stored question's words cost as much as embedding it, where they are not remembered."""

ENOUGH = 0.8
"""Share of the repeats of the loosest threshold that passes for which a stricter one is taken. The loosest stands right
above the first trap that is left, and the guard's tables were completed with these traps in view, so that fresh ones
stand higher; every threshold of the sequence that passes keeps the promise, and the stricter ones by more."""

MOST_COUNTED = 4
"""Beyond four replaced words a fifth changes nothing."""

_AGAIN = "train it again with `python -m semantic_cache.train_acceptance`"

MOST_MISSPELT = 8
"""Texts with more unmatched words differ in more than spelling, and comparing all with all would cost."""


class AcceptanceError(Exception):
    """A calibration artefact is missing, damaged, or made for other features."""


class Refusal(StrEnum):
    """Why the score, not the guard, declined."""

    BELOW_THRESHOLD = "below_threshold"
    NO_THRESHOLD = "no_threshold"


Reason: TypeAlias = Objection | Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The stored answer may serve; `score` is the calibrated probability that it is right, `similarity` the cosine."""

    score: float
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The stored answer may not serve. `difference` is set when the guard objected; it holds pieces of prompts.

    `was_read` tells that the words were read, which costs; where they were not, `score` is an upper bound.
    """

    reason: Reason
    score: float
    similarity: float
    difference: Difference | None = None
    was_read: bool = False


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One threshold of the sequence and what it did on the calibration pairs.

    Attributes:
        threshold: lowest score served.
        served: pairs served at it.
        wrong: how many of those were traps.
        upper_bound: of the share of wrong among served, in the traffic of the artefact's `assumption`; one-sided, at
            its confidence, with the rate of repeats served as measured.
        least_bound: what it would be had no trap been served: above `max_error` no outcome could pass.
        repeats_served: share of all true repeats that it serves, in [0, 1].
    """

    threshold: float
    served: int
    wrong: int
    upper_bound: float
    least_bound: float
    repeats_served: float


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where calibration pairs come from, as their licence asks."""

    file: str
    sha256: str
    rows: int
    licence: str
    attribution: str


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact: a logistic score over FEATURES, and the sequence of thresholds, strictest first.

    Attributes:
        embedder: id of the embedder whose cosines it was fitted on.
        cross_encoder: sha256 of the weights that read both texts together.
        made: ISO date.
        confidence: of every step's bound, 1 - delta.
        pairs: how many calibrated it; `traps` of them must not be served.
        assumption: the traffic that the bound is about.
    """

    format: int
    embedder: str
    made: str
    confidence: float
    pairs: int
    traps: int
    assumption: str
    sources: tuple[Source, ...]
    features: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    steps: tuple[Step, ...]
    cross_encoder: str = ""


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds: the calibration and the sha256 of its JSON, so that a damaged file is never used."""

    sha256: str
    calibration: Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """What reads a pair's words in their context, and costs more than all else.

    Attributes:
        states: what the embedder makes of each word of a text.
        together: reads the words of both texts at once.
    """

    states: Callable[[str], WordStates]
    together: CrossEncoder


class Acceptance:
    """Judges candidates; immutable after loading, callable from any thread."""

    __slots__ = ("_centre", "_readers", "_scale", "_weights", "_words", "calibration")

    def __init__(self, calibration: Calibration, *, words: frozenset[str], readers: Readers | None = None) -> None:
        self.calibration = calibration
        self._words = words
        self._readers = readers
        self._centre, self._scale, self._weights = (
            np.array(values) for values in (calibration.centre, calibration.scale, calibration.weights)
        )

    @classmethod
    def load(cls, path: Path | None = None, *, states: Callable[[str], WordStates] | None = None) -> Acceptance:
        """Read and check an artefact, the shipped one when `path` is None.

        Args:
            path: the artefact.
            states: `MiniLM.states` of the embedder that makes the vectors, which then reads each text once; None loads
                another when a pair is first judged.

        Raises:
            AcceptanceError: the file is missing, is not an artefact, was damaged, or is of other features; or the
                cross-encoder is.
            EmbedderError: the embedder's vocabulary is missing or not the pinned one.
        """
        try:
            readers = Readers(states=states or _own_states(), together=CrossEncoder.load())
        except CrossEncoderError as error:
            raise AcceptanceError(str(error)) from error
        return cls(_unsealed(path or SHIPPED), words=known_words(), readers=readers)

    def judge(
        self, *, asked: str, stored: str, similarity: float, max_error: float, accepted_from: float | None = None
    ) -> Accepted | Declined:
        """Tell whether the answer to `stored` may serve `asked` at a route's `max_error`.

        Args:
            asked: the last user text of the request.
            stored: the last user text that the stored answer answered, from the same partition.
            similarity: cosine of the two whole texts' vectors, in [-1, 1].
            max_error: tolerated share of wrong answers among semantic hits, in (0, 1).
            accepted_from: the lowest score that may be served, in place of the artefact's at `max_error`.
        """
        objection = difference(asked, stored)
        if objection is not None and objection.objection is Objection.TOO_LONG:
            # Not read, so not scored either.
            return Declined(reason=Objection.TOO_LONG, score=0.0, similarity=similarity, difference=objection)
        threshold = self.threshold(max_error) if accepted_from is None else accepted_from
        is_read = objection is None and threshold is not None and similarity >= READ_FROM
        score = self._score(asked, stored, similarity, self._readers if is_read else None)
        if objection is not None:
            return Declined(reason=objection.objection, score=score, similarity=similarity, difference=objection)
        if threshold is None:
            return Declined(reason=Refusal.NO_THRESHOLD, score=score, similarity=similarity)
        if not is_read or score < threshold:
            return Declined(reason=Refusal.BELOW_THRESHOLD, score=score, similarity=similarity, was_read=is_read)
        return Accepted(score=score, similarity=similarity)

    @property
    def digest(self) -> str:
        """Return the sha256 of the artefact's content, by which what was measured with it tells it from others."""
        return _digest(self.calibration)

    def score(self, *, asked: str, stored: str, similarity: float) -> float:
        """Return the fitted probability, in [0, 1], that one answer serves both, for pairs the guard lets pass."""
        return self._score(asked, stored, similarity, self._readers)

    def _score(self, asked: str, stored: str, similarity: float, readers: Readers | None) -> float:
        values = features(asked=asked, stored=stored, similarity=similarity, words=self._words, readers=readers)
        logit = float((values - self._centre) / self._scale @ self._weights) + self.calibration.intercept
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))

    def step(self, max_error: float) -> Step | None:
        """Return the strictest threshold within `max_error` that has most of the loosest one's repeats (`ENOUGH`).

        None when no threshold's bound is within `max_error`.
        """
        passed: list[Step] = []
        for step in self.calibration.steps:
            if step.least_bound > max_error:
                # Too few pairs for any outcome to pass: not a test, so the sequence has not begun.
                continue
            if step.upper_bound > max_error:
                break
            passed.append(step)
        most = passed[-1].repeats_served if passed else 0.0
        return next((step for step in passed if step.repeats_served >= ENOUGH * most), None)

    def threshold(self, max_error: float) -> float | None:
        """Return the lowest score that may be served at `max_error`, None when the tier must stay silent."""
        step = self.step(max_error)
        return step.threshold if step else None


def is_doubtful(declined: Declined) -> bool:
    """Tell whether a model may be asked about a pair: nothing that it must not overrule speaks against it."""
    return declined.difference is None or declined.difference.objection in DOUBTS


@functools.cache
def shipped_digest() -> str:
    """Return the `Acceptance.digest` of the shipped artefact, without loading what judges with it; read once.

    Raises:
        AcceptanceError: it is missing or damaged.
    """
    return _digest(_unsealed(SHIPPED))


def _digest(calibration: Calibration) -> str:
    return hashlib.sha256(msgspec.json.encode(calibration)).hexdigest()


def _own_states() -> Callable[[str], WordStates]:
    loaded: list[MiniLM] = []

    def states(text: str) -> WordStates:
        if not loaded:
            loaded.append(MiniLM.load())
        return loaded[0].states(text)

    return states


def features(
    *,
    asked: str,
    stored: str,
    similarity: float,
    words: frozenset[str],
    readers: Readers | None,
) -> NDArray[np.float64]:
    """Return float64[12], in the order of FEATURES; symmetric in the two texts.

    `in_frame` is 1 where one word of meaning was exchanged for one other, or where the texts are equal but for words
    that only one of them has ("the late fee for rent", "… for books"): who repeats the rest means the difference.

    Args:
        asked: one text.
        stored: the other.
        similarity: cosine of their vectors.
        words: known words, to tell a misspelling ("statment") from another word ("diary" for "dairy").
        readers: read the words of the texts in their context. Without them the last three features are the most they
            can be; as their weights are not negative, the score is then an upper bound.
    """
    worst_word, mean_word, together = _read_words(asked, stored, readers) if readers else (1.0, 1.0, MOST)
    asked, stored = without_shared_ending(asked, stored)
    readings = read(asked), read(stored)
    left, right = (set(reading.content) for reading in readings)
    shared = left & right
    only_left, only_right, misspellings = _pair_misspellings(left - shared, right - shared, words)
    common = len(shared) + misspellings
    all_words = common + len(only_left) + len(only_right)
    fewest = common + min(len(only_left), len(only_right))
    return np.array(
        [
            similarity,
            common / all_words if all_words else 1.0,
            common / fewest if fewest else 1.0,
            min(len(only_left), len(only_right), MOST_COUNTED),
            min(abs(len(only_left) - len(only_right)), MOST_COUNTED),
            min(misspellings, MOST_COUNTED),
            float(_is_in_frame(readings, only_left, only_right)),
            min(len(asked), len(stored)) / max(len(asked), len(stored), 1),
            _dice(_trigrams(asked), _trigrams(stored)),
            worst_word,
            mean_word,
            together,
        ]
    )


def _read_words(asked: str, stored: str, readers: Readers) -> tuple[float, float, float]:
    one, other = readers.states(asked), readers.states(stored)
    return *aligned(one, other), readers.together.log_odds(one, other)


def aligned(one: WordStates, other: WordStates) -> tuple[float, float]:
    """Return how well each word of meaning is matched in the other text: the worst match, and the mean; in [-1, 1].

    A word's match is its highest cosine with any word of the other text (late interaction: Khattab and Zaharia,
    "ColBERT", arXiv:2004.12832, section 3.1). A cosine of whole texts hides one exchanged word; the worst match is it.
    """
    if not one.pieces or not other.pieces:
        return (1.0, 1.0) if one.pieces == other.pieces else (-1.0, -1.0)
    cosines = one.states.astype(np.float32) @ other.states.astype(np.float32).T
    left, right = (
        matches[chosen] if (chosen := _meaning(text)).any() else matches
        for text, matches in ((one, cosines.max(axis=1)), (other, cosines.max(axis=0)))
    )
    return float(min(left.min(), right.min())), float((left.mean() + right.mean()) / 2)


def _meaning(text: WordStates) -> NDArray[np.bool_]:
    """Return bool[n]: the pieces that are neither punctuation nor words without meaning of their own."""
    return np.array([piece.strip("#").isalnum() and piece not in STOPWORDS for piece in text.pieces])


def _is_in_frame(readings: tuple[Reading, Reading], only_left: set[str], only_right: set[str]) -> bool:
    if not only_left and not only_right:
        return False
    if len(only_left) == len(only_right) == 1 and set(readings[0].content) != only_left:
        return True
    return _frame(readings[0], only_left) == _frame(readings[1], only_right)


_AGREEING = frozenset(
    "a an the my your our his her their i you we do does did is are am was were has have".split()  # noqa: SIM905
)
"""Words that follow the noun they stand by: "a flat" becomes "an office", "do I" becomes "does my child"."""


def _frame(reading: Reading, without: set[str]) -> list[str]:
    return [word for word in reading.words if canonical(word) not in without and word not in _AGREEING]


def _pair_misspellings(left: set[str], right: set[str], words: frozenset[str]) -> tuple[set[str], set[str], int]:
    """Take out of both sets what is one word misspelt; return what is left of them and how many pairs that were."""
    left, right = set(left), set(right)
    paired = 0
    if max(len(left), len(right)) > MOST_MISSPELT:
        return left, right, paired
    for word in sorted(left):
        twin = next((other for other in sorted(right) if _is_misspelling(word, other, words)), None)
        if twin is not None:
            left.discard(word)
            right.discard(twin)
            paired += 1
    return left, right, paired


def _is_misspelling(one: str, other: str, words: frozenset[str]) -> bool:
    """Tell that one word is the other with one slip: exactly one is known, or two letters of a long one are swapped.

    Two known words one letter apart ("diary", "dairy") are two words; two unknown ones may be two names.
    """
    if min(len(one), len(other)) < 4:
        return False
    known = _is_known(one, words) + _is_known(other, words)
    if known == 0:
        return len(one) > 5 and sorted(one) == sorted(other) and _one_slip_apart(one, other)
    return known == 1 and _one_slip_apart(one, other)


def _is_known(stem: str, words: frozenset[str]) -> bool:
    """Look a stem up in any of the forms that have it."""
    return any(stem + ending in words for ending in ("", "e", "s", "es", "ed", "ing", "ly", "l"))


def _one_slip_apart(one: str, other: str) -> bool:
    """Tell whether one insertion, deletion, replacement or swap of neighbours makes one word the other."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    tail, other_tail = one[start:], other[start:]
    if len(tail) == len(other_tail):
        swapped = tail[:2] == other_tail[1::-1] and tail[2:] == other_tail[2:]
        return swapped or tail[1:] == other_tail[1:]
    return tail[1:] == other_tail if len(tail) > len(other_tail) else other_tail[1:] == tail


def _trigrams(text: str) -> set[str]:
    padded = f"  {' '.join(text.lower().split())} "
    return {padded[at : at + 3] for at in range(len(padded) - 2)}


def _dice(one: set[str], other: set[str]) -> float:
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0


def seal(calibration: Calibration) -> bytes:
    """Return the artefact's bytes: readable JSON with its own digest."""
    content = msgspec.json.encode(calibration)
    sealed = Sealed(sha256=hashlib.sha256(content).hexdigest(), calibration=calibration)
    return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"


def _unsealed(path: Path) -> Calibration:
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=Sealed)
    except OSError as error:
        raise AcceptanceError(f"cannot read the calibration {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise AcceptanceError(
            f"{path} is no acceptance calibration: {error}; make one with `python -m semantic_cache.train_acceptance`"
        ) from error
    calibration = sealed.calibration
    _check_format(calibration, path)  # first: of another format the digest is of other fields
    digest = _digest(calibration)
    if digest != sealed.sha256:
        raise AcceptanceError(f"{path} was changed after it was made: sha256 {digest}, sealed {sealed.sha256}")
    _check(calibration, path)
    return calibration


def _check_format(calibration: Calibration, path: Path) -> None:
    if calibration.format != FORMAT or calibration.features != FEATURES:
        raise AcceptanceError(
            f"{path} has format {calibration.format} and features {', '.join(calibration.features)}; this version "
            f"reads format {FORMAT} with {', '.join(FEATURES)}: {_AGAIN}"
        )


def _check(calibration: Calibration, path: Path) -> None:
    if calibration.cross_encoder != DIGEST:
        raise AcceptanceError(
            f"{path} was fitted with the cross-encoder {calibration.cross_encoder}; this version has {DIGEST}: {_AGAIN}"
        )
    widths: Sequence[int] = [len(part) for part in (calibration.centre, calibration.scale, calibration.weights)]
    if set(widths) != {len(FEATURES)} or 0.0 in calibration.scale:
        raise AcceptanceError(f"{path} has {widths} centres, scales and weights, expected {len(FEATURES)} each, none 0")
