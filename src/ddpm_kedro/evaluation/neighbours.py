"""The nearest training image of each of many, as it is and mirrored, in pixels and in features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm_kedro.diffusion.precision import product_mode
from ddpm_kedro.errors import InputError
from ddpm_kedro.heap import kept_heap
from ddpm_kedro.progress import Progress

MOST_BYTES = 64 << 20  # of the float32 pixels of one side of a table of distances
QUERY_ROWS, REFERENCE_ROWS = 1024, 4096  # of such a table
COLUMNS = 4096  # numbers whose products are added up in float32; sums of such sums are float64
PAIRS_AT_ONCE = 4096  # whose distance is computed exactly at the same time
TENTH = 10


@dataclass(frozen=True)
class Neighbours:
    """The nearest training image of each query."""

    index: np.ndarray
    """int64 (n,), its number among the training images; the lowest one of a tie."""
    distance: np.ndarray
    """float64 (n,), >= 0: in pixels the root of their mean square difference in grey levels, 0 (the
    same bytes) to 255; in features the Euclidean distance."""
    tenth: np.ndarray
    """float64 (n,), the distance to the tenth nearest, or to the last where there are fewer; up to
    rounding in float32."""

    def __getitem__(self, rows: slice) -> Neighbours:
        return Neighbours(self.index[rows], self.distance[rows], self.tenth[rows])

    @property
    def relative(self) -> np.ndarray:
        """float64 (n,), the distance divided by the tenth, 0..1: small where one training image is
        nearer than all others, as it is to a copy. A blurred image, near to many, has none such
        (an idea of Carlini et al. 2023, section 5.1, who divide by the mean of fifty)."""
        lengths = np.where(self.tenth > 0, self.tenth, 1.0)
        return np.where(self.tenth > 0, np.minimum(self.distance / lengths, 1.0), 1.0)

    def or_mirrored(self, mirrored: Neighbours) -> Neighbours:
        """Of each pair the nearer one."""
        closer = mirrored.distance < self.distance
        return Neighbours(
            np.where(closer, mirrored.index, self.index),
            np.minimum(self.distance, mirrored.distance),
            np.minimum(self.tenth, mirrored.tenth),
        )


def nearest_neighbours(
    queries: np.ndarray, references: np.ndarray, device: torch.device | str = "cpu"
) -> tuple[Neighbours, Neighbours]:
    """The nearest of `references` to each of `queries`, and to each query's mirror image (left and
    right exchanged). Exact, and the same on every device: products in float32 only tell which pairs
    may be the nearest, whose distances are then sums of integers.

    With s and d the sum and the difference of an image and its mirror image, over one half of
    them, 2 ab = s_a s_b + d_a d_b, and the mirrored a has 2 a'b = s_a s_b - d_a d_b: so both cost
    as much as one, 2 n m C H W FLOP.

    `queries` are uint8 (n, C, H, W) and `references` uint8 (m, C, H, W), which may be
    memory-mapped; n, m >= 1. InputError where one is empty or their images differ in shape.
    """
    if not len(queries) or not len(references) or queries.shape[1:] != references.shape[1:]:
        raise InputError(
            f"nearest neighbours need images of one shape: {queries.shape} against "
            f"{references.shape}"
        )
    size = queries[0].size
    rows, width = (
        max(1, min(most, MOST_BYTES // (4 * size))) for most in (QUERY_ROWS, REFERENCE_ROWS)
    )
    blocks = range(0, len(queries), rows)
    total = len(blocks) * len(references)
    found = []
    with (
        kept_heap(),
        product_mode("fp32"),
        Progress(total, "images", "nearest neighbours", most_lines=1) as progress,
    ):
        for first in blocks:
            block = _Block(queries[first : first + rows], device)
            for start in range(0, len(references), width):
                block.compare(references[start : start + width], start)
                progress.update(min(width, len(references) - start))
            found.append((block.best, block.tenths.sqrt().cpu().numpy()))
    best = np.concatenate([best for best, _ in found], axis=2)
    tenths = np.concatenate([tenths for _, tenths in found], axis=1)
    plain, mirrored = (
        Neighbours(index, np.sqrt(squares / size), tenth / np.sqrt(size))
        for (index, squares), tenth in zip(best, tenths, strict=True)
    )
    return plain, mirrored


def nearest_features(
    queries: np.ndarray, references: np.ndarray, device: torch.device | str = "cpu"
) -> Neighbours:
    """The nearest of `references` (m, d) to each of `queries` (n, d), float64; n, m >= 1."""
    device = torch.device(device)
    if device.type != "cuda":  # MPS has no float64
        device = torch.device("cpu")
    others = torch.from_numpy(references).to(device, torch.float64)
    found = []
    for start in range(0, len(queries), QUERY_ROWS):
        ours = torch.from_numpy(queries[start : start + QUERY_ROWS]).to(device, torch.float64)
        table = torch.cdist(ours, others, compute_mode="use_mm_for_euclid_dist")
        distances, index = table.topk(min(TENTH, len(others)), largest=False)
        # Differences of large squares would not be 0 where they should
        nearest = (ours - others[index[:, 0]]).square().sum(1).sqrt()
        found.append([part.cpu().numpy() for part in (index[:, 0], nearest, distances[:, -1])])
    return Neighbours(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


class _Block:
    """Some queries, plain and mirrored, and the nearest of the images that they were compared with
    so far: `best`, int64 (2, 2, n), index and squared distance; `tenths`, (2, n), squared."""

    def __init__(self, images: np.ndarray, device: torch.device | str) -> None:
        self.images = images
        self.device = torch.device(device)
        if self.device.type != "cuda":  # MPS has no float64
            self.device = torch.device("cpu")
        self.squares, self.sums, self.differences = self._parts(images)
        if images.shape[-1] % 2:  # the middle column is one, and its sum holds it twice
            self.sums.view(*images.shape[:3], -1)[..., -1] /= 2
        self.best = np.zeros((2, 2, len(images)), np.int64)
        self.best[:, 1] = 255**2 * images[0].size + 1
        self._least = [torch.empty(len(images), 0, device=self.device)] * 2

    @property
    def tenths(self) -> Tensor:
        found = torch.stack([least.amax(1).double() for least in self._least])
        return (found + self.squares).clamp_min(0)

    def compare(self, references: np.ndarray, start: int) -> None:
        """Look among `references`, whose first one has the number `start`."""
        squares, sums, differences = self._parts(references)
        lengths = self.squares.sqrt() + squares.sqrt().max()
        # A sum of K products is off by less than K 2^-24 |a| |b| (Higham 2002, eq. 3.5).
        rounding = (min(sums.shape[1], COLUMNS) + 8) * 2.0**-24 * lengths.square()
        # Distances less the query's own square, which does not tell which is nearest
        base = squares.to(_accumulator(sums)) - _product(self.sums, sums)
        differences = _product(self.differences, differences)
        for way, table in enumerate((base - differences, base.add_(differences))):
            least = table.topk(min(TENTH, len(references)), largest=False).values
            known = torch.from_numpy(self.best[way, 1]).to(self.device) - self.squares
            limit = torch.minimum(least.amin(1) + rounding, known) + rounding
            self._enter(way, (table <= limit[:, None]).nonzero().cpu().numpy(), references, start)
            least = torch.cat([self._least[way], least], 1)
            self._least[way] = least.topk(min(TENTH, least.shape[1]), largest=False).values

    def _enter(self, way: int, pairs: np.ndarray, references: np.ndarray, start: int) -> None:
        """Of pairs (p, 2) of a query and a reference, keep those nearer than all before."""
        for first in range(0, len(pairs), PAIRS_AT_ONCE):
            row, column = pairs[first : first + PAIRS_AT_ONCE].T
            ours = self.images[row][..., :: 1 - 2 * way].astype(np.int32)
            squares = np.square(ours - references[column]).sum((1, 2, 3), dtype=np.int64)
            order = np.lexsort((column, squares, row))
            row, nearest = np.unique(row[order], return_index=True)
            column, squares = column[order][nearest], squares[order][nearest]
            closer = squares < self.best[way, 1, row]
            self.best[way][:, row[closer]] = column[closer] + start, squares[closer]

    def _parts(self, images: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Squared lengths, float64 (n,), and sums and differences of columns and their mirror
        images, float32 (n, C H ceil(W / 2)), whole numbers up to 256."""
        pixels = torch.from_numpy(images.astype(np.float32)).to(self.device) - 128
        half, mirrored = -(-images.shape[3] // 2), pixels.flip(3)
        sums, differences = (
            part[..., :half].flatten(1) for part in (pixels + mirrored, pixels - mirrored)
        )
        return pixels.flatten(1).square().sum(1, dtype=torch.float64), sums, differences


def _accumulator(columns: Tensor) -> torch.dtype:
    return torch.float32 if columns.shape[1] <= COLUMNS else torch.float64


def _product(ours: Tensor, others: Tensor) -> Tensor:
    """Scalar products of all rows with all rows."""
    total = ours[:, :COLUMNS] @ others[:, :COLUMNS].T
    total = total.to(_accumulator(ours))
    for start in range(COLUMNS, ours.shape[1], COLUMNS):
        total += ours[:, start : start + COLUMNS] @ others[:, start : start + COLUMNS].T
    return total
