"""Coverage and recall: how much of the reference is among the samples, by nearest neighbours.

Both count images of the reference, 0..1, larger is better. Coverage (Naeem et al. 2020, eq. 6): how
many have a sample nearer than their 5th neighbour in the reference. Recall (Kynkaanniemi et al.
2019, eq. 2): how many are nearer to some sample than that sample's 5th neighbour among the samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch

NEIGHBOURS = 5  # k of coverage and recall; fewer where a set has fewer
SPLITS = 10  # of the samples into halves, for the deviations


def squared_distances(
    products: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """(n, m) of inner products (n, m) and squared lengths (n,) and (m,)."""
    return (first[:, None] + second - 2 * products).clamp_(min=0)


def radii(distances: torch.Tensor, rows: slice) -> torch.Tensor:
    """Distances (n, 2) of images to their 5th and 10th neighbour in their set.

    `distances` (n, m) is a block of `rows` of the set with itself; an image is no neighbour of its
    own.
    """
    distances.diagonal(rows.start).fill_(math.inf)
    most = max(distances.shape[1] - 1, 1)  # an image by itself has its neighbour at infinity
    nearest = distances.topk(min(2 * NEIGHBOURS, most), dim=1, largest=False).values
    return nearest[:, [min(k, most) - 1 for k in (NEIGHBOURS, 2 * NEIGHBOURS)]]


def halves(count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of random halves of `count` samples, two by two, each ascending."""
    half = count // 2
    orders = [generator.permutation(count) for _ in range(SPLITS)]
    return [np.sort(part) for order in orders for part in (order[:half], order[half : 2 * half])]


def deviation_from_halves(shares: np.ndarray, reference: int) -> float:
    """Standard deviation of coverage or recall of n fresh samples, from those of halves.

    `shares` (2 splits,) are the scores of `halves` with neighbourhoods that hold as many of the
    n/2 as the score's own hold of n: recall's grow by themselves, coverage takes the 10th neighbour
    for the 5th. Resampling with duplicates would empty recall's. Of the variance one part is
    binomial, images of the reference that are found or not each by itself, and is the same for n/2
    samples; the other, of neighbourhoods that share samples, is twice as large for n/2. So the
    variance for n is the mean of that for n/2 and the binomial one.
    """
    of_halves = np.square(shares[::2] - shares[1::2]).mean() / 2
    share = float(np.mean(shares))
    return math.sqrt((of_halves + share * (1 - share) / reference) / 2)
