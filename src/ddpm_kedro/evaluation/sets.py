"""Which images are compared with which: samples, reference, and the real images of the floor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.distribution import SCORES_VERSION
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.rows import spread

POOL_SIZE = 5  # real images for the floor, in multiples of the samples compared, at most


@dataclass(frozen=True, eq=False)
class ComparedSets:
    """The sets of one comparison, chosen by `compared_sets`."""

    samples: np.ndarray
    """uint8 (n, C, H, W)."""
    reference_set: ImageSet
    """Where the reference comes from: held-out images, or the training images."""
    reference_rows: np.ndarray
    """int64 (n,), ascending: the reference's rows of that set."""
    train: ImageSet
    pool_rows: np.ndarray
    """int64 (p,), ascending, 2 n <= p <= 5 n: rows of `train`, none of them in the reference."""

    @property
    def reference(self) -> np.ndarray:
        """uint8 (n, C, H, W), read from the set's file."""
        return self.reference_set.images[self.reference_rows]

    @property
    def pool(self) -> np.ndarray:
        """uint8 (p, C, H, W), read from the training images' file."""
        return self.train.images[self.pool_rows]

    @property
    def held_out(self) -> bool:
        """Whether the reference are images that the model never saw."""
        return self.reference_set is not self.train

    @property
    def reference_name(self) -> str:
        """The reference in words, such as "2,000 held-out images"."""
        kind = "held-out" if self.held_out else "training"
        return f"{len(self.reference_rows):,} {kind} images"

    @property
    def reference_hash(self) -> str:
        """SHA-256 over the reference's pixels, 64 hexadecimal digits."""
        return hashlib.sha256(np.ascontiguousarray(self.reference).data).hexdigest()

    def stamp(self, features: str) -> str:
        """12 hexadecimal digits: scores compare where they are equal, and only there.

        A hash of the identity of the `features`, n, the reference's pixels and the version of the
        scores.
        """
        parts = (features, len(self.reference_rows), self.reference_hash, SCORES_VERSION)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def compared_sets(
    samples: np.ndarray, train: ImageSet, test: ImageSet, max_images: int | None, seed: int
) -> ComparedSets:
    """Choose n samples, n real images as the reference and 2 n to 5 n others for the floor.

    n is the number of samples, at most `max_images`. The reference are held-out images where there
    are so many, else training images; n is smaller where the training images would not suffice for
    the pool. Rows are drawn with `seed`. InputError where there are fewer than 2 samples or
    6 training images.
    """
    wanted = min(len(samples), max_images or len(samples))
    held_out = len(test) >= wanted
    count = min(wanted, len(train) // 2 if held_out else len(train) // 3)
    if count < 2:
        raise InputError(
            f"{len(samples)} samples beside {len(train)} training images: a comparison needs at "
            "least 2 samples and 6 training images"
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(train))
    if held_out:
        reference_rows = np.sort(generator.permutation(len(test))[:count])
    else:
        reference_rows, order = np.sort(order[:count]), order[count:]
    return ComparedSets(
        samples=spread(samples, count),
        reference_set=test if held_out else train,
        reference_rows=reference_rows,
        train=train,
        pool_rows=np.sort(order[: POOL_SIZE * count]),
    )
