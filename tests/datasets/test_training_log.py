"""The published log is whole, stays as it was published, and shows its curve."""

from __future__ import annotations

import inspect
import json

import pytest

from ddpm_kedro.datasets.training_results import JSONLines
from ddpm_kedro.evaluation.curves import MOST_POINTS
from ddpm_kedro.files import Receipt
from ddpm_kedro.training.tracker import Tracker


def written(path, count):
    tracker = Tracker()
    tracker.open(path, 0)
    for step in range(1, count + 1):
        record = {"step": step, "images_seen": 10 * step, "loss": 1 / step}
        if step % 2 == 0:
            record["held_out_loss"] = 2 / step
        if step == 3:
            record["loss"] = float("nan")
        tracker.record(record)
    tracker.close()
    return path


@pytest.fixture
def log(tmp_path):
    return JSONLines(filepath=str(tmp_path / "08_reporting" / "training_log.jsonl"))


def test_publishing_and_loading(tmp_path, log):
    assert not log.exists()
    log.save(Receipt(written(tmp_path / "log.jsonl", 4)))
    assert log.exists()
    assert [record["step"] for record in log.load()] == [1, 2, 3, 4]
    assert [path.name for path in (tmp_path / "08_reporting").iterdir()] == ["training_log.jsonl"]


def test_a_training_that_goes_on_does_not_write_into_the_published_log(tmp_path, log):
    path = written(tmp_path / "log.jsonl", 4)
    log.save(Receipt(path))
    tracker = Tracker()
    tracker.open(path, 4)
    tracker.record({"step": 5})
    tracker.close()
    assert len(log.load()) == 4
    log.save(Receipt(path))
    assert len(log.load()) == 5


def test_no_log_is_an_empty_one(log):
    assert log.load() == []


def test_the_preview_is_the_loss_against_images(tmp_path, log):
    assert log.preview() == {}
    log.save(Receipt(written(tmp_path / "log.jsonl", 4)))
    figure = log.preview()
    training, _, held_out = figure["data"]
    assert training["name"] == "each record"
    assert training["x"] == [10, 20, 40]  # the loss that was not finite is a gap
    assert training["y"] == [1.0, 0.5, 0.25]
    assert (held_out["x"], held_out["y"]) == ([20, 40], [1.0, 0.5])
    json.dumps(figure, allow_nan=False)
    assert inspect.signature(log.preview).return_annotation == "PlotlyPreview"


def test_the_preview_of_a_long_log_is_thinned(tmp_path, log):
    log.save(Receipt(written(tmp_path / "log.jsonl", 1000)))
    for curve in log.preview()["data"]:
        assert len(curve["x"]) == MOST_POINTS
