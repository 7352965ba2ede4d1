from __future__ import annotations

import numpy as np
import pytest

from ddpm_kedro.evaluation.chart import Axis, chart, strip
from ddpm_kedro.evaluation.curves import figure


def points(drawing: dict) -> np.ndarray:
    path = drawing["lines"][0]["path"].removeprefix("M").removesuffix("h0")
    return np.array([[float(v) for v in point.split()] for point in path.split("L")])


@pytest.mark.parametrize("log_y", [False, True])
def test_lines_stay_inside_and_rise_where_the_values_do(log_y: bool) -> None:
    x, y = np.arange(20.0), np.geomspace(0.01, 50, 20)
    drawn = points(chart(figure("t", "x", "y", {"a": (x, y)}, log_y=log_y)))
    assert (np.diff(drawn[:, 0]) > 0).all()
    assert (np.diff(drawn[:, 1]) <= 0).all()  # up is towards 0
    assert 0 <= drawn[0, 0] < drawn[-1, 0] <= 100
    assert 0 <= drawn[-1, 1] < drawn[0, 1] <= 100
    if log_y:  # equal factors are equal distances
        np.testing.assert_allclose(np.diff(drawn[:, 1]), np.diff(drawn[:, 1])[0], atol=0.02)


def test_lines_are_numbered_past_the_faint_ones() -> None:
    curves = {"a": ([1, 2], [3, 4]), "b": ([1], [3]), "c": ([], []), "d": ([1, 2], [4, 3])}
    lines = chart(figure("t", "x", "y", curves, faint=["a"]))["lines"]
    assert [(line["name"], line["kind"]) for line in lines] == [
        ("a", "faint"),
        ("b", "c0"),
        ("d", "c1"),
    ]
    assert lines[1]["path"].endswith("h0")  # a dot: the round cap of no length
    assert "L" not in lines[1]["path"]
    assert chart(figure("t", "x", "y", {"a": ([], [])}))["lines"] == []


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
    axis = Axis([low, high], logarithmic)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(-1e-6 <= axis.place(tick) <= 100 + 1e-6 for tick in ticks)
    steps = np.diff(np.log(ticks) if logarithmic else ticks)
    assert (steps > 0).all()


@pytest.mark.parametrize("larger_is_better", [False, True])
def test_on_a_strip_worse_is_further_right_whichever_way_a_score_counts(
    larger_is_better: bool,
) -> None:
    sign = -1 if larger_is_better else 1
    drawn = strip(10 + 8 * sign, 1.0, 10.0, 0.5, larger_is_better)
    place = {name: float(text) for name, text in drawn.items()}
    assert 0 <= place["band"] < place["band"] + place["width"] < place["low"]
    assert place["low"] < place["dot"] < place["high"] <= 100
    # The band is four deviations wide, the interval from low to high two half widths.
    assert place["width"] / (place["high"] - place["low"]) == pytest.approx(1.0, abs=0.01)


def test_a_strip_of_no_spread_is_drawn_all_the_same() -> None:
    assert strip(3.0, 0.0, 3.0, 0.0)["dot"] == "50.00"
