"""Figures as inline SVG: lines on two axes, coloured by the page's style sheet."""

from __future__ import annotations

import html
import math
from typing import Any

WIDTH, HEIGHT = 640, 320  # of the drawing's own units; the page scales it to its column
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 50


def draw(figure: dict[str, Any]) -> str:
    """Draw a figure of :mod:`ddpm_kedro.evaluation.curves` as one ``<figure>`` element.

    Lines carry the classes ``line c0``, ``line c1`` ... in their order, faint ones ``line faint``.
    A figure without points becomes a sentence that says so.
    """
    traces = [trace for trace in figure["data"] if trace["x"]]
    layout = figure["layout"]
    title = html.escape(layout["title"]["text"])
    if not traces:
        return f"<figure><figcaption>{title}</figcaption><p class=muted>No points yet.</p></figure>"
    x = Axis([value for trace in traces for value in trace["x"]], LEFT, WIDTH - RIGHT)
    y = Axis(
        [value for trace in traces for value in trace["y"]],
        HEIGHT - BOTTOM,
        TOP,
        logarithmic=layout["yaxis"].get("type") == "log",
    )
    parts = [_grid(x, y), _titles(layout)]
    legend = []
    number = 0
    for trace in traces:
        faint = trace.get("opacity", 1.0) < 1.0
        kind = "faint" if faint else f"c{number}"
        number += not faint
        points = [(x.place(a), y.place(b)) for a, b in zip(trace["x"], trace["y"], strict=True)]
        if len(points) == 1:
            a, b = points[0]
            parts.append(f'<circle class="dot {kind}" cx="{a:.1f}" cy="{b:.1f}" r="4"/>')
        else:
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
            parts.append(f'<path class="line {kind}" d="M{path}"/>')
        legend.append(f'<span class="key {kind}">{html.escape(trace["name"])}</span>')
    return (
        f"<figure><figcaption>{title}</figcaption><div class=legend>{''.join(legend)}</div>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg></figure>"
    )


class Axis:
    """Maps values to places on the drawing.

    Args:
        values: finite numbers, all > 0 on a logarithmic axis; their range is the axis's.
        start, end: places of the smallest and the largest value.
        logarithmic: equal factors are equal distances.
    """

    def __init__(
        self, values: list[float], start: float, end: float, logarithmic: bool = False
    ) -> None:
        self.start, self.end, self.logarithmic = start, end, logarithmic
        low, high = self._scaled(min(values)), self._scaled(max(values))
        margin = 0.04 * (high - low) or 0.5
        self.low, self.high = low - margin, high + margin

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def place(self, value: float) -> float:
        """Where ``value`` is drawn."""
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to eight round values within the axis."""
        if self.logarithmic:
            exponents = range(math.floor(self.low), math.ceil(self.high) + 1)
            for digits in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
                values = [digit * 10.0**exponent for exponent in exponents for digit in digits]
                values = [v for v in values if self.low <= math.log10(v) <= self.high]
                if len(values) >= 3:
                    return values[:: math.ceil(len(values) / 8)]
            low, high = 10**self.low, 10**self.high  # less than a decade: evenly spaced values
            return [value for value in _round_steps(low, high) if value > 0]
        return _round_steps(self.low, self.high)


def _round_steps(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def short_number(value: float) -> str:
    """A number as an axis shows it: 250k, 1.2M, 0.05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value else "0"


def _grid(x: Axis, y: Axis) -> str:
    parts = []
    for value in y.ticks():
        place = y.place(value)
        parts.append(
            f'<path class="rule" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">'
            f"{short_number(value)}</text>"
        )
    for value in x.ticks():
        place = x.place(value)
        parts.append(
            f'<text class="tick" x="{place:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{short_number(value)}</text>"
        )
    return "".join(parts)


def _titles(layout: dict[str, Any]) -> str:
    x_title = html.escape(layout["xaxis"]["title"]["text"])
    y_title = html.escape(layout["yaxis"]["title"]["text"])
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" '
        f'text-anchor="middle">{x_title}</text>'
        f'<text class="axis" transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{y_title}</text>'
    )
