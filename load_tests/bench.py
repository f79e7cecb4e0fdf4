"""Measure the gateway on loopback against a native mock upstream: what it adds, what it costs, whether its books agree.

The gateway has one core, the load generator and the mock upstream another. Every target is measured in turn, round
after round, odd rounds backwards, so that a machine that gets slower does so for all of them; medians are reported.
Ratios within a run say something; absolute numbers of different days or machines do not.

It fails when any answer is missing, not 200 or short of an event, or when the ledger's requests are not exactly those
that were sent and its attempts not exactly those that reached the upstream.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import targets
from programs import BenchFailed, Starter, core_busy_s, cores, cpu_s, free_port, get, output_of, pins, pss_mib, tree
from results import CELLS, Books, Cell, Run, facts, show, uneven
from rich.console import Console
from targets import FAREGATE, Target

HERE = Path(__file__).resolve().parent
PROGRAMS = ("mock_upstream", "load")
QUICK_CELLS = ("json-64", "json-8-50ms", "sse-64")


def main() -> int:
    """Run the benchmark and return the exit status."""
    options = _options()
    console = Console(stderr=True, highlight=False)
    rounds, seconds, warm_up_s = (1, 1.0, 0.5) if options.quick else (options.rounds, options.seconds, 1.0)
    try:
        build()
        with tempfile.TemporaryDirectory(prefix="faregate-bench-") as folder:
            bench = Bench(Path(folder), console, options, seconds=seconds, warm_up_s=warm_up_s)
            runs, books = bench.measure(rounds)
    except BenchFailed as error:
        console.print(f"bench: {error}", markup=False)
        return 1
    faults = [f"{run.cell} {run.target}: {fault}" for run in runs for fault in run.faults] + uneven(runs) + books.faults
    if options.json:
        print(json.dumps(facts(runs, books, faults, rounds=rounds, seconds=seconds), indent=2))
    else:
        show(runs, books, rounds=rounds, seconds=seconds)
    for fault in faults:
        console.print(f"bench: {fault}", markup=False)
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the gateway on loopback against a native mock upstream.")
    parser.add_argument(
        "--rounds",
        type=int,
        choices=range(1, 101),
        metavar="N",
        default=3,
        help="how often everything is measured (default: 3)",
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each measurement is (default: 4)")
    parser.add_argument("--quick", action="store_true", help="one round of one second: shows that it works")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="also measure the peers that peers.sh put there")
    parser.add_argument("--only", metavar="A,B", help="only targets whose name holds one of these (direct is always)")
    parser.add_argument("--cells", metavar="A,B", help=f"only these loads: {', '.join(cell.name for cell in CELLS)}")
    parser.add_argument(
        "--workers",
        metavar="1,2",
        type=_counts,
        help="one gateway for each of these numbers of workers; nothing is pinned then, and load and upstream share "
        "the cores with them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def build() -> None:
    """Compile the native programs whose sources are newer.

    Raises:
        BenchFailed: there is no compiler.
    """
    (HERE / "bin").mkdir(exist_ok=True)
    if shutil.which("cc") is None:
        raise BenchFailed("there is no C compiler (cc); install one, on Debian: apt-get install gcc libc6-dev")
    for name in PROGRAMS:
        source, program = HERE / "src" / f"{name}.c", HERE / "bin" / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            output_of(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)])


class Bench:
    """Starts everything, measures it, stops it, and compares the books."""

    def __init__(
        self, folder: Path, console: Console, options: argparse.Namespace, *, seconds: float, warm_up_s: float
    ) -> None:
        self._folder = folder
        self._console = console
        self._options = options
        self._seconds = seconds
        self._warm_up_s = warm_up_s
        self._gateway_core, self._load_core = ([], []) if options.workers else pins()
        names = options.cells.split(",") if options.cells else QUICK_CELLS if options.quick else None
        self._cells = [cell for cell in CELLS if names is None or cell.name in names]
        if not self._cells:
            raise BenchFailed(f"--cells {options.cells}: there is none of that name; see --help")

    def measure(self, rounds: int) -> tuple[list[Run], Books]:
        """Measure every target under every load, round after round, every second round backwards."""
        upstream = free_port()
        runs: list[Run] = []
        with contextlib.ExitStack() as stack:
            start = Starter(stack, self._folder)
            mock = [*self._load_core, str(HERE / "bin" / "mock_upstream"), str(upstream)]
            start("mock", mock, upstream, "/health")
            chosen = self._targets(start, upstream)
            try:
                for turn in range(rounds):
                    for cell in self._cells:
                        for target in chosen if turn % 2 == 0 else reversed(chosen):
                            if cell.name in target.cells:
                                runs.append(self._run(target, cell))
                                rate = f"{runs[-1].requests_per_s:9,.0f} req/s"
                                self._console.print(
                                    f"round {turn + 1}/{rounds}  {cell.name:12} {target.name:20} {rate}"
                                )
            finally:
                _signal(chosen, signal.SIGCONT)
            asked = int(json.loads(get(upstream, "/stats"))["requests"])
        ours = {target.name: target.policy for target in chosen if target.policy is not None}
        if not ours:
            return runs, Books()
        # The gateways have stopped: their ledgers are complete.
        totals = [
            json.loads(output_of([FAREGATE, "report", "--policy", str(policy), "--format", "json"]))["totals"]
            for policy in set(ours.values())
        ]
        return runs, _compare(runs, set(ours), asked, totals)

    def _targets(self, start: Starter, upstream: int) -> list[Target]:
        place = (start, self._folder, upstream, self._gateway_core)
        found = [Target(name="direct", port=upstream), *targets.floors(*place)]
        if self._options.peers is not None:
            found += targets.peers(*place, self._options.peers)
        found += [] if self._options.workers else targets.gateway(*place)
        for workers in self._options.workers or ():
            own = self._folder / f"workers-{workers}"
            own.mkdir()
            found += targets.gateway(start, own, upstream, self._gateway_core, workers)
        names = self._options.only.split(",") if self._options.only else [""]
        chosen = [target for target in found if target.name == "direct" or any(name in target.name for name in names)]
        # What is not measured must not use the gateway's core: LiteLLM works even when nobody asks it.
        used = {target.pid for target in chosen}
        _signal([target for target in found if target.is_frozen or target.pid not in used], signal.SIGSTOP)
        return chosen

    def _run(self, target: Target, cell: Cell) -> Run:
        if target.is_frozen:
            _signal([target], signal.SIGCONT)
            time.sleep(0.05)
        body = self._folder / "body.json"
        body.write_text(json.dumps(cell.body(target.model, is_numbered=target.is_numbered)))
        command = [*self._load_core, str(HERE / "bin" / "load"), "-p", str(target.port), "-k", target.key]
        command += ["-b", str(body), "-c", str(cell.connections), "-d", str(self._seconds), "-w", str(self._warm_up_s)]
        for header in target.headers:
            command += ["-H", header]
        pids = tree(target.pid) if target.pid is not None else []
        decided = _decided(target)
        cpu, busy, own, began = cpu_s(pids), self._busy_s(), self._own_s(pids), time.monotonic()
        found = json.loads(output_of(command))
        cpu, busy, own = cpu_s(pids) - cpu, self._busy_s() - busy, self._own_s(pids) - own
        foreign = max(0.0, busy - own) / (time.monotonic() - began) / (len(cores()) if self._options.workers else 1)
        memory = pss_mib(pids)
        share = None if decided is None else ((_decided(target) or 0.0) - decided) / found["sent"]
        run = _as_run(target, cell, found, cpu=cpu if pids else None, foreign=foreign, memory=memory, decided=share)
        if target.is_frozen:
            _signal([target], signal.SIGSTOP)
        return run

    def _busy_s(self) -> float:
        """Return how long the cores were busy on which the gateway may be."""
        return core_busy_s(cores() if self._options.workers else cores()[:1])

    def _own_s(self, pids: list[int]) -> float:
        """Return how long this benchmark has kept those cores busy: all of it where nothing is pinned."""
        if not self._options.workers:
            return cpu_s(pids)
        gone = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cpu_s(tree(os.getpid())) + gone.ru_utime + gone.ru_stime


def _decided(target: Target) -> float | None:
    """Return how many requests a deciding route has looked at so far; None for what does not decide."""
    if target.policy is None or not target.is_numbered:
        return None
    lines = get(target.port, "/metrics").decode().splitlines()
    looked_up = [line for line in lines if line.startswith(_LOOKUPS) and 'tier="semantic"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in looked_up)


_LOOKUPS = "faregate_cache_lookups_total{"


def _as_run(
    target: Target,
    cell: Cell,
    found: dict[str, Any],
    *,
    cpu: float | None,
    foreign: float,
    memory: float,
    decided: float | None,
) -> Run:
    faults = []
    if found["errors"] or found["not_ok"] or found["sent"] != found["answered"]:
        faults.append(
            f"{found['sent']} sent, {found['answered']} answered, {found['errors']} broken, {found['not_ok']} not 200; "
            f"the first: {found['first_error']}"
        )
    return Run(
        target=target.name,
        cell=cell.name,
        requests_per_s=found["requests_per_s"],
        events_per_s=found["events_per_s"],
        p50_us=found["latency_us"]["p50"],
        p95_us=found["latency_us"]["p95"],
        p99_us=found["latency_us"]["p99"],
        first_byte_p50_us=found["first_byte_us"]["p50"],
        gap_p99_us=found["gap_us"]["p99"],
        cpu_us=None if cpu is None else round(cpu / found["sent"] * 1e6, 1),
        cpu_event_us=round(cpu / found["events"] * 1e6, 2) if cpu is not None and found["events"] else None,
        memory_mib=round(memory, 1),
        decided_share=None if decided is None else round(decided, 3),
        foreign_share=round(foreign, 3),
        sent=found["sent"],
        events_a_request=round(found["events"] / max(1, found["answered"]), 6),
        faults=tuple(faults),
    )


def _signal(chosen: list[Target], number: signal.Signals) -> None:
    for pid in {target.pid for target in chosen if target.pid is not None}:
        for each in tree(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)


def _compare(runs: list[Run], ours: set[str], asked: int, totals: list[dict[str, int]]) -> Books:
    through = sum(run.sent for run in runs if run.target in ours)
    around = sum(run.sent for run in runs) - through
    booked, attempts = (sum(each[what] for each in totals) for what in ("requests", "attempts"))
    books = Books(sent=through, booked=booked, reached_upstream=asked - around, attempts=attempts)
    if books.sent != books.booked:
        books.faults.append(f"{books.sent} requests were sent through the gateway, the ledger has {books.booked}")
    if books.reached_upstream != books.attempts:
        books.faults.append(f"{books.reached_upstream} requests reached the upstream, the ledger has {books.attempts}")
    return books


if __name__ == "__main__":
    sys.exit(main())
