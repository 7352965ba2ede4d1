from __future__ import annotations

import numpy as np
import pytest

from ddpm_kedro.evaluation.curves import (
    MOST_POINTS,
    distance_figure,
    figure,
    loss_figure,
    quick_score_figure,
)
from ddpm_kedro.evaluation.denoising_loss import DenoisingLoss


def trace(drawing: dict, name: str) -> dict:
    return next(item for item in drawing["data"] if item["name"] == name)


def test_a_constant_loss_is_smoothed_to_itself_from_the_first_record() -> None:
    records = [{"images_seen": 10.0 * n, "loss": 0.25} for n in range(1, 50)]
    np.testing.assert_allclose(trace(loss_figure(records), "training loss")["y"], 0.25)


def test_smoothing_halves_the_weight_of_a_point_over_its_half_life() -> None:
    # Three records 1% of the whole apart, then one at the end.
    records = [{"images_seen": s, "loss": y} for s, y in [(0, 1.0), (1, 4.0), (2, 2.0), (100, 3.0)]]
    smooth = trace(loss_figure(records), "training loss")["y"]
    assert smooth[:2] == pytest.approx([1.0, (0.5 * 1 + 4) / 1.5])
    assert smooth[2] == pytest.approx((0.25 * 1 + 0.5 * 4 + 2) / 1.75)


def test_held_out_loss_is_drawn_where_it_was_measured() -> None:
    records = [
        {"images_seen": 1, "loss": 1.0},
        {"images_seen": 2, "loss": 0.5, "held_out_loss": 0.7},
        {"images_seen": 3, "loss": 0.4, "held_out_loss": None},
    ]
    assert trace(loss_figure(records), "held-out loss")["x"] == [2.0]
    assert loss_figure([])["data"] == []


def test_the_score_while_training_is_drawn_where_it_was_taken() -> None:
    records = [{"images_seen": n, "loss": 1.0} for n in (1, 2, 3)]
    assert quick_score_figure(records)["data"] == []
    records[1]["quick_score"], records[2]["quick_score"] = 80.0, 50.0
    drawn = trace(quick_score_figure(records), "quick score")
    assert (drawn["x"], drawn["y"]) == ([2, 3], [80, 50])


def test_long_logs_are_thinned_and_keep_their_ends() -> None:
    records = [{"images_seen": n, "loss": 1 / n} for n in range(1, 5001)]
    thin = trace(loss_figure(records), "each record")
    assert len(thin["x"]) == MOST_POINTS
    assert (thin["x"][0], thin["x"][-1]) == (1, 5000)


def test_what_an_axis_cannot_show_is_left_out() -> None:
    y = np.array([1.0, 0.0, np.nan, np.inf, 2.0])
    x = np.arange(5)
    drawn = figure("t", "x", "y", {"a": (x, y)}, log_y=True)["data"][0]
    assert (drawn["x"], drawn["y"]) == ([0, 4], [1, 2])


def test_distances_become_shares_of_the_whole() -> None:
    drawn = distance_figure({"samples": np.array([3.0, 1.0, 2.0, 2.0])})["data"][0]
    assert drawn["x"] == [1, 2, 2, 3]
    assert drawn["y"] == [25, 50, 75, 100]


def test_denoising_errors_are_grey_levels_against_decibels() -> None:
    from ddpm_kedro.evaluation.curves import denoising_figure

    unused = np.zeros(2)
    loss = DenoisingLoss(np.log([100.0, 0.1]), unused, np.array([0.0, 4.0]), unused, 1)
    drawn = denoising_figure({"held out": loss})["data"][0]
    np.testing.assert_allclose(drawn["x"], [-20, 10])
    np.testing.assert_allclose(drawn["y"], [0, 255])
