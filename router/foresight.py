"""A trained artefact while serving: what it expects of every rung for one prompt, and when it steps aside.

Rules:
- What it says costs some 0.5 ms of numpy and is asked for on the embedder's thread (`Foresight` is callable from any);
  the plan on the event loop only reads it.
- Only artefacts of mode "route" are served: those of the other modes weigh a `signal` of their records, and nobody can
  tell a served answer's from those. Answers are judged by calibrations (`router.judge`).
- A prompt unlike the training prompts has no forecast; where more than `STEPS_ASIDE` of a route's recent prompts are
  such, the traffic is another one, and the route's forecasts are not used at all until that changes (`Gate`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.embedder import DIMENSIONS, EMBEDDER_ID
from router.artefact import Artefact, ArtefactError, Stored
from router.estimators import Mode

STEPS_ASIDE: Final = 0.3
"""Where more of the prompts are outside, the traffic is another one, and scores are no better than none."""
_RECENT: Final = 256
"""Prompts that the share outside is of: enough for ±6 points, few enough to follow traffic that changes."""
_FEWEST: Final = 32
"""Prompts before a share is believed; at a share of .15, 1 route in 100 would step aside by chance."""
_PROBE: Final = "How many?"
_KEPT_FILES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What an artefact expects for one prompt.

    Attributes:
        qualities: of each rung's answer, in [0, 1], in the ladder's order.
        start: the rung to call by the artefact's own threshold; None where it holds none.
        similarity: of the nearest training prompts.
        cutoff: below it the prompt is outside, and the rest means nothing.
    """

    qualities: tuple[float, ...]
    start: int | None
    similarity: float
    cutoff: float

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
    """

    __slots__ = ("_estimators", "digest", "means", "name", "promise")

    def __init__(self, artefact: Artefact, *, name: str, digest: str) -> None:
        estimators = artefact.estimators
        # In columns the product with one prompt, the largest part of a forecast, reads memory in order: twice as fast.
        columns = np.asfortranarray(estimators.neighbours.bank)
        self._estimators = replace(estimators, neighbours=replace(estimators.neighbours, bank=columns))
        self.name, self.digest = name, digest
        self.means = artefact.qualities
        self.promise: Stored | None = artefact.promise

    @classmethod
    def load(cls, path: Path, *, name: str, ladder: tuple[str, ...]) -> Foresight:
        """Read an artefact and make sure that it speaks of this ladder and runs.

        Args:
            path: the file.
            name: what people call it.
            ladder: the models' names (with their parameters), cheapest first.

        Raises:
            ArtefactError: it is missing, cut, changed, of another version, was made for another ladder or embedder, is
                of a mode that is not served, or does not run.
        """
        try:
            seen = path.stat()
        except OSError as error:
            raise ArtefactError(f"artefact {path} cannot be read ({error.strerror}); name another, or none") from error
        artefact, digest = _read(path, seen.st_mtime_ns, seen.st_size)
        artefact.check(ladder=ladder, embedder=EMBEDDER_ID)
        mode = artefact.estimators.mode
        if mode is not Mode.ROUTE:
            raise ArtefactError(
                f'artefact {path} is of mode "{mode}", and only "route" is served: the others weigh a signal of '
                "their records, which a served answer does not have; train it with --mode route, and let a calibration "
                "judge answers"
            )
        foresight = cls(artefact, name=name, digest=digest)
        foresight._prove(path, len(ladder))
        return foresight

    def __call__(self, text: str, vector: NDArray[np.float32]) -> Foreseen:
        """Return what to expect.

        Args:
            text: the last user text.
            vector: float32[384] of unit length, its embedding.
        """
        estimators = self._estimators
        look = estimators.look(vector[None, :], [text])
        start = None if self.promise is None else int(estimators.start(look, self.promise.setting)[0])
        return Foreseen(
            qualities=tuple(look.quality[0].tolist()),
            start=start,
            similarity=float(look.similarity[0]),
            cutoff=estimators.neighbours.cutoff,
        )

    def _prove(self, path: Path, rungs: int) -> None:
        """Try it once: a file whose parts do not fit together has to be found before a request finds it."""
        try:
            found = self(_PROBE, np.full(DIMENSIONS, DIMENSIONS**-0.5, dtype=np.float32))
        except (ValueError, IndexError) as error:
            raise ArtefactError(
                f"artefact {path} does not run ({error}); make it again with `faregate train`"
            ) from error
        numbers = (*found.qualities, found.similarity)
        if len(found.qualities) != rungs or not np.isfinite(numbers).all():
            raise ArtefactError(
                f"artefact {path} expects {found.qualities} of {rungs} models, one number for each is wanted; make it "
                "again with `faregate train`"
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
