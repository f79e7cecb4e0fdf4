"""What deciding costs a request: `python load_tests/estimator_cost.py [ARTEFACT]`, one thread, three prompts.

`embed` and `look` (features, predictions) run in a worker beside the event loop; `start` is what the loop itself does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from backends.embedder import MiniLM
from router.artefact import SHIPPED, Artefact

REPEATS = 100
PROMPTS = {
    "10 words": "Which planet of the solar system has the most moons?",
    "60 words": "A shop sells pens at 3 dollars and books at 12 dollars. " * 5 + "What do 4 pens and 7 books cost?",
    "300 words": "The committee met on Tuesday to discuss the budget of the coming year. " * 24 + "Summarise it.",
}


def main() -> None:
    """Print a line a prompt: median and 99th percentile of each step, in microseconds."""
    embedder = MiniLM.load()
    estimators = Artefact.load(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED).estimators
    middle = len(estimators.settings) // 2
    print(f"{'prompt':<12}{'embed':>16}{'look':>16}{'start':>16}{'all three':>16}   (processor us, p50 / p99)")
    for name, text in PROMPTS.items():
        vectors = embedder.embed([text])
        look = estimators.look(vectors, [text])
        steps: tuple[Callable[[], object], ...] = (
            lambda text=text: embedder.embed([text]),
            lambda vectors=vectors, text=text: estimators.look(vectors, [text]),
            lambda look=look: estimators.start(look, middle),
        )
        times = np.array([[_seconds(step) for step in steps] for _ in range(REPEATS)])
        columns = [*times.T, times.sum(axis=1)]
        cells = (f"{np.median(column) * 1e6:.0f} / {np.quantile(column, 0.99) * 1e6:.0f}" for column in columns)
        print(f"{name:<12}" + "".join(f"{cell:>16}" for cell in cells))


def _seconds(step: Callable[[], object]) -> float:
    started = time.thread_time()  # processor time: the machine may be busy with other things
    step()
    return time.thread_time() - started


if __name__ == "__main__":
    main()
