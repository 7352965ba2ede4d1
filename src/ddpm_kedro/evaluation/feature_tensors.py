"""Sets of features as tensors, and the inner products between two sets, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ddpm_kedro.errors import InputError

BLOCK_NUMBERS = 1 << 24  # products held at once: 64 MiB, whatever the sizes of the sets


def feature_tensors(
    device: torch.device | str | None = None, **sets: np.ndarray
) -> list[torch.Tensor]:
    """Sets of features (n, d) as float32 tensors on `device` (the CPU), once they can be compared.

    The keywords name the sets in messages. InputError where a set is no table of at least two
    rows, where one has another d than the first, or where a number is NaN or infinite.
    """
    first = next(iter(sets))
    for name, features in sets.items():
        if features.ndim != 2 or len(features) < 2:
            raise InputError(
                f"{name}: a score needs features (n, d) of at least 2 images, not {features.shape}"
            )
        if features.shape[1] != sets[first].shape[1]:
            raise InputError(
                f"features of {sets[first].shape[1]} and {features.shape[1]} numbers ({first} and "
                f"{name}) cannot be compared"
            )
        wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(wrong):
            raise InputError(
                f"{name}: features of {len(wrong):,} of {len(features):,} images are NaN or "
                f"infinite, the first is image {wrong[0]:,}"
            )
    return [
        torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).to(device or "cpu")
        for features in sets.values()
    ]


def product_blocks(
    first: torch.Tensor, second: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield rows of (n, m) inner products of (n, d) and (m, d), and which rows they are."""
    step = max(1, BLOCK_NUMBERS // len(second))
    for start in range(0, len(first), step):
        rows = slice(start, min(start + step, len(first)))
        yield rows, first[rows] @ second.T
