"""Features of the sets of one comparison, from a store where they were made before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ddpm_kedro.evaluation.feature_store import FeatureStore
from ddpm_kedro.evaluation.features import FeatureExtractor
from ddpm_kedro.evaluation.features.extractor import features_of
from ddpm_kedro.evaluation.sets import ComparedSets
from ddpm_kedro.images.imageset import ImageSet


@dataclass(frozen=True, eq=False)
class SetFeatures:
    """Features (n, d) of samples, reference, pool, and of images that the model never saw."""

    samples: np.ndarray
    reference: np.ndarray
    pool: np.ndarray
    held_out: np.ndarray

    @classmethod
    def made(
        cls,
        extractor: FeatureExtractor,
        sets: ComparedSets,
        test: ImageSet,
        store: FeatureStore | None = None,
    ) -> SetFeatures:
        """Features by `extractor`, which is fitted on the pool. Held-out images are the reference,
        or all of `test` where these are too few for one. InputError as
        `ddpm_kedro.evaluation.features.extractor.features_of`."""
        extractor.fit(sets.pool)
        found = [
            store.features(extractor, images, key) if store else features_of(extractor, images)
            for images, key in keyed_sets(sets, test)
        ]
        return cls(*found, *(found[1:2] if sets.held_out else ()))

    def training(self, sets: ComparedSets) -> tuple[np.ndarray, np.ndarray]:
        """Features of training images, the pool and a reference of such, and their row numbers
        among all training images."""
        if sets.held_out:
            return self.pool, sets.pool_rows
        return (
            np.concatenate([self.pool, self.reference]),
            np.concatenate([sets.pool_rows, sets.reference_rows]),
        )


def keyed_sets(sets: ComparedSets, test: ImageSet) -> Iterator[tuple[np.ndarray, str]]:
    """Yield images and what a store knows them by: samples, reference, pool, and held-out images
    where the reference are none."""
    yield sets.samples, _digest(sets.samples)
    of_set, rows = sets.reference_set.content_hash, sets.reference_rows
    yield sets.reference, f"{of_set} {_digest(rows)}"
    yield sets.pool, f"{sets.train.content_hash} {_digest(sets.pool_rows)}"
    if not sets.held_out:
        yield test.images, test.content_hash


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
