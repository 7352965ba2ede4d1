"""Images kept back from training, and the loss on them with noise that never changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.noise import Stream, normal, uniform
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.diffusion.timesteps import TimestepSampling
from ddpm_kedro.images.pixels import normalise


def split_rows(num_images: int, fraction: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, ascending, and rows held out, in the order of their hash; int32.

    An image is held out by a hash of its row number, so the choice depends on no seed, and runs
    with other seeds compare. At least one image stays for training. The held-out loss gives low
    noise to the first rows and high noise to the last: images often lie sorted by class, so that
    ascending rows would show it some classes at low noise only. Held out are the share `fraction`
    in [0, 1) of N >= 1 images, at most `most`.
    """
    count = min(round(fraction * num_images), most, num_images - 1)
    rows = np.arange(num_images, dtype=np.int32)
    if count == 0:
        return rows, rows[:0]
    hashes = _hash(num_images)
    held_out = np.argpartition(hashes, count - 1)[:count]
    held_out = held_out[np.argsort(hashes[held_out])]
    return np.delete(rows, held_out), rows[held_out]


def _hash(count: int) -> np.ndarray:
    """The mixing function of splitmix64 (Steele et al. 2014) over 0..count-1, uint64."""
    z = np.arange(1, count + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z ^= z >> np.uint64(shift)  # in place: a million images should cost few copies
        z *= np.uint64(factor)
    return z


@dataclass
class HeldOutLoss:
    """Mean training loss over the held-out images, each with a fixed t and fixed noise."""

    images: np.ndarray  # uint8 (N, C, H, W), memory-mapped or not; only `rows` are read
    labels: np.ndarray | None  # int64 (N,)
    rows: np.ndarray  # int32 (M,), M >= 1; t may rise along them
    timesteps: TimestepSampling  # as in training; its uniforms are fixed here
    seed: int  # of t and noise
    batch_size: int  # images of one forward pass

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, precision: Precision) -> float:
        """The loss of `denoiser` as it stands, which is put into eval mode meanwhile."""
        was_training = denoiser.training
        denoiser.eval()
        device = next(denoiser.parameters()).device
        total = torch.zeros((), dtype=torch.float32, device=device)
        try:
            for first in range(0, len(self.rows), self.batch_size):
                rows = self.rows[first : first + self.batch_size]
                numbers = torch.arange(first, first + len(rows), device=device)
                x0 = normalise(torch.from_numpy(self.images[rows]).to(device))
                u = uniform(self.seed, Stream.HELD_OUT_TIMESTEP, 0, numbers)
                t = self.timesteps(u, numbers, len(self.rows), denoiser.schedule)
                noise = normal(self.seed, Stream.HELD_OUT, 0, numbers, x0.shape[1:])
                labels = None
                if self.labels is not None:
                    labels = torch.from_numpy(self.labels[rows]).to(device)
                with precision.autocast():
                    total += denoiser.loss(x0, t, noise, labels).sum()
        finally:
            denoiser.train(was_training)
        return float(total) / len(self.rows)
