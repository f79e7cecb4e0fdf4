"""What a benchmark measures: the gateway's routes, proxies that say what any hop costs, and peers where installed."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from programs import BenchFailed, Starter, free_port, output_of

HERE = Path(__file__).resolve().parent
FAREGATE = str(Path(sys.executable).parent / "faregate")
PEER_KEY = "sk-bench"

# The deciding route takes the shipped calibration, which is bound to these two names; the mock answers to any.
POLICY = """\
version: 1
models:
  mock: {{backend: vllm, name: mock-model, pool: mock, context_tokens: 131072}}
  small: {{backend: vllm, name: qwen2.5-coder-0.5b-instruct-q4_k_m, pool: small, context_tokens: 131072}}
  large: {{backend: vllm, name: qwen2.5-coder-1.5b-instruct-q4_k_m, pool: large, context_tokens: 131072}}
pools:
  mock: &pool
    endpoints: ["http://127.0.0.1:{upstream}/v1"]
    usd_per_hour: 1
    throughput: {{input_tokens_per_s: 10000, output_tokens_per_s: 1000}}
  small: {{<<: *pool, throughput: {{input_tokens_per_s: 30000, output_tokens_per_s: 3000}}}}
  large: *pool
routes:
  - {{name: plain, match: {{model: plain}}, ladder: [mock]}}
  - {{name: exact, match: {{model: exact}}, ladder: [mock], cache: {{exact: {{ttl: 1h}}}}}}
  - name: deciding
    ladder: [small, large]
    quality: {{max_loss: 0.03, confidence: 0.90, calibration: qwen2.5-coder-0.5b-1.5b}}
    cache: {{exact: {{ttl: 1h}}, semantic: {{max_error: 0.05, ttl: 1h}}}}
tenants: [{{id: bench}}]
limits: {{max_in_flight: 20000}}
timeouts: {{idle_s: 300}}
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
  client_max_body_size 64m;
  client_body_buffer_size 1m;
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

LITELLM = """\
model_list:
  - model_name: mock-model
    litellm_params: {{model: openai/mock-model, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false, set_verbose: false}}
"""

_PLAIN = ("json-64", "json-64-4k", "json-64-32k", "json-1", "json-8-50ms", "json-64-50ms", "sse-64", "sse-64-paced")
_CACHED = ("json-64", "json-64-4k", "json-64-32k", "json-1")
_DECIDING = ("json-64", "json-8-50ms", "sse-64", "sse-64-paced")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is measured.

    Attributes:
        pid: None where no process stands between the load and the upstream.
        headers: sent besides the usual ones.
        is_numbered: every question is another one, so that no cache has its answer.
        is_frozen: stopped while others are measured, since it works even when nobody asks it.
        policy: in whose ledger its requests are; None for what is not ours.
    """

    name: str
    port: int
    model: str = "mock-model"
    key: str = "none"
    pid: int | None = None
    headers: tuple[str, ...] = ()
    is_numbered: bool = False
    is_frozen: bool = False
    policy: Path | None = None
    cells: tuple[str, ...] = _PLAIN


def gateway(start: Starter, folder: Path, upstream: int, core: list[str], workers: int | None = None) -> list[Target]:
    """Start a gateway with a plain route, one with an exact cache and one that decides.

    Args:
        start: starts it.
        folder: where its policy and data go; it is there.
        upstream: the mock's port.
        core: the command prefix that pins it.
        workers: with so many, which its targets' names then tell; None: as the policy says, one.
    """
    port, policy = free_port(), folder / "policy.yaml"
    policy.write_text(POLICY.format(upstream=upstream, port=port, folder=folder / "data"))
    key = output_of([FAREGATE, "keys", "create", "--policy", str(policy), "--tenant", "bench"]).strip()
    command = [*core, FAREGATE, "serve", "--policy", str(policy), "--log-level", "error"]
    suffix = "" if workers is None else f", {workers} worker{'s' if workers > 1 else ''}"
    command += [] if workers is None else ["--workers", str(workers)]
    pid = start(f"gateway{suffix}", command, port, "/health/readiness").pid

    def route(name: str, model: str, cells: tuple[str, ...], *, is_numbered: bool = False) -> Target:
        return Target(
            name=f"{name}{suffix}",
            port=port,
            model=model,
            key=key,
            pid=pid,
            cells=cells,
            is_numbered=is_numbered,
            policy=policy,
        )

    return [
        route("gateway, plain", "plain", _PLAIN),
        route("gateway, exact hit", "exact", _CACHED),
        route("gateway, deciding", "deciding", _DECIDING, is_numbered=True),
    ]


def floors(start: Starter, folder: Path, upstream: int, core: list[str]) -> list[Target]:
    """Start what says what any hop costs: nginx where it is installed, and a bare proxy in Python."""
    targets = []
    if (nginx := shutil.which("nginx")) is not None:
        port, config = free_port(), folder / "nginx.conf"
        config.write_text(NGINX.format(upstream=upstream, port=port, folder=folder))
        peer = start("nginx", [*core, nginx, "-e", "stderr", "-c", str(config)], port, "/")
        targets.append(Target(name="nginx", port=port, pid=peer.pid))
    port = free_port()
    command = [*core, sys.executable, str(HERE / "bare_proxy.py"), str(port), str(upstream)]
    bare = start("bare proxy", command, port, "/")
    targets.append(Target(name="bare Python proxy", port=port, pid=bare.pid))
    return targets


def peers(start: Starter, folder: Path, upstream: int, core: list[str], installed: Path) -> list[Target]:
    """Start the peers that `peers.sh` has installed.

    Raises:
        BenchFailed: there is none in that folder.
    """
    targets = []
    if (program := installed / "vllm-router" / "bin" / "vllm-router").exists():
        port, metrics = free_port(), free_port()
        command = [*core, str(program), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
        command += ["--worker-urls", f"http://127.0.0.1:{upstream}", "--prometheus-port", str(metrics)]
        pid = start("vllm-router", [*command, "--log-level", "warning"], port, "/health").pid
        targets.append(Target(name="vllm-router", port=port, pid=pid, is_frozen=True))
    if (script := installed / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js").exists():
        port = free_port()
        pid = start("portkey", [*core, "node", str(script), f"--port={port}", "--headless"], port, "/").pid
        headers = ("x-portkey-provider: openai", f"x-portkey-custom-host: http://127.0.0.1:{upstream}/v1")
        targets.append(Target(name="Portkey", port=port, pid=pid, headers=headers, is_frozen=True))
    if (program := installed / "litellm" / "bin" / "litellm").exists():
        port, config = free_port(), folder / "litellm.yaml"
        config.write_text(LITELLM.format(upstream=upstream, key=PEER_KEY))
        quiet = ["LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_LOG=ERROR", "LITELLM_MODE=PRODUCTION"]
        command = [*core, "env", *quiet, "DISABLE_ADMIN_UI=True", str(program), "--config", str(config)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        pid = start("litellm", command, port, "/health/liveliness").pid
        targets.append(Target(name="LiteLLM", port=port, key=PEER_KEY, pid=pid, is_frozen=True))
    if not targets:
        raise BenchFailed(f"no peer is installed in {installed}; install them with load_tests/peers.sh {installed}")
    return targets
