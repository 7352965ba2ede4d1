"""The sampling nodes: images from the model, and a picture of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ddpm_kedro.diffusion.settings import SamplingSettings
from ddpm_kedro.images.grid import make_grid

if TYPE_CHECKING:
    from ddpm_kedro.diffusion.model import Model
else:  # Kedro reads the annotations at every start, which does without torch
    Model = Any

LOGGER = logging.getLogger(__name__)


def sample_images(model: Model, parameters: SamplingSettings) -> tuple[np.ndarray, dict[str, Any]]:
    """Images that the model draws, uint8 (N, C, H, W), values 0..255, and their card: who made them
    and how. Image i depends on the seed and i, not on batch_size; the weights were chosen when the
    model was loaded."""
    from ddpm_kedro.diffusion.precision import choose_device, choose_precision
    from ddpm_kedro.evaluation.cards import samples_card

    device = choose_device(parameters.device)
    precision = choose_precision(parameters.precision, device).name
    sampler = model.drawn_with(parameters.sampler, parameters.num_steps)
    guidance: Any = parameters.guidance
    if guidance is not None and parameters.guidance_interval is not None:
        guidance = {"scale": guidance, "interval": list(parameters.guidance_interval)}
    LOGGER.info("drawing %d images with %s", parameters.num_samples, _way(sampler, parameters))
    samples = model.sample(
        parameters.num_samples,
        seed=parameters.seed,
        sampler=sampler,
        batch_size=parameters.batch_size,
        labels=_class_asked(parameters.label, model.spec.classes),
        guidance=guidance,
        device=device,
        precision=precision,
        progress=True,
    )
    card = samples_card(
        samples,
        model,
        num_samples=parameters.num_samples,
        seed=parameters.seed,
        sampler=sampler,
        guidance=guidance,
        label=parameters.label,
        precision=precision,
    )
    return samples, card


def _way(sampler: Mapping[str, Any], parameters: SamplingSettings) -> str:
    """Which sampler draws, in how many steps, and who says so."""
    name = sampler["type"].rpartition(".")[2]
    whose = "the model's own sampler" if parameters.sampler is None else "as asked"
    source = "" if parameters.num_steps is None else " (sampling.num_steps)"
    return f"{name}, {whose}, in {sampler.get('num_steps', 'its own')} steps{source}"


def _class_asked(label: int | str | None, classes: Sequence[str]) -> int | str | None:
    """Names come before numbers: 1 is the class named 1, or 01 as it was typed, if there is one."""
    if label is None or label in classes:
        return label
    named = (name for name in classes if name.isdecimal() and int(name) == label)
    return next(named, label)


def draw_grid(samples: np.ndarray, parameters: SamplingSettings) -> Image.Image:
    """The first `grid_images` samples as one picture."""
    return make_grid(samples[: parameters.grid_images])
