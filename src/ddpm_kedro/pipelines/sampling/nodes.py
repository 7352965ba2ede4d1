"""The sampling nodes: images from the model, and a picture of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.parameters import SamplingParameters
from ddpm_kedro.training.precision import choose_device, choose_precision

logger = logging.getLogger(__name__)


def sample_images(model: Model, parameters: SamplingParameters) -> np.ndarray:
    """Draw images; the weights were chosen when the model was loaded.

    Returns:
        uint8 (N, C, H, W), values 0..255. Image i depends on the seed and i, not on batch_size.
    """
    device = choose_device(parameters.device)
    logger.info("drawing %d images with %s", parameters.num_samples, _way(model, parameters))
    return model.sample(
        parameters.num_samples,
        seed=parameters.seed,
        sampler=parameters.sampler,
        num_steps=parameters.num_steps,
        batch_size=parameters.batch_size,
        labels=_class_asked(parameters.label, model.spec.classes),
        guidance=parameters.guidance,
        device=device,
        precision=choose_precision(parameters.precision, device).name,
        progress=True,
    )


def _way(model: Model, parameters: SamplingParameters) -> str:
    """Which sampler draws, in how many steps, and who says so."""
    option = model.drawn_with(parameters.sampler, parameters.num_steps)
    name = option["type"].rpartition(".")[2]
    whose = "the model's own sampler" if parameters.sampler is None else "as asked"
    return f"{name}, {whose}, in {option.get('num_steps', 'its own')} steps" + (
        "" if parameters.num_steps is None else " (sampling.num_steps)"
    )


def _class_asked(label: int | str | None, classes: Sequence[str]) -> int | str | None:
    """Names come before numbers: 1 is the class named 1, or 01 as it was typed, if there is one."""
    if label is None or label in classes:
        return label
    named = (name for name in classes if name.isdecimal() and int(name) == label)
    return next(named, label)


def draw_grid(samples: np.ndarray, parameters: SamplingParameters) -> Image.Image:
    """The first ``grid_images`` samples as one picture."""
    return make_grid(samples[: parameters.grid_images])
