"""The sampling nodes: images from the model, and a picture of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.parameters import SamplingParameters
from ddpm_kedro.training.precision import choose_device, choose_precision


def sample_images(model: Model, parameters: SamplingParameters) -> np.ndarray:
    """Draw images; the weights were chosen when the model was loaded.

    Returns:
        uint8 (N, C, H, W), values 0..255. Image i depends on the seed and i, not on batch_size.
    """
    device = choose_device(parameters.device)
    return model.sample(
        parameters.num_samples,
        seed=parameters.seed,
        sampler=parameters.sampler,
        num_steps=parameters.num_steps,
        batch_size=parameters.batch_size,
        labels=parameters.label,
        guidance=parameters.guidance,
        device=device,
        precision=choose_precision(parameters.precision, device).name,
        progress=True,
    )


def draw_grid(samples: np.ndarray, parameters: SamplingParameters) -> Image.Image:
    """The first ``grid_images`` samples as one picture."""
    return make_grid(samples[: parameters.grid_images])
