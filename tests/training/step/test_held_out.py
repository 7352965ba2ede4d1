"""Images kept back, and the loss on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_training import tiny_images, tiny_settings

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.training.step.held_out import HeldOutLoss, split_rows
from ddpm_kedro.training.train import model_spec

FP32 = Precision("fp32", "cpu", "")


@pytest.mark.parametrize(
    ("fraction", "most", "expected"), [(0.1, 50, 10), (0.1, 4, 4), (0.0, 50, 0), (0.999, 500, 99)]
)
def test_the_split_is_a_partition_of_the_right_size(
    fraction: float, most: int, expected: int
) -> None:
    rows, held_out = split_rows(100, fraction, most)
    assert len(held_out) == expected
    assert sorted([*rows, *held_out]) == list(range(100))
    assert np.array_equal(held_out, split_rows(100, fraction, most)[1])


def test_held_out_rows_are_spread_over_the_data() -> None:
    """A sorted data set must not lose a class: every tenth of it gives about a tenth."""
    _, held_out = split_rows(10_000, 0.1, 10_000)
    counts = np.histogram(held_out, bins=10, range=(0, 10_000))[0]
    assert counts.min() > 60


def test_in_a_data_set_sorted_by_class_every_class_is_held_out_at_all_times() -> None:
    labels = np.repeat(np.arange(10), 1000)
    _, held_out = split_rows(len(labels), 0.1, 1000)
    t = np.arange(len(held_out))  # stratified times rise with the position
    assert abs(np.corrcoef(labels[held_out], t)[0, 1]) < 0.1


def test_the_images_held_out_are_the_ones_they_were() -> None:
    """Else a training would resume with images that it was told to keep back."""
    _, held_out = split_rows(40, 0.2, 1024)
    assert sorted(held_out) == [2, 4, 6, 18, 31, 32, 33, 37]


def test_the_smallest_data_set_keeps_an_image_to_train_on() -> None:
    rows, held_out = split_rows(1, 0.5, 10)
    assert (len(rows), len(held_out)) == (1, 0)


def test_the_loss_is_fixed_and_does_not_depend_on_the_batch_size() -> None:
    images, settings = tiny_images(), tiny_settings()
    torch.manual_seed(0)
    model = Model(model_spec(images, settings))
    rows = np.arange(3, 20, dtype=np.int32)
    losses = [
        HeldOutLoss(
            images.images,
            None,
            rows,
            timesteps=build(settings.timesteps),
            seed=seed,
            batch_size=batch_size,
        )(model.denoiser.train(), FP32)
        for seed, batch_size in ((0, 17), (0, 5), (0, 5), (1, 5))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[1] == losses[2] != losses[3]
    assert model.denoiser.training


def test_the_loss_has_no_dropout() -> None:
    images = tiny_images()
    settings = tiny_settings(backbone={"type": "tiny_training.TinyNetwork", "dropout": 0.5})
    denoiser = Model(model_spec(images, settings)).denoiser.train()
    rows = np.arange(8, dtype=np.int32)
    timesteps = build(settings.timesteps)
    loss = HeldOutLoss(images.images, None, rows, timesteps=timesteps, seed=0, batch_size=8)
    assert loss(denoiser, FP32) == loss(denoiser, FP32)
