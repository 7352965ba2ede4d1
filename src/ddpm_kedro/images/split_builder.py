"""One split being prepared: its file grows batch by batch, and its facts with it."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_kedro.errors import InputError
from ddpm_kedro.images.imageset import ImageSetWriter

_NO_LABEL = -1


@dataclass
class DecodedImage:
    """One image as it will be stored: uint8 (C, H, W), and a label from 0 on; None or a negative
    number is no label. Equal pixels have equal digests, 64 bits of a hash of them; two of 10
    million different images share one with a probability of 3e-6."""

    name: str
    pixels: np.ndarray
    label: int | None
    digest: int = field(init=False)

    def __post_init__(self) -> None:
        hasher = hashlib.blake2b(np.ascontiguousarray(self.pixels).data, digest_size=8)
        self.digest = int.from_bytes(hasher.digest(), "little")


class SplitBuilder:
    """Takes decoded images in order, hands their pixels to a writer; holds 16 bytes an image."""

    def __init__(self, writer: ImageSetWriter) -> None:
        self._writer = writer
        self._labels = array("q")
        self._digests = array("Q")
        self._histogram: Any = 0  # int64 (C, 256): how often each value occurs
        self._first_without_label: str | None = None

    @property
    def num_images(self) -> int:
        return len(self._labels)

    @property
    def largest_label(self) -> int:
        """-1 when no image has a label."""
        return max(self._labels, default=_NO_LABEL)

    def append(self, images: Sequence[DecodedImage]) -> None:
        """Write images of one shape."""
        batch = np.stack([image.pixels for image in images])  # (n, C, H, W)
        self._writer.append(batch)
        counts = [np.bincount(batch[:, c].ravel(), minlength=256) for c in range(batch.shape[1])]
        self._histogram = self._histogram + np.stack(counts)
        self._digests.extend(image.digest for image in images)
        for image in images:
            label = _NO_LABEL if image.label is None or image.label < 0 else image.label
            if label == _NO_LABEL and self._first_without_label is None:
                self._first_without_label = image.name
            self._labels.append(label)

    def distinct(self) -> np.ndarray:
        """The digests that occur, uint64, ascending."""
        return np.unique(np.array(self._digests, dtype=np.uint64))

    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every channel over all pixels, in grey levels 0..255."""
        values = np.arange(256)
        number = self._histogram.sum(axis=1)
        mean = self._histogram @ values / number
        variance = self._histogram @ values**2 / number - mean**2
        deviation = np.sqrt(np.maximum(0.0, variance))
        return tuple([round(value, 4) for value in each.tolist()] for each in (mean, deviation))

    def finish(self, path: Path, classes: Sequence[str]) -> dict[str, Any]:
        """Complete the file and say what is in it; InputError where only some have a label."""
        labels, counts = None, {}
        if self.largest_label != _NO_LABEL:
            if self._first_without_label is not None:
                raise InputError(
                    f"{self._first_without_label} has no label and other images of its split have "
                    "one; label all of them or none"
                )
            labels = np.array(self._labels, dtype=np.int64)
            found = np.bincount(labels, minlength=len(classes)).tolist()
            counts = dict(zip(classes, found, strict=True))
        self._writer.finish(labels, classes if counts else ())
        return {
            "num_images": self.num_images,
            "images_per_class": counts,
            "duplicates": self.num_images - len(self.distinct()),
            "content_hash": self._writer.content_hash,
            "file": path.name,
            "file_bytes": self._writer.file_bytes,
        }
