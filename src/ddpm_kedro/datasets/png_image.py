"""A picture in the catalog: ``sample_grid``."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

from ddpm_kedro.datasets.whole_file import WholeFile
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview


class PNGImage(WholeFile[Image.Image, Image.Image]):
    """One PNG file; Kedro-Viz shows it."""

    def load(self) -> Image.Image:
        """The picture, decoded.

        Raises:
            InputError: there is no file yet, or it is no picture.
        """
        path = self._existing()
        try:
            with Image.open(path) as image:
                return image.copy()
        except OSError as error:
            raise InputError(f"{path} is not a whole picture: {error}") from error

    def save(self, data: Image.Image) -> None:
        """Write the picture; without a clock or a program's name in it, equal ones are equal
        bytes."""
        with atomic_write(self._filepath) as file:
            data.save(file, format="PNG", optimize=True)

    def preview(self, max_side: int = 1024) -> ImagePreview:
        """The picture as base64, made smaller if a side has more than ``max_side`` pixels."""
        if not self._exists():
            return ""
        image = self.load()
        image.thumbnail((max_side, max_side))
        return encoded(image)


def encoded(image: Image.Image) -> str:
    """A picture as the base64 text of its PNG bytes, as Kedro-Viz wants it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
