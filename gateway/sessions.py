"""What models' prompt caches hold of a conversation (`x-faregate-session`), for the plan to reckon with.

- The rule is in dollars and lies in the plan: a cached prefix is charged at the cached rate at the model that has it,
  and in full at every other, so that a conversation stays where it is while that saves more than a cheaper rung would.
- A prefix counts as cached for minutes only, and only as far as the next request begins with the same turns and tools.
- Memory is bounded: the sessions used least recently are forgotten, which costs a little money and nothing else. Each
  gateway process knows its own sessions.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.ledger.rows import ChargeKind
from gateway.settlement import usage_of
from router.strategy import NOTHING, Cached

if TYPE_CHECKING:
    from backends.words import Ask, ModelId, TenantId
    from gateway.journey import Journey

_LIFE_S: Final = 300.0
"""OpenAI's caches live 5 to 10 minutes without use, Anthropic's 5; vLLM's until others need the room."""
_LEAST_TOKENS: Final = 1024
"""Below it OpenAI and Anthropic cache nothing; a pool's own server caches every block."""
_MOST_SESSIONS: Final = 4_096
_MOST_MODELS: Final = 4
_MOST_TURNS: Final = 64

SessionKey: TypeAlias = "tuple[TenantId, str]"
"""A tenant and what it calls the conversation."""

_Turns: TypeAlias = tuple[tuple[int, int], ...]
"""Digest and bytes of each part of a prompt, in the order a model reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A prompt that a model has read: its parts, its tokens as the provider counted them, and when (seconds)."""

    turns: _Turns
    tokens: int
    at: float
    least_tokens: int


class Sessions:
    """Remembers conversations' last prompts."""

    def __init__(self, *, limit: int = _MOST_SESSIONS, life_s: float = _LIFE_S) -> None:
        self._limit = limit
        self._life_s = life_s
        self._known: OrderedDict[SessionKey, dict[ModelId, _Prompt]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many conversations are remembered."""
        return len(self._known)

    def cached_tokens(self, session: SessionKey | None, ask: Ask, *, now: float) -> Cached:
        """Return how much of a request's prompt each model's cache is taken to hold; nothing without a session.

        Args:
            session: whose conversation it is.
            ask: the request.
            now: monotonic seconds.
        """
        prompts = self._known.get(session) if session is not None else None
        if not prompts:
            return NOTHING
        turns = _turns(ask)
        fresh = {m: _shared(prompt, turns) for m, prompt in prompts.items() if now - prompt.at <= self._life_s}
        return {model: tokens for model, tokens in fresh.items() if tokens}

    def note(
        self, session: SessionKey, ask: Ask, model: ModelId, *, input_tokens: int, now: float, is_pooled: bool
    ) -> None:
        """Remember that a model has read a request's prompt, of so many tokens; `is_pooled`: on a server of our own."""
        prompts = self._known.setdefault(session, {})
        self._known.move_to_end(session)
        prompts.pop(model, None)
        least = 0 if is_pooled else _LEAST_TOKENS
        prompts[model] = _Prompt(turns=_turns(ask), tokens=input_tokens, at=now, least_tokens=least)
        if len(prompts) > _MOST_MODELS:
            del prompts[next(iter(prompts))]
        if len(self._known) > self._limit:
            self._known.popitem(last=False)

    def take(self, journey: Journey) -> None:
        """Note what the models of a finished request have read."""
        session, ask = session_of(journey), journey.ask
        if session is None or ask is None:
            return
        for attempt in journey.attempts:
            if attempt.kind in _HAVE_READ:
                self.note(
                    session,
                    ask,
                    attempt.model.id,
                    input_tokens=usage_of(journey, attempt).total_input_tokens,
                    now=journey.clock.monotonic(),
                    is_pooled=attempt.model.pool is not None,
                )


_HAVE_READ: Final = frozenset({ChargeKind.ANSWER, ChargeKind.REJECTED})


def session_of(journey: Journey) -> SessionKey | None:
    """Return whose conversation a request belongs to; None when its client named none."""
    session, caller = journey.call.session, journey.caller
    return None if session is None or caller is None else (caller.tenant, session)


def _turns(ask: Ask) -> _Turns:
    tools = bytes(ask.fields.get("tools", b""))
    parts = [(hash(tools), len(tools)), *((hash((m.role, m.text)), len(m.text)) for m in ask.messages[:_MOST_TURNS])]
    return tuple(parts)


def _shared(prompt: _Prompt, turns: _Turns) -> int:
    """Return the tokens of what two prompts begin with alike, in proportion to their text."""
    alike = 0
    for before, now in zip(prompt.turns, turns, strict=False):
        if before != now:
            break
        alike += before[1]
    whole = sum(size for _, size in prompt.turns)
    tokens = prompt.tokens * alike // whole if whole else 0
    return tokens if tokens >= prompt.least_tokens else 0
