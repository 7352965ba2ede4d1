"""Memorisation: are samples copies of training images, or of each other?"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features.extractor import byte_chunks
from ddpm_kedro.progress import Progress

QUERY_ROWS = 1024  # images searched for at once: bounds the table of distances


@dataclass(frozen=True)
class Neighbours:
    """The nearest training image of each query.

    Args:
        index: int64 (n,), its number among the training images; the lowest one of a tie.
        distance: float64 (n,), root of the mean square difference of the pixels in grey levels,
            0 (the same bytes) to 255.
    """

    index: np.ndarray
    distance: np.ndarray

    def __getitem__(self, rows: slice) -> Neighbours:
        return Neighbours(self.index[rows], self.distance[rows])


def nearest_neighbours(queries: np.ndarray, references: np.ndarray) -> Neighbours:
    """Find the nearest of ``references`` to each of ``queries``, exactly.

    |a - b|^2 = |a|^2 + |b|^2 - 2ab over bytes is a sum of integers below 2^53, so in float64 it
    has no rounding and a copy is at distance 0. Costs 2 n m C H W FLOP; the references are read
    once for every 1,024 queries.

    Args:
        queries: uint8 (n, C, H, W), n >= 1.
        references: uint8 (m, C, H, W), m >= 1; may be memory-mapped.

    Raises:
        InputError: one of them is empty, or their images differ in shape.
    """
    if not len(queries) or not len(references) or queries.shape[1:] != references.shape[1:]:
        raise InputError(
            f"nearest neighbours need images of one shape: {queries.shape} against "
            f"{references.shape}"
        )
    size = int(np.prod(queries.shape[1:]))
    best = np.full(len(queries), np.inf)
    index = np.zeros(len(queries), dtype=np.int64)
    blocks = range(0, len(queries), QUERY_ROWS)
    total = len(blocks) * len(references)
    with Progress(total, "images", "nearest neighbours", most_lines=1) as progress:
        for first in blocks:
            rows = slice(first, min(first + QUERY_ROWS, len(queries)))
            block = queries[rows].reshape(-1, size).astype(np.float64)
            block_squares = np.square(block).sum(axis=1)
            start = 0
            for chunk in byte_chunks(references):
                table = -2.0 * (block @ chunk.T)
                table += np.square(chunk).sum(axis=1)
                table += block_squares[:, None]
                nearest = table.argmin(axis=1)
                smallest = table[np.arange(len(table)), nearest]
                closer = smallest < best[rows]
                best[rows] = np.where(closer, smallest, best[rows])
                index[rows] = np.where(closer, nearest + start, index[rows])
                start += len(chunk)
                progress.update(len(chunk))
    return Neighbours(index, np.sqrt(best / size))


def excess_closeness(samples: np.ndarray, held_out: np.ndarray) -> float:
    """max_x (F_samples(x) - F_held_out(x)) of two sets of distances, in [0, 1].

    The one-sided Kolmogorov-Smirnov statistic: 0 where no share of the samples is closer than the
    same share of the held-out images, 1 where every sample is closer than every held-out image.
    """
    points = np.concatenate([samples, held_out])
    return float(max(0.0, (_share_below(samples, points) - _share_below(held_out, points)).max()))


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float:
    """max_x |F_first(x) - F_second(x)|, the two-sided statistic, in [0, 1]."""
    return max(excess_closeness(first, second), excess_closeness(second, first))


def count_duplicates(images: np.ndarray) -> int:
    """How many images equal an earlier one byte for byte; 0 where all differ."""
    return len(images) - len({sha256(image.tobytes()).digest() for image in images})


def _share_below(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), points, side="right") / len(values)
