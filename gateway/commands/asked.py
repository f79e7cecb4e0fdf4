"""What `faregate report` was asked, turned into answers on paper."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from gateway.ledger.archived import archived_note
from gateway.ledger.errors import LedgerError, QuestionInvalid
from gateway.ledger.report import posted_nusd
from gateway.ledger.reports.answer import ask, condense, opened, sums
from gateway.ledger.reports.baselines import Baseline, baseline
from gateway.ledger.reports.forecast import forecasts
from gateway.ledger.reports.hours import read_hours
from gateway.ledger.reports.listing import Single, columns, listing_sql, rows
from gateway.ledger.reports.margin import Revenue, Rule, read_revenue, with_revenue
from gateway.ledger.reports.paper import Report, as_csv, as_json, as_table, listed, listed_table, notes_of
from gateway.ledger.reports.question import Dimension, Question, dimensions, zone_named
from gateway.ledger.store import microseconds

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from gateway.ledger.pools import PoolFacts
    from policies.schema import Policy

_DEFAULT_POLICY = Path(__file__).parent.parent.parent / "policies" / "default.yaml"
_DEFAULT_PERIOD = timedelta(days=30)
_HOUR = timedelta(hours=1)
_SPENDERS = (Dimension.TENANT, Dimension.MODEL, Dimension.FEATURE, Dimension.KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command's options, as they were given."""

    policy_file: Path | None
    folder: Path | None
    by: str | None
    since: datetime | None
    until: datetime | None
    zone: str
    tenant: str | None
    form: str
    out: Path | None
    top: int | None
    revenue: Path | None
    hours: Path | None
    baselines: tuple[str, ...]
    as_sql: bool
    dictionary: bool

    def policy(self) -> Policy:
        """Load the policy; ends the command with its mistakes when there are any."""
        return load(self.policy_file)

    def place(self) -> Path:
        """Return the folder of the ledger."""
        return self.folder if self.folder is not None else Path(self.policy().storage.folder)

    def question(self) -> Question:
        """Return the question; by default the last 30 days, the present hour included."""
        since, until = period(self.since, self.until, self.zone)
        by = () if self.by in {None, *Single} else dimensions(self.by or "")
        return Question(since=since, until=until, by=by, tenant=self.tenant, zone=self.zone)


def period(since: datetime | None, until: datetime | None, zone: str = "UTC") -> tuple[datetime, datetime]:
    """Return the period that is meant, in UTC; by default the last 30 days, the present hour included.

    Args:
        since: its begin, without a zone.
        until: its end, without a zone.
        zone: the IANA name of the zone that both are told in.
    """
    told = zone_named(zone)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    end = until.replace(tzinfo=told).astimezone(UTC) if until else hour + _HOUR
    return since.replace(tzinfo=told).astimezone(UTC) if since else hour - _DEFAULT_PERIOD, end


def run_report(asked: Asked) -> None:
    """Do what was asked and end; a mistake is one line on stderr and status 1."""
    try:
        if asked.dictionary:
            from gateway.ledger.dictionary import dictionary_text

            _write(asked, [dictionary_text()])
        elif asked.by in set(Single):
            _list(asked, Single(asked.by))
        elif asked.by is None and asked.form != "html" and not asked.as_sql:
            _bill(asked)
        else:
            _answer(asked)
    except LedgerError as error:
        fail(str(error))


def _bill(asked: Asked) -> None:
    from gateway.ledger.render import BillFormat, render_bill
    from gateway.ledger.report import Books

    for name, given in (("--revenue", asked.revenue), ("--top", asked.top)):
        if given:
            raise click.UsageError(f"{name} goes with --by, such as --by tenant")
    question = asked.question()
    pools = pool_facts(asked, question)
    bill = Books(asked.place()).bill(question.since, question.until, asked.tenant, pools=pools, zone=question.zone)
    if asked.baselines:
        with opened(asked.place()) as db:
            bill = replace(bill, baselines=_baselines(asked, db, question, bill.totals.cost_nusd))
    _write(asked, [render_bill(bill, BillFormat(asked.form))])


def _list(asked: Asked, single: Single) -> None:
    question = asked.question()
    if asked.form == "html":
        raise QuestionInvalid("single rows are listed as table, csv or json; html shows sums: give dimensions to --by")
    if asked.as_sql:
        _write(asked, [f"{question.runnable(listing_sql(single).strip())}\n"])
        return
    # Closed before the ledger is, also when the reader of a pipe has seen enough.
    with opened(asked.place()) as db, closing(rows(db, question, single)) as found:
        names = columns(single)
        if note := archived_of(db, question):
            click.echo(f"note: {note}", err=True)
        _write(asked, listed_table(names, found) if asked.form == "table" else listed(names, found, asked.form))


def _answer(asked: Asked) -> None:
    question = asked.question()
    if asked.as_sql:
        _write(asked, [f"{question.runnable(question.sql())}\n"])
        return
    with opened(asked.place()) as db:
        if asked.form == "html":
            _write(asked, [_page(asked, db, question)])
            return
        report = report_on(asked, db, question)
    texts = {"csv": as_csv, "json": as_json, "table": as_table}
    _write(asked, [texts[asked.form](report)])


def _page(asked: Asked, db: sqlite3.Connection, question: Question) -> str:
    from gateway.ledger.report import Books
    from gateway.ledger.reports.page import PageParts, page

    asked_by = question if question.by else replace(question, by=(Dimension.TENANT, Dimension.MODEL))
    condense(db, question)
    daily = sums(db, replace(question, by=(Dimension.DAY,)))
    parts = PageParts(
        report=report_on(asked, db, asked_by),
        daily=sorted(daily, key=lambda line: line.keys),
        spenders={by.value: sums(db, replace(question, by=(by,))) for by in _SPENDERS},
        bill=Books(asked.place()).bill(question.since, question.until, asked.tenant, pools=pool_facts(asked, question)),
    )
    return page(parts)


def report_on(asked: Asked, db: sqlite3.Connection, question: Question) -> Report:
    """Return the answer with its margin, forecast and other baselines.

    Raises:
        LedgerError: see `ask`, `read_revenue` and `with_revenue`.
    """
    answer = ask(db, question)
    revenue = read_revenue(asked.revenue, question) if asked.revenue else stated_revenue(asked)
    if (revenue.rules or revenue.by_request) and (question.has_requests or asked.revenue):
        answer = with_revenue(db, answer, revenue)
    return Report(
        answer=answer,
        forecasts=forecasts(db, question, _monthly_budgets(asked)),
        baselines=_baselines(asked, db, question, answer.total.cost_nusd),
        top=asked.top,
        notes=(*filter(None, [archived_of(db, question)]), *notes_of(answer, posted_nusd(db, question))),
    )


def archived_of(db: sqlite3.Connection, question: Question) -> str | None:
    """Return what of a question's rows is archived, in words; None when nothing is."""
    return archived_note(db, microseconds(question.since), microseconds(question.until), question.tenant)


def _monthly_budgets(asked: Asked) -> dict[str, int]:
    """Return the monthly budget of each tenant that has one, in nano-dollars; none when only a folder was given."""
    if asked.folder is not None and asked.policy_file is None:
        return {}
    from backends.prices import NANO_PER_USD
    from policies.windows import Per

    tenants = asked.policy().tenants
    return {t.id: int(t.budget.usd * NANO_PER_USD) for t in tenants if t.budget and t.budget.per is Per.MONTH}


def stated_revenue(asked: Asked) -> Revenue:
    """Return what the policy says requests bring in; nothing when only a folder was given."""
    if asked.folder is not None and asked.policy_file is None:
        return Revenue()
    nothing = Decimal(0)
    return Revenue(
        rules=tuple(
            Rule(
                tenant=rule.tenant,
                feature=rule.feature,
                usd_per_request=rule.usd_per_request or nothing,
                usd_per_answer=rule.usd_per_answer or nothing,
                usd_per_month=rule.usd_per_month or nothing,
            )
            for rule in asked.policy().revenue
        )
    )


def pool_facts(asked: Asked, question: Question) -> dict[str, PoolFacts]:
    """Return what the policy and the cloud's own bill (--hours) say of the pools.

    Raises:
        StatementInvalid: the file cannot be read without guessing.
    """
    from gateway.ledger.pools import PoolFacts

    pools = asked.policy().pools if asked.folder is None or asked.policy_file is not None else {}
    facts = {str(name): PoolFacts(watts=pool.watts, is_spot=pool.spot) for name, pool in pools.items()}
    billed = read_hours(asked.hours, question) if asked.hours else {}
    for name, lines in billed.items():
        total = sum(line.nusd for line in lines)
        facts[name] = replace(facts.get(name, PoolFacts()), billed_nusd=total, billed=lines)
    return facts


def _baselines(asked: Asked, db: sqlite3.Connection, question: Question, spent_nusd: int) -> tuple[Baseline, ...]:
    if not asked.baselines:
        return ()
    from backends.words import ModelId
    from gateway.prepare import PolicyUnusable, price_book

    policy = asked.policy()
    for model in asked.baselines:
        if model not in policy.models:
            raise QuestionInvalid(f'unknown model "{model}" in --baseline; the catalog has: {", ".join(policy.models)}')
    try:
        book = price_book(policy, question.until)
    except PolicyUnusable as error:
        raise QuestionInvalid(str(error)) from error
    whole = replace(question, by=())
    rates = {model: book.of(ModelId(model)).at(question.until) for model in asked.baselines}
    return tuple(baseline(db, whole, model, each, spent_nusd) for model, each in rates.items())


def _write(asked: Asked, parts: Iterable[str]) -> None:
    if asked.out is None:
        for part in parts:
            click.echo(part, nl=False)
        return
    try:
        with asked.out.open("w", encoding="utf-8") as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        fail(f"cannot write {asked.out}: {error.strerror}; give a path that can be written")


def load(policy_file: Path | None) -> Policy:
    """Load a policy, the shipped one by default; ends the command with its mistakes when there are any."""
    from gateway.settings import environment
    from policies.errors import PolicyError
    from policies.loader import load_policy

    try:
        return load_policy(policy_file or _DEFAULT_POLICY, environment())
    except PolicyError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the command with a line on stderr and status 1."""
    click.echo(f"faregate: {message}", err=True)
    sys.exit(1)
