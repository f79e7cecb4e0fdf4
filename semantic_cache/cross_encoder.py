"""Reads two questions together: how likely is it that one answer serves both? Serving needs onnxruntime only.

A small transformer over the embedder's word states of both texts: projected to 128, two layers in which every word
sees all words of both (a cross-encoder: Humeau et al., "Poly-encoders", arXiv:1905.01969, section 4.3; here upon
states that were made apart and are kept, so that a pair costs the joint layers only), pooled and scored; 0.35 million
weights. What it was trained on is in `questions/`; how, in `semantic_cache.train_cross_encoder`.

It knows paraphrases and near misses far better than a cosine, and is not calibrated: `acceptance` weighs it with the
other features, behind the guard.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backends.onnx_session import OnnxSession, start

if TYPE_CHECKING:
    from backends.embedder import WordStates

SHIPPED = Path(__file__).parent / "calibrations" / "cross_encoder.onnx"
DIGEST = "a794716d05beaf451f2137b02e008fd8c144c5d9da302d752f59322797692f42"
"""sha256 of the shipped weights, which the acceptance was calibrated with."""

MOST_READ = 64
"""Words of each text that are read, as in training; what is served is rarely half as long."""
MOST = 5.0
"""Log-odds are cut here: beyond it the network is only surer, not better (labels are smoothed: see the training)."""


class CrossEncoderError(Exception):
    """The weights are missing, or not the ones this version was calibrated with."""


class CrossEncoder:
    """The network, started when it is first asked; callable from any thread. Make one with `load`."""

    __slots__ = ("_lock", "_session", "_weights")

    def __init__(self, weights: bytes) -> None:
        self._weights = weights
        self._session: OnnxSession | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: Path = SHIPPED) -> CrossEncoder:
        """Read and check the weights, which are the shipped ones only where their digest says so.

        Raises:
            CrossEncoderError: the file is missing or not the one this version was calibrated with.
        """
        try:
            weights = path.read_bytes()
        except OSError as error:
            raise CrossEncoderError(
                f"cannot read the cross-encoder {path}: {error.strerror}; install faregate again"
            ) from error
        digest = hashlib.sha256(weights).hexdigest()
        if digest != DIGEST:
            raise CrossEncoderError(
                f"the cross-encoder {path} has sha256 {digest}; this version was calibrated with {DIGEST}: "
                "install faregate again"
            )
        return cls(weights)

    def log_odds(self, one: WordStates, other: WordStates) -> float:
        """Return log P(one answer serves both texts) - log P(it does not), within ±MOST; their order is no matter."""
        if not one.pieces or not other.pieces:
            return MOST if one.pieces == other.pieces else -MOST
        # The network tells first from second; always the same order makes the answer symmetric.
        first, second = sorted((one, other), key=lambda text: (len(text.pieces), text.pieces))
        inputs = {
            "first": first.states[:MOST_READ].astype(np.float32),
            "second": second.states[:MOST_READ].astype(np.float32),
        }
        (said,) = self._started().run(["log_odds"], inputs)
        return float(np.clip(said[0], -MOST, MOST))

    def _started(self) -> OnnxSession:
        with self._lock:
            if self._session is None:
                self._session = start(self._weights)
                self._weights = b""
            return self._session
