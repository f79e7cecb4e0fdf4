"""Charts as inline SVG: no script, no request to anywhere; every mark has its number as a tooltip and a text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from backends.prices import usd

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH: Final = 920
_PLOT_HEIGHT: Final = 220
_LEFT: Final = 74
_RIGHT: Final = 12
_TOP: Final = 14
_BOTTOM: Final = 34
_ROW: Final = 30
_LABEL: Final = 210
_AMOUNT: Final = 130
_TICKS: Final = 4
_MOST_LABELS: Final = 12


@dataclass(frozen=True, slots=True)
class Point:
    """A column of a chart over time: what was spent, and what the baseline would have cost; nano-dollars."""

    label: str
    spent_nusd: int
    baseline_nusd: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its name; may be negative."""

    label: str
    nusd: int


def over_time(points: Sequence[Point]) -> str:
    """Return columns of what was spent under a line of what the baseline would have cost."""
    top = _ceiling(max((max(one.spent_nusd, one.baseline_nusd) for one in points), default=0))
    height = _TOP + _PLOT_HEIGHT + _BOTTOM
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(points))
    parts = [_axis(top)]
    line = []
    every = math.ceil(len(points) / _MOST_LABELS) or 1
    for number, one in enumerate(points):
        x = _LEFT + number * step
        y, tall = _y(one.spent_nusd, top), _PLOT_HEIGHT * one.spent_nusd / top
        tip = f"{escape(one.label)}: spent {dollars(one.spent_nusd)}, baseline {dollars(one.baseline_nusd)}"
        parts.append(
            f'<rect class="spent" x="{x + step * 0.14:.1f}" y="{y:.1f}" width="{step * 0.72:.1f}" '
            f'height="{max(tall, 0.0):.1f}" rx="2"><title>{tip}</title></rect>'
        )
        # As wide as the column: a period of one day has a line too.
        line += [f"{x + step * share:.1f},{_y(one.baseline_nusd, top):.1f}" for share in (0.14, 0.86)]
        if number % every == 0:
            parts.append(
                f'<text class="tick" x="{x + step / 2:.1f}" y="{height - 12}" text-anchor="middle">'
                f"{escape(one.label[-5:])}</text>"
            )
    parts.append(f'<polyline class="baseline" points="{" ".join(line)}"/>')
    return _svg(height, "".join(parts), "Spent and baseline over time")


def bars(found: Sequence[Bar], name: str) -> str:
    """Return horizontal bars, one a row, to the left of the middle where an amount is negative."""
    low = min(0, *(bar.nusd for bar in found)) if found else 0
    high = max(0, *(bar.nusd for bar in found)) if found else 0
    span = (high - low) or 1
    room = _WIDTH - _LABEL - _AMOUNT
    zero = _LABEL + room * -low / span
    parts = []
    for number, bar in enumerate(found):
        y = number * _ROW
        wide = room * abs(bar.nusd) / span
        x = zero if bar.nusd >= 0 else zero - wide
        kind = "gain" if bar.nusd >= 0 else "loss"
        text = f"{escape(bar.label)}: {dollars(bar.nusd)}"
        parts.append(
            f'<text class="name" x="{_LABEL - 10}" y="{y + 19}" text-anchor="end">{escape(_cut(bar.label))}</text>'
            f'<rect class="{kind}" x="{x:.1f}" y="{y + 6}" width="{max(wide, 1.5):.1f}" height="18" rx="2">'
            f"<title>{text}</title></rect>"
            f'<text class="amount" x="{_WIDTH - 4}" y="{y + 19}" text-anchor="end">{dollars(bar.nusd)}</text>'
        )
    return _svg(max(_ROW, _ROW * len(found)), "".join(parts), name)


def gauge(spent_nusd: int, forecast_nusd: int, budget_nusd: int | None) -> str:
    """Return one bar of what is spent, what is still expected, and where the budget stands."""
    top = max(forecast_nusd, budget_nusd or 0, 1)
    room = _WIDTH - 8
    spent, expected = room * spent_nusd / top, room * max(forecast_nusd, spent_nusd) / top
    parts = [
        f'<rect class="rail" x="4" y="10" width="{room}" height="20" rx="4"/>',
        f'<rect class="expected" x="4" y="10" width="{min(expected, room):.1f}" height="20" rx="4"/>',
        f'<rect class="spent" x="4" y="10" width="{min(spent, room):.1f}" height="20" rx="4"/>',
    ]
    if budget_nusd is not None:
        x = 4 + room * budget_nusd / top
        parts.append(f'<line class="budget" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="38"/>')
    return _svg(40, "".join(parts), "Spent, forecast and budget")


def dollars(nusd: int) -> str:
    """Return an amount for people: cents where there are some, more places where it is small."""
    places = 2 if abs(nusd) >= 10**8 or not nusd else 4 if abs(nusd) >= 10**6 else 6
    sign = "-" if nusd < 0 else ""
    return f"{sign}${abs(usd(nusd)):,.{places}f}"


def _svg(height: int, content: str, name: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}" '
        f'preserveAspectRatio="xMidYMid meet">{content}</svg>'
    )


def _axis(top: int) -> str:
    parts = []
    for tick in range(_TICKS + 1):
        nusd = top * tick // _TICKS
        y = _y(nusd, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{dollars(nusd)}</text>')
    return "".join(parts)


def _y(nusd: int, top: int) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - nusd / top)


def _ceiling(nusd: int) -> int:
    """Return the next round number above an amount: 1, 2 or 5 times a power of ten, divisible by the ticks."""
    unit = 10 ** max(0, len(str(max(1, nusd))) - 1)
    return int(next(unit * factor for factor in (1, 2, 4, 5, 8, 10) if unit * factor >= nusd)) or 1


def _cut(label: str) -> str:
    return label if len(label) <= 26 else f"{label[:25]}…"
