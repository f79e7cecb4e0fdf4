"""The embeddings of outcome records' prompts, kept in a file between runs: ten thousand take minutes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from backends.embedder import Embedder
from router.estimators import Vectors
from router.train_outcomes import TrainingError

_BATCH = 32


def embed_all(
    prompts: Sequence[str],
    load: Callable[[], Embedder],
    *,
    embedder: str,
    file: Path | None = None,
    show: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Vectors:
    """Return float32[n, 384] in the prompts' order.

    Args:
        prompts: what to embed.
        load: starts the embedder; called only when a prompt is not in the file.
        embedder: its id, which the file must have been made with.
        file: an `.npz` to read from and to add to; nothing is kept when None.
        show: wraps the batches, for a progress bar.

    Raises:
        TrainingError: the file is no such file, or was made with another embedder.
    """
    digests = [hashlib.sha256(prompt.encode()).hexdigest()[:24] for prompt in prompts]
    known = _read(file, embedder) if file is not None and file.exists() else {}
    missing = {digest: prompt for digest, prompt in zip(digests, prompts, strict=True) if digest not in known}
    if missing:
        model = load()
        names = list(missing)
        for start in show(range(0, len(names), _BATCH)):
            batch = names[start : start + _BATCH]
            for name, vector in zip(batch, model.embed([missing[name] for name in batch]), strict=True):
                known[name] = vector
        if file is not None:
            np.savez(
                file, embedder=np.array(embedder), digests=np.array(list(known)), vectors=np.array(list(known.values()))
            )
    return np.array([known[digest] for digest in digests], dtype=np.float32)


def _read(file: Path, embedder: str) -> dict[str, Vectors]:
    again = "delete it, it is made again"
    try:
        with np.load(file, allow_pickle=False) as kept:
            made_with, digests, vectors = str(kept["embedder"]), kept["digests"], kept["vectors"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise TrainingError(f"{file} does not hold embeddings ({error}); {again}") from error
    if made_with != embedder:
        raise TrainingError(f'{file} was made with embedder "{made_with}", this is "{embedder}"; {again}')
    return dict(zip(digests.tolist(), vectors, strict=True))
