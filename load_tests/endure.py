"""Hold the gateway under load for long: many idle streams at once, or a mixed load with clients that hang up.

    endure.py idle --streams 10000      memory of one worker while so many streams are open and silent
    endure.py soak --minutes 30         memory over time under JSON, exact hits and streams, a fifth of them abandoned

Both fail when an answer is missing or when the ledger has not booked exactly what was sent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import targets
from bench import build
from programs import BenchFailed, Starter, cpu_s, free_port, output_of, pins, pss_mib, tree
from results import CELLS
from rich.console import Console
from rich.progress import Progress
from targets import FAREGATE, Target

HERE = Path(__file__).resolve().parent
FILES_A_STREAM, FILES_A_FOLLOWER = 2, 1
"""A follower shares its leader's connection to the upstream."""
_OWN_FILES = 200
_OPENED_PER_S = 300
SETTLED_SHARE = 0.5
"""The first half of a soak is warm-up: buffers, the allocator's arenas, and the embedder's memory of some 3,000 texts,
which takes a quarter of an hour to fill at a modest rate."""
_UNHURRIED = " mock:tok=20,itv=20000"
"""Streams last 0.4 s, so that clients that leave within 0.1 s leave in their middle."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway's memory at a moment: seconds since the start, MiB."""

    at_s: float
    mib: float


def main() -> int:
    """Run the test that was asked for and return the exit status."""
    options = _options()
    console = Console(stderr=True, highlight=False)
    build()
    with tempfile.TemporaryDirectory(prefix="faregate-endure-") as folder, contextlib.ExitStack() as stack:
        try:
            facts = options.run(Stage(stack, Path(folder), console), options)
        except BenchFailed as error:
            console.print(f"endure: {error}", markup=False)
            return 1
    print(json.dumps(facts, indent=2))
    return 1 if facts["faults"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hold the gateway under load for long.")
    tests = parser.add_subparsers(required=True)
    idle = tests.add_parser("idle", help="many silent streams at once")
    idle.add_argument("--streams", type=int, default=10_000)
    idle.add_argument("--seconds", type=float, default=40.0, help="how long they are silent (default: 40)")
    idle.add_argument(
        "--followers",
        type=int,
        default=0,
        help="how many of them ask the same question on a cached route, and follow the first: where files are short",
    )
    idle.add_argument("--at-once", action="store_true", help="open them in one moment, not one after another")
    idle.set_defaults(run=_idle)
    soak = tests.add_parser("soak", help="a mixed load with hang-ups")
    soak.add_argument("--minutes", type=float, default=30.0)
    soak.add_argument("--scale", type=float, default=1.0, help="times 135 requests a second (default: 1)")
    soak.set_defaults(run=_soak)
    return parser.parse_args()


class Stage:
    """A mock upstream and a gateway, and loads on them."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        gateway_core, self._load_core = pins()
        upstream = free_port()
        self._starter = Starter(stack, folder)
        self._starter(
            "mock", [*self._load_core, str(HERE / "bin" / "mock_upstream"), str(upstream)], upstream, "/health"
        )
        self.routes = {
            target.model: target for target in targets.gateway(self._starter, folder, upstream, gateway_core)
        }

    @property
    def pids(self) -> list[int]:
        """The gateway's processes."""
        root = self.routes["plain"].pid
        return tree(root) if root is not None else []

    def load(self, target: Target, body: dict[str, object], *options: str) -> subprocess.Popen[str]:
        """Start a load generator."""
        file = self.folder / f"body-{len(list(self.folder.glob('body-*')))}.json"
        file.write_text(json.dumps(body))
        command = [*self._load_core, str(HERE / "bin" / "load"), "-p", str(target.port), "-k", target.key]
        return subprocess.Popen(
            [*command, "-b", str(file), *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )

    def booked(self) -> int:
        """Return how many requests the ledger has, once nothing more is being folded."""
        command = [FAREGATE, "report", "--policy", str(self.folder / "policy.yaml"), "--format", "json"]
        before = -1
        while (now := int(json.loads(output_of(command))["totals"]["requests"])) != before:
            before = now
            time.sleep(2)
        return now


def _idle(stage: Stage, options: argparse.Namespace) -> dict[str, object]:
    """Open streams that are silent after their first chunk, and read the gateway's memory meanwhile."""
    alone = options.streams - options.followers
    needed = alone * FILES_A_STREAM + options.followers * FILES_A_FOLLOWER + _OWN_FILES
    if (limit := resource.getrlimit(resource.RLIMIT_NOFILE)[1]) < needed:
        raise BenchFailed(
            f"{options.streams} streams need {needed} files, the limit is {limit}; raise it (ulimit -n {needed}), or "
            f"let some follow one another (--followers {options.followers + needed - limit})"
        )
    empty = pss_mib(stage.pids)
    split = {"plain": alone, "exact": options.followers}
    loads = [_silent(stage, model, streams, options) for model, streams in split.items() if streams]
    highest, began = empty, time.monotonic()
    with Progress(console=stage.console) as progress:
        task = progress.add_task(f"{options.streams:,} idle streams", total=options.seconds)
        while any(load.poll() is None for load in loads):
            highest = max(highest, pss_mib(stage.pids))
            progress.update(task, completed=time.monotonic() - began)
            time.sleep(1)
    found = [json.loads(load.communicate()[0]) for load in loads]
    return {
        "streams": sum(each["sent"] for each in found),
        "followers": options.followers,
        "mib_before": round(empty, 1),
        "mib_with_streams": round(highest, 1),
        "kib_a_stream": round((highest - empty) * 1024 / options.streams, 1),
        "cpu_s": round(cpu_s(stage.pids), 1),
        "faults": _faults(found, stage.booked()),
    }


def _silent(stage: Stage, model: str, streams: int, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Open so many streams on a route that say nothing after their first chunk until the time is over."""
    cell = next(cell for cell in CELLS if cell.name == "sse-64")
    body = cell.body(model, is_numbered=False)
    body["messages"][-1]["content"] += f" mock:tok=2,itv={options.seconds * 1e6:.0f}"  # type: ignore[index]
    # Opened one after another unless that is the question: thousands in one moment wait for one another.
    pace = ("-r", str(_OPENED_PER_S), "-d", str((streams + 1) / _OPENED_PER_S))
    if options.at_once:
        pace = ("-r", str(streams), "-d", "1")
    return stage.load(stage.routes[model], body, "-c", str(streams), *pace, "-w", "0", "-e", "300")


def _soak(stage: Stage, options: argparse.Namespace) -> dict[str, object]:
    """Load every route below its capacity, with clients that leave, and watch the memory."""
    seconds = options.minutes * 60
    cells = {cell.name: cell for cell in CELLS}
    plans = (
        ("plain", "json-64-50ms", 40, "0.1"),
        ("plain", "sse-64", 20, "0.3"),
        ("exact", "json-64-4k", 60, "0"),
        ("deciding", "json-64", 10, "0.1"),
        ("deciding", "sse-64", 5, "0.3"),
    )
    loads = []
    for model, name, rate, left in plans:
        body = cells[name].body(model, is_numbered=model == "deciding")
        if cells[name].is_stream:
            body["messages"][-1]["content"] += _UNHURRIED  # type: ignore[index]
        pace = str(rate * options.scale)
        loads.append(
            stage.load(stage.routes[model], body, "-c", "16", "-r", pace, "-x", left, "-d", str(seconds), "-w", "0")
        )
    samples: list[Sample] = []
    began = time.monotonic()
    with Progress(console=stage.console) as progress:
        task = progress.add_task("mixed load", total=seconds)
        while any(load.poll() is None for load in loads):
            samples.append(Sample(time.monotonic() - began, pss_mib(stage.pids)))
            progress.update(task, completed=samples[-1].at_s, description=f"mixed load, {samples[-1].mib:,.0f} MiB")
            time.sleep(2)
    found = [json.loads(load.communicate()[0]) for load in loads]
    settled = [sample for sample in samples if sample.at_s >= seconds * SETTLED_SHARE]
    slope = statistics.linear_regression([s.at_s for s in settled], [s.mib for s in settled]).slope
    return {
        "minutes": options.minutes,
        "requests_per_s": 135 * options.scale,
        "sent": sum(each["sent"] for each in found),
        "left_by_clients": sum(each["left"] for each in found),
        "mib_settled": round(settled[0].mib, 1),
        "mib_end": round(settled[-1].mib, 1),
        "mib_highest": round(max(sample.mib for sample in samples), 1),
        "mib_an_hour": round(slope * 3600, 1),
        "samples": [[round(s.at_s), round(s.mib, 1)] for s in samples[:: max(1, len(samples) // 60)]],
        "faults": _faults(found, stage.booked()),
    }


def _faults(found: list[dict[str, int]], booked: int) -> list[str]:
    sent = sum(each["sent"] for each in found)
    faults = [
        f"{each['sent']} sent, {each['answered']} answered, {each['left']} left, {each['errors']} broken, "
        f"{each['not_ok']} not 200: {each['first_error']}"
        for each in found
        if each["errors"] or each["not_ok"] or each["sent"] != each["answered"] + each["left"]
    ]
    # A client that leaves before its request is read was never there.
    left = sum(each["left"] for each in found)
    if not sent - left <= booked <= sent:
        faults.append(f"{sent} requests were sent ({left} left early), the ledger has {booked}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
