"""What a request costs the gateway itself, without sockets: `Gateway.answer` on a backend that has its answer at once.

    hot_path.py            CPU µs a request of the event loop's thread, and of the process (with the folding thread)
    hot_path.py --profile  the same under cProfile: the gateway's functions by the time spent in and below each; the
                           profiler itself makes calls about twice as dear, so compare its rows with one another only

Real policy, keys, exact cache, journal and ledger in a temporary folder; no network, no client.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import uvloop

from backends.clock import SystemClock
from backends.replies import read_whole
from backends.seam import Outbound
from backends.words import Event, ModelId, Surface
from gateway.calls import read_call
from gateway.compose import open_gateway
from gateway.pipeline import Gateway
from policies.keys import KeyStore
from policies.loader import load_policy

POLICY = {
    "version": 1,
    "models": {"mock": {"backend": "vllm", "name": "mock-model", "pool": "mock"}},
    "pools": {
        "mock": {
            "endpoints": ["http://127.0.0.1:9/v1"],
            "usd_per_hour": 1,
            "throughput": {"input_tokens_per_s": 10000, "output_tokens_per_s": 1000},
        }
    },
    "routes": [
        {"name": "plain", "match": {"model": "plain"}, "ladder": ["mock"]},
        {"name": "exact", "ladder": ["mock"], "cache": {"exact": {"ttl": "1h"}}},
    ],
    "tenants": [{"id": "bench"}],
}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "mock-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * 64},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 21, "completion_tokens": 64, "total_tokens": 85},
    }
).encode()


class Nothing:
    """A sink that keeps nothing."""

    is_started = False
    on_gone: Callable[[], bool] | None = None

    async def start(self, status: int, _headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Check that it went well."""
        if status != 200:
            raise SystemExit(f"hot_path: the gateway answered {status}")

    async def write(self, _data: bytes) -> None:
        """Do nothing."""

    async def finish(self, _data: bytes) -> None:
        """Do nothing."""

    def offer(self, _data: bytes) -> bool:
        """Keep up."""
        return True

    async def drain(self) -> None:
        """Do nothing."""

    def cut(self, _data: bytes) -> None:
        """Do nothing."""


class Ready:
    """A reply that is there."""

    endpoint = "ready"

    def __init__(self) -> None:
        self._is_read = False

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Event:
        """Return the whole answer, parsed as it would be."""
        if self._is_read:
            raise StopAsyncIteration
        self._is_read = True
        return read_whole(ANSWER)

    def ready(self) -> Sequence[Event]:
        """Return nothing more."""
        return ()

    async def aclose(self) -> None:
        """Do nothing."""


class Instant:
    """A backend without a wire."""

    async def open(self, _outbound: Outbound) -> Ready:
        """Return the reply."""
        return Ready()

    async def aclose(self) -> None:
        """Do nothing."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--requests", type=int, default=2_000, help="in each of 5 rounds (default: 2000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faregate-hot-path-") as folder:
        uvloop.run(_measure(Path(folder), requests=options.requests, is_profiled=options.profile))


async def _measure(folder: Path, *, requests: int, is_profiled: bool) -> None:
    file = folder / "policy.yaml"
    file.write_text(json.dumps({**POLICY, "storage": {"folder": str(folder / "data")}}))
    policy, clock = load_policy(file, {}), SystemClock()
    _, secret = KeyStore(policy.storage.folder, clock=clock).create("bench", tenants=["bench"])
    async with open_gateway(policy, environ={}, clock=clock) as opened:
        catalog = opened.gateway.parts.catalog
        if not isinstance(catalog, dict):
            raise SystemExit("hot_path: the catalog cannot be given another backend")
        catalog[ModelId("mock")] = replace(catalog[ModelId("mock")], backend=Instant())
        for model, size in (("plain", 30), ("plain", 4_000), ("plain", 32_000), ("exact", 30), ("exact", 32_000)):
            name = f"{'exact hit' if model == 'exact' else model}, prompt of {size:,} characters"
            await _one(opened.gateway, name, secret, _body(model, size), requests=requests, is_profiled=is_profiled)


async def _one(gateway: Gateway, name: str, secret: str, body: bytes, *, requests: int, is_profiled: bool) -> None:
    headers = [
        (b"host", b"127.0.0.1"),
        (b"authorization", f"Bearer {secret}".encode()),
        (b"content-type", b"application/json"),
        (b"accept", b"application/json"),
        (b"user-agent", b"hot-path"),
        (b"content-length", b"%d" % len(body)),
    ]

    async def burst(count: int) -> None:
        for _ in range(count):
            await gateway.answer(read_call(Surface.CHAT, headers, body), Nothing())

    await burst(100)
    await asyncio.sleep(0.3)  # until the first answer is in the cache
    profile = cProfile.Profile(time.thread_time)
    if is_profiled:
        profile.enable()
        await burst(requests)
        profile.disable()
        print(f"\n{name}: cProfile, µs a request")
        _print_profile(profile, requests)
        return
    rounds = []
    for _ in range(5):
        thread, process = time.thread_time(), time.process_time()
        await burst(requests)
        rounds.append((time.thread_time() - thread, time.process_time() - process))
    loop_us, process_us = (statistics.median(column) / requests * 1e6 for column in zip(*rounds, strict=True))
    print(f"{name:38} {loop_us:8.1f} µs on the loop {process_us:8.1f} µs in the process")


def _print_profile(profile: cProfile.Profile, requests: int) -> None:
    stats = pstats.Stats(profile)
    rows = []
    for (file, _, function), (_, calls, own, total, _) in stats.stats.items():  # type: ignore[attr-defined]
        rows.append((total / requests * 1e6, own / requests * 1e6, calls / requests, Path(file).name, function))
    for total, own, calls, place, function in sorted(rows, reverse=True)[:70]:
        print(f"{total:8.1f} {own:8.1f} own {calls:6.1f} calls  {place}:{function}")


def _body(model: str, size: int) -> bytes:
    content = ("What is the capital of France? " * (size // 31 + 1))[:size]
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": content},
    ]
    return json.dumps({"model": model, "messages": messages, "temperature": 0}).encode()


if __name__ == "__main__":
    main()
