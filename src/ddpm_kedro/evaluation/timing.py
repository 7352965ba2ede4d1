"""How long an evaluation will take, from a second's work on little parts of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy

import numpy as np

from ddpm_kedro.evaluation.denoising_loss import DenoisingLoss
from ddpm_kedro.evaluation.features import FeatureExtractor
from ddpm_kedro.evaluation.memorisation import QUERY_ROWS, nearest_neighbours

FEW, MORE = 64, 512  # images whose features are timed
MOST_NUMBERS = 1 << 21  # in the images that are searched for a measure
NETWORK_ROWS = 16


def seconds_of_features(
    extractor: FeatureExtractor, images: np.ndarray, num_fitted: int, num_turned: int
) -> float:
    """Of fitting on so many images and turning so many into features.

    Args:
        extractor: stays as it is.
        images: uint8 (N, C, H, W), N >= 2, some of which are used.
        num_fitted, num_turned: images.
    """
    extractor = deepcopy(extractor)

    def fit(count: int) -> float:
        return _seconds(lambda: extractor.fit(images[:count]))

    # What a fit costs whatever the number of images is told apart by two of them.
    fit(FEW)
    few, more = fit(FEW), fit(MORE)
    count = len(images[:MORE])
    turned = _seconds(lambda: list(extractor.features(images[:MORE])))
    an_image = max(more - few, 0.0) / max(count - FEW, 1)
    return few + an_image * num_fitted + turned / count * num_turned


def seconds_of_neighbours(references: np.ndarray, num_queries: int) -> float:
    """Of finding the nearest of ``references``, uint8 (M, C, H, W), to so many images."""
    few = references[: max(1, MOST_NUMBERS // int(np.prod(references.shape[1:])))]
    rows = min(num_queries, len(few), QUERY_ROWS)
    nearest_neighbours(few[:1], few[:1])
    seconds = _seconds(lambda: nearest_neighbours(few[:rows], few))
    return seconds / (rows * len(few)) * num_queries * len(references)


def seconds_of_denoising(measure: Callable[[int], DenoisingLoss], num_calls: int) -> float:
    """Of so many images through a network.

    Args:
        measure: the denoising loss on so many images.
        num_calls: images times levels of noise.
    """
    measure(NETWORK_ROWS)  # the first time chooses kernels and allocates
    started_at = time.perf_counter()
    loss = measure(NETWORK_ROWS)
    seconds = time.perf_counter() - started_at
    return seconds / (loss.num_images * len(loss.x0)) * num_calls


def _seconds(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at
