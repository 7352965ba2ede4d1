"""Which training images each step sees, and how their bytes get onto the device."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

RESIDENT_SHARE = 0.4  # of the free GPU memory that images may take; the rest is for training
PREFETCHED_BATCHES = 3
Batch = tuple[Tensor, Tensor | None]


class EpochOrder:
    """An endless order of images: each epoch is a permutation of its own, one follows the other.

    The image at position p is a function of (seed, p) alone, so seeking costs nothing, batches
    reach across the end of an epoch, and none is dropped. `rows` are int32 (N,), N >= 1; a
    permutation is drawn from numpy's Philox with the key (seed, epoch).
    """

    def __init__(self, rows: np.ndarray, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self._epoch = -1
        self._order = rows

    def take(self, position: int, count: int) -> np.ndarray:
        """The rows at `position`, `position + 1`, ..., (count,) int64."""
        taken = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            epoch, start = divmod(position + done, len(self.rows))
            part = self._permutation(epoch)[start : start + count - done]
            taken[done : done + len(part)] = part
            done += len(part)
        return taken

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            key = np.array([self.seed, epoch], dtype=np.uint64)
            self._order = np.random.Generator(np.random.Philox(key=key)).permutation(self.rows)
            self._epoch = epoch
        return self._order


class DataFeed:
    """Batches of uint8 images on the device, from any step on.

    On a GPU the whole set is kept there if it takes at most 40% of what is free; otherwise a thread
    gathers the next batches from the memory map into page-locked memory while the GPU works. On a
    CPU a batch is gathered when it is needed, which takes microseconds. `images` are uint8
    (N, C, H, W), `labels` int64 (N,) or None; `part` are this worker's rows of the `batch_size`
    images that all workers take at a step.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None,
        order: EpochOrder,
        *,
        batch_size: int,
        part: slice,
        device: torch.device,
    ) -> None:
        self._images, self._labels, self._order = images, labels, order
        self._batch_size, self._part, self._device = batch_size, part, device
        self._resident: Batch | None = None
        self.placement = "memory-mapped"
        if device.type == "cuda":  # pragma: cuda only
            free_bytes, _ = torch.cuda.mem_get_info(device)
            if images.nbytes <= RESIDENT_SHARE * free_bytes:
                self._resident = self._upload()
                self.placement = "resident on the GPU"
            else:
                self.placement = "memory-mapped, streamed to the GPU"

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Images uint8 (b, C, H, W) and labels int64 (b,) or None, step after step, without end."""
        steps = itertools.count(first_step)
        if self._device.type != "cuda" or self._resident is not None:
            return map(self._on_device, map(self._gather, steps))
        return self._prefetched(steps)  # pragma: cuda only

    def _gather(self, step: int) -> Batch:
        rows = self._order.take(step * self._batch_size, self._batch_size)[self._part]
        if self._resident is not None:  # pragma: cuda only
            index = torch.from_numpy(rows).pin_memory().to(self._device, non_blocking=True)
            images, labels = self._resident
            return images[index], None if labels is None else labels[index]
        images = torch.from_numpy(self._images[rows])
        labels = None if self._labels is None else torch.from_numpy(self._labels[rows])
        return images, labels

    def _on_device(self, batch: Batch) -> Batch:
        images, labels = batch
        labels = None if labels is None else labels.to(self._device, non_blocking=True)
        return images.to(self._device, non_blocking=True), labels

    def _prefetched(self, steps: Iterator[int]) -> Iterator[Batch]:  # pragma: cuda only
        with ThreadPoolExecutor(1, thread_name_prefix="data feed") as thread:
            waiting: deque[Future[Batch]] = deque()
            while True:
                while len(waiting) <= PREFETCHED_BATCHES:
                    waiting.append(thread.submit(self._pinned, next(steps)))
                yield self._on_device(waiting.popleft().result())

    def _pinned(self, step: int) -> Batch:  # pragma: cuda only
        images, labels = self._gather(step)
        return images.pin_memory(), None if labels is None else labels.pin_memory()

    def _upload(self) -> Batch:  # pragma: cuda only
        images = torch.empty(self._images.shape, dtype=torch.uint8, device=self._device)
        for first in range(0, len(images), 65536):
            chunk = self._images[first : first + 65536].copy()  # torch warns of read-only memory
            images[first : first + len(chunk)].copy_(torch.from_numpy(chunk))
        labels = None if self._labels is None else torch.from_numpy(self._labels).to(self._device)
        return images, labels
