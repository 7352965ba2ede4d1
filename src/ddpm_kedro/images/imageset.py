"""A prepared split: images as bytes, memory-mapped from one safetensors file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_kedro.errors import InputError

_FORMAT = "ddpm_kedro.image_set/1"


@dataclass(frozen=True)
class ImageSet:
    """Images of one shape with their labels.

    Args:
        images: uint8 (N, C, H, W), values 0..255; a read-only memory map when opened from a file.
        labels: int64 (N,), values 0..len(classes)-1, or None when nothing is known.
        classes: the names of the classes in label order; empty without labels.
        content_hash: SHA-256 over shape, pixels and labels, 64 hexadecimal digits.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    content_hash: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ImageSet:
        """Map the file at ``path`` into memory; no pixel is read until it is used.

        Raises:
            InputError: there is no such file, or it is not a whole image set.
        """
        path = Path(path)
        try:
            size = path.stat().st_size
            with open(path, "rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                if not 0 < header_bytes <= size - 8:
                    raise ValueError("its header is cut off")
                header: dict[str, Any] = json.loads(file.read(header_bytes))
            facts = header.pop("__metadata__", {})
            if facts.get("format") != _FORMAT:
                raise ValueError("it was written by something else")
            start = 8 + header_bytes
            if size < start + max(entry["data_offsets"][1] for entry in header.values()):
                raise ValueError("its end is missing")
            images = _map(path, header["images"], start, np.dtype(np.uint8))
            labels = None
            if "labels" in header:
                labels = np.array(_map(path, header["labels"], start, np.dtype("<i8")))
        except FileNotFoundError as error:
            raise InputError(
                f"no images at {path}: run `kedro run --pipelines data_preparation` first"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is not a prepared image set: {error}") from error
        return cls(images, labels, tuple(json.loads(facts["classes"])), facts["content_hash"])


def _map(path: Path, entry: dict[str, Any], start: int, dtype: np.dtype[Any]) -> np.ndarray:
    shape = tuple(entry["shape"])
    if 0 in shape:
        return np.empty(shape, dtype)
    begin, _ = entry["data_offsets"]
    return np.memmap(path, dtype=dtype, mode="r", offset=start + begin, shape=shape)
