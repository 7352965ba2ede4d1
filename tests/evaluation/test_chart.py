from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ddpm_kedro.evaluation.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, draw
from ddpm_kedro.evaluation.curves import figure


def points(drawing: str) -> np.ndarray:
    path = re.search(r'class="line c0" d="M([^"]+)"', drawing)[1]
    return np.array([[float(v) for v in point.split()] for point in path.split("L")])


@pytest.mark.parametrize("log_y", [False, True])
def test_lines_stay_inside_and_rise_where_the_values_do(log_y: bool) -> None:
    x, y = np.arange(20.0), np.geomspace(0.01, 50, 20)
    drawn = points(draw(figure("t", "x", "y", {"a": (x, y)}, log_y=log_y)))
    assert (np.diff(drawn[:, 0]) > 0).all()
    assert (np.diff(drawn[:, 1]) <= 0).all()  # up is towards 0
    assert LEFT <= drawn[0, 0] < drawn[-1, 0] <= WIDTH - RIGHT
    assert TOP <= drawn[-1, 1] < drawn[0, 1] <= HEIGHT - BOTTOM
    if log_y:  # equal factors are equal distances
        np.testing.assert_allclose(np.diff(drawn[:, 1]), np.diff(drawn[:, 1])[0], atol=0.2)


def test_the_svg_is_well_formed_and_escapes_names() -> None:
    drawing = draw(figure("a < b & c", "x", "y", {"<script>": ([1, 2], [3, 4])}))
    svg = ElementTree.fromstring(drawing[drawing.index("<svg") : drawing.index("</svg>") + 6])
    assert svg.get("aria-label") == "a < b & c"
    assert "<script>" not in drawing


def test_one_point_is_a_dot_and_none_a_sentence() -> None:
    assert "<circle" in draw(figure("t", "x", "y", {"a": ([1], [2])}))
    assert "No points yet" in draw(figure("t", "x", "y", {"a": ([], [])}))


@pytest.mark.parametrize(
    ("low", "high", "logarithmic"),
    [
        (0, 1, False),
        (-22, 24, False),
        (0, 220_000, False),
        (5, 5, False),
        (1e-9, 2e-9, False),
        (0.01, 50, True),
        (0.9, 1.1, True),
        (1e-8, 1e6, True),
        (2, 2, True),
        (0.05, 0.6, True),
    ],
)
def test_axes_have_a_few_round_values(low: float, high: float, logarithmic: bool) -> None:
    axis = Axis([low, high], 0, 100, logarithmic)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(-1e-6 <= axis.place(tick) <= 100 + 1e-6 for tick in ticks)
    steps = np.diff(np.log(ticks) if logarithmic else ticks)
    assert (steps > 0).all()
