"""Rate limits: never more than the limit in any minute, and headers as OpenAI writes them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.asks import parse_ask
from backends.words import Ask, JsonValue, Surface, TenantId
from gateway.errors import RateLimited, problem_of
from gateway.limits import Admission, Limiter, Meter, duration
from policies.schema import Policy

ACME = TenantId("acme")


def a_limiter(key_limits: JsonValue = None, **limits: int) -> Limiter:
    tenant = {"id": "acme", "limits": limits, "key_limits": key_limits or {}}
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}
    model = {"backend": "vllm", "name": "m", "base_url": "http://127.0.0.1:1/v1", "price": price}
    routes = [{"name": "r", "ladder": ["m"]}]
    return Limiter(Policy.model_validate({"version": 1, "models": {"m": model}, "routes": routes, "tenants": [tenant]}))


def an_ask(**fields: JsonValue) -> Ask:
    body = {"model": "r", "messages": [{"role": "user", "content": "x" * 265}], **fields}
    return parse_ask(Surface.CHAT, json.dumps(body).encode())  # 300 bytes of messages: 100 tokens


def admitted(limiter: Limiter, now: float = 0.0, key: str = "k", **fields: JsonValue) -> Admission:
    admission = limiter.admit(ACME, key, an_ask(**fields), now)
    assert admission is not None
    return admission


@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 6)), max_size=60),
)
def test_no_sixty_seconds_see_more_than_the_limit(limit: int, steps: list[tuple[float, int]]):
    meter, now, let_in = Meter(limit), 0.0, list[tuple[float, int]]()
    for wait, amount in steps:
        now += wait
        if meter.wait_s(amount, int(now)) == 0:
            meter.add(amount, int(now))
            let_in.append((now, amount))
    for end, _ in let_in:
        assert sum(amount for at, amount in let_in if end - 60 < at <= end) <= limit


@given(limit=st.integers(1, 20), used=st.lists(st.integers(0, 90), max_size=20), amount=st.integers(1, 20))
def test_the_wait_that_is_told_is_long_enough(limit: int, used: list[int], amount: int):
    meter = Meter(limit)
    for at in sorted(used):
        if meter.wait_s(1, at) == 0:
            meter.add(1, at)
    wait_s = meter.wait_s(amount, 90)
    assert (wait_s is None) == (amount > limit)
    if wait_s is not None:
        assert meter.wait_s(amount, 90 + wait_s) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.02, "20ms"), (1, "1s"), (60, "1m0s"), (360, "6m0s"), (3723, "1h2m3s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str):
    assert duration(seconds) == text


def test_requests_over_the_limit_are_told_when_to_come_back():
    limiter = a_limiter(rpm=2)
    first = admitted(limiter)
    assert dict(first.headers)[b"x-ratelimit-remaining-requests"] == b"1"
    admitted(limiter, now=10)
    with pytest.raises(RateLimited, match=r"tenant acme \(limits\) on requests per minute \(rpm\): limit 2") as caught:
        limiter.admit(ACME, "k", an_ask(), 20)
    problem = problem_of(caught.value)
    headers = dict(problem.headers)
    assert (problem.status, problem.kind, problem.code) == (429, "requests", "rate_limit_exceeded")
    assert (headers[b"retry-after"], headers[b"x-ratelimit-remaining-requests"]) == (b"41", b"0")
    assert headers[b"x-ratelimit-reset-requests"] == b"51s"
    admitted(limiter, now=61)


def test_tokens_are_estimated_first_and_corrected_afterwards():
    limiter = a_limiter(tpm=1000)
    admission = admitted(limiter, max_tokens=800)
    with pytest.raises(RateLimited, match=r"requested 900"):
        admitted(limiter, max_tokens=800)
    limiter.finish(admission, 50)
    assert dict(admitted(limiter, max_tokens=800).headers)[b"x-ratelimit-remaining-tokens"] == b"50"


def test_a_request_that_never_fits_is_told_so():
    with pytest.raises(RateLimited, match="the request alone is larger than the limit"):
        admitted(a_limiter(tpm=1000), max_tokens=5000)


def test_requests_in_flight_are_limited_until_one_is_answered():
    limiter = a_limiter(parallel=1)
    admission = admitted(limiter)
    with pytest.raises(RateLimited, match="1 requests are in flight"):
        admitted(limiter)
    limiter.finish(admission, 10)
    admitted(limiter)


def test_each_key_has_its_own_limit_below_the_tenants():
    limiter = a_limiter({"rpm": 1}, rpm=2)
    admitted(limiter, key="a")
    with pytest.raises(RateLimited, match="key a of tenant acme"):
        admitted(limiter, key="a")
    admitted(limiter, key="b")
    with pytest.raises(RateLimited, match="tenant acme"):
        admitted(limiter, key="c")


def test_a_tenant_without_limits_is_admitted_without_a_record():
    assert a_limiter().admit(ACME, "k", an_ask(), 0.0) is None
