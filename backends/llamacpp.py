"""A local model behind llama.cpp's own server: the program that runs one, and what starts, waits for and measures it.

`python -m backends.llamacpp --model FILE --alias NAME --port N` serves one GGUF file on loopback until SIGTERM. The
server comes from the optional package xllamacpp (the `demo` extra), loaded only in that process.

- A server started by `serve` dies with the process that started it, even with one that was killed: the kernel sends the
  signal. It is tied to the thread that started it, so call `serve` from a thread that lives on (the main one).
- A terminal's Ctrl-C reaches the whole group; a served process leaves it to its parent, which stops it in order.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from backends.errors import FloorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from backends.words import JsonValue

LOOPBACK: Final = "127.0.0.1"
READY_WITHIN_S: Final = 120.0
"""Loading 1.1 GB takes 4 s from a warm disk; this leaves room for a cold and slow one."""

_POLL_S: Final = 0.05
_STOP_WITHIN_S: Final = 5.0
_CALL_TIMEOUT: Final = httpx.Timeout(60.0, connect=2.0)
_LOG_LINES: Final = 15
_PROMPT_CACHE_MIB: Final = 256  # the server's own default is 8 GiB, which a demo must not take from a laptop
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

# One token a word for every tokenizer in use here; with its first line (never seen before) about 180 tokens, enough for
# a rate that is stable to a few per cent and read in about 5 s by a 1.5B model on one core.
_MEASURE_WORDS: Final = "the river runs past the old mill and the children walk home along the water in the evening "
_MEASURE_REPEATS: Final = 9
_MEASURE_OUTPUT_TOKENS: Final = 40


class LocalServerError(FloorError):
    """A local model server did not start, did not become ready, or did not answer; the text ends with its log.

    Attributes:
        log_tail: the last lines of its log, "" when there are none.
    """

    def __init__(self, message: str, *, log: Path | None = None) -> None:
        self.log_tail = _tail(log) if log is not None else ""
        where = f"\nlast lines of {log}:\n{self.log_tail}" if self.log_tail else ""
        super().__init__(f"{message}{where}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """A running server; `base_url` ends with `/v1`."""

    base_url: str
    alias: str
    pid: int
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredThroughput:
    """Tokens per second of one busy server, by token class."""

    input_tokens_per_s: float
    cached_input_tokens_per_s: float
    output_tokens_per_s: float


def free_port() -> int:
    """Return a loopback port nobody listens on now; another process may take it before it is used."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serve(
    model: Path,
    alias: str,
    *,
    port: int,
    log: Path,
    threads: int = 1,
    context_tokens: int = 4096,
    parallel: int = 1,
    ready_within_s: float = READY_WITHIN_S,
) -> AsyncIterator[LocalServer]:
    """Run a server for one model until the block ends; it has answered a real completion when the block begins.

    Args:
        model: a GGUF file.
        alias: the name it answers to.
        port: a free loopback port.
        log: what the server prints; overwritten.
        threads: cores it may use.
        context_tokens: input and output together, shared by the parallel requests.
        parallel: requests it works on at once.
        ready_within_s: how long loading and the first completion may take.

    Raises:
        LocalServerError: it ended, was not ready in time, or the port or the model cannot be used.
    """
    options = {"alias": alias, "port": port, "threads": threads, "context": context_tokens, "parallel": parallel}
    process = _start(model, options, port=port, log=log)
    server = LocalServer(base_url=f"http://{LOOPBACK}:{port}/v1", alias=alias, pid=process.pid, log=log)
    is_ready = False
    try:
        try:
            async with asyncio.timeout(ready_within_s):
                await _wait_until_ready(server, process)
        except TimeoutError as error:
            raise LocalServerError(f'"{alias}" was not ready within {ready_within_s:g} s', log=log) from error
        is_ready = True
        yield server
    finally:
        # Shielded: a caller that is cancelled twice must not leave 2 GB of model running.
        await asyncio.shield(asyncio.to_thread(_stop, process, is_ready=is_ready))


async def measure_throughput(base_url: str, model: str) -> MeasuredThroughput:
    """Return how fast an idle llama.cpp server is, from the timings it reports for two completions.

    The first reads a prompt it has never seen; the second reads the same again and writes. A cached token's rate takes
    the whole time until the first token, so it errs towards too slow. Takes about 8 s for a 1.5B model on one core.

    Args:
        base_url: the server's address, ending with `/v1`.
        model: its alias.

    Raises:
        LocalServerError: it does not answer, or not with llama.cpp's timings.
    """
    prompt = f"Note {secrets.token_hex(8)}\n" + _MEASURE_WORDS * _MEASURE_REPEATS
    async with httpx.AsyncClient(timeout=_CALL_TIMEOUT, trust_env=False) as client:
        fresh = _timings(await _complete(client, base_url, model, prompt=prompt, max_tokens=1))
        again = _timings(await _complete(client, base_url, model, prompt=prompt, max_tokens=_MEASURE_OUTPUT_TOKENS))
    if again["cache_n"] < 1:
        raise LocalServerError(f"{base_url} did not reuse a prompt it had just read; start it with its prompt cache on")
    return MeasuredThroughput(
        input_tokens_per_s=fresh["prompt_n"] / fresh["prompt_ms"] * 1000,
        cached_input_tokens_per_s=again["cache_n"] / again["prompt_ms"] * 1000,
        output_tokens_per_s=again["predicted_n"] / again["predicted_ms"] * 1000,
    )


def _timings(reply: JsonValue) -> dict[str, float]:
    names = ("prompt_n", "prompt_ms", "cache_n", "predicted_n", "predicted_ms")
    timings = reply.get("timings") if isinstance(reply, dict) else None
    if not isinstance(timings, dict) or not all(isinstance(timings.get(name), int | float) for name in names):
        raise LocalServerError("the server reports no llama.cpp timings; only a llama.cpp server can be measured")
    if min(timings[name] for name in ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms")) <= 0:
        raise LocalServerError(f"the server reports timings that cannot be: {timings}")
    return {name: float(timings[name]) for name in names}


async def _complete(client: httpx.AsyncClient, base_url: str, model: str, *, prompt: str, max_tokens: int) -> JsonValue:
    # ignore_eos: llama.cpp's own field; a model that stops early would leave too little to measure.
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    try:
        response = await client.post(f"{base_url}/completions", json=body)
        response.raise_for_status()
        return response.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise LocalServerError(f"{base_url} did not answer a completion: {error or type(error).__name__}") from error


async def _wait_until_ready(server: LocalServer, process: subprocess.Popen[bytes]) -> None:
    """Return once `/health` is 200, the alias is ours and a completion was answered."""
    async with httpx.AsyncClient(timeout=_CALL_TIMEOUT, trust_env=False) as client:
        while not await _is_healthy(client, server):
            _check_alive(server, process)
            await asyncio.sleep(_POLL_S)
        _check_alive(server, process)
        served = await client.get(f"{server.base_url}/models")
        if f'"{server.alias}"' not in served.text:
            raise LocalServerError(f'another server than "{server.alias}" answers on {server.base_url}', log=server.log)
        # The first completion also pays for what is loaded late, and fails where /health does not.
        await _complete(client, server.base_url, server.alias, prompt="Hello", max_tokens=1)


async def _is_healthy(client: httpx.AsyncClient, server: LocalServer) -> bool:
    try:
        response = await client.get(server.base_url.removesuffix("/v1") + "/health")
    except httpx.TransportError:
        return False
    return response.status_code == httpx.codes.OK


def _check_alive(server: LocalServer, process: subprocess.Popen[bytes]) -> None:
    code = process.poll()
    if code is not None:
        raise LocalServerError(f'"{server.alias}" ended with status {code} while starting', log=server.log)


def _start(model: Path, options: Mapping[str, object], *, port: int, log: Path) -> subprocess.Popen[bytes]:
    if not model.is_file():
        raise LocalServerError(f"there is no model file {model}; fetch it first")
    if not _is_free(port):
        raise LocalServerError(f"port {port} is in use on {LOOPBACK}; take another")
    options = {**options, "model": model.absolute(), "parent-pid": os.getpid()}
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    # Run as a module from the folder that holds the package: found there whether installed or in a checkout.
    command = [sys.executable, "-m", "backends.llamacpp", *arguments]
    with log.open("wb") as target:
        return subprocess.Popen(  # noqa: S603  # our own module, arguments as a list
            command,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=subprocess.STDOUT,
        )


def _stop(process: subprocess.Popen[bytes], *, is_ready: bool) -> None:
    if not is_ready:
        process.kill()  # while it loads it cannot listen to a polite request
    process.terminate()
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_WITHIN_S)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a listener
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_LINES:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one model until SIGTERM (or Ctrl-C, when started by hand) and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m backends.llamacpp", description="Serve one GGUF model.")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--alias", required=True, help="the name it answers to")
    parser.add_argument("--port", type=int, required=True, help="loopback port")
    parser.add_argument("--threads", type=int, default=1, help="cores it may use")
    parser.add_argument("--context", type=int, default=4096, help="tokens of input and output together")
    parser.add_argument("--parallel", type=int, default=1, help="requests at once")
    parser.add_argument("--parent-pid", type=int, help="die with this process and leave Ctrl-C to it")
    options = parser.parse_args(arguments)
    stops = {signal.SIGTERM, signal.SIGINT}
    if options.parent_pid is not None:
        _die_with(options.parent_pid)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stops = {signal.SIGTERM}
    # Blocked before the server makes its threads, which inherit it: only the wait below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        server = _open_server(options)
    except (RuntimeError, ValueError) as error:
        sys.stderr.write(f"cannot serve {options.model}: {error}\n")
        return 1
    signal.sigwait(stops)
    del server  # its destructor closes the listener and joins its threads
    return 0


def _open_server(options: argparse.Namespace) -> object:
    # Here, not above: an optional package, and 30 MB of native code that only this process needs.
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias}
    params.hostnames = [LOOPBACK]
    params.port = options.port
    params.n_ctx = options.context
    params.n_parallel = options.parallel
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.endpoint_metrics = True
    params.endpoint_slots = False  # it would show prompts
    params.ui = False
    params.cors_origins = f"http://{LOOPBACK}:{options.port}"  # by default any web page in a browser here may call it
    params.cors_origins_explicit = True
    return Server(params)


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; leave at once when that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
