"""Asking the two tiers. A store that fails is a counted miss, never an error."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from semantic_cache.acceptance import Acceptance, Accepted, Declined, is_doubtful
from semantic_cache.seam import Grey, Hit, HitReason, Miss, MissReason, Neighbour, Store, StoreUnavailable, Tier, Vector
from semantic_cache.verifier import ASKED_FROM

FAILURES = (sqlite3.Error, StoreUnavailable)
"""What a store raises when it cannot be asked."""

_NEIGHBOURS = 5
"""Candidates judged: the nearest is often a near-miss while the true repeat is second (numbers, entities)."""
_READ = 2
"""Of these, how many have their words read, which costs more than all else: the nearest that the guard lets pass."""
_ANY_ERROR = 1.0


def lookup_exact(store: Store, key: bytes, *, now: datetime) -> Hit | Miss:
    """Return the answer to the very same request."""
    try:
        entry = store.get(key, now)
    except FAILURES:
        return Miss(reason=MissReason.STORE_FAILED)
    return Hit(tier=Tier.EXACT, entry=entry) if entry is not None else Miss(reason=MissReason.ABSENT)


def lookup_semantic(
    store: Store,
    acceptance: Acceptance,
    *,
    partition: bytes,
    asked: str,
    vector: Vector,
    max_error: float,
    now: datetime,
    accepted_from: float | None = None,
    wants_grey: bool = False,
) -> Hit | Miss:
    """Return the answer to a question that means the same, as far as the route's `max_error` allows.

    Args:
        store: where the entries are.
        acceptance: guard and calibrated score.
        partition: what must match exactly.
        asked: the last user text.
        vector: float32[d], its embedding, of unit length.
        max_error: wrong answers as a share of the semantic hits served, in (0, 1).
        now: the present; expired entries do not count.
        accepted_from: the lowest score served, in place of the artefact's at `max_error`.
        wants_grey: whether a miss tells the likeliest doubtful neighbour; it costs a score of each.
    """
    try:
        neighbours = store.neighbours(partition, vector, limit=_NEIGHBOURS, now=now)
    except FAILURES:
        return Miss(reason=MissReason.STORE_FAILED)
    first_refusal: str | None = None
    doubtful: list[Neighbour] = []
    unread = _READ
    for neighbour in neighbours:
        judged = acceptance.judge(
            asked=asked,
            stored=neighbour.entry.asked,
            similarity=neighbour.similarity,
            max_error=max_error,
            accepted_from=accepted_from,
        )
        if isinstance(judged, Accepted):
            found, how = neighbour.entry, HitReason.ACCEPTED
            return Hit(tier=Tier.SEMANTIC, entry=found, similarity=neighbour.similarity, score=judged.score, reason=how)
        if is_doubtful(judged) and neighbour.similarity >= ASKED_FROM:
            doubtful.append(neighbour)
        first_refusal = first_refusal or str(judged.reason)
        unread -= judged.was_read
        if not unread:
            break
    if not neighbours:
        return Miss(reason=MissReason.ABSENT)
    return Miss(
        reason=MissReason.DECLINED,
        best=neighbours[0].similarity,
        detail=first_refusal,
        grey=_likeliest(acceptance, asked, doubtful) if wants_grey else None,
    )


def _likeliest(acceptance: Acceptance, asked: str, doubtful: Sequence[Neighbour]) -> Grey | None:
    scored = (
        Grey(
            entry=each.entry,
            similarity=each.similarity,
            score=acceptance.score(asked=asked, stored=each.entry.asked, similarity=each.similarity),
        )
        for each in doubtful
    )
    return max(scored, key=lambda grey: grey.score, default=None)


def likeliest(
    store: Store,
    acceptance: Acceptance,
    *,
    partition: bytes,
    asked: str,
    vector: Vector,
    but: bytes,
    now: datetime,
) -> Hit | None:
    """Return the stored answer that a laxer threshold would serve: the likeliest of those that the guard lets pass.

    Args:
        store: where the entries are.
        acceptance: guard and calibrated score.
        partition: what must match exactly.
        asked: the last user text.
        vector: float32[d], its embedding, of unit length.
        but: an exact key to leave out: the question's own, whose fresh answer is stored by now.
        now: the present; expired entries do not count.
    """
    try:
        neighbours = store.neighbours(partition, vector, limit=_NEIGHBOURS + 1, now=now)
    except FAILURES:
        return None
    doubtful: list[Neighbour] = []
    for neighbour in neighbours:
        stored, similarity = neighbour.entry.asked, neighbour.similarity
        if neighbour.entry.key == but or similarity < ASKED_FROM:
            continue
        judged = acceptance.judge(asked=asked, stored=stored, similarity=similarity, max_error=_ANY_ERROR)
        if not isinstance(judged, Declined) or judged.difference is None:
            doubtful.append(neighbour)
    found = _likeliest(acceptance, asked, doubtful)
    if found is None:
        return None
    return Hit(tier=Tier.SEMANTIC, entry=found.entry, similarity=found.similarity, score=found.score)
