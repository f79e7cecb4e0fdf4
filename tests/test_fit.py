"""A pool's throughput is read off what vLLM measured; rates made of it charge what busy seconds cost."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

from backends.prices import pool_rates
from backends.words import Usage
from gateway.cli import main
from gateway.fit import FitImpossible, Sample, as_yaml, fit, read_sample

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="small"} 3.0
# HELP vllm:prefix_cache_hits_total Prefix cache hits, in terms of number of cached tokens.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="small"} 1024.0
# HELP vllm:prefix_cache_hits_created Prefix cache hits, in terms of number of cached tokens.
# TYPE vllm:prefix_cache_hits_created gauge
vllm:prefix_cache_hits_created{engine="0",model_name="small"} 1.7637e+09
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="small"} 5000.0
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="small"} 2000.0
# HELP vllm:request_prefill_time_seconds Histogram of time spent in PREFILL phase for request.
# TYPE vllm:request_prefill_time_seconds histogram
vllm:request_prefill_time_seconds_bucket{engine="0",le="0.3",model_name="small"} 9.0
vllm:request_prefill_time_seconds_bucket{engine="0",le="+Inf",model_name="small"} 10.0
vllm:request_prefill_time_seconds_count{engine="0",model_name="small"} 10.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="small"} 2.5
# HELP vllm:request_decode_time_seconds Histogram of time spent in DECODE phase for request.
# TYPE vllm:request_decode_time_seconds histogram
vllm:request_decode_time_seconds_bucket{engine="0",le="+Inf",model_name="small"} 10.0
vllm:request_decode_time_seconds_count{engine="0",model_name="small"} 10.0
vllm:request_decode_time_seconds_sum{engine="0",model_name="small"} 40.0
"""
START = Sample(at_s=0, running=0, prompt=0, cached=0, generated=0, prefill_s=0, decode_s=0)


def test_a_page_of_vllm_is_read_and_engines_are_added_up():
    two = PAGE.replace(
        "# TYPE vllm:prompt_tokens_total counter\n",
        '# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total{engine="1",model_name="small"} 70.0\n',
    )

    assert read_sample(two, 7.0) == Sample(
        at_s=7.0, running=3, prompt=5070, cached=1024, generated=2000, prefill_s=2.5, decode_s=40
    )


@pytest.mark.parametrize("page", ["# TYPE up gauge\nup 1\n", "<html>", ""])
def test_another_servers_page_is_refused(page: str):
    with pytest.raises(FitImpossible, match="vLLM"):
        read_sample(page, 0.0)


def a_run() -> list[Sample]:
    """Ten busy seconds and ten idle ones; a fresh token takes 1 ms of prefill, a cached one 0.1 ms."""
    samples = [START]
    for second in range(10):
        last = samples[-1]
        fresh, cached = 200 + 13 * second, (second % 3) * 400
        samples.append(
            replace(
                last,
                at_s=second + 1.0,
                running=2 if second < 9 else 0,
                prompt=last.prompt + fresh + cached,
                cached=last.cached + cached,
                generated=last.generated + 300,
                prefill_s=last.prefill_s + fresh * 0.001 + cached * 0.0001,
                decode_s=last.decode_s + 2.0,
            )
        )
    return [*samples, replace(samples[-1], at_s=20.0)]


def test_rates_of_the_fit_charge_what_the_busy_seconds_cost():
    fitted = fit([a_run()])

    rates = pool_rates(
        usd_per_hour=Decimal("3.60"),
        input_tokens_per_s=fitted.input_tokens_per_s,
        cached_input_tokens_per_s=fitted.cached_input_tokens_per_s,
        output_tokens_per_s=fitted.output_tokens_per_s,
    )
    usage = Usage(
        input_tokens=fitted.input_tokens, cached_input_tokens=fitted.cached_tokens, output_tokens=fitted.output_tokens
    )
    assert (fitted.busy_s, fitted.watched_s) == (10, 20)
    assert rates.cost_nusd(usage) == pytest.approx(10 * 10**6, rel=0.001)  # ten seconds at 0.001 dollars each
    assert float(fitted.cached_input_tokens_per_s or 0) == pytest.approx(
        10 * float(fitted.input_tokens_per_s), rel=0.01
    )


def test_where_nothing_tells_cached_tokens_apart_they_are_charged_like_fresh_ones():
    fitted = fit(
        [[START, replace(START, at_s=10, prompt=8_000, cached=4_000, generated=2_000, prefill_s=4, decode_s=16)]]
    )

    assert (fitted.input_tokens_per_s, fitted.output_tokens_per_s) == (Decimal(4_000), Decimal(250))
    assert "cached" not in as_yaml("gpu", fitted, day="2026-11-21").rpartition("throughput")[2]


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (replace(START, at_s=60, prompt=500, generated=90, prefill_s=1, decode_s=1), "only 500 tokens were read"),
        (replace(START, at_s=60, prompt=-1), "started anew"),
    ],
)
def test_a_measurement_that_says_nothing_is_refused(last: Sample, message: str):
    with pytest.raises(FitImpossible, match=message):
        fit([[START, last]])


class _Growing(BaseHTTPRequestHandler):
    """A server whose counters grow with every look."""

    looks = 0

    def do_GET(self) -> None:
        type(self).looks += 1
        page = PAGE.replace("5000.0", str(5000.0 * self.looks)).replace("2000.0", str(2000.0 * self.looks))
        page = page.replace("2.5", str(2.5 * self.looks)).replace("40.0", str(40.0 * self.looks)).encode()
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_command_prints_lines_for_the_policy(tmp_path: Path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Growing)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    policy = (Path(__file__).parent.parent / "policies" / "default.yaml").read_text()
    (tmp_path / "p.yaml").write_text(
        policy.replace("${FAREGATE_ENDPOINT:-http://127.0.0.1:8000/v1}", f"http://127.0.0.1:{server.server_port}/v1")
    )
    try:
        done = CliRunner().invoke(
            main, ["pools", "fit", "--policy", str(tmp_path / "p.yaml"), "--over", "1", "--every", "0.3"]
        )
    finally:
        server.shutdown()
        server.server_close()

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("pools:\n  local:\n    # measured on ")
    assert "throughput: {input_tokens_per_s: " in done.stdout
