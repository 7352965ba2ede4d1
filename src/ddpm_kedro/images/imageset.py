"""A prepared split: images as bytes, memory-mapped from one safetensors file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write

_FORMAT = "ddpm_kedro.image_set/1"
_PAGE_BYTES = 4096  # pixels start on a page of the file, so the map starts on one too


@dataclass(frozen=True, eq=False)  # images are not compared by accident, content_hash is
class ImageSet:
    """Images of one shape with their labels; InputError where these do not fit together."""

    images: np.ndarray
    """uint8 (N, C, H, W), values 0..255; a read-only memory map when opened from a file."""
    labels: np.ndarray | None = None
    """int64 (N,), values 0..len(classes)-1, or None when nothing is known."""
    classes: tuple[str, ...] = ()
    """The names of the classes in label order; empty without labels."""
    content_hash: str = ""
    """SHA-256 over pixels, labels, shape and class names, 64 hexadecimal digits; computed when it
    is left out."""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise InputError(
                f"an image set holds uint8 images (N, C, H, W), not {images.dtype} {images.shape}"
            )
        _check_labels(labels, len(images), self.classes)
        if not self.content_hash:
            hasher = hashlib.sha256(np.ascontiguousarray(images).data)
            found = _finish_hash(hasher, images.shape, labels, self.classes)
            object.__setattr__(self, "content_hash", found)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.images.shape[1:]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file that appears under `path` when it is whole; or OSError."""
        with image_set_writer(path, self.image_shape, self.classes) as writer:
            for start in range(0, len(self), 1024):
                writer.append(self.images[start : start + 1024])
            writer.finish(self.labels, self.classes)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ImageSet:
        """Map the file at `path` into memory; no pixel is read until it is used. InputError where
        there is no such file, or it is not a whole image set."""
        try:
            with open(path, "rb") as file, safe_open(path, framework="np") as parts:
                facts = parts.metadata() or {}
                if facts.get("format") != _FORMAT:
                    raise ValueError("it was written by something else")
                start = 8 + int.from_bytes(file.read(8), "little")  # behind the header
                shape = tuple(parts.get_slice("images").get_shape())
                has_labels = "labels" in parts.keys()  # noqa: SIM118 -- no mapping
                labels = parts.get_tensor("labels") if has_labels else None
            # safetensors itself would copy the pixels; they are what comes first
            images = np.memmap(path, np.uint8, "r", start, shape)
            return cls(images, labels, tuple(json.loads(facts["classes"])), facts["content_hash"])
        except FileNotFoundError as error:
            raise InputError(
                f"no images at {path}: run `kedro run --pipelines data_preparation` first"
            ) from error
        except (SafetensorError, KeyError, TypeError, OSError, ValueError) as error:
            raise InputError(f"{path} is not a prepared image set: {error}") from error


class ImageSetWriter:
    """Takes the images of one split batch by batch, so that memory holds one batch only.

    The pixels are written as they come behind a header of fixed size, which is filled in at the
    end, when their number, the labels and the hash are known.
    """

    def __init__(
        self, file: IO[bytes], image_shape: Sequence[int], classes: Sequence[str] | None
    ) -> None:
        self.image_shape = tuple(image_shape)
        self.num_images = 0
        self.content_hash = ""
        self.file_bytes = 0
        self._file = file
        self._hasher = hashlib.sha256()
        names_bytes = 64 * 1024 if classes is None else 2 * len(json.dumps(json.dumps(classes)))
        self._data_start = -(-(2048 + names_bytes) // _PAGE_BYTES) * _PAGE_BYTES
        file.seek(self._data_start)

    def append(self, images: np.ndarray) -> None:
        """Write uint8 images (n, C, H, W) behind those that came before."""
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise ValueError(f"not uint8 (n, {self.image_shape}): {images.dtype} {images.shape}")
        pixels = np.ascontiguousarray(images).data
        self._file.write(pixels)
        self._hasher.update(pixels)
        self.num_images += len(images)

    def finish(self, labels: np.ndarray | None, classes: Sequence[str]) -> None:
        """Write labels (N,) and the header; see `ImageSet` for what fits."""
        shape = (self.num_images, *self.image_shape)
        _check_labels(labels, self.num_images, tuple(classes))
        self.content_hash = _finish_hash(self._hasher, shape, labels, classes)
        end = math.prod(shape)
        header: dict[str, Any] = {
            "__metadata__": {
                "format": _FORMAT,
                "classes": json.dumps(list(classes)),
                "content_hash": self.content_hash,
            },
            "images": {"dtype": "U8", "shape": shape, "data_offsets": [0, end]},
        }
        if labels is not None:
            self._file.write(np.ascontiguousarray(labels, dtype="<i8").data)
            offsets = [end, end + 8 * self.num_images]
            header["labels"] = {"dtype": "I64", "shape": shape[:1], "data_offsets": offsets}
        text = json.dumps(header).encode()
        header_bytes = self._data_start - 8
        if len(text) > header_bytes:
            raise InputError(f"{len(classes):,} class names are too many for an image set")
        self.file_bytes = self._file.tell()
        self._file.seek(0)
        self._file.write(header_bytes.to_bytes(8, "little") + text.ljust(header_bytes))


@contextlib.contextmanager
def image_set_writer(
    path: str | os.PathLike[str], image_shape: Sequence[int], classes: Sequence[str] | None
) -> Iterator[ImageSetWriter]:
    """Open a writer of images (C, H, W) whose file appears under `path` when the block ends well;
    `classes` are None where they are known at the end only."""
    with atomic_write(path) as file:
        writer = ImageSetWriter(file, image_shape, classes)
        yield writer
        if not writer.content_hash:
            raise RuntimeError(f"the image set for {path} was not finished")


def _check_labels(labels: np.ndarray | None, num_images: int, classes: tuple[str, ...]) -> None:
    if labels is None:
        return
    if labels.dtype != np.int64 or labels.shape != (num_images,):
        raise InputError(
            f"labels of {num_images} images are int64 ({num_images},), "
            f"not {labels.dtype} {labels.shape}"
        )
    if num_images and not 0 <= labels.min() <= labels.max() < len(classes):
        raise InputError(
            f"labels of {len(classes)} classes lie in 0..{len(classes) - 1}, "
            f"not in {labels.min()}..{labels.max()}"
        )


def _finish_hash(
    hasher: Any, shape: Sequence[int], labels: np.ndarray | None, classes: Sequence[str]
) -> str:
    if labels is not None:
        hasher.update(np.ascontiguousarray(labels, dtype="<i8").data)
    hasher.update(json.dumps([list(shape), labels is not None, list(classes)]).encode())
    return hasher.hexdigest()
