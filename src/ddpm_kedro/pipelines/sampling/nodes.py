"""The sampling nodes: images from the model, and a picture of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ddpm_kedro.diffusion.model import USUAL_SAMPLERS, Model
from ddpm_kedro.evaluation.cards import samples_card
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.parameters import SamplingParameters
from ddpm_kedro.training.precision import choose_device


def sample_images(
    model: Model, parameters: SamplingParameters
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw images; the weights were chosen when the model was loaded.

    Returns:
        uint8 (N, C, H, W), values 0..255 (image i depends on the seed and i, not on batch_size);
        their card, which says who made them and how.
    """
    sampler = _sampler_used(model, parameters)
    samples = model.sample(
        parameters.num_samples,
        seed=parameters.seed,
        sampler=sampler,
        batch_size=parameters.batch_size,
        labels=parameters.label,
        guidance=parameters.guidance,
        device=choose_device(parameters.device),
        progress=True,
    )
    card = samples_card(
        samples,
        model,
        num_samples=parameters.num_samples,
        seed=parameters.seed,
        sampler=sampler,
        guidance=parameters.guidance,
        label=parameters.label,
    )
    return samples, card


def _sampler_used(model: Model, parameters: SamplingParameters) -> dict[str, Any]:
    """The option of the sampler, as it is both used and recorded."""
    option = dict(
        parameters.sampler or model.spec.sampler or USUAL_SAMPLERS[model.denoiser.schedule.family]
    )
    if parameters.num_steps is not None:
        option["num_steps"] = parameters.num_steps
    return option


def draw_grid(samples: np.ndarray, parameters: SamplingParameters) -> Image.Image:
    """The first ``grid_images`` samples as one picture."""
    return make_grid(samples[: parameters.grid_images])
