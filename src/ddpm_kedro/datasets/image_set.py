"""A split of prepared images in the catalog: ``train_images``, ``test_images``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddpm_kedro.datasets.png_image import encoded
from ddpm_kedro.datasets.whole_file import WholeFile
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt, publish
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.imageset import ImageSet

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview

PREVIEWED_IMAGES = 64


class ImageSetFile(WholeFile[Receipt, ImageSet]):
    """One safetensors file of images and labels; loads memory-mapped, Kedro-Viz shows a grid."""

    def load(self) -> ImageSet:
        """The images, mapped into memory.

        Raises:
            InputError: there is no file yet, or it is not a whole image set.
        """
        return ImageSet.open(self._filepath)

    def save(self, data: Receipt) -> None:
        """Publish the file that the preparation wrote, in one rename: a link where the file system
        has links, else a copy.

        Raises:
            InputError: the folder is not writable, or its disk is full.
        """
        try:
            publish(data.path, self._filepath)
        except OSError as error:
            raise InputError(
                f"cannot write {self._filepath} ({error.strerror}): set data_root to a folder "
                "that you may write to and that has room"
            ) from error

    def preview(self, max_side: int = 1024) -> ImagePreview:
        """Images evenly spaced through the set, as a base64 PNG no side of which is longer than
        ``max_side`` pixels."""
        if not self._exists():
            return ""
        images = self.load().images
        chosen = np.linspace(0, len(images) - 1, min(PREVIEWED_IMAGES, len(images))).astype(int)
        grid = make_grid(images[chosen])
        grid.thumbnail((max_side, max_side))
        return encoded(grid)
