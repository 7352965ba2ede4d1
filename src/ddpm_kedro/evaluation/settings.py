"""How samples and model are judged, in one checked object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ddpm_kedro.ranges import Count, Device, Option, Precision, Seed, Settings, number


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """How samples and model are judged."""

    section: ClassVar[str] = "evaluation"

    features: Option
    """What images are compared by: the chosen entry of `feature_extractors`."""
    max_images: Annotated[int, number(int, least=2)] | None
    """Samples that are compared, with as many real images; None takes all."""
    neighbour_images: Annotated[int, number(int, least=2)]
    """Samples, and held-out images, whose nearest training image is searched in pixels."""
    denoising_images: Count
    """Images of each split on which the denoising loss is measured."""
    noise_levels: Annotated[int, number(int, least=3)]
    """Levels of noise at which it is measured."""
    batch_size: Count
    """Images in one forward pass of the network; it changes memory and speed only."""
    precision: Precision
    """Of the network's arithmetic in the denoising loss."""
    seed: Seed
    """Of the noise, and of the draws of real images that samples are compared with."""
    device: Device
