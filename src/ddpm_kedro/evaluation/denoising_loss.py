"""Denoising loss on images the model has not seen, level of noise by level of noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.execution import tiled
from ddpm_kedro.diffusion.lanes import Lanes
from ddpm_kedro.diffusion.noise import Stream, normal
from ddpm_kedro.diffusion.noise_schedule import perturb, real_dtype
from ddpm_kedro.diffusion.precision import autocast, product_mode, told_out_of_memory
from ddpm_kedro.errors import InputError
from ddpm_kedro.heap import kept_heap
from ddpm_kedro.images.pixels import normalise
from ddpm_kedro.progress import Progress


@dataclass(frozen=True)
class DenoisingLoss:
    """Errors of a denoiser at K levels of noise, each a mean over the same `num_images` images.

    All are float64 (K,): `log_snr`, ln(alpha^2 / sigma^2) of the levels, falls from clean to noisy;
    `objective` is the loss that training minimises, its loss weight included; `x0` the mean square
    error of the estimate of x_0, pixels in [-1, 1]; `eps` that of the noise which the estimate
    implies, alpha^2 / sigma^2 times `x0`: the loss of Ho et al. 2020, eq. 14, whatever the network
    predicts, so that models with different objectives compare.
    """

    log_snr: np.ndarray
    objective: np.ndarray
    x0: np.ndarray
    eps: np.ndarray
    num_images: int

    def by_noise(self) -> dict[str, tuple[float, float]]:
        """Mean (objective, eps) over the third of the levels with least, medium and most noise."""
        parts = zip(np.array_split(self.objective, 3), np.array_split(self.eps, 3), strict=True)
        means = [(float(own.mean()), float(eps.mean())) for own, eps in parts]
        return dict(zip(("low", "medium", "high"), means, strict=True))


@torch.no_grad()
@kept_heap()
def denoising_loss(
    denoiser: Denoiser,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    num_levels: int = 12,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    description: str = "denoising loss",
) -> DenoisingLoss:
    """Measure a denoiser on every image, uint8 (N, C, H, W), at each of `num_levels` >= 3 levels.

    The levels are the middles of equal parts of the schedule's own training times, so the plain
    mean over them estimates the training loss under uniform timesteps. Image i at level k always
    gets the same noise (a function of `seed`, k and i), so two models, or two sets of images,
    differ by what they are and not by luck, and `batch_size` changes nothing but rounding.

    `labels`, int64 (N,), are told to a denoiser that was trained with some. The network computes in
    `precision` ("fp32", "bf16", "fp16"), all else in fp32 or wider; the denoiser is left in
    evaluation mode on `device`. InputError where there is no image or a number is below its range.
    """
    if not len(images) or num_levels < 3 or batch_size < 1:
        raise InputError(
            f"a denoising loss needs images, num_levels >= 3 and batch_size >= 1, "
            f"not {len(images)}, {num_levels}, {batch_size}"
        )
    denoiser.to(device).eval()
    schedule = denoiser.schedule
    middles = (torch.arange(num_levels, dtype=torch.float64) + 0.5) / num_levels
    times = schedule.from_uniform(middles).sort().values  # (K,), from clean to noisy
    sums = torch.zeros(num_levels, dtype=torch.float64)
    device_type = torch.device(device).type
    lanes = Lanes(torch.get_num_threads())
    if device_type == "cpu":
        denoiser = tiled(denoiser, images.shape[2] * images.shape[3], lanes)
    work, at_once = num_levels * len(images), min(batch_size, len(images))
    with (
        lanes,
        told_out_of_memory("evaluation", at_once, device),
        Progress(work, "images", description, most_lines=1) as progress,
    ):
        for start in range(0, len(images), batch_size):
            rows = torch.arange(start, min(start + batch_size, len(images)))
            x0 = normalise(torch.from_numpy(images[start : start + batch_size].copy()).to(device))
            given = None
            if labels is not None and denoiser.num_classes is not None:
                given = torch.from_numpy(labels[start : start + batch_size].copy()).to(device)
            for level in range(num_levels):
                noise = normal(seed, Stream.HELD_OUT, level, rows, x0.shape[1:], device=device)
                time = times[level].to(dtype=real_dtype(device)).to(device).expand(len(rows))
                noisy = perturb(x0, noise, schedule.alpha(time), schedule.sigma(time))
                with autocast(precision, device_type), product_mode(precision):
                    estimate = denoiser(noisy, time, given)
                error = (estimate - x0).square().flatten(1).mean(1)  # (B,)
                sums[level] += error.cpu().to(torch.float64).sum()
                progress.update(len(rows))
    x0_error = sums / len(images)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    # Objectives are linear in x_0 and eps, so their losses are this error up to a known factor.
    weight = denoiser.loss_weight(alpha, sigma, denoiser.objective)
    objective = weight * x0_error / denoiser.objective.x0_loss_ratio(alpha, sigma)
    eps = (alpha / sigma) ** 2 * x0_error
    log_snr = schedule.log_snr(times)
    return DenoisingLoss(*(v.numpy() for v in (log_snr, objective, x0_error, eps)), len(images))
