"""Rate limits: requests and tokens in any 60 seconds, and requests in flight, for each tenant and each key.

- A sliding window of seconds: what is admitted in any 60 seconds is at most the limit, to the request. (A token bucket
  with a full minute's burst would let nearly twice as much through in its first minute.)
- Tokens are estimated when a request is admitted (its input, and its own output cap or a usual answer's length) and
  corrected to what it used; a refused request counts nothing, an answer from a cache a request and no tokens.
- Several workers of one gateway keep them together: the supervisor has the one `Limiter`, and a worker asks it for each
  request of a tenant that has limits (`gateway.workers`). Several gateways of one policy each admit as much.

The headers are OpenAI's (`x-ratelimit-*`, https://platform.openai.com/docs/guides/rate-limits): of a tenant's and a
key's limit they tell the one with less left; `reset` is the time until it is wholly free again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from backends.asks import estimate_input_tokens
from gateway.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backends.words import Ask, TenantId
    from policies.schema import Policy, RateLimits

Headers = tuple[tuple[bytes, bytes], ...]

_SPAN_S: Final = 61
"""Whole seconds that the last 60 seconds can touch."""

_USUAL_OUTPUT_TOKENS: Final = 256
"""Counted for an answer whose client set no cap, until its usage is known."""


class Meter:
    """What was admitted in the last 60 seconds, by second.

    Args:
        limit: the most in any 60 seconds.
    """

    __slots__ = ("_counts", "_newest", "_second", "limit", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._counts = [0] * _SPAN_S
        self._second = 0
        self._newest = 0

    def left(self, now_s: int) -> int:
        """Return how much more may be admitted in this second."""
        self._advance(now_s)
        return max(0, self.limit - self.total)

    def wait_s(self, amount: int, now_s: int) -> int | None:
        """Return in how many seconds so much fits, 0 for now; None: it never will."""
        self._advance(now_s)
        over = self.total + amount - self.limit
        if over <= 0:
            return 0
        if amount > self.limit:
            return None
        oldest = self._second - _SPAN_S + 1
        for age in range(_SPAN_S):
            over -= self._counts[(oldest + age) % _SPAN_S]
            if over <= 0:
                return age + 1
        return _SPAN_S

    def add(self, amount: int, now_s: int) -> None:
        """Count something admitted now."""
        self._advance(now_s)
        self._counts[now_s % _SPAN_S] += amount
        self.total += amount
        self._newest = max(self._newest, now_s)

    def correct(self, more: int, admitted_s: int) -> None:
        """Count so much more (or less) for what was admitted at a second; forgotten when that is a minute ago."""
        if more and self._second - admitted_s < _SPAN_S:
            self._counts[admitted_s % _SPAN_S] += more
            self.total += more

    def reset_s(self, now_s: int) -> int:
        """Return in how many seconds nothing is counted any more."""
        self._advance(now_s)
        return max(0, self._newest + _SPAN_S - now_s) if self.total else 0

    def _advance(self, now_s: int) -> None:
        gone = now_s - self._second
        if gone <= 0:
            return
        if gone >= _SPAN_S:
            self._counts = [0] * _SPAN_S
            self.total = 0
        else:
            for second in range(self._second + 1, now_s + 1):
                self.total -= self._counts[second % _SPAN_S]
                self._counts[second % _SPAN_S] = 0
        self._second = now_s


class _Gate:
    """The limits of one tenant or one key, and what counts against them."""

    __slots__ = ("in_flight", "parallel", "requests", "tokens", "whose")

    def __init__(self, limits: RateLimits, whose: str) -> None:
        self.whose = whose
        self.requests = Meter(limits.rpm) if limits.rpm is not None else None
        self.tokens = Meter(limits.tpm) if limits.tpm is not None else None
        self.parallel = limits.parallel
        self.in_flight = 0

    def change(self, limits: RateLimits) -> None:
        """Take other limits; what was counted by one that stays is still counted."""
        self.requests = _changed(self.requests, limits.rpm)
        self.tokens = _changed(self.tokens, limits.tpm)
        self.parallel = limits.parallel


def _changed(meter: Meter | None, limit: int | None) -> Meter | None:
    if meter is None or limit is None:
        return None if limit is None else Meter(limit)
    meter.limit = limit
    return meter


class Admission(msgspec.Struct, frozen=True):
    """A request that was let in, to be handed back to `finish` once; `number` is its name in another process."""

    gates: tuple[_Gate, ...]
    tokens: int
    at_s: int
    headers: Headers
    number: int = 0


class Limits(Protocol):
    """What the way asks of rate limits: a `Limiter` in one process, the supervisor's in several."""

    async def admit(self, tenant: TenantId, key_id: str, ask: Ask, now: float) -> Admission | None:
        """Let a request in; see `Limiter.admit`."""
        ...

    def finish(self, admission: Admission, tokens: int) -> None:
        """End an admitted request; see `Limiter.finish`."""
        ...

    def adopt(self, policy: Policy) -> None:
        """Keep another policy's limits; see `Limiter.adopt`."""
        ...


class Limiter:
    """Admits requests. One for all workers, used from its process's event loop.

    Args:
        policy: whose tenants' `limits` and `key_limits` are kept.
    """

    def __init__(self, policy: Policy) -> None:
        self._tenants: dict[TenantId, _Gate] = {}
        self._key_limits: dict[TenantId, RateLimits] = {}
        self._keys: dict[tuple[TenantId, str], _Gate] = {}
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Keep the limits of this policy from now on; what was admitted in the last minute still counts."""
        wanted = {tenant.id: tenant.limits for tenant in policy.tenants if _is_set(tenant.limits)}
        former, self._tenants = self._tenants, {}
        for tenant, limits in wanted.items():
            self._tenants[tenant] = gate = former.get(tenant) or _Gate(limits, f"tenant {tenant} (limits)")
            gate.change(limits)
        self._key_limits = {tenant.id: tenant.key_limits for tenant in policy.tenants if _is_set(tenant.key_limits)}
        self._keys = {whose: gate for whose, gate in self._keys.items() if whose[0] in self._key_limits}
        for (tenant, _), gate in self._keys.items():
            gate.change(self._key_limits[tenant])

    def admit(self, tenant: TenantId, key_id: str, ask: Ask, now: float) -> Admission | None:
        """Let a request in; None where nothing limits it. As `admit_tokens`, with the tokens a request may take."""
        if not self.has_limits(tenant):
            return None
        return self.admit_tokens(tenant, key_id, expected_tokens(ask), now)

    def has_limits(self, tenant: TenantId) -> bool:
        """Tell whether anything limits a tenant or its keys."""
        return tenant in self._tenants or tenant in self._key_limits

    def admit_tokens(self, tenant: TenantId, key_id: str, tokens: int, now: float) -> Admission | None:
        """Let a request in; None where nothing limits it.

        Args:
            tenant: who pays.
            key_id: with which key; keys come from the key store, so there are no more of them than were created.
            tokens: how many it is expected to take (`expected_tokens`).
            now: monotonic seconds.

        Raises:
            RateLimited: a limit is reached.
        """
        gates = tuple(self._gates(tenant, key_id))
        if not gates:
            return None
        now_s = int(now)
        for gate in gates:
            _check(gate, tokens, now, gates)
        for gate in gates:
            gate.in_flight += 1
            if gate.requests is not None:
                gate.requests.add(1, now_s)
            if gate.tokens is not None:
                gate.tokens.add(tokens, now_s)
        return Admission(gates, tokens, now_s, _headers(gates, now))

    def finish(self, admission: Admission, tokens: int) -> None:
        """Correct an admitted request's tokens to what it used, and count it as in flight no longer."""
        for gate in admission.gates:
            gate.in_flight -= 1
            if gate.tokens is not None:
                gate.tokens.correct(tokens - admission.tokens, admission.at_s)

    def _gates(self, tenant: TenantId, key_id: str) -> Iterator[_Gate]:
        if (gate := self._tenants.get(tenant)) is not None:
            yield gate
        limits = self._key_limits.get(tenant)
        if limits is None:
            return
        gate = self._keys.get((tenant, key_id))
        if gate is None:
            gate = self._keys[tenant, key_id] = _Gate(limits, f"key {key_id} of tenant {tenant} (key_limits)")
        yield gate


class LocalLimits:
    """A limiter in this process, as `Limits`."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self.finish = limiter.finish
        self.adopt = limiter.adopt

    async def admit(self, tenant: TenantId, key_id: str, ask: Ask, now: float) -> Admission | None:
        """Let a request in; see `Limiter.admit`. Never suspends."""
        return self._limiter.admit(tenant, key_id, ask, now)


def expected_tokens(ask: Ask) -> int:
    """Return how many tokens a request counts as until its usage is known."""
    return estimate_input_tokens(ask) + (ask.max_output_tokens or _USUAL_OUTPUT_TOKENS) * ask.choices


@lru_cache(maxsize=1024)
def duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `1s`, `6m0s`, `1h2m3s`, `20ms`, `0s`."""
    if 0 < seconds < 1:
        return f"{max(1, round(seconds * 1e3))}ms"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if whole >= 60 else "") + f"{rest}s"


def _is_set(limits: RateLimits) -> bool:
    return any(limit is not None for limit in (limits.rpm, limits.tpm, limits.parallel))


def _check(gate: _Gate, tokens: int, now: float, gates: tuple[_Gate, ...]) -> None:
    """Raise `RateLimited` where a gate has no room."""
    if gate.parallel is not None and gate.in_flight >= gate.parallel:
        raise RateLimited(
            f"rate limit reached for {gate.whose}: {gate.in_flight} requests are in flight, the limit (parallel) is "
            f"{gate.parallel}; wait until one of them is answered",
            kind="requests",
            limit="parallel",
            headers=_headers(gates, now),
        )
    now_s = int(now)
    if gate.requests is not None and gate.requests.wait_s(1, now_s) != 0:
        raise _too_fast(gate, gate.requests, 1, kind="requests", short="rpm", headers=_headers(gates, now), now=now)
    if gate.tokens is not None and gate.tokens.wait_s(tokens, now_s) != 0:
        raise _too_fast(gate, gate.tokens, tokens, kind="tokens", short="tpm", headers=_headers(gates, now), now=now)


def _too_fast(
    gate: _Gate, meter: Meter, amount: int, *, kind: str, short: str, headers: Headers, now: float
) -> RateLimited:
    wait_s = meter.wait_s(amount, int(now))
    if wait_s is None:
        remedy = "the request alone is larger than the limit: shorten it, or lower its max_tokens"
    else:
        remedy = f"try again in {duration(wait_s)}"
    return RateLimited(
        f"rate limit reached for {gate.whose} on {kind} per minute ({short}): limit {meter.limit}, used {meter.total}, "
        f"requested {amount}; {remedy}",
        kind=kind,
        limit=short,
        retry_after_s=wait_s or 0,
        headers=headers,
    )


def _headers(gates: tuple[_Gate, ...], now: float) -> Headers:
    now_s = int(now)
    requests = [gate.requests for gate in gates if gate.requests is not None]
    tokens = [gate.tokens for gate in gates if gate.tokens is not None]
    told = _told(_REQUESTS, requests, now_s) if requests else ()
    return told + _told(_TOKENS, tokens, now_s) if tokens else told


_REQUESTS: Final = tuple(b"x-ratelimit-" + what + b"-requests" for what in (b"limit", b"remaining", b"reset"))
_TOKENS: Final = tuple(b"x-ratelimit-" + what + b"-tokens" for what in (b"limit", b"remaining", b"reset"))


def _told(names: tuple[bytes, ...], meters: list[Meter], now_s: int) -> Headers:
    meter = meters[0] if len(meters) == 1 else min(meters, key=lambda each: each.left(now_s))
    return (
        (names[0], b"%d" % meter.limit),
        (names[1], b"%d" % meter.left(now_s)),
        (names[2], duration(meter.reset_s(now_s)).encode()),
    )
