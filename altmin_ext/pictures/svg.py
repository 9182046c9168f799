"""A panel as SVG within a page: no scripts, no fonts and no style of its own.

Axes and text have the colour of the text around them, so that the picture fits light and dark pages and paper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from html import escape

from altmin_ext.pictures.panels import Curve, Panel, number_text
from altmin_ext.pictures.ticks import linear_ticks, log_ticks, tick_label

_width, _height = 460, 270
_left, _right, _top, _bottom = 62, 14, 34, 40  # margins
_most_dots = 40


def svg(panel: Panel) -> str:
    """The panel as an ``<svg>`` element."""
    frame = _Frame(panel)
    parts = [
        *_axes(frame, panel),
        *(part for row, mark in enumerate(panel.marks) for part in _mark(frame, row % 2, *mark)),
        *(part for curve in panel.curves for part in _curve(frame, panel, curve)),
    ]
    return (
        f'<svg viewBox="0 0 {_width} {_height}" role="img" aria-label="{escape(panel.title)}" '
        'fill="currentColor" font-family="system-ui, sans-serif" font-size="12">' + "".join(parts) + "</svg>"
    )


def legend(curves: Sequence[Curve]) -> str:
    """The labels of curves, each behind a piece of its line, as a line of HTML."""
    return " ".join(
        '<span style="white-space: nowrap; margin-right: 1em"><svg width="28" height="10" aria-hidden="true">'
        f'<path d="M0 5H28" {_stroke(curve)}/></svg> {escape(curve.label)}</span>'
        for curve in curves
    )


class _Frame:
    """Where numbers are on the picture."""

    def __init__(self, panel: Panel) -> None:
        xs = [x for curve in panel.curves for x, _ in curve.points]
        ys = [y for curve in panel.curves for y in curve.finite()]
        self.is_log = panel.is_log
        self.x = _widened(min(xs), max(xs), 0.02)
        scaled = [math.log10(y) if self.is_log else y for y in ys] or [0.0]
        self.y = _widened(min(scaled), max(scaled), 0.05)

    def across(self, x: float) -> float:
        low, high = self.x
        return _left + (x - low) / (high - low) * (_width - _left - _right)

    def down(self, y: float) -> float:
        low, high = self.y
        share = ((math.log10(y) if self.is_log else y) - low) / (high - low)
        return _height - _bottom - share * (_height - _top - _bottom)

    def x_ticks(self) -> list[float]:
        return [tick for tick in linear_ticks(*self.x, about=6) if tick == int(tick)]

    def y_ticks(self) -> list[float]:
        return log_ticks(10.0 ** self.y[0], 10.0 ** self.y[1]) if self.is_log else linear_ticks(*self.y)


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    margin = share * (high - low) or 0.5 * (abs(high) or 1.0)
    return low - margin, high + margin


def _axes(frame: _Frame, panel: Panel) -> Iterator[str]:
    bottom, right = _height - _bottom, _width - _right
    for tick in frame.y_ticks():
        y = frame.down(tick)
        yield f'<path d="M{_left} {y:.1f}H{right}" stroke="currentColor" stroke-opacity=".18"/>'
        yield f'<text x="{_left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_label(tick)}</text>'
    for tick in frame.x_ticks():
        x = frame.across(tick)
        yield f'<path d="M{x:.1f} {bottom}v4" stroke="currentColor"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{tick_label(tick)}</text>'
    yield f'<path d="M{_left} {bottom}H{right}" stroke="currentColor"/>'
    yield f'<text x="{right}" y="{_height - 6}" text-anchor="end">{escape(panel.along)}</text>'
    if panel.unit:
        yield f'<text x="{_left - 6}" y="12" text-anchor="end">{escape(panel.unit)}</text>'


def _mark(frame: _Frame, row: int, x: float, text: str) -> Iterator[str]:
    """A line, with its text above the picture, in one of two rows."""
    at, top = f"{frame.across(x):.1f}", _top - 17 + 13 * row
    yield (
        f'<path d="M{at} {top}V{_height - _bottom}" stroke="currentColor" stroke-opacity=".6" '
        'stroke-dasharray="2 3"/>'
    )
    side = "end" if frame.across(x) > _width / 2 else "start"
    beside = frame.across(x) + (-4 if side == "end" else 4)
    yield f'<text x="{beside:.1f}" y="{top + 4}" text-anchor="{side}" font-size="11">{escape(text)}</text>'


def _curve(frame: _Frame, panel: Panel, curve: Curve) -> Iterator[str]:
    """The line, interrupted where numbers are not finite; a cross at the top edge for each of these."""
    told = [
        (x, y, f"{curve.label}, {panel.along} {tick_label(x)}: {number_text(y)}") for x, y in curve.points
    ]
    for is_finite, run in itertools.groupby(told, lambda point: math.isfinite(point[1])):
        points = [(frame.across(x), frame.down(y) if is_finite else _top + 5, text) for x, y, text in run]
        if not is_finite:
            for x, y, text in points:
                yield (
                    f'<path d="M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8" stroke="{curve.colour}" stroke-width="2">'
                    f"<title>{escape(text)}</title></path>"
                )
            continue
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points)
        yield f'<path d="M{line}" {_stroke(curve)}/>'
        if len(told) <= _most_dots or len(points) == 1:
            for x, y, text in points:
                fill = ' fill="none"' if curve.dashed else f' fill="{curve.colour}"'
                yield (
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" stroke="{curve.colour}"{fill}>'
                    f"<title>{escape(text)}</title></circle>"
                )


def _stroke(curve: Curve) -> str:
    dashes = ' stroke-dasharray="5 4"' if curve.dashed else ""
    return f'fill="none" stroke="{curve.colour}" stroke-width="2" stroke-linejoin="round"{dashes}'
