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
    """Images of each set that it uses; None takes all."""
    neighbour_images: Annotated[int, number(int, least=2)]
    """Samples, and held-out images, whose nearest training image is searched."""
    denoising_images: Count
    """Images of each split on which the denoising loss is measured."""
    noise_levels: Annotated[int, number(int, least=3)]
    """Levels of noise at which it is measured."""
    batch_size: Count
    """Images in one forward pass of the network; it changes memory and speed only."""
    precision: Precision
    """Of the network's arithmetic in the denoising loss."""
    seed: Seed
    """Of the noise and of the draws by which the floor of a distance is found."""
    device: Device
