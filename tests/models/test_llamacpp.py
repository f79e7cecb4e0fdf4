from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from backends.fetch import FALLBACK, SMALL
from backends.llamacpp import LocalServer, LocalServerError, free_port, measure_throughput, serve

ROOT = Path(__file__).parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "faregate" / "models"  # noqa: TID251  # as the demo
PATIENCE_S = 60


def has_ended_within(pid: int, limit_s: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with open(descriptor, "rb", buffering=0):  # noqa: PTH123  # a descriptor, not a path
        return bool(select.select([descriptor], [], [], limit_s)[0])


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The smallest of the demo's models that is in the cache: tests fetch nothing."""
    for model in (FALLBACK, SMALL):
        if model.path_in(CACHE).is_file():
            return model.path_in(CACHE)
    pytest.skip("no model in the cache; `faregate demo` fetches them")


@pytest_asyncio.fixture
async def server(gguf: Path, tmp_path: Path) -> AsyncIterator[LocalServer]:
    async with serve(gguf, "little", port=free_port(), log=tmp_path / "log", context_tokens=1024) as running:
        yield running


async def stream(server: LocalServer, **fields: object) -> str:
    body = {
        "model": server.alias,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
        **fields,
    }
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        response = await client.post(f"{server.base_url}/chat/completions", json=body)
    return response.text


@pytest.mark.models
async def test_a_server_streams_with_usage_and_logprobs(server: LocalServer):
    text = await stream(server, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2)

    assert text.rstrip().endswith("data: [DONE]")
    assert '"prompt_tokens"' in text
    assert '"top_logprobs"' in text


@pytest.mark.models
async def test_a_server_shows_no_prompts_and_lets_no_web_page_in(server: LocalServer):
    origin = server.base_url.removesuffix("/v1")
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        slots = await client.get(f"{origin}/slots")
        health = await client.get(f"{origin}/health", headers={"Origin": "http://evil.example"})

    assert slots.status_code >= 400
    assert health.headers.get("Access-Control-Allow-Origin") not in {"*", "http://evil.example"}


@pytest.mark.models
async def test_throughput_is_measured_for_each_class_of_token(server: LocalServer):
    measured = await measure_throughput(server.base_url, server.alias)

    assert measured.output_tokens_per_s > 1
    assert measured.input_tokens_per_s > 1
    assert measured.cached_input_tokens_per_s > 3 * measured.input_tokens_per_s


@pytest.mark.models
async def test_a_server_ends_with_its_block(gguf: Path, tmp_path: Path):
    async with serve(gguf, "little", port=free_port(), log=tmp_path / "log") as running:
        pid = running.pid

    assert has_ended_within(pid, 0)


@pytest.mark.models
async def test_a_server_leaves_the_terminals_interrupt_to_its_parent(server: LocalServer):
    os.kill(server.pid, signal.SIGINT)

    assert "[DONE]" in await stream(server)


@pytest.mark.models
def test_a_server_dies_with_a_parent_that_was_killed(gguf: Path, tmp_path: Path):
    script = f"""
import asyncio
from pathlib import Path
from backends.llamacpp import free_port, serve
async def main():
    async with serve(Path({str(gguf)!r}), "x", port=free_port(), log=Path({str(tmp_path / "log")!r})) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    assert has_ended_within(pid, PATIENCE_S)


async def test_what_is_no_model_ends_with_the_servers_own_words(tmp_path: Path):
    file = tmp_path / "not.gguf"
    file.write_text("this is no model")

    with pytest.raises(LocalServerError, match="ended with status 1") as caught:
        async with serve(file, "x", port=free_port(), log=tmp_path / "log"):
            pass

    assert "invalid magic" in str(caught.value)


async def test_a_missing_model_is_said(tmp_path: Path):
    with pytest.raises(LocalServerError, match=r"there is no model file .*absent\.gguf"):
        async with serve(tmp_path / "absent.gguf", "x", port=free_port(), log=tmp_path / "log"):
            pass


async def test_a_port_in_use_is_said(tmp_path: Path):
    (tmp_path / "m.gguf").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalServerError, match=f"port {port} is in use"):
            async with serve(tmp_path / "m.gguf", "x", port=port, log=tmp_path / "log"):
                pass


async def test_a_server_that_is_late_is_stopped_and_said(tmp_path: Path):
    (tmp_path / "m.gguf").touch()

    with pytest.raises(LocalServerError, match="was not ready within"):
        async with serve(tmp_path / "m.gguf", "x", port=free_port(), log=tmp_path / "log", ready_within_s=0.001):
            pass
