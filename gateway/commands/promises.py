"""Promises on paper and by hand: `report --quality`, `calibrate --from-ledger` and `verdicts`."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from backends.words import JsonValue, RequestId
    from gateway.audit import Watched
    from gateway.journey import Lane
    from gateway.ledger.judging import JudgingLine
    from gateway.promises import KindLine, PromiseLine
    from gateway.verdicts import Kind, Subject
    from policies.schema import Policy
    from policies.sequence import Stated

_JUDGED_FOR = timedelta(days=30)
_PROXIES = (
    "Verdicts are proxies: two answers are compared, and nobody knows the truth. "
    "Label some with `faregate verdicts label` to have their own error in the bound."
)


def run_quality(policy_file: Path | None, folder: Path | None, *, as_json: bool) -> None:
    """Print promised against observed loss of every route and cache; a mistake is one line and status 1."""
    from backends.clock import SystemClock
    from gateway.commands.asked import load
    from gateway.ledger.errors import LedgerError
    from gateway.ledger.judging import judging_lines
    from gateway.promises import kind_lines, promise_lines
    from gateway.verdicts import Verdicts

    policy, now = load(policy_file), SystemClock().now()
    lanes = _lanes(policy)
    place = folder or Path(policy.storage.folder)
    try:
        with closing(Verdicts.read(place)) as verdicts:
            lines = promise_lines(lanes, policy, verdicts, now)
            kinds = kind_lines(lanes, policy, verdicts)
        judging = judging_lines(place, now - _JUDGED_FOR)
    except LedgerError as error:
        _fail(str(error))
    if as_json:
        rows = {
            "promises": [_row(line) for line in lines],
            "kinds": [_kind_row(line) for line in kinds],
            "judging": [_judging_row(line) for line in judging],
        }
        click.echo(json.dumps(rows | {"note": _PROXIES}, indent=2))
        return
    _print(lines)
    _print_kinds(kinds)
    _print_judging(judging)


def recalibrate(
    policy: Policy,
    route_name: str,
    *,
    max_loss: float | None,
    confidence: float | None,
    subject_name: str,
    tenant: str | None = None,
) -> int:
    """Choose a threshold by a route's own verdicts, begin a new series with it, and say what it promises.

    Args:
        policy: the gateway's.
        route_name: one of its routes.
        max_loss: in place of the policy's.
        confidence: likewise.
        subject_name: `route`, `semantic` for its cache, or a kind of request (`conversation`, `tools`).
        tenant: whose cache, where each has its own.

    Returns:
        The exit status: 1 when no threshold keeps the promise; then nothing is changed.
    """
    from dataclasses import replace

    from backends.clock import SystemClock
    from gateway.recalibrate import from_verdicts
    from gateway.verdicts import RECALIBRATED, Event, Subject, Verdicts, VerdictsUnusable
    from semantic_cache.acceptance import Acceptance

    watched = _chosen(policy, route_name, Subject(subject_name), tenant)
    given = {n: v for n, v in (("max_loss", max_loss), ("confidence", confidence)) if v is not None}
    stated = replace(watched.stated, **given)
    if watched.id.subject.kind is not None:
        return _open_kind(policy, watched, stated, watched.id.subject.kind)
    try:
        with closing(Verdicts.open(Path(policy.storage.folder))) as verdicts:
            scored = verdicts.scored(watched.id)
            base = 0.0
            if watched.id.subject is Subject.SEMANTIC:
                base = Acceptance.load().threshold(watched.stated.max_loss) or 1.0
            found = from_verdicts(watched.id, scored, stated, can_gain=watched.can_gain, base=base)
            promise = f"a loss of at most {stated.max_loss:g} at {stated.confidence:.0%}"
            if found.threshold is None:
                click.echo(
                    f"No threshold keeps {promise} by {found.n} verdicts: the best bound is {found.bound:.4f}. At "
                    f"least {found.missing} more verdicts without loss would be needed; nothing was changed."
                )
                return 1
            detail = f"by {found.n} verdicts: {promise}, bound {found.bound:.4f}, {found.kept} of them kept"
            now = SystemClock().now()
            which, threshold = watched.id, found.threshold
            verdicts.note(Event(promise=which, event=RECALIBRATED, detail=detail, at=now, threshold=threshold))
    except VerdictsUnusable as error:
        _fail(str(error))
    click.echo(
        f"{route_name}: nothing below {found.threshold:g} is kept from now on ({detail}). A running gateway takes it "
        "over within seconds; its verdicts are counted anew."
    )
    return 0


def _open_kind(policy: Policy, watched: Watched, stated: Stated, kind: Kind) -> int:
    """Have a kind of request answered below the baseline, if its own verdicts keep the promise; return the status."""
    from backends.clock import SystemClock
    from gateway.recalibrate import needed
    from gateway.verdicts import RECALIBRATED, Event, Subject, Verdicts, VerdictsUnusable
    from policies.sequence import State, assess

    which = watched.id
    lane = _lanes(policy)[which.route]
    (own,) = (each for each in _promises(policy, lane) if each.id.subject is Subject.ROUTE)
    try:
        with closing(Verdicts.open(Path(policy.storage.folder))) as verdicts:
            threshold = max(j.promise.threshold for j in lane.judges.values())
            threshold = max(threshold, verdicts.threshold(own.id) or 0.0)
            # What broke it is no part of what may open it again.
            broke = verdicts.broke_after(which)
            series = verdicts.series_of(which, kind, threshold=threshold, can_gain=watched.can_gain, after=broke)
            now = assess(State.PRIOR, series, stated, verdicts.proxy(which, stated.confidence))
            promise = f"a loss of at most {stated.max_loss:g} at {stated.confidence:.0%}"
            if now.state is not State.CERTIFIED:
                missing = max(1, needed(stated) - now.n)
                click.echo(
                    f"{which.route}: {now.n} verdicts on {_PLURAL[kind]} put their loss below {now.bound:.4f} at the "
                    f"threshold {threshold:g}, which is not {promise}. At least {missing} more verdicts without loss "
                    "would be needed; nothing was changed."
                )
                return 1
            former = verdicts.state(which)
            detail = f"{now.n} verdicts put the loss below {now.bound:.4f}; promised: {promise}"
            at = SystemClock().now()
            if former is State.BREACHED:
                again = Event(promise=which, event=RECALIBRATED, detail=detail, at=at, threshold=threshold)
                verdicts.note(again, after=broke)
            if former is not State.CERTIFIED:
                verdicts.note(Event(promise=which, event=State.CERTIFIED, detail=detail, at=at))
            longest = verdicts.longest(which, kind)
    except VerdictsUnusable as error:
        _fail(str(error))
    length = f" of up to {longest} messages" if kind.value == "conversation" and longest else ""
    click.echo(f"{which.route}: {_PLURAL[kind]}{length} are kept below the baseline from now on ({detail}).")
    return 0


def _promises(policy: Policy, lane: Lane) -> list[Watched]:
    from gateway.audit import promises_of

    return promises_of(lane, policy)


_PLURAL = {"single": "single questions", "conversation": "conversations", "tools": "questions with tools"}


def _chosen(policy: Policy, route_name: str, subject: Subject, tenant: str | None) -> Watched:
    """Return the promise that is meant; a mistake is one line and status 1."""
    from gateway.audit import promises_of

    known = [w for w in promises_of(_lanes(policy)[route_name], policy) if w.id.subject is subject]
    if not known:
        wants = {"route": "`quality`", "semantic": "`cache.semantic`"}.get(
            subject, "`quality` with `audit` and one calibration"
        )
        _fail(f"route {route_name} promises nothing there; give it {wants} in the policy")
    meant = [w for w in known if w.id.space == tenant] if tenant is not None else known
    if len(meant) != 1:
        spaces = ", ".join(w.id.space for w in known)
        _fail(f"each tenant's cache has a threshold of its own; say whose with --tenant: {spaces}")
    return meant[0]


@click.group("verdicts")
def verdicts_group() -> None:
    """List the verdicts of audits, and say what people think of the audited answers."""


_POLICY = click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="policies/default.yaml",
    help="The policy file (YAML).",
)


@verdicts_group.command("label")
@_POLICY
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def label(policy_file: Path | None, file: Path) -> None:
    """Read people's labels of audited answers from FILE: one JSON object a line with request_id and loss.

    loss is what the served answer lost against the baseline's, in [-1, 1]: 0 as good, 1 lost, below 0 better. Labels of
    a random part of the verdicts measure the verdicts' own error, which then enters the bound.
    """
    from gateway.commands.asked import load
    from gateway.verdicts import Verdicts, VerdictsUnusable

    labels = _labels(file)
    try:
        with closing(Verdicts.open(Path(load(policy_file).storage.folder))) as verdicts:
            known, unknown = verdicts.label(labels)
    except VerdictsUnusable as error:
        _fail(str(error))
    click.echo(f"{known} labels of audited answers; {unknown} of requests that were not audited, left out")
    sys.exit(0 if known else 1)


@verdicts_group.command("list")
@_POLICY
def list_verdicts(policy_file: Path | None) -> None:
    """Print every verdict as a JSON object a line; the request's id finds the rest."""
    from gateway.commands.asked import load
    from gateway.verdicts import Verdicts, VerdictsUnusable

    try:
        with closing(Verdicts.read(Path(load(policy_file).storage.folder))) as verdicts:
            for row in verdicts.rows():
                click.echo(json.dumps(row))
    except VerdictsUnusable as error:
        _fail(str(error))


def _labels(file: Path) -> list[tuple[RequestId, float]]:
    labels: list[tuple[RequestId, float]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: JsonValue = json.loads(line)
            request_id, loss = row["request_id"], float(row["loss"])
        except (ValueError, TypeError, KeyError):
            _fail(f'{file}:{number}: expected {{"request_id": "req-…", "loss": 0}} with a loss in [-1, 1]')
        if not -1 <= loss <= 1 or not isinstance(request_id, str):
            _fail(f"{file}:{number}: the loss is {loss:g}; it must lie in [-1, 1] (0: as good as the baseline's)")
        labels.append((request_id, loss))  # type: ignore[arg-type]  # a text, as checked
    return labels


def _lanes(policy: Policy) -> dict[str, Lane]:
    from backends.clock import SystemClock
    from gateway.prepare import PolicyUnusable, lanes, price_book

    try:
        clock = SystemClock()
        prepared = lanes(policy, price_book(policy, clock.now()), clock)
    except PolicyUnusable as error:
        _fail(str(error))
    return {name: lane.lane for name, lane in prepared.items()}


def _row(line: PromiseLine) -> dict[str, JsonValue]:
    from backends.prices import usd

    now = line.standing
    return {
        "route": line.route,
        "subject": line.subject,
        "tenant": line.space or None,
        "state": now.state.value,
        "promised": {"max_loss": line.max_loss, "confidence": line.confidence},
        "observed": {"loss": now.mean, "low": now.low, "bound": now.bound},
        "n": now.n,
        "answers": now.units,
        "smallest_detectable": now.smallest,
        "verdicts_needed": line.needed,
        "verdicts_by": line.how,
        "is_audited": line.is_audited,
        "proxy_error": None if now.proxy is None else {"n": now.proxy.n, "low": now.proxy.low, "high": now.proxy.high},
        "threshold": line.threshold,
        "audits_today_usd": f"{usd(line.spent_today_nusd):f}",
    }


def _print(lines: list[PromiseLine]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    if not lines:
        console.print("No route promises anything: give one `quality`, or a semantic cache.", markup=False)
        return
    wide = [Column(name, no_wrap=True) for name in ("route", "state")]
    columns = ("promise", "n", "answers", "observed", "bound", "smallest for n", "n needed")
    table = Table(*wide, *columns, title="Promised and observed loss")
    for line in lines:
        now = line.standing
        table.add_row(
            line.route,
            now.state.value if line.is_audited else f"{now.state.value}, not audited",
            f"{_what(line)} ≤ {line.max_loss:g} at {line.confidence:.0%}",
            str(now.n),
            str(now.units),
            "-" if now.mean is None else f"{now.mean:.4f}",
            f"{now.low:.4f} to {now.bound:.4f}",
            f"{now.smallest:.4f}",
            str(line.needed),
        )
    console.print(table)
    if any(line.standing.n and line.standing.proxy is None for line in lines):
        console.print(_PROXIES, markup=False, highlight=False)


def _kind_row(line: KindLine) -> dict[str, JsonValue]:
    return {
        "route": line.route,
        "kind": line.kind.value,
        "kept_below_baseline": line.is_kept,
        "state": None if line.state is None else line.state.value,
        "n": line.n,
        "not_served": line.tried,
        "answers": line.answers,
        "loss": line.loss,
        "bound": line.bound,
        "longest": line.turns,
    }


def _print_kinds(lines: list[KindLine]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    seen = {line.route for line in lines if line.n}
    if not seen:
        return
    wide = [Column(name, no_wrap=True) for name in ("route", "kind", "below baseline")]
    table = Table(*wide, "n", "of them not served", "answers", "observed", "bound", title="By kind of request")
    for line in lines:
        if line.route in seen:
            table.add_row(
                line.route,
                line.kind.value,
                ("yes" if line.is_kept else "no") + ("" if line.state is None else f", {line.state.value}"),
                str(line.n),
                str(line.tried),
                str(line.answers),
                "-" if line.loss is None else f"{line.loss:.4f}",
                f"{line.bound:.4f}",
            )
    Console().print(table)


def _judging_row(line: JudgingLine) -> dict[str, JsonValue]:
    from backends.prices import usd

    return {
        "route": line.route,
        "model": line.model,
        "judged": line.judged,
        "kept": line.kept,
        "held_ms": line.held_ms,
        "asked_ms": line.asked_ms,
        "weighed_ms": line.weighed_ms,
        "dropped_tokens": line.dropped_tokens,
        "dropped_usd": f"{usd(line.dropped_nusd):f}",
        "asked_usd": f"{usd(line.asked_nusd):f}",
    }


def _print_judging(lines: list[JudgingLine]) -> None:
    from rich.console import Console
    from rich.table import Table

    from backends.prices import usd

    if not lines:
        return
    columns = (
        "judged",
        "kept",
        "held ms",
        "asked again ms",
        "judge ms",
        "dropped tokens",
        "dropped $",
        "asked again $",
    )
    table = Table("route", "model", *columns, title=f"What judging cost in {_JUDGED_FOR.days} days (means per answer)")
    for line in lines:
        times = ("-" if ms is None else f"{ms:.3f}" for ms in (line.held_ms, line.asked_ms, line.weighed_ms))
        table.add_row(
            line.route,
            line.model,
            str(line.judged),
            f"{line.kept / line.judged:.0%}",
            *times,
            str(line.dropped_tokens),
            f"{usd(line.dropped_nusd):f}",
            f"{usd(line.asked_nusd):f}",
        )
    Console().print(table)


def _what(line: PromiseLine) -> str:
    if line.subject == "route":
        return "loss"
    return f"wrong hits of {line.space}" if line.space else "wrong hits"


def _fail(message: str) -> NoReturn:
    click.echo(f"faregate: {message}", err=True)
    sys.exit(1)
