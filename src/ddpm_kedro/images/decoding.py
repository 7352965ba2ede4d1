"""From any image file's pixels to bytes (C, H, W): orientation, colour mode, crop, size."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from ddpm_kedro.errors import InputError
from ddpm_kedro.images.source import Pixels

WHITE = {"L": 255, "RGB": (255, 255, 255)}


def decode(pixels: Pixels, image_size: int | None, channels: int | None) -> np.ndarray:
    """One image as bytes, uint8 (C, H, W).

    A photo is turned as its EXIF orientation says. Palettes, CMYK and the like become RGB, 16 bits
    become 8. With `image_size`, in pixels, the largest centred square is cut out and resized to it
    with a Lanczos filter as wide as the step between output pixels (that is, antialiased).
    `channels` is 1 (grey), 3 (RGB), 4 (RGBA), or None: 1 for a grey image, 3 for any other.
    Transparent pixels are laid over white, unless it is 4. OSError where the file is broken,
    ValueError where its pixels have no known range (floating point, 32-bit integers).
    """
    if isinstance(pixels, np.ndarray):
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise InputError(
                f"a source gives uint8 arrays (H, W) or (H, W, C), not {pixels.dtype} "
                f"{pixels.shape}"
            )
        planar = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        unchanged = image_size is None or planar.shape[1:] == (image_size, image_size)
        if unchanged and (channels or min(len(planar), 3)) == len(planar):
            return planar
        pixels = Image.fromarray(planar[0] if len(planar) == 1 else pixels)
    with pixels as image:
        if image_size is not None:
            # JPEG decodes at a half, a quarter or an eighth for next to nothing; twice the size
            # that is wanted leaves the Lanczos filter all it needs.
            image.draft(None, (2 * image_size, 2 * image_size))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = _with_channels(_plain(image), channels)
        if image_size is not None and image.size != (image_size, image_size):
            image = _square(image, image_size)
        array = np.asarray(image)  # (H, W) or (H, W, C)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)  # (C, H, W)


def _plain(image: Image.Image) -> Image.Image:
    """The same picture in one of the modes L, LA, RGB, RGBA."""
    mode = image.mode
    if mode in ("P", "RGB") and "transparency" in image.info:
        return image.convert("RGBA")
    if mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if mode == "F":
        raise ValueError("its pixels are floating-point numbers, save it with 8 bits")
    if mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its pixels are 32-bit numbers, save it with 8 or 16 bits")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    return image.convert({"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode, "RGB"))


def _with_channels(image: Image.Image, channels: int | None) -> Image.Image:
    if channels == 4:
        return image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        colour = image.mode[:-1]
        backdrop = Image.new(colour, image.size, WHITE[colour])
        backdrop.paste(image.convert(colour), mask=image.getchannel("A"))
        image = backdrop
    if channels is None:
        return image
    return image.convert("L" if channels == 1 else "RGB")


def _square(image: Image.Image, image_size: int) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), Image.Resampling.LANCZOS, box)
