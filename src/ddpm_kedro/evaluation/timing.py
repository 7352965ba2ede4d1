"""How long an evaluation will take, from a second's work on little parts of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.evaluation.denoising_loss import denoising_loss
from ddpm_kedro.evaluation.distribution import distribution_scores
from ddpm_kedro.evaluation.feature_store import FeatureStore
from ddpm_kedro.evaluation.features import FeatureExtractor, PrincipalComponents
from ddpm_kedro.evaluation.neighbours import QUERY_ROWS, nearest_features, nearest_neighbours
from ddpm_kedro.evaluation.set_features import keyed_sets
from ddpm_kedro.evaluation.sets import ComparedSets
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.progress import hidden

FEW, MORE = 64, 512  # images whose features are timed
MOST_NUMBERS = 1 << 23  # in the images that are searched for a measure: few cost more each
NETWORK_ROWS, NETWORK_LEVELS = 16, 3
SCORED = 256  # images whose scores are timed
# How the cost of scores grows with the number of images, measured from 256 to 2,000
GROWTH = {("mind",): 1.0, ("kid", "coverage", "recall"): 1.5, ("frechet",): 0.5}


def predicted_seconds(
    samples: np.ndarray,
    train: ImageSet,
    test: ImageSet,
    denoiser: Denoiser,
    extractor: FeatureExtractor,
    settings: EvaluationSettings,
    sets: ComparedSets,
    store: FeatureStore | None = None,
    **of_loss: Any,
) -> float:
    """What an evaluation of these will take; `of_loss` says how the denoiser runs.

    `extractor` stays as it is; features that `store` has take no time.
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
        queries = train.images[:QUERY_ROWS]
        a_pair = _seconds(lambda: nearest_neighbours(queries, references, of_loss["device"]))
        a_pair /= len(queries) * len(references)
        total = a_pair * sum(queried) * len(train) + a_call * sum(denoised) * settings.noise_levels
        keyed = list(keyed_sets(sets, test))
        everything = sum(len(images) for images, _ in keyed)
        if not extractor.uses_pixels:  # these are compared besides
            missing = sum(
                len(images)
                for images, key in keyed
                if store is None or not store.holds(extractor, images, key)
            )
            total += _seconds_of_features(extractor, sets, missing)
            total += _seconds_of_scores(extractor, sets, GROWTH)
        pixels = deepcopy(extractor) if extractor.uses_pixels else PrincipalComponents()
        families = GROWTH if extractor.uses_pixels else [("frechet",)]
        total += _seconds_of_features(pixels, sets, everything)
        return total + _seconds_of_scores(pixels, sets, families)


def _seconds_of_features(extractor: FeatureExtractor, sets: ComparedSets, count: int) -> float:
    """Of making `count` features."""
    pool = sets.train.images[sets.pool_rows[: MORE if extractor.uses_pixels else FEW]]
    # What a fit costs whatever the number of images is told apart by two of them.
    few = _seconds(lambda: extractor.fit(pool[:FEW]))
    more = _seconds(lambda: extractor.fit(pool))
    an_image = max(more - few, 0.0) / max(len(pool) - FEW, 1)
    turned = _seconds(lambda: list(extractor.features(pool))) / len(pool)
    return few + an_image * len(sets.pool_rows) + turned * count


def _seconds_of_scores(
    extractor: FeatureExtractor, sets: ComparedSets, families: Iterable[tuple[str, ...]]
) -> float:
    """Of the scores of features, told by fewer random ones; `extractor` is fitted."""
    size = next(iter(extractor.features(sets.samples[:2]))).shape[1]
    count = max(2, min(SCORED, len(sets.samples) // 4))
    share, pool = len(sets.samples) / count, len(sets.pool_rows) // len(sets.samples)
    drawn = np.random.default_rng(0).standard_normal(((2 + pool) * count, size), np.float32)
    some, real = np.split(drawn[: 2 * count], 2), drawn[2 * count :]
    total = 0.0
    for names in families:
        started_at = time.perf_counter()
        distribution_scores(*some, real, names=names)
        total += (time.perf_counter() - started_at) * share ** GROWTH[names]
    if not extractor.uses_pixels:
        total += 2 * _seconds(lambda: nearest_features(some[0], real)) * share**2
    return total


def _seconds(work: Callable[[], object]) -> float:
    work()  # the first time chooses kernels and allocates
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at
