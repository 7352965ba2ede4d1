"""Where a score stands beside what real images score: floor, interval, ratio, z and a word."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FEW_IMAGES = 500  # below this many, a score tells only what is far off
RESAMPLES = 50  # of the samples, for the deviations of scores without a formula for it


@dataclass(frozen=True)
class Standing:
    """A score of samples beside the floor: the same score of as many real images.

    The real images are scored against the same reference, so that a perfect model's samples and
    they are drawn from the same scores.
    """

    value: float
    floor: float
    """Mean score of sets of real images."""
    floor_std: float
    """Standard deviation of a perfect model's score from `floor`."""
    interval: float
    """Half the width of the interval around `value` that holds a perfect model's floor in 95 of
    100 draws: 1.96 deviations, of the value over fresh samples and of the floor."""
    ratio: float | None
    """`value` / `floor`, of scores that are positive and biased alike; None for others."""
    z: float
    """Deviations from the floor; positive is worse than real images, whatever the score."""
    word: str
    """"indistinguishable" (z up to 2), "close" (10), "far", "better than real images" (below -4);
    with fewer than 500 images only "far" or "not distinguishable"."""
    extras: Mapping[str, float] = field(default_factory=dict)
    """Further values, by what follows the score's name among the metrics."""

    @classmethod
    def of(
        cls,
        value: float,
        floors: Sequence[float] | np.ndarray,
        deviation: float,
        count: int,
        pool: int,
        *,
        ratio: float | None = None,
        larger_is_better: bool = False,
        extras: Mapping[str, float] | None = None,
    ) -> Standing:
        """Judge a score of `count` samples.

        `floors` are scores of random sets of `count` out of `pool` > `count` real images,
        `deviation` is that of `value` over fresh samples.
        """
        floor = float(np.mean(floors))
        share = count / pool
        # Subsets of a finite pool vary less than fresh sets, by 1 - share of the variance; and the
        # floor itself is uncertain: by the pool, which is finite, and by the few subsets of it.
        fresh = float(np.std(floors, ddof=1)) / math.sqrt(1 - share)
        if larger_is_better:  # a share of the images, known to one of them at best
            fresh = max(fresh, 1 / count)
        of_floor = fresh * math.sqrt(share + (1 - share) / len(floors))
        floor_std = math.hypot(fresh, of_floor)
        excess = (floor - value) if larger_is_better else (value - floor)
        z = (
            excess / floor_std
            if floor_std > 0
            else (math.copysign(math.inf, excess) if excess else 0.0)
        )
        # Near the floor the floor's own sets tell the deviation better than one set of samples can.
        interval = 1.96 * math.hypot(max(deviation, fresh), of_floor)
        word = _word(z, count)
        return cls(value, floor, floor_std, interval, ratio, z, word, dict(extras or {}))

    def metrics(self, name: str) -> dict[str, Any]:
        """Flat metrics: `name`, `name_floor`, `name_z` and so on."""
        found: dict[str, Any] = {
            name: self.value,
            f"{name}_floor": self.floor,
            f"{name}_floor_std": self.floor_std,
            f"{name}_interval": self.interval,
            f"{name}_z": self.z,
            f"{name}_verdict": self.word,
        }
        if self.ratio is not None:
            found[f"{name}_ratio"] = self.ratio
        return found | {f"{name}_{key}": value for key, value in self.extras.items()}


def _word(z: float, count: int) -> str:
    if count < FEW_IMAGES:
        return "far" if z > 10 else "not distinguishable"
    if z < -4:
        return "better than real images"
    if z <= 2:
        return "indistinguishable"
    return "close" if z <= 10 else "far"


def corrected_deviation(to_reference: float, to_samples: float) -> float:
    """Standard deviation over fresh samples of a score that is a squared distance.

    Takes two variances over resamples of the samples, drawn with replacement: of their distance to
    the reference, and to the samples. With a, b and c the errors of samples, reference and resample
    the score is |a - b|^2, which varies as |a|^2 and 2 a.b, where the bootstrap's |a + c - b|^2
    varies as |c|^2 and 2 c.(a - b): it takes the noise of the samples for a difference of the
    distributions. That adds 4 tr S^2, S the covariance of a, or twice the variance of |c|^2, the
    distance of resample and samples (exactly for Gaussian errors, as of means of many images). For
    equal distributions the plain bootstrap is 1.3 times too wide; for distant ones it is right, and
    the correction small beside it.
    """
    return math.sqrt(max(to_reference - 2 * to_samples, to_samples))


def resamples(count: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield row numbers (count,) of resamples of `count` samples, drawn with replacement."""
    for _ in range(RESAMPLES):
        yield generator.integers(count, size=count)
