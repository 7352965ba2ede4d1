"""An array in the catalog: ``samples``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddpm_kedro.datasets.png_image import encoded
from ddpm_kedro.datasets.whole_file import WholeFile
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write
from ddpm_kedro.images.grid import make_grid

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview


class NumpyFile(WholeFile[np.ndarray, np.ndarray]):
    """One ``.npy`` file, read memory-mapped; nothing in it is ever unpickled."""

    def load(self) -> np.ndarray:
        """The array as a read-only memory map.

        Raises:
            InputError: there is no file yet, or it is no array of plain numbers.
        """
        path = self._existing()
        try:
            # np.load takes a file without the header for a pickle and tells how to load that.
            return np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path} is not a whole array: {error}") from error

    def save(self, data: np.ndarray) -> None:
        """Write the array.

        Raises:
            InputError: it holds objects.
        """
        if data.dtype.hasobject:
            raise InputError(f"{self._filepath}: an array of objects is not written")
        with atomic_write(self._filepath) as file:
            np.save(file, data, allow_pickle=False)

    def preview(self, max_images: int = 64) -> ImagePreview:
        """The first images of a uint8 (N, C, H, W) array as a grid; nothing for other arrays."""
        if not self._exists():
            return ""
        array = self.load()
        if array.ndim != 4 or array.dtype != np.uint8 or not array.size:
            return ""
        return encoded(make_grid(array[:max_images]))
