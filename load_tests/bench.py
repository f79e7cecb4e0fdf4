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
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from programs import BenchFailed, Starter, core_busy_s, cpu_s, free_port, get, output_of, pins, tree
from results import CELLS, Books, Cell, Run, facts, show, uneven
from rich.console import Console

HERE = Path(__file__).resolve().parent
PROGRAMS = ("mock_upstream", "load")
FAREGATE = str(Path(sys.executable).parent / "faregate")

POLICY = """\
version: 1
models: {{mock: {{backend: vllm, name: mock-model, pool: mock}}}}
pools:
  mock:
    endpoints: ["http://127.0.0.1:{upstream}/v1"]
    usd_per_hour: 1
    throughput: {{input_tokens_per_s: 10000, output_tokens_per_s: 1000}}
routes:
  - {{name: plain, match: {{model: plain}}, ladder: [mock]}}
  - {{name: exact, ladder: [mock], cache: {{exact: {{ttl: 1h}}}}}}
tenants: [{{id: bench}}]
storage: {{folder: "{folder}"}}
server: {{port: {port}}}
"""

NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 10000000;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is measured. `pid` is None where no process stands between the load and the upstream."""

    name: str
    port: int
    model: str
    key: str = "none"
    pid: int | None = None
    cells: tuple[str, ...] = ("json-64", "json-1", "sse-64")


def main() -> int:
    """Run the benchmark and return the exit status."""
    options = _options()
    console = Console(stderr=True, highlight=False)
    rounds, seconds, warm_up_s = (1, 1.0, 0.5) if options.quick else (options.rounds, options.seconds, 1.0)
    try:
        _build()
        with tempfile.TemporaryDirectory(prefix="faregate-bench-") as folder:
            runs, books = _measure(Path(folder), console, rounds=rounds, seconds=seconds, warm_up_s=warm_up_s)
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
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def _build() -> None:
    (HERE / "bin").mkdir(exist_ok=True)
    if shutil.which("cc") is None:
        raise BenchFailed("there is no C compiler (cc); install one, on Debian: apt-get install gcc libc6-dev")
    for name in PROGRAMS:
        source, program = HERE / "src" / f"{name}.c", HERE / "bin" / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            output_of(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)])


def _measure(
    folder: Path, console: Console, *, rounds: int, seconds: float, warm_up_s: float
) -> tuple[list[Run], Books]:
    """Start everything, measure it, stop it, and compare the books."""
    gateway_core, load_core = pins()
    upstream = free_port()
    runs: list[Run] = []
    with contextlib.ExitStack() as stack:
        start = Starter(stack, folder)
        start("mock", [*load_core, str(HERE / "bin" / "mock_upstream"), str(upstream)], upstream, "/health")
        targets = [
            Target(name="direct", port=upstream, model="mock-model"),
            *_peers(start, folder, upstream, gateway_core),
            *_gateway(start, folder, upstream, gateway_core),
        ]
        for turn in range(rounds):
            for cell in CELLS:
                for target in targets if turn % 2 == 0 else reversed(targets):
                    if cell.name not in target.cells:
                        continue
                    run = _load(target, cell, folder, load_core, seconds=seconds, warm_up_s=warm_up_s)
                    runs.append(run)
                    rate = f"{run.requests_per_s:9,.0f} req/s"
                    console.print(f"round {turn + 1}/{rounds}  {cell.name:8} {target.name:20} {rate}")
        asked = int(json.loads(get(upstream, "/stats"))["requests"])
    # The gateway has stopped: its ledger is complete.
    report = output_of([FAREGATE, "report", "--policy", str(folder / "policy.yaml"), "--format", "json"])
    return runs, _compare(runs, asked, json.loads(report)["totals"])


def _gateway(start: Starter, folder: Path, upstream: int, core: list[str]) -> list[Target]:
    port, policy = free_port(), folder / "policy.yaml"
    policy.write_text(POLICY.format(upstream=upstream, port=port, folder=folder / "data"))
    key = output_of([FAREGATE, "keys", "create", "--policy", str(policy), "--tenant", "bench"]).strip()
    command = [*core, FAREGATE, "serve", "--policy", str(policy), "--log-level", "error"]
    pid = start("gateway", command, port, "/health/readiness").pid
    cached = ("json-64", "json-1")
    return [
        Target(name="gateway", port=port, model="plain", key=key, pid=pid),
        Target(name="gateway, exact hit", port=port, model="exact", key=key, pid=pid, cells=cached),
    ]


def _peers(start: Starter, folder: Path, upstream: int, core: list[str]) -> list[Target]:
    """Start what says what any hop costs: a bare proxy in Python, and nginx where it is installed."""
    port = free_port()
    bare = start(
        "bare proxy", [*core, sys.executable, str(HERE / "bare_proxy.py"), str(port), str(upstream)], port, "/"
    )
    targets = [Target(name="bare Python proxy", port=port, model="mock-model", pid=bare.pid)]
    if (nginx := shutil.which("nginx")) is not None:
        port, config = free_port(), folder / "nginx.conf"
        config.write_text(NGINX.format(upstream=upstream, port=port, folder=folder))
        peer = start("nginx", [*core, nginx, "-e", "stderr", "-c", str(config)], port, "/")
        targets.insert(0, Target(name="nginx", port=port, model="mock-model", pid=peer.pid))
    return targets


def _load(target: Target, cell: Cell, folder: Path, load_core: list[str], *, seconds: float, warm_up_s: float) -> Run:
    body = folder / "body.json"
    body.write_text(json.dumps(_body(target.model, is_stream=cell.is_stream)))
    command = [*load_core, str(HERE / "bin" / "load"), "-p", str(target.port), "-k", target.key, "-b", str(body)]
    command += ["-c", str(cell.connections), "-d", str(seconds), "-w", str(warm_up_s)]
    pids = tree(target.pid) if target.pid is not None else []
    cpu, busy, began = cpu_s(pids), core_busy_s(), time.monotonic()
    found = json.loads(output_of(command))
    cpu, busy, took = cpu_s(pids) - cpu, core_busy_s() - busy, time.monotonic() - began
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
        p50_us=found["latency_us"]["p50"],
        p99_us=found["latency_us"]["p99"],
        first_byte_p50_us=found["first_byte_us"]["p50"],
        cpu_us=round(cpu / found["sent"] * 1e6, 1) if pids else None,
        foreign_share=round(max(0.0, busy - cpu) / took, 3),
        sent=found["sent"],
        events_a_request=round(found["events"] / max(1, found["answered"]), 6),
        faults=tuple(faults),
    )


def _body(model: str, *, is_stream: bool) -> dict[str, object]:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    stream = {"stream": True, "stream_options": {"include_usage": True}} if is_stream else {}
    return {"model": model, "messages": messages, "temperature": 0, **stream}


def _compare(runs: list[Run], asked: int, totals: dict[str, int]) -> Books:
    through = sum(run.sent for run in runs if run.target.startswith("gateway"))
    around = sum(run.sent for run in runs) - through
    books = Books(sent=through, booked=totals["requests"], reached_upstream=asked - around, attempts=totals["attempts"])
    if books.sent != books.booked:
        books.faults.append(f"{books.sent} requests were sent through the gateway, the ledger has {books.booked}")
    if books.reached_upstream != books.attempts:
        books.faults.append(f"{books.reached_upstream} requests reached the upstream, the ledger has {books.attempts}")
    return books


if __name__ == "__main__":
    sys.exit(main())
