"""A training small enough for a unit test: random images of 4x4, a network of 200 weights."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.loop import Outcome, TrainingRun
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.tracker import Tracker, read_log
from ddpm_kedro.training.train import TrainingReceipts, model_spec, train
from ddpm_kedro.training.workers.team import Team

TIMINGS = ("images_per_second", "elapsed_seconds")


class TinyNetwork(nn.Module):
    """Two convolutions with dropout between, told the time and perhaps the class."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int | None = None,
        width: int = 8,
        dropout: float = 0.0,
        device_mixup: bool = False,
        pause_seconds: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.device_mixup = device_mixup
        self.pause_seconds = pause_seconds
        self.entry = nn.Conv2d(in_channels, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, width)
        self.dropout = nn.Dropout(dropout)
        self.exit = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.entry(x) + self.time(t[:, None] / 1000)[:, :, None, None]
        time.sleep(self.pause_seconds)
        if self.device_mixup:
            h = h + torch.zeros(h.shape, device="cpu")
        if self.label is not None:
            null = torch.full_like(t, self.num_classes, dtype=torch.int64)
            h = h + self.label(null if labels is None else labels)[:, :, None, None]
        return self.exit(self.dropout(torch.nn.functional.silu(h)))


class AffineNetwork(nn.Module):
    """a(t) x + b(t), with one a and one b for each of ``num_timesteps`` times."""

    def __init__(self, in_channels: int, num_classes: int | None, num_timesteps: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(num_timesteps))
        self.offset = nn.Parameter(torch.zeros(num_timesteps))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        index = t.round().long()
        slope, offset = self.slope[index], self.offset[index]
        return slope[:, None, None, None] * x + offset[:, None, None, None]


def tiny_images(count: int = 40, seed: int = 0, classes: int = 3) -> ImageSet:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    labels = generator.integers(0, classes, count).astype(np.int64)
    return ImageSet(images, labels, tuple("abc"[:classes]))


def tiny_settings(**changes: Any) -> TrainingSettings:
    """16 steps of 8 images, in fp32 on the CPU, unless ``changes`` say otherwise."""
    ours = "ddpm_kedro"
    values: dict[str, Any] = {
        "batch_size": 8,
        "budget_kimg": 0.128,
        "augmentation": {"type": f"{ours}.training.augmentation.Flip"},
        "backbone": {"type": "tiny_training.TinyNetwork"},
        "noise_schedule": {"type": f"{ours}.diffusion.noise_schedule.CosineSchedule"},
        "objective": {"type": f"{ours}.diffusion.objective.VPrediction"},
        "loss_weight": {"type": f"{ours}.diffusion.loss_weight.UniformWeight"},
        "timesteps": {"type": f"{ours}.diffusion.timesteps.UniformTimesteps"},
        "optimizer": {"type": "torch.optim.Adam", "lr": 1e-2},
        "lr_schedule": {"type": f"{ours}.training.lr_schedule.LinearWarmup", "warmup_kimg": 0.032},
        "sampler": {"type": f"{ours}.diffusion.samplers.DDIM", "num_steps": 2},
        "ema": {"halflives_kimg": [0.05, 0.2], "warmup_ratio": 0.05},
        "seed": 0,
        "precision": "fp32",
        "device": "cpu",
        "clip_norm": 1.0,
        "log_every_kimg": 0.024,
        "checkpoint_every_kimg": 0.064,
        "num_previews": 2,
        "held_out_fraction": 0.2,
        "held_out_images": 1024,
        "max_minutes": None,
        "restart": False,
        "compile": "auto",
        "micro_batch_size": None,
        "lanes": None,
        "init_from": None,
        "label_dropout": 0.0,
        "conditional": False,
        "preview_every_kimg": None,
        "keep_checkpoints": 3,
        "keep_trainings": None,
        "max_skipped_updates": 50,
        "score_every_kimg": None,
        "features": {"type": "ddpm_kedro.PrincipalComponents", "num_components": 4},
    }
    alone = {"workers": 1, "nodes": 1, "rendezvous": None, "wait_minutes": 10, "max_restarts": 3}
    distributed = alone | changes.pop("distributed", {})
    return TrainingSettings(**{**values, "distributed": distributed, **changes})


def run(
    root: Path, tracker: Tracker | None = None, images: ImageSet | None = None, **changes: Any
) -> TrainingReceipts:
    """Train in ``root``, as :func:`tiny_settings` says."""
    store = CheckpointStore(root)
    return train(
        tiny_images() if images is None else images,
        store,
        tracker or Tracker(),
        tiny_settings(**changes),
    )


def last_tensors(receipts: TrainingReceipts) -> dict[str, Tensor]:
    """Everything stateful in the newest checkpoint: weights, averages, optimizer, counters."""
    checkpoint = TrainingFolder(receipts.model.path.parent).latest()
    assert checkpoint is not None
    return checkpoint.tensors


def untimed_log(receipts: TrainingReceipts) -> list[dict[str, Any]]:
    """The log without what a clock measured."""
    return [
        {key: value for key, value in record.items() if key not in TIMINGS}
        for record in read_log(receipts.training_log.path)
    ]


def assert_same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def run_until(root: Path, step: int, **changes: Any) -> Outcome:
    """Train in ``root`` as :func:`run` does, but ask it to stop after ``step`` steps."""
    images, settings = tiny_images(), tiny_settings(**changes)
    with CheckpointStore(root).open(
        settings.shaping(images.content_hash),
        {},
        settings.budget_images,
        settled_images=settings.settled_images,
    ) as folder:
        spec = model_spec(images, settings)
        training = TrainingRun(images, folder, Tracker(), settings, spec, Team())
        return training(lambda: signal.SIGINT if training.state.step == step else 0)
