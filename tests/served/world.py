"""What the served tests share: a gateway on a real uvicorn on loopback, a client, a tiny judge, and the books.

The policy has three routes: `plain` (large only), `cached` (large only, both caches) and `cascade` (small below large,
judged, no cache). Prices are round: small 1 and 2, large 10 and 20 dollars a million tokens in and out.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import aiohttp
import numpy as np
from typing_extensions import override

from backends.clock import Clock, SystemClock
from backends.embedder import EMBEDDER_ID, Embedder
from backends.words import JsonValue, ModelId
from gateway.compose import LazyEmbedder, Opened, open_gateway
from gateway.ledger.journal import Files
from gateway.reload import Reloading
from gateway.serve import Server, listen
from policies.keys import KeyStore
from policies.loader import load_policy
from policies.schema import Policy
from router.judge import FEATURES as JUDGED
from router.judge import Calibration as JudgeCalibration
from router.judge import Group, Kept, Quantiles, Rates, Window
from router.judge import Step as JudgeStep
from semantic_cache.acceptance import FEATURES as ACCEPTED
from semantic_cache.acceptance import FORMAT, Acceptance
from semantic_cache.acceptance import Calibration as AcceptanceCalibration
from semantic_cache.acceptance import Step as AcceptanceStep
from tests.transports import SERVED

WINDOW_TOKENS = 4
"""The judge decides after so many tokens of a stream."""

SMALL_NAME, LARGE_NAME = "tiny-1b", "huge-70b"
"""What the upstreams call the two models."""

_ALL = ["chat", "completions", "embeddings", "json_schema", "logprobs", "tools", "vision"]
EMBEDDER = LazyEmbedder()
"""The real one, loaded once for all tests."""


class AheadClock(SystemClock):
    """The machine's clocks, some seconds ahead."""

    ahead = timedelta(0)

    @override
    def now(self) -> datetime:
        return super().now() + self.ahead


@dataclass(kw_only=True)
class Seen:
    """An answer as a client sees it; `is_cut` when its body ended before its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool = False

    @property
    def json(self) -> JsonValue:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[str]:
        """The events and comments of a stream, each one line."""
        return [block for block in self.body.decode().split("\n\n") if block]

    @property
    def comments(self) -> list[str]:
        """What a stream says beside its events."""
        return [line[2:] for line in self.lines if line.startswith(": ")]

    @property
    def chunks(self) -> list[JsonValue]:
        """The events of a stream but for `[DONE]`."""
        return [json.loads(line[6:]) for line in self.lines if line.startswith("data: ") and line[6:] != "[DONE]"]

    @property
    def is_done(self) -> bool:
        """Whether the stream ended as the protocol wants."""
        return self.lines[-1] == "data: [DONE]"

    @property
    def text(self) -> str:
        """The text of choice 0, streamed or not."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            choice = self.json["choices"][0]
            return str(choice["message"]["content"] if "message" in choice else choice["text"])
        choices = [c for chunk in self.chunks for c in chunk.get("choices", ()) if c["index"] == 0]
        return "".join((c["delta"].get("content") if "delta" in c else c["text"]) or "" for c in choices)

    @property
    def error(self) -> JsonValue:
        """OpenAI's error object."""
        return self.json["error"]


@dataclass(kw_only=True)
class Rows:
    """What the ledger holds, oldest first."""

    requests: list[dict[str, JsonValue]]
    charges: list[dict[str, JsonValue]]


@dataclass(kw_only=True)
class Served:
    """A running gateway and a client of it."""

    origin: str
    folder: Path
    keys: KeyStore
    opened: Opened
    session: aiohttp.ClientSession
    server: Server
    reloading: Reloading
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        """What an OpenAI client is pointed at."""
        return f"{self.origin}/v1"

    async def send(
        self,
        path: str,
        body: bytes | JsonValue = None,
        *,
        tenant: str = "acme",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
    ) -> Seen:
        """Send a request and read all of the answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        known = {"authorization": f"Bearer {self.secrets[tenant]}", "content-type": "application/json"}
        async with self.session.request(
            method, self.origin + path, data=data, headers={**known, **(headers or {})}
        ) as response:
            received = bytearray()
            is_cut = False
            try:
                async for part in response.content.iter_any():
                    received += part
            except aiohttp.ClientPayloadError:
                is_cut = True
            return Seen(status=response.status, headers=response.headers, body=bytes(received), is_cut=is_cut)

    async def ask(
        self,
        question: str = "What is it?",
        *,
        model: str = "plain",
        tenant: str = "acme",
        headers: Mapping[str, str] | None = None,
        **fields: JsonValue,
    ) -> Seen:
        """Ask one question at temperature 0."""
        messages = [{"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "temperature": 0, **fields}
        return await self.send("/v1/chat/completions", body, tenant=tenant, headers=headers)

    async def stored(self) -> None:
        """Wait until the answers given so far are in the cache: they are stored by a thread, after the answer."""
        await self.opened.gateway.parts.caches._storing.run(lambda: None)

    async def rows_of(self, *answers: Seen) -> Rows:
        """Return the ledger's rows of these answers' requests once they are booked, in the answers' order."""
        ids = [seen.headers["x-request-id"] for seen in answers]
        async with asyncio.timeout(20):
            while True:
                await asyncio.to_thread(self.opened.ledger.flush, 5.0)
                rows = read_rows(self.folder)
                requests = {row["request_id"]: row for row in rows.requests}
                if requests.keys() >= set(ids):
                    charges = [row for name in ids for row in rows.charges if row["request_id"] == name]
                    return Rows(requests=[requests[name] for name in ids], charges=charges)

    async def rows(self, requests: int = 1) -> Rows:
        """Return the ledger's rows once so many requests are booked."""
        async with asyncio.timeout(20):
            while True:
                await asyncio.to_thread(self.opened.ledger.flush, 5.0)
                rows = read_rows(self.folder)
                if len(rows.requests) >= requests:
                    return rows


def read_rows(folder: Path) -> Rows:
    """Return what the ledger of a folder holds."""
    with closing(sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        asked = [dict(row) for row in db.execute("SELECT * FROM requests ORDER BY started_at_us")]
        paid = [dict(row) for row in db.execute("SELECT * FROM charges ORDER BY started_at_us, attempt")]
    return Rows(requests=asked, charges=paid)


def a_policy(large: list[str], small: list[str] | None = None, **changes: JsonValue) -> dict[str, JsonValue]:
    """Return a policy on upstreams; `changes` replace its top-level parts."""

    def model(name: str, pool: str, dollars: int) -> JsonValue:
        price = {"input_usd_per_mtok": dollars, "output_usd_per_mtok": 2 * dollars, "cached_input_usd_per_mtok": 0.5}
        return {"backend": "vllm", "name": name, "pool": pool, "capabilities": _ALL, "price": price}

    def pool(endpoints: list[str]) -> JsonValue:
        speed = {"input_tokens_per_s": 1000, "output_tokens_per_s": 100}
        return {"endpoints": endpoints, "usd_per_hour": 1, "throughput": speed, "api_key": "sk-operators-own"}

    return {
        "version": 1,
        "models": {"small": model(SMALL_NAME, "small", 1), "large": model(LARGE_NAME, "large", 10)},
        "pools": {"small": pool(small or large), "large": pool(large)},
        "routes": [
            {"name": "plain", "match": {"model": "plain-alias"}, "ladder": ["large"]},
            {
                "name": "cached",
                "match": {"model": "cached-alias"},
                "ladder": ["large"],
                "cache": {"exact": {"ttl": "24h"}, "semantic": {"max_error": 0.05, "ttl": "1h"}},
            },
            {
                "name": "cascade",
                "ladder": ["small", "large"],
                "quality": {"max_loss": 0.05, "confidence": 0.9, "calibration": "judge.json"},
                "stream": {"holdback_tokens": WINDOW_TOKENS, "holdback_ms": 60000},
            },
        ],
        "tenants": [{"id": "acme"}, {"id": "other"}],
        **changes,
    }


def a_judge(
    *,
    start_small: bool = True,
    cutoff: float = -1.0,
    bound: float = 0.01,
    small: str = SMALL_NAME,
    keep_rate: float = 0.5,
) -> JudgeCalibration:
    """Return a calibration that keeps answers whose tokens' mean log-probability is above -1, of any question."""
    kept = Kept(
        mean_loss=0.0,
        bounds={"0.9": bound},
        share=0.5,
        savings=0.3,
        savings_low=0.2,
        savings_high=0.4,
        harm_bounds={"0.9": bound, "0.95": bound},
    )
    centroid = np.zeros((1, 384), dtype=np.int8)
    centroid[0, 0] = 1
    return JudgeCalibration(
        small=small,
        large=LARGE_NAME,
        made="2026-11-01",
        questions=400,
        temperature=0.0,
        max_tokens=1000,
        source="made up for tests",
        small_quality=0.7,
        large_quality=0.8,
        small_rates=Rates(uncached_input_s=0.001, output_s=0.01),
        large_rates=Rates(uncached_input_s=0.002, output_s=0.02),
        output_ratio=Quantiles(p10=0.5, p50=1.0, p90=2.0),
        embedder=EMBEDDER_ID,
        tasks=(Group(name="everything", questions=400, prior=0.0),),
        centroids=base64.b64encode(centroid.tobytes()).decode(),
        cutoff=cutoff,
        windows=(_window("whole", None), _window(str(WINDOW_TOKENS), WINDOW_TOKENS)),
        steps=(
            JudgeStep(
                threshold=0.5,
                keep_rates=(keep_rate,),
                start_small=(start_small,),
                windows={"whole": kept, str(WINDOW_TOKENS): kept},
            ),
        ),
    )


def _window(name: str, tokens: int | None) -> Window:
    looks_at = tuple(4.0 if feature == "mean_logprob" else 0.0 for feature in JUDGED)
    nothing, one = tuple(0.0 for _ in JUDGED), tuple(1.0 for _ in JUDGED)
    return Window(name=name, tokens=tokens, centre=nothing, scale=one, weights=looks_at, intercept=4.0, auc=0.9)


@cache
def an_acceptance(*more: tuple[float, float]) -> Acceptance:
    """Return the real guard with a score that is high from a cosine of 0.8 on; `more` are thresholds with bounds."""
    zeros, ones = tuple(0.0 for _ in ACCEPTED), tuple(1.0 for _ in ACCEPTED)
    calibration = AcceptanceCalibration(
        format=FORMAT,
        embedder=EMBEDDER_ID,
        made="2026-11-01",
        confidence=0.9,
        pairs=1000,
        traps=500,
        assumption="made up for tests",
        sources=(),
        features=ACCEPTED,
        centre=zeros,
        scale=ones,
        weights=tuple(50.0 if name == "cosine" else 0.0 for name in ACCEPTED),
        intercept=-40.0,
        steps=(
            AcceptanceStep(threshold=0.5, served=500, wrong=0, upper_bound=0.01, least_bound=0.01, repeats_served=0.6),
            *(
                AcceptanceStep(
                    threshold=at, served=600, wrong=1, upper_bound=bound, least_bound=0.01, repeats_served=0.9
                )
                for at, bound in more
            ),
        ),
    )
    return Acceptance(calibration, words=frozenset())


class Prices:
    """Dollars for tests: a model's nano-dollars a token, alike for input and output; cached input is a tenth."""

    def __init__(self, **nusd: float | None) -> None:
        self._nusd = nusd

    def expected_nusd(
        self, model: ModelId, *, input_tokens: int, cached_input_tokens: int, output_tokens: int
    ) -> float | None:
        """Return nano-dollars."""
        each = self._nusd.get(model, 1.0)
        return None if each is None else each * (input_tokens - 0.9 * cached_input_tokens + output_tokens)


def write_policy(place: Path, policy: JsonValue) -> Path:
    """Write a policy with its judge into a folder and return its file; JSON is YAML."""
    (place / "judge.json").write_text(a_judge().dump())
    storage = {"folder": str(place / "data"), **policy.get("storage", {})}
    file = place / "policy.yaml"
    file.write_text(json.dumps(policy | {"storage": storage}))
    return file


@asynccontextmanager
async def serving(
    place: Path,
    policy: JsonValue,
    *,
    files: Files | None = None,
    clock: Clock | None = None,
    acceptance: Acceptance | None = None,
    embedder: Embedder = EMBEDDER,
    opening: Callable[[Policy], AbstractAsyncContextManager[Opened]] | None = None,
) -> AsyncIterator[Served]:
    """Serve a policy out of a folder on a free port, with a key for each of its tenants, until the block ends.

    `opening` opens the gateway in another way than `open_gateway`; what is given beside it is not looked at then.
    """
    clock = clock or SystemClock()
    loaded = load_policy(write_policy(place, {**policy, "server": SERVED | policy.get("server", {})}), {})
    keys = KeyStore(loaded.storage.folder, clock=clock)
    secrets = {t: keys.create(t, tenants=loaded.tenant_ids)[1] for t in loaded.tenant_ids}
    secrets["admin"] = keys.create(None, tenants=loaded.tenant_ids, is_admin=True)[1]
    given = acceptance or an_acceptance()
    async with (
        opening(loaded)
        if opening is not None
        else open_gateway(loaded, environ={}, clock=clock, embedder=embedder, acceptance=given, files=files) as opened,
        asyncio.TaskGroup() as group,
        Reloading(opened, server := Server(opened)) as reloading,
    ):
        listening = listen("127.0.0.1", 0)
        group.create_task(server.serve(sockets=[listening]))
        try:
            async with aiohttp.ClientSession() as session:
                yield Served(
                    origin=f"http://127.0.0.1:{listening.getsockname()[1]}",
                    folder=loaded.storage.folder,
                    keys=keys,
                    opened=opened,
                    session=session,
                    server=server,
                    reloading=reloading,
                    secrets=secrets,
                )
        finally:
            server.should_exit = True
