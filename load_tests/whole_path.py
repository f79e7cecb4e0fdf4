"""What a request costs from the client's bytes to the answer's, without a kernel: front door, way, upstream client.

    whole_path.py                        CPU µs a request of the event loop's thread, 16 clients at a time
    whole_path.py --against TREE         the same of another checkout and of this one, burst by burst in turn, and the
                                         ratio: what others do to the machine does the same to both
    whole_path.py --profile              the functions by their own time
    whole_path.py --opcodes              the functions by the opcodes that a request executes in them, this program's
                                         own included: the same whatever else the machine does, but blind to C and
                                         to the processor's caches

As `hot_path.py`, with the real connection classes on both sides of the gateway and transports that hand bytes over.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CodeType, FrameType

import hot_path
import uvicorn
import uvloop
from uvicorn.server import ServerState

import backends.wire
from backends.clock import SystemClock
from backends.wire_connection import Connection as Upstream
from gateway.compose import Opened, open_gateway
from gateway.connection import protocol_of
from gateway.ledger.store_process import StoreProcess
from gateway.serve import spare_what_stays
from gateway.settings import environment
from policies.keys import KeyStore
from policies.loader import load_policy

CLIENTS = 16
CASES = ("plain", "plain-32k", "exact", "exact-32k", "stream", "slow-stream")
BURST = 3 * CLIENTS


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _reads(events: list[bytes]) -> list[bytes]:
    """Return a stream's reads: head and role, tokens, the end."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head + _chunk(events[0]), *map(_chunk, events[1:-1]), _chunk(events[-1]) + b"0\r\n\r\n"]


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(hot_path.ANSWER),
    hot_path.ANSWER,
)
FAST = _reads(hot_path.STREAM)
SLOW = _reads([event + b"\n\n" for event in b"".join(hot_path.STREAM).split(b"\n\n") if event])


class Wire:
    """A transport that hands what is written to a function."""

    def __init__(self, take: Callable[[bytes], None], end: socket.socket | None = None) -> None:
        self._take = take
        self._end = end
        self.is_closed = False

    def write(self, data: bytes) -> None:
        """Hand it over."""
        self._take(data)

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self.is_closed

    def close(self) -> None:
        """Be closed."""
        self.is_closed = True

    abort = close

    def get_extra_info(self, name: str) -> object:
        """Return the socket that is asked whether it is silent, and is."""
        return self._end if name == "socket" else None

    def get_write_buffer_size(self) -> int:
        """Return that all was taken."""
        return 0

    def pause_reading(self) -> None:
        """Do nothing: what comes was asked for."""

    resume_reading = pause_reading


class Client:
    """One connection to the front door."""

    def __init__(self, config: uvicorn.Config, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_stream = False
        self._done: asyncio.Future[None] = loop.create_future()
        self._connection = config.http_protocol_class(config, ServerState(), {}, loop)  # type: ignore[call-arg]
        self._connection.connection_made(Wire(self._take))  # type: ignore[arg-type]

    async def ask(self, request: bytes, *, is_stream: bool) -> None:
        """Send a request and wait for the end of its answer."""
        self._done, self._is_stream = self._loop.create_future(), is_stream
        self._connection.data_received(request)  # type: ignore[attr-defined]
        await self._done

    def _take(self, data: bytes) -> None:
        if not self._is_stream and not data.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"whole_path: the gateway answered {data[:200]!r}")
        if not self._is_stream or data.endswith(b"0\r\n\r\n"):
            self._done.set_result(None)


def _upstreams(opened: Opened, loop: asyncio.AbstractEventLoop) -> list[socket.socket]:
    """Give the upstream client kept connections that answer at once; return what must be kept."""
    backends.wire._KEEP_ALIVE_S = 1e9  # type: ignore[misc]
    [member] = next(iter(opened.gateway.parts.catalog.values())).backend._members
    client = member.backend._transport  # type: ignore[attr-defined]
    place = ("127.0.0.1", 9, False)
    origin = client._origins.setdefault(place, backends.wire._Origin(host=place[0], port=place[1], is_tls=place[2]))
    kept = []

    def connect() -> None:
        def answer(request: bytes) -> None:
            if b'"stream":true' not in request:
                loop.call_soon(upstream.data_received, WHOLE)
            elif b'"slow":' in request:
                step(0, 3)
            else:
                for read in FAST:
                    loop.call_soon(upstream.data_received, read)

        def step(at: int, turns: int) -> None:
            if turns:
                loop.call_soon(step, at, turns - 1)
                return
            upstream.data_received(SLOW[at])
            if at + 1 < len(SLOW):
                step(at + 1, 3)

        upstream = Upstream(loop, on_idle=lambda one: client._keep(origin, one), on_lost=lambda _: None)
        pair = socket.socketpair()
        kept.extend(pair)
        upstream.connection_made(Wire(answer, pair[0]))  # type: ignore[arg-type]
        upstream.idle_since = loop.time()
        origin.idle.append(upstream)

    for _ in range(CLIENTS):
        connect()
    return kept


def _request(case: str, secret: str) -> bytes:
    more = {"stream": True} if "stream" in case else {}
    more |= {"slow": True} if "slow" in case else {}
    body = hot_path._body("exact" if "exact" in case else "plain", 32_000 if "32k" in case else 30, **more)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\naccept: */*\r\n"
    return (head + f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n").encode() + body


async def _measure(folder: Path, options: argparse.Namespace) -> None:
    file = folder / "policy.yaml"
    file.write_text(json.dumps({**hot_path.POLICY, "storage": {"folder": str(folder / "data")}}))
    policy, clock = load_policy(file, {}), SystemClock()
    _, secret = KeyStore(policy.storage.folder, clock=clock).create("bench", tenants=["bench"])
    loop = asyncio.get_running_loop()
    store = StoreProcess.hatched(environment())  # folds beside, as it does when serving
    async with open_gateway(policy, environ={}, clock=clock, store=store) as opened:
        spare_what_stays()
        kept = _upstreams(opened, loop)
        config = uvicorn.Config(_nothing, interface="asgi3", http=_protocol(opened), ws="none", log_config=None)
        config.load()
        clients = [Client(config, loop) for _ in range(CLIENTS)]

        async def burst(case: str, count: int) -> float:
            request, is_stream = _request(case, secret), "stream" in case

            async def one(client: Client) -> None:
                for _ in range(count // CLIENTS):
                    await client.ask(request, is_stream=is_stream)

            began = time.thread_time()
            await asyncio.gather(*map(one, clients))
            return (time.thread_time() - began) / count * 1e6

        for case in options.cases:
            await burst(case, BURST)
        await asyncio.sleep(0.5)  # until the first answers are in the cache
        if options.serve:
            await _serve(burst)
        for case in () if options.serve else options.cases:
            if options.opcodes:
                await _count(case, burst)
            else:
                await _show(case, burst, is_profiled=options.profile)
    for end in kept:
        end.close()


def _protocol(opened: Opened) -> type[asyncio.Protocol]:
    try:
        return protocol_of(opened.gateway, keep_alive_s=75)
    except TypeError:  # an earlier checkout's
        return protocol_of(opened.gateway)  # type: ignore[call-arg]


async def _nothing(_scope: object, _receive: object, _send: object) -> None:
    """Serve nothing: all requests are for the data paths."""


async def _serve(burst: Callable[..., object]) -> None:
    """Make a burst of each case that is asked for on standard input, and tell what a request cost."""
    print("ready", flush=True)
    while case := sys.stdin.readline().strip():
        print(await burst(case, BURST), flush=True)  # type: ignore[misc]


async def _show(case: str, burst: Callable[..., object], *, is_profiled: bool) -> None:
    if not is_profiled:
        rounds = sorted([await burst(case, BURST) for _ in range(30)])  # type: ignore[misc]
        print(f"{case:12} {rounds[0]:8.1f} µs a request at least, {statistics.median(rounds):8.1f} in the median")
        return
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    await burst(case, 20 * BURST)  # type: ignore[misc]
    profile.disable()
    stats = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    rows = [(own, calls, Path(file).name, name) for (file, _, name), (_, calls, own, _, _) in stats]
    print(f"\n{case}: {sum(row[1] for row in rows) / 20 / BURST:.0f} calls a request")
    for own, calls, file, name in sorted(rows, reverse=True)[:60]:
        print(f"{own / 20 / BURST * 1e6:8.1f} µs own {calls / 20 / BURST:6.1f} calls  {file}:{name}")


async def _count(case: str, burst: Callable[..., Awaitable[float]]) -> None:
    """Print what a request executes."""
    opcodes, frames = Counter[CodeType](), Counter[CodeType]()

    def step(frame: FrameType, event: str, _argument: object) -> Callable[..., object]:
        opcodes[frame.f_code] += event == "opcode"
        return step

    def enter(frame: FrameType, _event: str, _argument: object) -> Callable[..., object]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        frames[frame.f_code] += 1
        return step

    await burst(case, 10 * BURST)
    sys.settrace(enter)
    await burst(case, BURST)
    sys.settrace(None)
    print(f"\n{case}: {opcodes.total() / BURST:.0f} opcodes and {frames.total() / BURST:.0f} frames a request")
    for code, count in opcodes.most_common(60):
        place = f"{Path(code.co_filename).name}:{code.co_qualname}"
        print(f"{count / BURST:8.1f} opcodes {frames[code] / BURST:6.1f} frames  {place}")


def _compare(tree: Path, cases: list[str]) -> None:
    """Let two checkouts take turns."""
    here = Path(__file__).resolve()
    command = [sys.executable, str(here), "--serve", "--cases", ",".join(cases)]
    runs = [
        subprocess.Popen(
            ["env", f"PYTHONPATH={each}", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for each in (tree, here.parent.parent)
    ]
    for case in cases:
        found: tuple[list[float], list[float]] = ([], [])
        for turn in range(24):
            for at in (0, 1) if turn % 2 else (1, 0):
                run = runs[at]
                if run.stdin is None or run.stdout is None:
                    raise AssertionError("opened with pipes")
                run.stdin.write(f"{case}\n")
                run.stdin.flush()
                line = run.stdout.readline()
                found[at].append(float(run.stdout.readline() if line == "ready\n" else line))
        ratio = statistics.median(after / before for before, after in zip(*found, strict=True))
        least = min(found[1]) / min(found[0])
        print(
            f"{case:12} {min(found[0]):6.0f} -> {min(found[1]):6.0f} µs at least ({least:.2f} x), pairs {ratio:.2f} x"
        )
    for run in runs:
        run.communicate("\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout to take turns with")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--opcodes", action="store_true", help="count what a request executes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.against is not None:
        _compare(options.against.resolve(), options.cases)
        return
    with tempfile.TemporaryDirectory(prefix="faregate-whole-path-") as folder:
        uvloop.run(_measure(Path(folder), options))


if __name__ == "__main__":
    main()
