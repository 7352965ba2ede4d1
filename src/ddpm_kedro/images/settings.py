"""What is made of the images, in one checked object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ddpm_kedro.ranges import Count, Settings, choice, number


@dataclass(frozen=True)
class PreparationSettings(Settings):
    """How images become arrays."""

    section: ClassVar[str] = "preparation"

    image_size: Count | None
    """Side in pixels; images are cropped to a square and resized. None keeps their height and
    width, which must then be the same for all."""
    test_fraction: Annotated[float, number(float, above=0, below=1)]
    """Share of the images that become the test split where the source has none of its own: those
    whose prepared pixels' hash, read as a number in [0, 1), is below it. So order does not matter,
    and equal images are on the same side."""
    channels: Annotated[int, choice(1, 3, 4)] | None
    """1 grey, 3 RGB, 4 RGBA (otherwise transparent pixels are laid over white). None is 1 if all
    images are grey, else 3."""
    max_images: Annotated[int, number(int, least=2)] | None
    """At most so many images of each split, evenly spaced through it; None takes all."""
    max_unreadable: Annotated[float, number(float, least=0, most=1)]
    """Share of the images that may be broken: they are left out and named. Above it: refused."""
