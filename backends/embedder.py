"""The one base embedder: all-MiniLM-L6-v2 as int8 on onnxruntime, fixed by digest, without torch.

Rules:
- The vector is of the text's first 256 tokens ([CLS] and [SEP] included), averaged over tokens and scaled to length 1.
- Every text is run on its own, without padding. Dynamic quantisation scales activations per tensor, so in a padded
  batch a text's vector would depend on its neighbours; on one core a batch is not faster either (3 % measured).
- The weights keep one bit of headroom (`reduce_range`): without it the int8 kernels of CPUs that have AVX2 but no VNNI
  saturate, and the same text would embed differently from machine to machine by more than rounding.
- The states of a text's words come from the same run as its vector: the graph's last hidden layer is declared an output
  when the model is loaded (the file and its digest stay as they are; vectors are the same bit for bit).
- onnxruntime and tokenizers are imported by `MiniLM.load`, not by this module: they cost start-up that a policy without
  a semantic cache need not pay.

The files are built by `backends.build_embedder`; provenance and versions stand in `minilm/manifest.json`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from backends.errors import FloorError
from backends.onnx_session import OnnxError, OnnxSession, start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

DIMENSIONS = 384
MAX_TOKENS = 256
MAX_CHARACTERS = 8_192
"""What the tokenizer reads of a text: 256 tokens of English are some 1,100 characters; the rest must not cost."""

SHIPPED = Path(__file__).parent / "minilm"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
DIGESTS: Mapping[str, str] = {
    MODEL_FILE: "349f8f6a36a7498ecff3158216ce599256a5d232bf4301fdc657d77557b14933",
    TOKENIZER_FILE: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""sha256 of the files whose vectors every stored vector and calibration was made with."""

EMBEDDER_ID = f"all-MiniLM-L6-v2-int8@{DIGESTS[MODEL_FILE][:12]}"
"""What calibrations and vector stores name the shipped embedder by."""


_STATES = "/transformer/encoder/layer.5/output/LayerNorm/LayerNormalization_output_0"
"""The graph's name for the last hidden layer, float32[1, n, 384]."""

REMEMBERED_BYTES = 32_000_000
"""Of states that are kept: a lookup reads the question it has just embedded, and stored questions come again, each of
which would cost as much as embedding it. At the usual 12 tokens a text this is some 3,000 texts, at 256 it is 160."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordStates:
    """What the embedder makes of each word piece of a text in its context, [CLS] and [SEP] left out.

    Attributes:
        pieces: the word pieces, n of them; a piece inside a word begins with `##`.
        states: float16[n, 384], rows of about unit length.
    """

    pieces: tuple[str, ...]
    states: NDArray[np.float16]


class EmbedderError(FloorError):
    """The embedder's files are missing, are not the ones this version was calibrated with, or do not run."""


class Embedder(Protocol):
    """What turns texts into vectors; callable from any thread."""

    @property
    def id(self) -> str:
        """Name the exact weights: vectors of different ids must never be compared."""
        ...

    @property
    def dimensions(self) -> int:
        """The width of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32[n, dimensions], rows of unit length, in the order of `texts`."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2 in int8; make one with `load`. Calls from several threads at once are safe and independent."""

    __slots__ = ("_lock", "_remembered", "_remembered_bytes", "_session", "_tokenizer")

    def __init__(self, *, session: OnnxSession, tokenizer: Tokenizer) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._remembered: OrderedDict[str, WordStates] = OrderedDict()
        self._remembered_bytes = 0
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path | None = None) -> MiniLM:
        """Read, check and start the embedder (about 0.4 s, once; 90 MB of memory).

        Args:
            folder: where the model and its tokenizer lie; the shipped ones when None.

        Raises:
            EmbedderError: a file is missing or its sha256 is not in `DIGESTS`, or onnxruntime cannot run it.
        """
        folder = folder or SHIPPED
        weights = _read(folder / MODEL_FILE)
        vocabulary = _read(folder / TOKENIZER_FILE)
        return cls(session=_start(weights), tokenizer=_tokenizer(vocabulary))

    @property
    def id(self) -> str:
        """Name the exact weights, e.g. for the partition of a vector store."""
        return EMBEDDER_ID

    @property
    def dimensions(self) -> int:
        """384."""
        return DIMENSIONS

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32[n, 384], rows of unit length, in the order of `texts`; a few milliseconds of CPU each."""
        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row], _ = self._run(text)
        return vectors

    def states(self, text: str) -> WordStates:
        """Return the states of a text's words; free for a text that was embedded or read not long ago."""
        with self._lock:
            known = self._remembered.get(text)
            if known is not None:
                self._remembered.move_to_end(text)
        return known if known is not None else self._run(text)[1]

    def _run(self, text: str) -> tuple[NDArray[np.float32], WordStates]:
        encoded = self._tokenizer.encode(text[:MAX_CHARACTERS])
        inputs = np.array([encoded.ids], dtype=np.int64)
        vector, hidden = self._session.run(["vector", _STATES], {"tokens": inputs})
        inner = hidden[0, 1:-1]
        lengths = np.linalg.norm(inner, axis=1, keepdims=True)
        states = WordStates(pieces=tuple(encoded.tokens[1:-1]), states=(inner / lengths).astype(np.float16))
        with self._lock:
            if (old := self._remembered.pop(text, None)) is not None:
                self._remembered_bytes -= old.states.nbytes
            self._remembered[text] = states
            self._remembered_bytes += states.states.nbytes
            while self._remembered_bytes > REMEMBERED_BYTES:
                _, oldest = self._remembered.popitem(last=False)
                self._remembered_bytes -= oldest.states.nbytes
        return vector[0], states


def known_words(folder: Path | None = None) -> frozenset[str]:
    """Return the whole words of the embedder's vocabulary (about 22,000, lower case): others are rare or misspelt.

    Raises:
        EmbedderError: as `MiniLM.load`.
    """
    content = _read((folder or SHIPPED) / TOKENIZER_FILE)
    vocabulary = msgspec.json.decode(content, type=_TokenizerFile).model.vocab
    return frozenset(word for word in vocabulary if word.isalpha())


class _Vocabulary(msgspec.Struct):
    vocab: dict[str, int]


class _TokenizerFile(msgspec.Struct):
    model: _Vocabulary


def sha256_of(content: bytes) -> str:
    """Return the hexadecimal sha256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    """Return the file's bytes, which are the ones that were checked (a path could change between check and use)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EmbedderError(
            f"cannot read the embedder's file {path}: {error.strerror}; it is part of the distribution: install "
            "faregate again, or build it with `python -m backends.build_embedder FOLDER`"
        ) from error
    digest = sha256_of(content)
    if digest != DIGESTS[path.name]:
        raise EmbedderError(
            f"the embedder's file {path} has sha256 {digest}; this version works only with {DIGESTS[path.name]}, "
            "because stored vectors and calibrations belong to exact weights: install faregate again"
        )
    return content


def _start(weights: bytes) -> OnnxSession:
    try:
        return start(weights + _declared_output(_STATES))
    except OnnxError as error:
        raise EmbedderError(f"the embedder does not run: {error}") from error


def _declared_output(name: str) -> bytes:
    """Return the bytes that, put behind an ONNX file, make one more of its values an output.

    Protocol buffers merge what is repeated: these are `ModelProto{graph: {output: {name}}}` (onnx.proto: 7, 12 and 1),
    and the merged graph has one output more (protobuf.dev/programming-guides/encoding, "Last One Wins").
    """
    value = b"\x0a" + _length(name.encode())
    return b"\x3a" + _length(b"\x62" + _length(value))


def _length(content: bytes) -> bytes:
    """Put the length before a message, as a base-128 varint; all messages here are shorter than 128 bytes."""
    if len(content) > 127:
        raise AssertionError(f"{len(content)} bytes need a longer varint")
    return bytes([len(content)]) + content


def _tokenizer(vocabulary: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(vocabulary)
    # The file itself says 128 with padding: the model's card and sentence-transformers read 256, and we never pad.
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer
