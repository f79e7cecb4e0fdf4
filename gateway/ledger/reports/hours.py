"""The cloud's own bill for the pools' machines, imported for one report: it replaces hours times price."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING

from backends.prices import NANO_PER_USD
from gateway.ledger.errors import StatementInvalid
from gateway.ledger.pools import Billed
from gateway.ledger.reports.statement import read_csv
from gateway.ledger.store import microseconds

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.ledger.reports.question import Question


def read_hours(file: Path, question: Question) -> dict[str, tuple[Billed, ...]]:
    """Return what each pool cost in the question's period, line by line.

    Args:
        file: CSV with pool, start, end, usd, and maybe replica and currency; moments without a zone are UTC. A line
            that the period covers in part counts in part, by time. A `replica` that is one of the pool's endpoints
            has its own line in the bill; others only tell machines apart.
        question: its period.

    Raises:
        StatementInvalid: a column is missing or unknown, a value is none, a replica's lines overlap, the currency is
            not USD, or nothing lies in the period.
    """
    spans: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
    costs: dict[str, Fraction] = defaultdict(Fraction)
    billed: dict[str, list[Billed]] = defaultdict(list)
    since, until = microseconds(question.since), microseconds(question.until)
    for entry in read_csv(file, required=["pool", "start", "end", "usd"], optional=["replica", "currency"]):
        currency = entry.fields.get("currency", "USD")
        if currency.upper() != "USD":
            raise entry.wrong(f'currency is "{currency}"; the ledger is in USD: convert the file first')
        start, end = microseconds(entry.moment("start")), microseconds(entry.moment("end"))
        if start >= end:
            raise entry.wrong("ends before it begins; swap start and end")
        of = (entry.fields["pool"], entry.fields.get("replica", ""))
        for known_start, known_end, line in spans[of]:
            if start < known_end and known_start < end:
                raise entry.wrong(f"overlaps line {line}; bill each hour of a replica once (name them in `replica`)")
        spans[of].append((start, end, entry.line))
        covered = min(end, until) - max(start, since)
        if covered > 0:
            before = round(costs[of[0]])
            costs[of[0]] += Fraction(entry.amount("usd")) * NANO_PER_USD * covered / (end - start)
            nusd = round(costs[of[0]]) - before  # so that the lines add up to the rounded sum
            billed[of[0]].append(Billed(replica=of[1], start_us=max(start, since), end_us=min(end, until), nusd=nusd))
    if not billed:
        raise StatementInvalid(f"{file} bills nothing in this period; check its times against --since and --until")
    return {pool: tuple(lines) for pool, lines in billed.items()}
