"""How images are drawn from a model, in one checked object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ddpm_kedro.ranges import (
    Check,
    Count,
    CountOrZero,
    Device,
    NotNegative,
    Positive,
    Precision,
    Seed,
    Settings,
    Table,
    Text,
    checked,
)


def _label(value: Any) -> int | str:
    return value if isinstance(value, str) else checked(CountOrZero, value)


def _interval(value: Any) -> tuple[float, float]:
    if isinstance(value, list | tuple) and len(value) == 2:
        low, high = (checked(NotNegative, level) for level in value)
        if low < high:
            return low, high
    raise ValueError("give two noise levels sigma / alpha, the lower one first, as in [0.2, 5]")


@dataclass(frozen=True)
class SamplingSettings(Settings):
    """How images are drawn from the model."""

    section: ClassVar[str] = "sampling"

    num_samples: Count
    num_steps: Count | None
    """Steps of whichever sampler draws; None: the sampler's own number."""
    batch_size: Count
    """Images drawn at once; it changes memory and speed, not the images."""
    precision: Precision
    """Of the network's arithmetic; in half precision the last bits depend on the batch size."""
    seed: Seed
    weights: Text
    """Which weights of the model file: ema, raw, another average's name, or best: the averages at
    the lowest quick score of training."""
    grid_images: Count
    """Images in the picture sample_grid."""
    label: Annotated[int | str, Check(_label)] | None
    """Class of all images: its name, or its number 0.. where no class is named so; None: every
    class in turn. Conditional only."""
    guidance: Positive | None
    """Scale of classifier-free guidance, 1 is none; needs label_dropout. Conditional only."""
    guidance_interval: Annotated[tuple[float, float], Check(_interval)] | None
    """Noise levels sigma / alpha between which images are guided; None: at all of them."""
    sampler: Table | None
    """What draws: an option, or arguments (a table without a type) that change the model file's own
    sampler; None: that one as it is. In YAML a short name from `samplers` will do, and `sampler` in
    conf/local or on the command line is told to sampling too."""
    device: Device
