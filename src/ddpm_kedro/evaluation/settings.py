"""How samples and model are judged, in one checked object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ddpm_kedro.ranges import (
    Count,
    Device,
    Option,
    Positive,
    Precision,
    Seed,
    Settings,
    Text,
    kept,
    number,
)


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
    every_kimg: Positive | None
    """Thousands of images between quick scores while training; None: no such scores."""
    batch_size: Count
    """Images in one forward pass of the network; it changes memory and speed only."""
    precision: Precision
    """Of the network's arithmetic in the denoising loss."""
    seed: Seed
    """Of the noise, and of the draws of real images that samples are compared with."""
    device: Device


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


@dataclass(frozen=True)
class CompareSettings(Settings):
    """Which runs the pipeline `compare` puts side by side, and where the page goes."""

    section: ClassVar[str] = "compare"

    runs: Annotated[list[str], kept((_are_texts, "give a list of folders or trials"))]
    """Folders of runs, trials of sweeps, or either as `NAME=folder`."""
    output: Text
    """The folder for comparison.html, comparison.json and film_strip.webp."""
