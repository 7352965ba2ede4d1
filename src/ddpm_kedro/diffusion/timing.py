"""How long drawing will take, from a few steps of it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.diffusion.samplers.sampler import DenoiserLike

MOST_SECONDS = 1.0
MOST_STEPS = 4


class _Enough(Exception):
    """Raised out of a walk of which enough is known."""


def seconds_of_sampling(
    solver: Sampler,
    denoiser: DenoiserLike,
    image_shape: Sequence[int],
    num_samples: int,
    *,
    at_once: int,
    labels: Tensor | None,
    device: torch.device,
) -> float | None:
    """What drawing will take, from up to three warm steps of the sampler.

    Everything in a step counts: network, guidance, noise, thresholding. The first one is cold and
    left out where there is another. None for a sampler that does not tell of its steps.

    Images are (C, H, W), `at_once` of them in one pass through the network (so many are timed),
    `labels` (num_samples,) int64, or None for an unconditional model.
    """
    times = [time.perf_counter()]

    def on_step(number: int, x: Tensor) -> None:
        if device.type == "cuda":  # pragma: cuda only
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
        is_long = times[-1] - times[0] > MOST_SECONDS and len(times) > 2
        if is_long or len(times) > MOST_STEPS:
            raise _Enough

    rows = torch.arange(at_once)
    given = None if labels is None else labels[rows % num_samples]
    with contextlib.suppress(_Enough):
        solver.sample(denoiser, image_shape, rows, 0, given, device=device, on_step=on_step)
    warm = times[1:] if len(times) > 2 else times
    if len(warm) < 2:
        return None
    step_seconds = (warm[-1] - warm[0]) / (len(warm) - 1)
    return step_seconds * solver.num_steps * math.ceil(num_samples / at_once)
