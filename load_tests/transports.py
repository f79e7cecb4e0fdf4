"""Compare the upstream transports: CPU microseconds that a request and a streamed chunk cost, HTTP alone.

The C mock upstream has one core, this process another. Rounds alternate between the transports, odd rounds backwards;
medians over the rounds are reported, and their ratio. Nothing is decoded. A stream's chunks come back to back, or
2 ms apart: then each is a read and a wake-up of its own, which is what a reply of a real model costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the packages stand beside this folder

import uvloop  # noqa: E402  (after the path)
from bench import build  # noqa: E402
from programs import BenchFailed, Starter, free_port, pins  # noqa: E402

from backends.aiohttp_transport import AiohttpTransport  # noqa: E402
from backends.transport import Transport  # noqa: E402
from backends.wire import WireTransport  # noqa: E402

CONNECTIONS = 64
CHUNKS = 67  # the mock's 64 tokens, the role, the finish and `[DONE]` with the end of the body
TRANSPORTS: dict[str, Callable[[], Transport]] = {
    "aiohttp": lambda: AiohttpTransport(connect_s=5),
    "wire": lambda: WireTransport(connect_s=5),
}


def _ask(content: str, **fields: bool) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **fields}).encode()


LOADS = {
    "short": _ask("Hi"),
    "32 kB": _ask("word " * 6500),
    "stream": _ask("Hi", stream=True),
    "paced stream": _ask("Hi mock:itv=2000", stream=True),
}
HEADERS = {
    "accept": "*/*",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "authorization": "Bearer sk-0123456789abcdef0123456789abcdef",
}


def main() -> int:
    """Measure, print a table or JSON, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--requests", type=int, default=4000, help="requests of one measurement (default: 4000)")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        build()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="faregate-transports-"))
            own_core, load_core = pins()
            port = free_port()
            command = [*load_core, str(HERE / "bin" / "mock_upstream"), str(port)]
            Starter(stack, Path(folder))("mock", command, port, "/health")
            if own_core:
                os.sched_setaffinity(0, {int(own_core[-1])})
            found = _measure(port, rounds=options.rounds, requests=options.requests, loop=options.loop)
    except BenchFailed as error:
        print(f"transports: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"loop": options.loop, "rounds": options.rounds, "cpu_us": found}, indent=2))
    else:
        _show(found, options.loop)
    return 0


def _measure(port: int, *, rounds: int, requests: int, loop: str) -> dict[str, dict[str, list[float]]]:
    """Return CPU microseconds a request, by load and transport, one a round."""
    found: dict[str, dict[str, list[float]]] = {load: {name: [] for name in TRANSPORTS} for load in LOADS}
    factory = uvloop.new_event_loop if loop == "uvloop" else None
    for turn in range(rounds):
        for load, body in LOADS.items():
            count = requests // 8 if "stream" in load else requests
            for name in TRANSPORTS if turn % 2 == 0 else reversed(TRANSPORTS):
                with asyncio.Runner(loop_factory=factory) as runner:
                    found[load][name].append(runner.run(_drive(TRANSPORTS[name], port, body, count)))
    return found


async def _drive(open_transport: Callable[[], Transport], port: int, body: bytes, count: int) -> float:
    transport = open_transport()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    async def ask(times: int) -> None:
        for number in range(times):
            response = await transport.post(url, headers={**HEADERS, "x-request-id": f"req-{number}"}, body=body)
            size = 0
            while received := await response.read():
                size += len(received)
            if response.status != 200 or not size:
                raise BenchFailed(f"HTTP {response.status} with {size} bytes")
            response.close()

    async def all_ask(times: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(ask(times))

    try:
        await all_ask(2)
        began = time.process_time()
        times = max(1, count // CONNECTIONS)
        await all_ask(times)
        return (time.process_time() - began) / (times * CONNECTIONS) * 1e6
    finally:
        await transport.aclose()


def _show(found: dict[str, dict[str, list[float]]], loop: str) -> None:
    print(f"CPU µs, medians, {loop}, {CONNECTIONS} connections")
    print(f"{'load':20}" + "".join(f"{name:>12}" for name in TRANSPORTS) + f"{'ratio':>10}")
    for load, runs in found.items():
        medians = [statistics.median(runs[name]) for name in TRANSPORTS]
        rows = [(f"{load}, a request", medians)]
        if "stream" in load:
            rows.append((f"{load}, a chunk", [each / CHUNKS for each in medians]))
        for label, values in rows:
            ratio = values[0] / values[1]
            print(f"{label:20}" + "".join(f"{value:12.1f}" for value in values) + f"{ratio:9.2f}x")


if __name__ == "__main__":
    sys.exit(main())
