"""A batch of images as one picture that a person can look at."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ddpm_kedro.errors import InputError

SMALLEST_SIDE = 512  # pixels: a grid of tiny images is enlarged to at least about this
LARGEST_SCALE = 12
PADDING_VALUE = 128  # mid-grey tells black images from white ones in both colour schemes


def make_grid(
    images: np.ndarray, *, columns: int | None = None, padding: int = 1, scale: int | None = None
) -> Image.Image:
    """Lay `images`, uint8 (N, C, H, W) with C = 1 (grey), 3 (RGB) or 4 (RGBA), out row by row, the
    first at the top left, with `padding` grey pixels around each.

    `columns` None is the smallest square that holds them all. Every pixel is repeated `scale`
    times, never interpolated; None enlarges a small grid to at least about 512 pixels, by 12 at
    most, and leaves a large one alone. InputError for other arrays, no image, or such a layout.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] not in (1, 3, 4):
        raise InputError(
            f"a grid needs uint8 images (N, C, H, W) with 1, 3 or 4 channels, "
            f"not {images.dtype} {images.shape}"
        )
    number, channels, height, width = images.shape
    if images.size == 0:
        raise InputError(f"a grid needs at least one image and one pixel, not {images.shape}")
    columns = math.ceil(math.sqrt(number)) if columns is None else min(columns, number)
    if columns < 1 or padding < 0 or (scale is not None and scale < 1):
        raise InputError(
            f"a grid needs columns >= 1, padding >= 0 and scale >= 1, "
            f"not columns={columns}, padding={padding}, scale={scale}"
        )
    rows = math.ceil(number / columns)
    cell = (height + padding, width + padding)
    shape = (rows * cell[0] + padding, columns * cell[1] + padding, channels)
    canvas = np.full(shape, PADDING_VALUE, dtype=np.uint8)
    if channels == 4:
        canvas[..., 3] = 0
    for index, image in enumerate(images):
        top = padding + (index // columns) * cell[0]
        left = padding + (index % columns) * cell[1]
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    if scale is None:
        scale = min(LARGEST_SCALE, max(1, math.ceil(SMALLEST_SIDE / max(shape[:2]))))
    canvas = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
