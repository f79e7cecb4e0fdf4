"""A trained artefact while serving: what it expects of every rung for one prompt, and when it steps aside.

Rules:
- What it says costs some 0.5 ms of numpy and is asked for on the embedder's thread (`Foresight` is callable from any);
  the plan on the event loop only reads it.
- Artefacts of the modes "cascade" and "combined" judge answers themselves (`router.weighing`) by their own threshold,
  and only where the signal of their records is one that a gateway takes of its own answers: the mean log-probability.
- A prompt unlike the training prompts has no forecast; where more than `STEPS_ASIDE` of a route's recent prompts are
  such, the traffic is another one, and the route's forecasts are not used at all until that changes (`Gate`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.embedder import DIMENSIONS, EMBEDDER_ID
from backends.words import ModelId
from policies.signals import Signal
from router.artefact import Artefact, ArtefactError, Stored
from router.estimators import Mode
from router.forecast import Forecaster
from router.weighing import ByAnswer, Told, Weigher

STEPS_ASIDE: Final = 0.3
"""Where more of the prompts are outside, the traffic is another one, and scores are no better than none."""
_RECENT: Final = 256
"""Prompts that the share outside is of: enough for ±6 points, few enough to follow traffic that changes."""
_FEWEST: Final = 32
"""Prompts before a share is believed; at a share of .15, 1 route in 100 would step aside by chance."""
_PROBE: Final = "How many?"
_PROBE_SIGNAL: Final = -0.5
_KEPT_FILES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What an artefact expects for one prompt.

    Attributes:
        qualities: of each rung's answer, in [0, 1], in the ladder's order.
        start: the rung to call by the artefact's own threshold; None where it holds none.
        similarity: of the nearest training prompts.
        cutoff: below it the prompt is outside, and the rest means nothing.
        told: what an artefact that judges answers goes on from; None of one that does not.
    """

    qualities: tuple[float, ...]
    start: int | None
    similarity: float
    cutoff: float
    told: Told | None = None

    @property
    def is_outside(self) -> bool:
        """Tell whether the prompt is unlike what the artefact was trained on."""
        return self.similarity < self.cutoff


class Foresight:
    """Tells what to expect; make one with `load`. Stateless and callable from any thread.

    Attributes:
        name: what people call it.
        digest: sha256 of the file.
        means: mean quality of each rung on the training prompts, in the ladder's order.
        promise: the loss its threshold keeps; None where it holds no threshold.
        output_ratios: how much longer the last rung's answers are, by rung below it; see `Artefact`.
    """

    __slots__ = (
        "_answers",
        "_estimators",
        "_forecaster",
        "_weighers",
        "digest",
        "means",
        "name",
        "output_ratios",
        "promise",
    )

    def __init__(self, artefact: Artefact, *, name: str, digest: str) -> None:
        estimators = artefact.estimators
        self._estimators, self._forecaster = estimators, Forecaster(estimators)
        self.name, self.digest = name, digest
        self.means = artefact.qualities
        self.promise: Stored | None = artefact.promise
        self.output_ratios = artefact.output_ratios
        self._answers = artefact.answers
        self._weighers: tuple[Weigher, ...] = ()
        if self.promise is not None:
            setting = self.promise.setting
            places = range(len(estimators.judges))
            self._weighers = tuple(Weigher(estimators, rung=rung, setting=setting) for rung in places)

    @classmethod
    def load(cls, path: Path, *, name: str, ladder: tuple[str, ...]) -> Foresight:
        """Read an artefact and make sure that it speaks of this ladder and runs.

        Args:
            path: the file.
            name: what people call it.
            ladder: the models' names (with their parameters), cheapest first.

        Raises:
            ArtefactError: it is missing, cut, changed, of another version, was made for another ladder or embedder, is
                of a mode that judges answers and has no threshold or another signal, or does not run.
        """
        try:
            seen = path.stat()
        except OSError as error:
            raise ArtefactError(f"artefact {path} cannot be read ({error.strerror}); name another, or none") from error
        artefact, digest = _read(path, seen.st_mtime_ns, seen.st_size)
        artefact.check(ladder=ladder, embedder=EMBEDDER_ID)
        _check_judging(path, artefact)
        try:
            foresight = cls(artefact, name=name, digest=digest)
            foresight._prove(path, len(ladder))
        except (ValueError, IndexError) as error:
            raise ArtefactError(
                f"artefact {path} does not run ({error}); make it again with `faregate train`"
            ) from error
        return foresight

    @property
    def judges_answers(self) -> bool:
        """Tell whether it decides itself which answers are kept."""
        return bool(self._weighers)

    def judges(self, ladder: Sequence[ModelId]) -> dict[ModelId, ByAnswer]:
        """Return who decides about the answers of a ladder's rungs below the last; none of mode "route"."""
        answers, kept = self._answers, self.promise
        if answers is None or kept is None:
            return {}
        return {
            ladder[rung]: ByAnswer(weigher, rung=rung, ladder=ladder, answers=answers, kept=kept, digest=self.digest)
            for rung, weigher in enumerate(self._weighers)
        }

    def __call__(self, text: str, vector: NDArray[np.float32]) -> Foreseen:
        """Return what to expect.

        Args:
            text: the last user text.
            vector: float32[384] of unit length, its embedding.
        """
        estimators = self._estimators
        look = self._forecaster(text, vector)
        start = None if self.promise is None else int(estimators.start(look, self.promise.setting)[0])
        told = None
        if self._weighers:
            bases = tuple(weigher.told(look) for weigher in self._weighers)
            told = Told(cluster=int(look.clusters[0]), bases=bases)
        return Foreseen(
            qualities=tuple(look.quality[0].tolist()),
            start=start,
            similarity=float(look.similarity[0]),
            cutoff=estimators.neighbours.cutoff,
            told=told,
        )

    def _prove(self, path: Path, rungs: int) -> None:
        """Try it once: a file whose parts do not fit together has to be found before a request finds it."""
        found = self(_PROBE, np.full(DIMENSIONS, DIMENSIONS**-0.5, dtype=np.float32))
        numbers = [*found.qualities, found.similarity]
        for rung, weigher in enumerate(self._weighers):
            if found.told is not None:
                base, cluster = found.told.bases[rung], found.told.cluster
                numbers += weigher.weigh(base, cluster, signal=_PROBE_SIGNAL, tokens=1).values
        if len(found.qualities) != rungs or not np.isfinite(numbers).all():
            raise ArtefactError(
                f"artefact {path} expects {found.qualities} of {rungs} models, one number for each is wanted; make it "
                "again with `faregate train`"
            )


def _check_judging(path: Path, artefact: Artefact) -> None:
    """Refuse an artefact that judges answers and cannot judge served ones."""
    estimators, kept, answers = artefact.estimators, artefact.promise, artefact.answers
    if kept is not None and not 0 <= kept.setting < len(estimators.settings):
        raise ArtefactError(
            f"artefact {path} names setting {kept.setting} of {len(estimators.settings)}; make it again with `faregate "
            "train`"
        )
    if estimators.mode is Mode.ROUTE:
        return
    if kept is None:
        raise ArtefactError(
            f'artefact {path} is of mode "{estimators.mode}" and holds no threshold, so that nothing tells which '
            "answers to keep; train it with --max-loss"
        )
    if answers is None or answers.signal is not Signal.LOGPROBS:
        raise ArtefactError(
            f'artefact {path} is of mode "{estimators.mode}", and the signal of its records is not known to be the '
            "answers' mean log-probability, the one that a gateway takes of its own answers; train it with `--signal "
            "mean_logprob` where it is, or with --mode route"
        )
    below = estimators.rungs - 1
    parts = (estimators.judges, answers.lowest, answers.highest, answers.most_tokens)
    if any(len(part) != below for part in parts):
        raise ArtefactError(
            f"artefact {path} does not tell of the answers of {below} rungs; make it again with `faregate train`"
        )


@lru_cache(maxsize=_KEPT_FILES)
def _read(path: Path, _changed_ns: int, _bytes: int) -> tuple[Artefact, str]:
    """Return an artefact and its file's digest; a file that has not changed is read once a process."""
    return Artefact.load(path), hashlib.sha256(path.read_bytes()).hexdigest()


class Gate:
    """Follows how many of a route's prompts are outside. One route's, used on the event loop only."""

    __slots__ = ("_outside", "_recent")

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self._outside = 0

    def note(self, foreseen: Foreseen) -> None:
        """Take one prompt's forecast."""
        if len(self._recent) == _RECENT:
            self._outside -= self._recent[0]
        self._recent.append(foreseen.is_outside)
        self._outside += foreseen.is_outside

    @property
    def share_outside(self) -> float:
        """Return which share of the recent prompts was outside; 0 before the first."""
        return self._outside / max(1, len(self._recent))

    @property
    def is_aside(self) -> bool:
        """Tell whether too many are outside for any forecast to be used."""
        return len(self._recent) >= _FEWEST and self.share_outside > STEPS_ASIDE


class Sight:
    """A route's foresight and the gate in front of it: what a strategy asks."""

    __slots__ = ("foresight", "gate")

    def __init__(self, foresight: Foresight) -> None:
        self.foresight = foresight
        self.gate = Gate()

    def admits(self, foreseen: Foreseen) -> bool:
        """Note one prompt's forecast, and tell whether it may be used."""
        self.gate.note(foreseen)
        return not foreseen.is_outside and not self.gate.is_aside
