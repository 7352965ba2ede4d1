"""How long an evaluation will take, from a second's work on little parts of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.evaluation.denoising_loss import denoising_loss
from ddpm_kedro.evaluation.features import FeatureExtractor
from ddpm_kedro.evaluation.memorisation import QUERY_ROWS, nearest_neighbours
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.progress import hidden

FEW, MORE = 64, 512  # images whose features are timed
MOST_NUMBERS = 1 << 21  # in the images that are searched for a measure
NETWORK_ROWS, NETWORK_LEVELS = 16, 3


def predicted_seconds(
    samples: np.ndarray,
    train: ImageSet,
    test: ImageSet,
    denoiser: Denoiser,
    extractor: FeatureExtractor,
    settings: EvaluationSettings,
    **of_loss: Any,
) -> float:
    """What an evaluation of these will take; `of_loss` says how the network runs.

    `extractor` stays as it is.
    """
    queried = [min(len(images), settings.neighbour_images) for images in (samples, test)]
    denoised = [min(len(images), settings.denoising_images) for images in (train, test)]
    some, labels = train.images[:NETWORK_ROWS], train.labels
    some_labels = None if labels is None else labels[:NETWORK_ROWS]
    with hidden():
        a_call = _seconds(
            lambda: denoising_loss(
                denoiser, some, some_labels, num_levels=NETWORK_LEVELS, **of_loss
            )
        ) / (len(some) * NETWORK_LEVELS)
        references = train.images[: max(1, MOST_NUMBERS // train.images[0].size)]
        queries = references[:QUERY_ROWS]
        a_pair = _seconds(lambda: nearest_neighbours(queries, references))
        a_pair /= len(queries) * len(references)
        counts = [
            len(images[: settings.max_images]) for images in (train.images, samples, test.images)
        ]
        return (
            _seconds_of_features(deepcopy(extractor), train.images, counts[0], sum(counts))
            + a_pair * sum(queried) * len(train)
            + a_call * sum(denoised) * settings.noise_levels
        )


def _seconds_of_features(
    extractor: FeatureExtractor, images: np.ndarray, num_fitted: int, num_turned: int
) -> float:
    some = images[: min(num_fitted, MORE if extractor.uses_pixels else FEW)]
    # What a fit costs whatever the number of images is told apart by two of them.
    few = _seconds(lambda: extractor.fit(some[:FEW]))
    more = _seconds(lambda: extractor.fit(some))
    turned = _seconds(lambda: list(extractor.features(some)))
    an_image = max(more - few, 0.0) / max(len(some) - FEW, 1)
    return few + an_image * num_fitted + turned / len(some) * num_turned


def _seconds(work: Callable[[], object]) -> float:
    work()  # the first time chooses kernels and allocates
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at
