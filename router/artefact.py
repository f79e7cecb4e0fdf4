"""A router's artefact: the estimators of one ladder with the threshold that keeps a promise, as one JSON file.

Rules: the digest is checked before anything is believed; arrays are packed little-endian numbers (half precision
where a prediction moves by less than .001); nothing in it is code. What was made for another embedder or ladder is
refused, with the reason: its numbers would mean nothing.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.words import JsonValue
from policies.sealed import read_sealed, seal
from policies.signals import Signal
from router.estimators import Estimators
from router.judge import CalibrationError, Quantiles

FORMAT = "faregate-router/1"
ANY_LADDER = ("any-small", "any-large")
"""The ladder of the artefact that ships: it speaks of any two models, one weak and one strong, and promises nothing."""

SHIPPED = Path(__file__).parent / "artefacts" / "default.json"
"""The artefact that ships; its model card lies beside it."""

_AGAIN = "make it again with `faregate train`"
_HALF_ABOVE = 20_000
_Array: TypeAlias = NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int64]


class ArtefactError(CalibrationError):
    """A router's artefact is missing, damaged, or made for something else; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The setting that keeps a promise, and what it did on calibration rows that no estimator had seen.

    Attributes:
        setting: index into `Estimators.settings`.
        bound: the expected loss is below this, at `confidence`.
        mean_loss: as seen; an estimate, never a promise.
        share_small: questions that a rung below the last answers.
        savings: of always-strong's dollars; None where costs are unknown, like its 95 % interval.
    """

    setting: int
    max_loss: float
    confidence: float
    bound: float
    mean_loss: float
    n: int
    share_small: float
    savings: float | None
    savings_low: float | None
    savings_high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the answers were that the judges were fitted on: a served one is weighed only where it is such a one.

    Attributes:
        signal: what the records' signal is: LOGPROBS, the mean log-probability of an answer's tokens; None for anything
            else, which nobody can take of a served answer.
        lowest: least signal of each rung below the last.
        highest: greatest signal of each.
        most_tokens: of the longest answer of each; 0 where records tell no lengths, which are then not looked at.
    """

    signal: Signal | None
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    most_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """What `faregate train` writes.

    Attributes:
        ladder: the models' names, cheapest first.
        embedder: id of the embedder of the prompts.
        made: ISO date.
        source: the files trained on, with their rows and digests.
        questions: how many rows it rests on.
        qualities: mean quality of each model alone.
        promise: None where no loss was asked for: the threshold is then the user's to choose.
        output_ratios: how much longer the last model's answers are, by rung below it, None where records do not say;
            empty where it speaks of any models.
        answers: what is judged; None in mode "route", and in artefacts of before 2026-11-22, which serve no judge.
    """

    format: str
    ladder: tuple[str, ...]
    embedder: str
    made: str
    source: str
    questions: int
    qualities: tuple[float, ...]
    estimators: Estimators
    promise: Stored | None
    answers: Answers | None = None
    output_ratios: tuple[Quantiles | None, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Artefact:
        """Read and check an artefact.

        Raises:
            ArtefactError: it is missing, cut, changed, of another version, or holds numbers that are none.
        """
        row = read_sealed(path, what="artefact", again=_AGAIN, error=ArtefactError)
        stated = row.get("format") if isinstance(row, dict) else None
        if stated != FORMAT:
            raise ArtefactError(f'artefact {path} has format "{stated}", this version reads "{FORMAT}"; {_AGAIN}')
        try:
            artefact = msgspec.convert(row, cls, dec_hook=_array)
        except (msgspec.ValidationError, ValueError, zlib.error) as error:
            raise ArtefactError(f"artefact {path} has another version's shape: {error}; {_AGAIN}") from error
        return artefact

    def dump(self) -> str:
        """Return the artefact's text, digest included; `load` accepts exactly this."""
        row = json.loads(json.dumps(msgspec.to_builtins(self, enc_hook=_text)))
        return seal(row)

    def check(self, *, ladder: tuple[str, ...], embedder: str) -> None:
        """Refuse to speak about other models or vectors.

        Raises:
            ArtefactError: the ladder or the embedder is another one.
        """
        if self.embedder != embedder:
            raise ArtefactError(f'artefact was made with embedder "{self.embedder}", this is "{embedder}"; {_AGAIN}')
        fits_any = self.ladder == ANY_LADDER and len(ladder) == len(ANY_LADDER)
        if self.ladder != ladder and not fits_any:
            raise ArtefactError(
                f"artefact was made for the ladder {', '.join(self.ladder)}, not {', '.join(ladder)}; {_AGAIN}"
            )


def _text(value: object) -> JsonValue:
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"{type(value).__name__} has no place in an artefact")
    kind = "<f2" if value.size > _HALF_ABOVE else "<f4"
    packed = zlib.compress(np.ascontiguousarray(value.astype(kind)).tobytes(), 9)
    return {"shape": list(value.shape), "kind": kind, "zlib64": base64.b64encode(packed).decode()}


def _packed(value: dict[str, JsonValue]) -> bytes:
    """Return an array's compressed bytes; in base 85, as older artefacts have them, reading takes half a second."""
    return base64.b64decode(value["zlib64"]) if "zlib64" in value else base64.b85decode(value["zlib85"])


def _array(wanted: type, value: JsonValue) -> _Array:
    """Return an array as its field's type says; `wanted` is an alias of numpy.ndarray."""
    if not isinstance(value, dict) or value.get("kind") not in {"<f2", "<f4"}:
        raise ValueError("an array is {shape, kind, zlib64}")
    size = math.prod(value["shape"]) * np.dtype(value["kind"]).itemsize
    # Unpacked to no more than its shape says, and one byte that tells when there would be more.
    content = zlib.decompressobj().decompress(_packed(value), size + 1)
    flat = np.frombuffer(content, dtype=value["kind"])
    if not np.isfinite(flat).all():
        raise ValueError("an array holds numbers that are not finite")
    shaped = flat.reshape(value["shape"])
    if "int64" in str(wanted) and not (shaped == np.floor(shaped)).all():
        raise ValueError("an array of places holds numbers that are not whole")
    if "int64" in str(wanted):
        return shaped.astype(np.int64)
    return shaped.astype(np.float32) if "float32" in str(wanted) else shaped.astype(np.float64)
