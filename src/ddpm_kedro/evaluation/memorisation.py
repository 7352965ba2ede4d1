"""Memorisation: are samples copies of training images, or of each other?

A sample is a near copy where its nearest training image is much nearer than the tenth, more so than
for 99 of 100 images that the model never saw. Distances alone would not tell: blurred images, and
those of a model that has learned little, are near to many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from ddpm_kedro.evaluation.neighbours import Neighbours, nearest_features, nearest_neighbours
from ddpm_kedro.evaluation.set_features import SetFeatures
from ddpm_kedro.evaluation.sets import ComparedSets
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.rows import spread

QUANTILE = 0.01  # of held-out images, that lie as near to one training image as a near copy
CHANCE = 1e-3  # that new images exceed the limit


def near_copies(samples: np.ndarray, held_out: np.ndarray) -> tuple[int, int]:
    """How many samples are nearer, relatively, than 99% of held-out images, and how many may be.

    Both are `Neighbours.relative`, (n,) and (m,); the threshold is the k-th smallest of the latter,
    k = 1% of m. New images exceed the second number at most once in 1,000 times.
    """
    rank = max(1, round(QUANTILE * len(held_out)))
    threshold = np.partition(held_out, rank - 1)[rank - 1]
    return int((samples < threshold).sum()), _limit(len(samples), len(held_out), rank)


def _limit(count: int, others: int, rank: int) -> int:
    """Least x with P(X > x) <= 1 in 1,000, where X of `count` values lie below the `rank`-th
    smallest of `others`, all of one distribution: X is beta-binomial, with
    P(X = j + 1) / P(X = j) = (k + j) (n - j) / ((j + 1) (m - k + n - j))."""
    j = np.arange(count)
    ratios = (rank + j) * (count - j) / ((j + 1) * (others - rank + count - j))
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    weights = np.exp(logarithms - logarithms.max())
    above = 1 - np.cumsum(weights) / weights.sum()  # P(X > x)
    return int(np.argmax(above <= CHANCE))


@dataclass(frozen=True, eq=False)
class Closeness:
    """The nearest training images of samples and of held-out images, in pixels or in features."""

    samples: Neighbours
    held_out: Neighbours
    sample_rows: np.ndarray
    """int64, which samples these are."""
    held_out_rows: np.ndarray
    """int64, which held-out images these are."""

    def or_mirrored(self, mirrored: Closeness) -> Closeness:
        """Of each image the nearer one."""
        samples = self.samples.or_mirrored(mirrored.samples)
        held_out = self.held_out.or_mirrored(mirrored.held_out)
        return replace(self, samples=samples, held_out=held_out)

    def near_copies(self, prefix: str = "") -> dict[str, int]:
        """Metrics, their names after `prefix`."""
        found, limit = near_copies(self.samples.relative, self.held_out.relative)
        return {f"{prefix}near_copies": found, f"{prefix}near_copies_limit": limit}


def pixel_closeness(
    samples: np.ndarray, train: ImageSet, test: ImageSet, most: int, device: torch.device | str
) -> tuple[Closeness, Closeness]:
    """Of at most `most` samples and as many held-out images, against all training images: as they
    are, and mirrored."""
    rows = [spread(np.arange(len(images)), most) for images in (samples, test)]
    queries = np.concatenate([samples[rows[0]], test.images[rows[1]]])
    plain, mirrored = (
        Closeness(found[: len(rows[0])], found[len(rows[0]) :], *rows)
        for found in nearest_neighbours(queries, train.images, device)
    )
    return plain, mirrored


def feature_closeness(
    features: SetFeatures,
    sets: ComparedSets,
    num_samples: int,
    num_held_out: int,
    device: torch.device | str,
) -> Closeness:
    """Of the samples and the held-out images whose `features` there are, against those training
    images that were compared."""
    training, rows = features.training(sets)
    found = (
        nearest_features(part, training, device) for part in (features.samples, features.held_out)
    )
    return Closeness(
        *(replace(part, index=rows[part.index]) for part in found),
        spread(np.arange(num_samples), len(features.samples)),
        sets.reference_rows if sets.held_out else np.arange(num_held_out),
    )


def copies(plain: Closeness, mirrored: Closeness) -> dict[str, int]:
    """Metrics: how many images equal a training image byte for byte, or its mirror image."""
    is_copy, is_mirrored = plain.samples.distance == 0, mirrored.samples.distance == 0
    return {
        "copies_of_training": int(is_copy.sum()),
        "mirrored_copies_of_training": int((is_mirrored & ~is_copy).sum()),
        "copies_in_held_out": int((plain.held_out.distance == 0).sum()),
    }


def closest_pairs(
    closeness: Closeness, samples: np.ndarray, train: ImageSet, count: int
) -> list[dict[str, Any]]:
    """The samples that look most like copies, and the training image of each: their `distance`,
    how many `grey_levels` they are apart, and whether one is more like the other `mirrored`."""
    found = closeness.samples
    pairs = []
    for place in np.argsort(found.relative, kind="stable")[:count]:
        sample, training = int(closeness.sample_rows[place]), int(found.index[place])
        ours, other = samples[sample].astype(np.float64), train.images[training]
        plain, mirrored = (
            float(np.sqrt(np.square(way - other).mean())) for way in (ours, ours[..., ::-1])
        )
        pairs.append(
            {
                "sample": sample,
                "training": training,
                "distance": float(found.distance[place]),
                "grey_levels": min(plain, mirrored),
                "mirrored": mirrored < plain,
            }
        )
    return pairs


def excess_closeness(samples: np.ndarray, held_out: np.ndarray) -> float:
    """max_x (F_samples(x) - F_held_out(x)) of two sets of distances, in [0, 1].

    The one-sided Kolmogorov-Smirnov statistic: 0 where no share of the samples is closer than the
    same share of the held-out images, 1 where every sample is closer than every held-out image.
    """
    points = np.concatenate([samples, held_out])
    return float(max(0.0, (_share_below(samples, points) - _share_below(held_out, points)).max()))


def count_duplicates(images: np.ndarray) -> int:
    """How many images equal an earlier one byte for byte; 0 where all differ."""
    return len(images) - len({sha256(image.tobytes()).digest() for image in images})


def _share_below(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), points, side="right") / len(values)
