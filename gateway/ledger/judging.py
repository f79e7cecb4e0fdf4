"""What judging cost, by route and model, read off the request rows and charges of a period."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.ledger.errors import LedgerMissing
from gateway.ledger.store import FILE_NAME

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

_JUDGED: Final = """
SELECT route, judge.key AS model, COUNT(*), SUM(judge.value ->> 'kept'), AVG(judge.value ->> 'held_ms'),
       AVG(judge.value ->> 'asked_ms'), AVG(judge.value ->> 'weighed_ms'), SUM(judge.value ->> 'dropped_tokens')
FROM requests CROSS JOIN json_each(requests.decision, '$.judges') AS judge
WHERE started_at_us >= ? AND decision IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
"""
_PAID: Final = """
SELECT route, model, COALESCE(SUM(cost_nusd) FILTER (WHERE kind = 'rejected'), 0),
       COALESCE(SUM(cost_nusd) FILTER (WHERE kind IN ('self_check', 'sample')), 0)
FROM charges WHERE started_at_us >= ? AND kind IN ('rejected', 'self_check', 'sample') GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingLine:
    """One model's answers on one route that were judged.

    Attributes:
        held_ms: mean time from an answer's first event to its verdict; `asked_ms` of it for asking the model again,
            `weighed_ms` for the judge itself. None where rows are older than these figures.
        dropped_tokens: of answers that were not kept.
        dropped_nusd: what those cost.
        asked_nusd: what asking again cost.
    """

    route: str
    model: str
    judged: int
    kept: int
    held_ms: float | None
    asked_ms: float | None
    weighed_ms: float | None
    dropped_tokens: int
    dropped_nusd: int
    asked_nusd: int


def judging_lines(folder: Path, since: datetime) -> list[JudgingLine]:
    """Return what judging cost since a moment; none where nothing was judged, or nothing was served yet.

    Raises:
        LedgerMissing: the ledger cannot be read.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return []
    first = int(since.timestamp() * 1e6)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            paid = {(route, model): costs for route, model, *costs in db.execute(_PAID, (first,))}
            judged = db.execute(_JUDGED, (first,)).fetchall()
    except sqlite3.Error as error:
        raise LedgerMissing(f"the ledger {path} cannot be read ({error})") from error
    lines = []
    for route, model, count, kept, held, asked, weighed, tokens in judged:
        dropped_nusd, asked_nusd = paid.get((route, model), (0, 0))
        lines.append(
            JudgingLine(
                route=route,
                model=model,
                judged=count,
                kept=kept,
                held_ms=held,
                asked_ms=asked,
                weighed_ms=weighed,
                dropped_tokens=tokens or 0,
                dropped_nusd=dropped_nusd,
                asked_nusd=asked_nusd,
            )
        )
    return lines
