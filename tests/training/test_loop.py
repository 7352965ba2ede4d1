"""The loop over steps: what each of them is given, and in which order things happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import last_tensors, run, tiny_images, tiny_settings
from torch import Tensor, nn

from ddpm_kedro.training.loop import TrainingRun
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team


@contextmanager
def prepared(root: Path, **changes: Any) -> Iterator[TrainingRun]:
    """A training that has not begun."""
    images, settings = tiny_images(), tiny_settings(**changes)
    with CheckpointStore(root).open(
        settings.shaping(images.content_hash), {}, settings.budget_images
    ) as folder:
        yield TrainingRun(images, folder, Tracker(), settings, model_spec(images, settings), Team())


def test_averages_are_of_the_weights_after_the_step(tmp_path: Path) -> None:
    """An average without memory equals the weights at the end."""
    receipts = run(tmp_path, ema={"halflives_kimg": [0.0], "warmup_ratio": None})
    tensors = last_tensors(receipts)
    weights = [value for name, value in tensors.items() if name.startswith("network/")]
    averages = [value for name, value in tensors.items() if name.startswith("ema/0/")]
    assert len(weights) == len(averages)
    for average in averages:
        assert any(torch.equal(average, value) for value in weights)


def test_the_optimizer_steps_at_the_schedule_s_rate(tmp_path: Path) -> None:
    """A rate of next to nothing moves nothing."""
    never = {"type": "ddpm_kedro.training.lr_schedule.LinearWarmup", "warmup_kimg": 1e12}
    with prepared(tmp_path, lr_schedule=never) as training:
        start = [parameter.detach().clone() for parameter in training.state.parameters]
        training(lambda: 0)
        for before, now in zip(start, training.state.parameters, strict=True):
            torch.testing.assert_close(now.detach(), before, rtol=0, atol=1e-9)


def test_every_step_has_its_own_dropout(tmp_path: Path) -> None:
    masks: list[bytes] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if module.training and output.device.type != "meta":  # the cost is counted there
            masks.append((output == 0).numpy().tobytes())

    dropout = {"type": "tiny_training.TinyNetwork", "dropout": 0.5}
    with prepared(tmp_path, backbone=dropout) as training:
        training.state.network.dropout.register_forward_hook(note)
        training(lambda: 0)
    assert len(masks) == len(set(masks)) == 16


def test_held_out_images_are_never_trained_on(tmp_path: Path) -> None:
    images = tiny_images().images
    with prepared(tmp_path) as training:
        held_out = {images[row].tobytes() for row in training.held_out.rows}
        batches = islice(training.feed.batches(0), 12)
        seen = {image.numpy().tobytes() for batch, _ in batches for image in batch}
    assert len(held_out) == 8
    assert seen == {image.tobytes() for image in images} - held_out


def test_the_truth_is_said_when_time_is_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ddpm_kedro")
    run(tmp_path, max_minutes=1e-9)
    assert any(
        line.startswith("time is up after ") and line.endswith("at 8 of 128 images")
        for line in caplog.messages
    )
    took = next(record.took for record in caplog.records if hasattr(record, "took"))
    assert 0 < took["previews"] < took["training"]
    caplog.clear()
    run(tmp_path)
    assert "time is up" not in caplog.text
