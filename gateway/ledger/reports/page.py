"""An answer as a page: one self-contained HTML file with charts, to be sent to whoever decides.

Nothing in it runs and nothing is fetched: styles and pictures are inside, and a policy in its head forbids the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from backends.prices import usd
from gateway.ledger.reports.charts import Bar, Point, bars, dollars, gauge, over_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.ledger.pools import PoolLine, ReplicaLine
    from gateway.ledger.report import Bill
    from gateway.ledger.reports.answer import Answer, Line
    from gateway.ledger.reports.forecast import Forecast
    from gateway.ledger.reports.paper import Report

_TOP: Final = 8
_STYLE: Final = """
:root{--ink:#1b2430;--soft:#5b6776;--line:#e3e7ec;--paper:#fff;--ground:#f4f6f8;--spent:#2f6fdf;--gain:#2a9d6f;
--loss:#d1495b;--base:#c27803;--expected:#b9d0f7}
@media (prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#9aa6b4;--line:#2c3642;--paper:#17202b;--ground:#0f161e;
--spent:#6ea2ff;--gain:#4cc38a;--loss:#f07485;--base:#e0a33a;--expected:#2b4a7d}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 56px}h1{font-size:26px;margin:0}h2{font-size:17px;margin:0 0 12px}
p{margin:4px 0;color:var(--soft)}.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;
margin:22px 0}.tile,section{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:16px 18px}
.tile b{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);
font-size:13px}section{margin:0 0 18px;overflow-x:auto}svg{display:block;width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}svg .name,svg .amount{fill:var(--ink);font-size:13px}
.spent{fill:var(--spent)}.gain{fill:var(--gain)}.loss{fill:var(--loss)}.rail{fill:var(--line)}
.expected{fill:var(--expected)}.grid{stroke:var(--line)}.baseline{fill:none;stroke:var(--base);stroke-width:2}
.budget{stroke:var(--loss);stroke-width:3}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:13px}td.key,th.key{text-align:left;white-space:normal}
tr.total td{font-weight:700;border-bottom:0}.key-line i{display:inline-block;width:11px;height:11px;border-radius:3px;
margin:0 6px 0 14px;vertical-align:-1px}.note{border-left:4px solid var(--base);padding-left:12px}
footer{color:var(--soft);font-size:13px}@media print{body{background:#fff}section,.tile{break-inside:avoid}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageParts:
    """What is on a page.

    Attributes:
        report: the answer, with forecast and other baselines.
        daily: the same period by day, oldest first.
        spenders: lines by one dimension each (tenant, model, feature), dearest first, by the dimension's name.
        bill: the period's bill, for savings by cause and pools.
    """

    report: Report
    daily: Sequence[Line]
    spenders: dict[str, Sequence[Line]]
    bill: Bill


def page(parts: PageParts) -> str:
    """Return the page."""
    answer = parts.report.answer
    question = answer.question
    whose = f" · tenant {escape(question.tenant)}" if question.tenant else ""
    title = f"What the models cost, {question.since:%Y-%m-%d} to {question.until:%Y-%m-%d}"
    sections = [
        _notes(parts.report.notes),
        _section("Spent each day", _daily(parts.daily)),
        *(_forecast(one) for one in parts.report.forecasts[:1]),
        _budgets([one for one in parts.report.forecasts if one.tenant is not None and one.budget_nusd is not None]),
        *(_spenders(name, lines) for name, lines in parts.spenders.items() if lines),
        _section("Where the savings come from", _savings(parts.bill)),
        _baselines(parts.report),
        _lines(parts.report),
        _pools(parts.bill),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p>{escape(question.zone)}, US dollars{whose}</p></header>"
        f"{_tiles(answer, parts.report)}{''.join(sections)}"
        "<footer><p>Every amount is summed in whole nano-dollars from the ledger and rounded for this page only. "
        "The baseline is what the requests would have cost without Faregate; what is saved is baseline minus "
        "spent, and its range is that of the length of answers nobody has seen.</p></footer></main></body></html>\n"
    )


def _tiles(answer: Answer, report: Report) -> str:
    total = answer.total
    tiles = [("Spent", dollars(total.cost_nusd), f"{total.attempts:,} paid attempts")]
    if total.saved_nusd is not None and total.saved_low_nusd is not None and total.saved_high_nusd is not None:
        span = f"between {dollars(total.saved_low_nusd)} and {dollars(total.saved_high_nusd)}"
        share = f" ({total.saved_nusd / total.baseline_nusd:.0%})" if total.baseline_nusd else ""
        tiles.append(("Saved against the baseline", f"{dollars(total.saved_nusd)}{share}", span))
    tiles.append(
        ("Requests", f"{total.requests or 0:,}", f"{total.answered or 0:,} answered, {total.refused or 0:,} not")
    )
    for name, nusd in (
        ("Per 1,000 requests", total.per_thousand_nusd),
        ("Per successful answer", total.per_answer_nusd),
        ("Per session", total.per_session_nusd),
    ):
        if nusd is not None:
            tiles.append((name, dollars(nusd), "of everything spent"))
    if total.margin_nusd is not None:
        tiles.append(("Margin", dollars(total.margin_nusd), f"revenue {dollars(total.revenue_nusd or 0)}"))
    for one in report.forecasts[:1]:
        if one.forecast_nusd is not None:
            budget = "no budget" if one.budget_nusd is None else f"budget {dollars(one.budget_nusd)}"
            tiles.append((f"Forecast for {one.month}", dollars(one.forecast_nusd), budget))
    cells = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{value}</b><span>{escape(more)}</span></div>'
        for name, value, more in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _daily(lines: Sequence[Line]) -> str:
    points = [Point(line.keys[0], line.cost_nusd, line.baseline_nusd or 0) for line in lines]
    if not points:
        return "<p>Nothing was spent.</p>"
    legend = (
        '<p class="key-line"><i style="background:var(--spent)"></i>spent'
        '<i style="background:var(--base)"></i>baseline</p>'
    )
    return over_time(points) + legend


def _budgets(heading: Sequence[Forecast]) -> str:
    if not heading:
        return ""
    rows = [
        (
            one.tenant or "",
            *("-" if nusd is None else dollars(nusd) for nusd in (one.spent_nusd, one.forecast_nusd, one.budget_nusd)),
            "-" if one.over_nusd is None else dollars(one.over_nusd),
        )
        for one in heading
    ]
    table = _table(("tenant", "spent", "forecast", "budget", "over"), rows)
    return _section(f"Against the budgets of {heading[0].month}", table)


def _forecast(one: Forecast) -> str:
    if one.forecast_nusd is None or one.low_nusd is None or one.high_nusd is None:
        return ""
    words = (
        f"Spent {dollars(one.spent_nusd)} of an expected {dollars(one.forecast_nusd)} "
        f"({dollars(one.low_nusd)} to {dollars(one.high_nusd)} with 95 %)"
    )
    if one.over_nusd is not None and one.budget_nusd is not None:
        stands = "above" if one.over_nusd > 0 else "below"
        words += f"; that is {dollars(abs(one.over_nusd))} {stands} the budget of {dollars(one.budget_nusd)}"
    trend = one.trend_nusd_per_day or 0
    words += f". Each day costs {dollars(abs(trend))} {'more' if trend >= 0 else 'less'} than the one before."
    chart = gauge(one.spent_nusd, one.forecast_nusd, one.budget_nusd)
    return _section(f"Heading for the end of {one.month}", f"{chart}<p>{words}</p>")


def _spenders(name: str, lines: Sequence[Line]) -> str:
    shown = [Bar(line.keys[0] or "(none)", line.cost_nusd) for line in lines[:_TOP] if line.cost_nusd]
    if not shown:
        return ""
    return _section(f"Top spenders by {name}", bars(shown, f"Cost by {name}").replace('class="gain"', 'class="spent"'))


def _savings(bill: Bill) -> str:
    causes = bill.savings_by_cause()
    return bars([Bar(name, nusd) for name, nusd in causes], "Savings by cause")


def _baselines(report: Report) -> str:
    if not report.baselines:
        return ""
    rows = [
        (one.model, *(dollars(nusd) for nusd in (one.cost_nusd, one.low_nusd, one.high_nusd, one.saved_nusd)))
        for one in report.baselines
    ]
    heads = ("model", "would have cost", "at least", "at most", "saved against it")
    return _section("If one model had answered everything", _table(heads, rows))


def _lines(report: Report) -> str:
    question = report.answer.question
    if not question.by:
        return ""
    heads = (*question.by, "requests", "attempts", "USD", "per 1,000 requests", "per answer", "saved", "margin")
    rows = [(*(key or "(none)" for key in line.keys), *_cells(line)) for line in report.lines]
    total = ("Total", *([""] * (len(question.by) - 1)), *_cells(report.answer.total))
    left = len(report.answer.lines) - len(report.lines)
    more = f"<p>{left} more lines are not shown; the total is of all.</p>" if left else ""
    return _section(f"By {', '.join(question.by)}", _table(heads, rows, total, keys=len(question.by)) + more)


def _cells(line: Line) -> tuple[str, ...]:
    amounts = (line.per_thousand_nusd, line.per_answer_nusd, line.saved_nusd, line.margin_nusd)
    return (
        "-" if line.requests is None else f"{line.requests:,}",
        f"{line.attempts:,}",
        f"{usd(line.cost_nusd):,.4f}",
        *("-" if amount is None else dollars(amount) for amount in amounts),
    )


def _pools(bill: Bill) -> str:
    if not bill.pools:
        return ""
    rows: list[Sequence[str]] = []
    for pool in bill.pools:
        rows.append(_machine_cells(pool.pool, pool))
        if len(pool.replicas) > 1:
            rows += [_machine_cells(_replica_name(pool, each), each) for each in pool.replicas]
    heads = ("pool and replicas", "hours", "bill", "charged", "idle", "variance", "energy")
    return _section("Our own machines (bill = charged + idle + variance)", _table(heads, rows))


def _machine_cells(name: str, line: PoolLine | ReplicaLine) -> tuple[str, ...]:
    return (
        name,
        f"{line.up_us / 3.6e9:,.1f}",
        *(dollars(nusd) for nusd in (line.bill_nusd, line.charged_nusd, line.idle_nusd, line.variance_nusd)),
        "-" if line.energy_j is None else f"{line.energy_j:,} J {line.energy}",
    )


def _replica_name(pool: PoolLine, replica: ReplicaLine) -> str:
    return f"{pool.pool} {replica.endpoint or '(never reached)'}{' (spot)' if replica.is_spot else ''}"


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None, *, keys: int = 1
) -> str:
    def cell(tag: str, number: int, text: str) -> str:
        kind = ' class="key"' if number < keys else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell("th", number, text) for number, text in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell('td', n, text) for n, text in enumerate(row))}</tr>" for row in rows)
    foot = f'<tr class="total">{"".join(cell("td", n, text) for n, text in enumerate(total))}</tr>' if total else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}{foot}</tbody></table>"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f'<section class="note">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</section>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"
