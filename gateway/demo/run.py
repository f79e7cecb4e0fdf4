"""`faregate demo`: fetch, start, measure, ask, add up, stop."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from backends.clock import SystemClock
from backends.errors import FloorError
from backends.fetch import LARGE, SMALL, Fetched, default_sources, ensure_models, hub_client, progress_bar
from backends.llamacpp import LocalServer, MeasuredThroughput, free_port, measure_throughput
from backends.llamacpp import serve as serve_model
from gateway.demo.show import Row, Running, show_keep, show_rows
from gateway.demo.workload import WORKLOAD, Kind, Question
from gateway.ledger.render import BillFormat, bill_json, render_bill
from gateway.ledger.report import Bill, Books
from gateway.settings import cache_folder, environment
from policies.keys import KeyStore
from policies.loader import load_policy

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from policies.schema import Policy

_POLICY = Path(__file__).parents[2] / "policies" / "demo.yaml"
_TENANT = "demo"
_HUB_VARIABLE = "HF_ENDPOINT"
_READY_S = 15.0
_BOOKED_S = 10.0


class DemoError(Exception):
    """The demo cannot go on; the message says why and how to fix it."""


def run_demo(*, as_json: bool, keep: bool) -> int:
    """Run the demo and return the exit status; everything it started is stopped when it returns."""
    return _run(lambda fetched: _demo(fetched, as_json=as_json, keep=keep))


def run_calibration(out: Path | None, *, fresh: Path | None) -> int:
    """Make the judge's calibration for the demo's two models, or hold the shipped one against fresh questions.

    Resumable: the answers to 850 questions take 40 minutes on two cores.
    """
    return _run(lambda fetched: _calibrate(fetched, out, fresh))


def run_with_large(work: Callable[[Policy, str], Coroutine[object, object, int]]) -> int:
    """Start the demo's larger model alone, work with a policy and the model's name there, return the exit status."""

    async def run(fetched: Fetched) -> int:
        _stop_on_sigterm()
        name = LARGE.name if fetched.fallback is None else fetched.fallback.name
        folder = cache_folder(environment()) / "demo" / secrets.token_hex(4)
        folder.mkdir(parents=True, mode=0o700)
        console = Console(stderr=True)
        async with AsyncExitStack() as stack:
            with console.status(f"starting {name}"):
                server = await stack.enter_async_context(
                    serve_model(fetched.paths[LARGE.name], name, port=free_port(), log=folder / "large.log")
                )
            # Nothing is paid for here, so its speed, which makes its price, is not measured.
            speed = MeasuredThroughput(input_tokens_per_s=1, cached_input_tokens_per_s=1, output_tokens_per_s=1)
            variables = _variables("small", server, speed) | _variables("large", server, speed)
            status = await work(load_policy(_POLICY, {**environment(), **variables}), "large")
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return status

    return _run(run)


def _run(work: Callable[[Fetched], Coroutine[object, object, int]]) -> int:
    try:
        # Outside the event loop: Ctrl-C ends a download at once, where a worker thread would go on to its end.
        fetched = _fetch(cache_folder(environment()) / "models", environment())
        return asyncio.run(work(fetched))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("stopped; nothing is left running", err=True)
        return 130
    except (DemoError, FloorError, OSError) as error:
        click.echo(f"faregate: {error}", err=True)
        return 1


async def _demo(fetched: Fetched, *, as_json: bool, keep: bool) -> int:
    console = Console(stderr=True)
    async with AsyncExitStack() as stack:
        variables, folder = await _models(stack, fetched, console)
        running = await stack.enter_async_context(_gateway(variables, folder, console))
        rows = await _ask_all(running, console)
        bill = await _bill(running, len(rows))
        if as_json:
            click.echo(msgspec.json.encode({"rows": [asdict(row) for row in rows], "bill": bill_json(bill)}).decode())
        else:
            show_rows(rows)
            click.echo(render_bill(bill, BillFormat.TABLE), nl=False)
        if keep:
            show_keep(running, console)
            await asyncio.Event().wait()
    # Logs and ledger are worth keeping only when something went wrong or somebody goes on with them.
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return 0


async def _calibrate(fetched: Fetched, out: Path | None, fresh: Path | None) -> int:
    from gateway.calibrate import SHIPPED_QUESTIONS, Job, calibrate

    console = Console(stderr=True)
    async with AsyncExitStack() as stack:
        variables, _ = await _models(stack, fetched, console)
        policy = load_policy(_POLICY, {**environment(), **variables})
        work = cache_folder(environment()) / ("calibration" if fresh is None else "held-out")
        questions = fresh or SHIPPED_QUESTIONS
        job = Job(policy=policy, route=policy.routes[0], work=work, out=out, questions=questions)
        return await calibrate(job, console)


async def _models(stack: AsyncExitStack, fetched: Fetched, console: Console) -> tuple[dict[str, str], Path]:
    """Start both models; return what fills in the demo's policy, and a folder for this run."""
    _stop_on_sigterm()
    if fetched.fallback is not None:
        console.print(f"[yellow]{fetched.fallback.name} stands in for both models: {fetched.reason}[/yellow]")
    folder = cache_folder(environment()) / "demo" / secrets.token_hex(4)
    folder.mkdir(parents=True, mode=0o700)
    variables: dict[str, str] = {}
    for rung, model in (("small", SMALL), ("large", LARGE)):
        name = model.name if fetched.fallback is None else fetched.fallback.name
        with console.status(f"starting {rung} ({name}) and measuring its speed"):
            server = await stack.enter_async_context(
                serve_model(fetched.paths[model.name], name, port=free_port(), log=folder / f"{rung}.log")
            )
            speed = await measure_throughput(server.base_url, name)
        variables |= _variables(rung, server, speed)
        console.print(
            f"{rung}: {name}, one core, {speed.input_tokens_per_s:.0f} tokens/s read, "
            f"{speed.output_tokens_per_s:.0f} tokens/s written"
        )
    return variables, folder


def _fetch(folder: Path, environ: Mapping[str, str]) -> Fetched:
    hub = {"hub_url": environ[_HUB_VARIABLE]} if environ.get(_HUB_VARIABLE) else {}
    with hub_client() as client, progress_bar() as progress:
        return ensure_models([SMALL, LARGE], folder, progress, sources=default_sources(client, **hub))


def _variables(rung: str, server: LocalServer, speed: MeasuredThroughput) -> dict[str, str]:
    prefix = f"FAREGATE_{rung.upper()}"
    return {
        f"{prefix}_URL": server.base_url,
        f"{prefix}_NAME": server.alias,
        f"{prefix}_INPUT_TPS": f"{speed.input_tokens_per_s:.2f}",
        f"{prefix}_CACHED_TPS": f"{speed.cached_input_tokens_per_s:.2f}",
        f"{prefix}_OUTPUT_TPS": f"{speed.output_tokens_per_s:.2f}",
    }


@asynccontextmanager
async def _gateway(variables: Mapping[str, str], folder: Path, console: Console) -> AsyncIterator[Running]:
    """Run `faregate serve` on the demo's policy until the block ends."""
    state = folder / "state"
    state.mkdir(mode=0o700)
    _, key = KeyStore(state, clock=SystemClock()).create(_TENANT, tenants=[_TENANT], label="demo")
    port = free_port()
    log = (folder / "gateway.log").open("wb")
    # Its own session: Ctrl-C must reach it through us, after the requests in flight, not through the terminal.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--policy", str(_POLICY), "--port", str(port)),
        env={**environment(), **variables, "FAREGATE_FOLDER": str(state)},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        running = Running(base_url=f"http://127.0.0.1:{port}/v1", key=key, folder=state)
        started = time.monotonic()
        await _until_ready(running, process, folder / "gateway.log")
        console.print(f"gateway: {running.base_url}, ready in {time.monotonic() - started:.1f} s")
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.shield(process.wait())
        log.close()


async def _until_ready(running: Running, process: asyncio.subprocess.Process, log: Path) -> None:
    client = _client(running)
    try:
        async with asyncio.timeout(_READY_S):
            while process.returncode is None:
                try:
                    await client.models.list()
                except _connection_error():
                    await asyncio.sleep(0.05)
                else:
                    return
    except TimeoutError as error:
        raise DemoError(f"the gateway was not ready within {_READY_S:g} s; its log is {log}") from error
    finally:
        await client.close()
    raise DemoError(f"the gateway ended: {await asyncio.to_thread(log.read_text)}")


async def _ask_all(running: Running, console: Console) -> list[Row]:
    """Send the workload, one request after the other: repeats must come after what they repeat."""
    client = _client(running)
    columns = (
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    rows: list[Row] = []
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(WORKLOAD))
            for question in WORKLOAD:
                progress.update(task, description=question.text[:50])
                rows.append(await _ask(client, question))
                progress.advance(task)
    finally:
        await client.close()
    return rows


async def _ask(client: AsyncOpenAI, question: Question) -> Row:
    started = time.monotonic()
    request: dict[str, object] = {
        "model": "auto",
        "messages": [{"role": "user", "content": question.text}],
        "temperature": 0,
        "max_tokens": 96,
    }
    if question.schema is not None:
        schema = {"name": "person", "schema": question.schema, "strict": True}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    if question.kind is Kind.AGAIN:
        request["extra_headers"] = {"x-faregate-cache": "no-store"}
    create = client.chat.completions.with_raw_response.create
    ttft: float | None = None
    if question.is_stream:
        raw = await create(**request, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
        parts: list[str] = []
        cost = "0"
        async for chunk in raw.parse():
            if chunk.choices and chunk.choices[0].delta.content:
                ttft = ttft if ttft is not None else time.monotonic() - started
                parts.append(chunk.choices[0].delta.content)
            if chunk.usage is not None:
                cost = f"{chunk.usage.cost:.9f}"
        answer = "".join(parts)
    else:
        raw = await create(**request)  # type: ignore[call-overload]
        completion = raw.parse()
        answer = completion.choices[0].message.content or ""
        cost = f"{completion.usage.cost:.9f}"
    total = time.monotonic() - started
    confidence = raw.headers.get("x-faregate-confidence")
    return Row(
        kind=question.kind,
        question=question.text,
        is_stream=question.is_stream,
        path=raw.headers["x-faregate-path"],
        confidence=None if confidence is None else float(confidence),
        ttft_s=round(ttft if ttft is not None else total, 4),
        total_s=round(total, 4),
        cost_usd=cost,
        answer=answer,
    )


async def _bill(running: Running, requests: int) -> Bill:
    """Return the bill once every request is in the books: rows are folded within a fraction of a second."""
    async with asyncio.timeout(_BOOKED_S):
        while True:
            bill = Books(running.folder).bill()
            if bill.totals.requests >= requests:
                return bill
            await asyncio.sleep(0.1)


def _client(running: Running) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=running.base_url, api_key=running.key, max_retries=0)


def _connection_error() -> type[Exception]:
    from openai import APIConnectionError

    return APIConnectionError


def _stop_on_sigterm() -> None:
    """Make SIGTERM end the demo the way Ctrl-C does, so that nothing is left running."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    if task is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
