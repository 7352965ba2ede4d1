"""Charts for the report: where the lines and ticks of a figure lie, in per cent of the plot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any


def chart(figure: dict[str, Any]) -> dict[str, Any]:
    """What the report's template draws of a figure of `evaluation.curves`.

    `title`, `x_title`, `y_title`; `lines`, each with its `name`, its `kind` ("c0", "c1" ... in
    their order, or "faint") and an SVG `path` (of one point: a dot), none where there are no
    points; `x_ticks` and `y_ticks`, pairs of place and text. Places are in per cent of the plot
    from its upper left corner.
    """
    traces = [trace for trace in figure["data"] if trace["x"]]
    layout = figure["layout"]
    logarithmic = layout["yaxis"].get("type") == "log"
    x = Axis(value for trace in traces for value in trace["x"])
    y = Axis((value for trace in traces for value in trace["y"]), logarithmic, falling=True)
    colours = (f"c{number}" for number in itertools.count())
    return {
        "title": layout["title"]["text"],
        "x_title": layout["xaxis"]["title"]["text"],
        "y_title": layout["yaxis"]["title"]["text"],
        "x_ticks": [(f"{x.place(tick):.2f}", short_number(tick)) for tick in x.ticks()],
        "y_ticks": [(f"{y.place(tick):.2f}", short_number(tick)) for tick in y.ticks()],
        "lines": [
            {
                "name": trace["name"],
                "kind": "faint" if trace.get("opacity", 1.0) < 1.0 else next(colours),
                "path": _path(map(x.place, trace["x"]), map(y.place, trace["y"])),
            }
            for trace in traces
        ],
    }


def strip(
    value: float, interval: float, floor: float, floor_std: float, larger_is_better: bool = False
) -> dict[str, str]:
    """Where a score lies beside that of real images, in per cent of a strip on which worse is
    further right: `dot`, the value; `low` and `high`, the ends of its interval; `band` and
    `width`, the start and the extent of the floor within two deviations."""
    ends = [value - interval, value + interval], [floor - 2 * floor_std, floor + 2 * floor_std]
    axis = Axis(ends[0] + ends[1], falling=larger_is_better)
    (low, high), (band, end) = (sorted(map(axis.place, pair)) for pair in ends)
    places = {"dot": axis.place(value), "low": low, "high": high, "band": band}
    return {name: f"{place:.2f}" for name, place in (places | {"width": end - band}).items()}


def _path(x: Iterable[float], y: Iterable[float]) -> str:
    # The end of no length is what a line of one point shows: its round cap.
    return f"M{'L'.join(f'{a:.2f} {b:.2f}' for a, b in zip(x, y, strict=True))}h0"


class Axis:
    """Maps values to places, 0 to 100.

    The axis's range is that of the finite `values`, all > 0 on a logarithmic axis, and a little
    more at both ends; none are as one zero. On a `logarithmic` axis equal factors are equal
    distances; on a `falling` one larger values have smaller places.
    """

    def __init__(
        self, values: Iterable[float], logarithmic: bool = False, falling: bool = False
    ) -> None:
        self.logarithmic, self.falling = logarithmic, falling
        scaled = [self._scaled(value) for value in values] or [0.0]
        low, high = min(scaled), max(scaled)
        margin = 0.04 * (high - low) or 0.5
        self.low, self.high = low - margin, high + margin

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def place(self, value: float) -> float:
        """Where `value` is drawn."""
        place = 100 * (self._scaled(value) - self.low) / (self.high - self.low)
        return 100 - place if self.falling else place

    def ticks(self) -> list[float]:
        """Three to eight round values within the axis."""
        if not self.logarithmic:
            return _round_steps(self.low, self.high)
        exponents = range(math.floor(self.low), math.ceil(self.high) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), range(1, 10)):
            values = [digit * 10.0**exponent for exponent in exponents for digit in digits]
            values = [v for v in values if self.low <= math.log10(v) <= self.high]
            if len(values) >= 3:
                return values[:: math.ceil(len(values) / 8)]
        # Less than a decade: evenly spaced values.
        return [value for value in _round_steps(10**self.low, 10**self.high) if value > 0]


def _round_steps(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short_number(value: float) -> str:
    """A number as an axis shows it: 250k, 1.2M, 0.05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value else "0"
