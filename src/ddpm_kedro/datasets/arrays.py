"""Arrays that are mapped into memory: `train_images`, `test_images`, `samples`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddpm_kedro.datasets.local_entry import LocalEntry, PublishedFile, writing
from ddpm_kedro.datasets.report_files import encoded
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.rows import spread

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview

_PREVIEWED_IMAGES = 64


class ImageSetFile(PublishedFile):
    """One safetensors file of images and labels; Kedro-Viz shows a grid."""

    def load(self) -> ImageSet:
        """The images, mapped into memory; InputError where there is no whole image set yet."""
        return ImageSet.open(self._path)

    def preview(self, max_side: int = 1024) -> ImagePreview:
        """Images evenly spaced through the set, no side longer than `max_side` pixels."""
        if not self._exists():
            return ""
        return encoded(make_grid(spread(self.load().images, _PREVIEWED_IMAGES)), max_side)


class NumpyFile(LocalEntry):
    """One `.npy` file; nothing in it is ever unpickled."""

    def load(self) -> np.ndarray:
        """The array as a read-only memory map; InputError where there is no file yet, or it is no
        array of plain numbers."""
        path = self._existing()
        try:
            # np.load takes a file without the header for a pickle and tells how to load that.
            return np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path} is not a whole array: {error}") from error

    def save(self, data: np.ndarray) -> None:
        """Write the array; InputError where it holds objects."""
        if data.dtype.hasobject:
            raise InputError(f"{self._path}: an array of objects is not written")
        with writing(self._path), atomic_write(self._path) as file:
            np.save(file, data, allow_pickle=False)

    def preview(self, max_images: int = 64) -> ImagePreview:
        """The first images of a uint8 (N, C, H, W) array as a grid; nothing for other arrays."""
        if not self._exists():
            return ""
        array = self.load()
        if array.ndim != 4 or array.dtype != np.uint8 or not array.size:
            return ""
        return encoded(make_grid(array[:max_images]))
