"""What a request costs the gateway itself, without sockets: `Gateway.answer` on a transport that answers at once.

    hot_path.py            CPU µs a request of the event loop's thread, and of the process (without what folds beside)
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
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from backends.clock import SystemClock
from backends.http import HttpBackend
from backends.pool import Pool
from backends.seam import Timeouts
from backends.words import ModelId, Surface
from gateway.calls import read_call
from gateway.compose import open_gateway
from gateway.ledger.store_process import StoreProcess
from gateway.pipeline import Gateway
from gateway.settings import environment
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

TOKENS, TOKENS_A_READ = 64, 32

ROUNDS = 40
"""The least of many short rounds is told: what others do to the machine only adds."""


def _stream() -> list[bytes]:
    """Return the reads of a stream as vLLM sends it: the role, tokens, the end, usage."""
    head = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"mock-model",'
    deltas = ['{"role":"assistant","content":""}', *['{"content":" word"}'] * TOKENS, "{}"]
    reasons = ["null"] * (TOKENS + 1) + ['"stop"']
    events = [
        head + f'"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}]}}'
        for delta, reason in zip(deltas, reasons, strict=True)
    ]
    events += [head + '"choices":[],"usage":{"prompt_tokens":21,"completion_tokens":64,"total_tokens":85}}', "[DONE]"]
    encoded = [f"data: {event}\n\n".encode() for event in events]
    return [b"".join(encoded[at : at + TOKENS_A_READ]) for at in range(0, len(encoded), TOKENS_A_READ)]


STREAM = _stream()


class Nothing:
    """A sink that keeps nothing."""

    is_started = False
    on_gone: Callable[[], bool] | None = None
    is_slow = False

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


class Canned:
    """A response that is there: its body comes in the given reads."""

    status = 200
    is_delimited = True

    def __init__(self, content_type: str, reads: Sequence[bytes]) -> None:
        self._content_type = content_type
        self._reads = iter(reads)

    def header(self, name: str) -> str | None:
        """Return the content type, which is the only header."""
        return self._content_type if name == "content-type" else None

    async def read(self) -> bytes:
        """Return the next read."""
        return next(self._reads, b"")

    def read_now(self) -> bytes:
        """Return nothing more."""
        return b""

    def tap(self, take: Callable[[bytes], bool]) -> None:
        """Leave everything to `read`."""

    def close(self) -> None:
        """Do nothing."""


class Instant:
    """A transport without a wire: it answers with JSON, or with a stream where that was asked for."""

    async def post(
        self,
        _url: str,
        *,
        headers: Mapping[str, str],  # noqa: ARG002
        body: bytes,
        own: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> Canned:
        """Return the response."""
        return Canned("text/event-stream", STREAM) if b'"stream":true' in body else Canned("application/json", [ANSWER])

    async def aclose(self) -> None:
        """Do nothing."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--requests", type=int, default=2_000, help="in all rounds (default: 2000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faregate-hot-path-") as folder:
        uvloop.run(_measure(Path(folder), requests=options.requests, is_profiled=options.profile))


async def _measure(folder: Path, *, requests: int, is_profiled: bool) -> None:
    file = folder / "policy.yaml"
    file.write_text(json.dumps({**POLICY, "storage": {"folder": str(folder / "data")}}))
    policy, clock = load_policy(file, {}), SystemClock()
    _, secret = KeyStore(policy.storage.folder, clock=clock).create("bench", tenants=["bench"])
    store = StoreProcess.hatched(environment())
    async with open_gateway(policy, environ={}, clock=clock, store=store) as opened:
        catalog = opened.gateway.parts.catalog
        if not isinstance(catalog, dict):
            raise SystemExit("hot_path: the catalog cannot be given another backend")
        backend = HttpBackend(transport=Instant(), base_url="http://127.0.0.1:9/v1", api_key=None, timeouts=Timeouts())
        catalog[ModelId("mock")] = replace(catalog[ModelId("mock")], backend=Pool([backend], clock=clock))
        for model, size in (("plain", 30), ("plain", 4_000), ("plain", 32_000), ("exact", 30), ("exact", 32_000)):
            name = f"{'exact hit' if model == 'exact' else model}, prompt of {size:,} characters"
            await _one(opened.gateway, name, secret, _body(model, size), requests=requests, is_profiled=is_profiled)
        name = f"stream of {TOKENS} tokens in {len(STREAM)} reads"
        await _one(
            opened.gateway, name, secret, _body("plain", 30, stream=True), requests=requests, is_profiled=is_profiled
        )


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
    count = max(1, requests // ROUNDS)
    for _ in range(ROUNDS):
        thread, process = time.thread_time(), time.process_time()
        await burst(count)
        rounds.append((time.thread_time() - thread, time.process_time() - process))
    loop_us, process_us = (min(column) / count * 1e6 for column in zip(*rounds, strict=True))
    print(f"{name:38} {loop_us:8.1f} µs on the loop {process_us:8.1f} µs in the process")


def _print_profile(profile: cProfile.Profile, requests: int) -> None:
    stats = pstats.Stats(profile)
    rows = []
    for (file, _, function), (_, calls, own, total, _) in stats.stats.items():  # type: ignore[attr-defined]
        rows.append((total / requests * 1e6, own / requests * 1e6, calls / requests, Path(file).name, function))
    for total, own, calls, place, function in sorted(rows, reverse=True)[:70]:
        print(f"{total:8.1f} {own:8.1f} own {calls:6.1f} calls  {place}:{function}")


def _body(model: str, size: int, **more: bool) -> bytes:
    content = ("What is the capital of France? " * (size // 31 + 1))[:size]
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": content},
    ]
    return json.dumps({"model": model, "messages": messages, "temperature": 0, **more}).encode()


if __name__ == "__main__":
    main()
