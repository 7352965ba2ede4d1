"""Planted generators: real images with one known defect, and what is known to be invisible.

Each takes real images that neither the training nor the scores have seen, and returns what a
generator with this defect and no other would have drawn. `benchmarks/calibration.py` scores them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

Random = np.random.Generator
Change = Callable[[np.ndarray, Random], np.ndarray]  # of images (n, C, H, W), shape kept


@dataclass(frozen=True)
class Material:
    """What planted generators are made of: uint8 (m, C, H, W), each in random order."""

    fresh: np.ndarray
    """Real images that are in neither of the other two."""
    labels: np.ndarray
    """Classes of the fresh images, int64 (m,)."""
    training: np.ndarray
    reference: np.ndarray
    """What the scores compare with."""


Generator = Callable[[Material, int, Random], np.ndarray]  # -> uint8 (n, C, H, W)


# Changes of every image


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Rounded and cut to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noisy(images: np.ndarray, random: Random, levels: float) -> np.ndarray:
    """Gaussian noise with a standard deviation of `levels` grey levels."""
    return as_bytes(images + random.normal(0, levels, images.shape))


def mirrored(images: np.ndarray, _: Random) -> np.ndarray:
    """Left and right exchanged."""
    return images[..., ::-1]


def upside_down(images: np.ndarray, _: Random) -> np.ndarray:
    """Top and bottom exchanged."""
    return images[..., ::-1, :]


def shuffled_patches(images: np.ndarray, random: Random) -> np.ndarray:
    """Each image cut into 4x4 patches, which are put together in another order."""
    count, channels, height, width = images.shape
    patches = images.reshape(count, channels, 4, height // 4, 4, width // 4)
    patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(count, 16, channels, -1)
    order = random.permuted(np.tile(np.arange(16), (count, 1)), axis=1)
    patches = np.take_along_axis(patches, order[:, :, None, None], axis=1)
    patches = patches.reshape(count, 4, 4, channels, height // 4, width // 4)
    return patches.transpose(0, 3, 1, 4, 2, 5).reshape(images.shape)


def moved(images: np.ndarray, _: Random) -> np.ndarray:
    """Right and down by an eighth of the side (4 pixels of 32); the edge is repeated."""
    step = images.shape[-1] // 8
    padded = np.pad(images, ((0, 0), (0, 0), (step, 0), (step, 0)), mode="edge")
    return padded[..., : images.shape[-2], : images.shape[-1]]


def brighter(images: np.ndarray, _: Random, levels: int) -> np.ndarray:
    """`levels` grey levels added to every pixel."""
    return as_bytes(images.astype(np.int64) + levels)


def contrast(images: np.ndarray, _: Random, factor: float) -> np.ndarray:
    """Differences from the image's own mean times `factor`."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return as_bytes(mean + factor * (images - mean))


def saturation(images: np.ndarray, _: Random, factor: float) -> np.ndarray:
    """Differences from the pixel's own grey times `factor`."""
    grey = images.mean(axis=1, keepdims=True)
    return as_bytes(grey + factor * (images - grey))


def hue(images: np.ndarray, _: Random, degrees: float) -> np.ndarray:
    """Colours turned about the grey axis (Rodrigues' rotation); greys stay."""
    angle, ones = np.deg2rad(degrees), np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * ones
    return as_bytes(np.einsum("ij,njhw->nihw", turn, images))


def exchanged_channels(images: np.ndarray, _: Random) -> np.ndarray:
    """Blue where red should be, as where a library reads BGR."""
    return images[:, ::-1]


def towards_mean(images: np.ndarray, _: Random, share: float) -> np.ndarray:
    """The mean of all images mixed into each."""
    return as_bytes((1 - share) * images + share * images.mean(axis=0))


def checkerboard(images: np.ndarray, _: Random, levels: float) -> np.ndarray:
    """`levels` added and subtracted by turns, as by an upsampling of overlapping kernels."""
    rows, columns = np.indices(images.shape[-2:])
    return as_bytes(images + levels * (1.0 - 2.0 * ((rows + columns) % 2)))


def quantised(images: np.ndarray, _: Random, bits: int) -> np.ndarray:
    """2^`bits` levels between 0 and 255."""
    top = 2**bits - 1
    return as_bytes(np.rint(images * (top / 255)) * (255 / top))


def dead_pixels(images: np.ndarray, _: Random) -> np.ndarray:
    """Two pixels are always white: in the middle, and half-way to the corner."""
    images = images.copy()
    height, width = images.shape[-2:]
    images[..., height // 2, width // 2] = images[..., height // 4, width // 4] = 255
    return images


def framed(images: np.ndarray, _: Random) -> np.ndarray:
    """A border of one pixel in middle grey."""
    images = images.copy()
    images[..., [0, -1], :] = images[..., [0, -1]] = 128
    return images


def half_of_another(images: np.ndarray, _: Random) -> np.ndarray:
    """The left half of one image, the right half of another."""
    images, middle = images.copy(), images.shape[-1] // 2
    images[..., middle:] = np.roll(images[..., middle:], 1, axis=0)
    return images


def blended(images: np.ndarray, _: Random) -> np.ndarray:
    """Each image laid over another, half and half."""
    return as_bytes((images.astype(np.float64) + np.roll(images, 1, axis=0)) / 2)


def some_noise(images: np.ndarray, random: Random, share: float) -> np.ndarray:
    """A `share` of the images is nothing but noise."""
    images, count = images.copy(), math.ceil(share * len(images))
    images[:count] = random.integers(0, 256, (count, *images.shape[1:]), dtype=np.uint8)
    return images


def through_pillow(
    images: np.ndarray, _: Random, edit: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    """`edit` of every image."""
    grey = images.shape[1] == 1
    pictures = (Image.fromarray(i[0] if grey else i.transpose(1, 2, 0)) for i in images)
    arrays = np.stack([np.asarray(edit(picture)) for picture in pictures])
    return arrays[:, None] if grey else arrays.transpose(0, 3, 1, 2)


def blur(image: Image.Image) -> Image.Image:
    """Half the size, and back again."""
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BILINEAR)


def sharpen(image: Image.Image) -> Image.Image:
    """Pillow's 3x3 kernel."""
    return image.filter(ImageFilter.SHARPEN)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Written as JPEG and read again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


# Generators


def real(material: Material, count: int, _: Random) -> np.ndarray:
    """A perfect model's."""
    return material.fresh[:count]


def changed(material: Material, count: int, random: Random, change: Change) -> np.ndarray:
    """Real images, each of them changed."""
    return np.ascontiguousarray(change(material.fresh[:count], random))


def of_classes(
    material: Material, count: int, random: Random, weights: Callable[[int, int], float]
) -> np.ndarray:
    """Real images whose classes have other shares: `weights` of the class and of their number.

    Where a class has too few images for `count`, there are fewer images.
    """
    classes, sizes = np.unique(material.labels, return_counts=True)
    wanted = np.array([weights(place, len(classes)) for place in range(len(classes))])
    wanted = wanted / wanted.sum()
    count = min(count, int((sizes[wanted > 0] / wanted[wanted > 0]).min()))
    rows = [
        np.flatnonzero(material.labels == name)[: math.ceil(count * share)]
        for name, share in zip(classes, wanted, strict=True)
    ]
    return material.fresh[random.permutation(np.concatenate(rows))[:count]]


def repeated(material: Material, count: int, _: Random, times: int) -> np.ndarray:
    """A few real images, each of them `times` times."""
    return np.tile(material.fresh[: count // times], (times, 1, 1, 1))


def copies(
    material: Material, count: int, random: Random, change: Change = real, share: float = 1.0
) -> np.ndarray:
    """A `share` of the images are training images, `change`d; the others are real."""
    number = round(share * min(count, len(material.training)))
    copied = material.training[:number]
    if change is not real:
        copied = change(copied, random)
    return np.concatenate([copied, material.fresh[: count - number]])


def of_reference(material: Material, count: int, _: Random) -> np.ndarray:
    """The very images that the scores compare with."""
    return material.reference[:count]


def altered(change: Callable[..., np.ndarray], **arguments: object) -> Generator:
    """The generator of real images that are all changed like this."""
    return partial(changed, change=partial(change, **arguments))


def edited(edit: Callable[..., Image.Image], **arguments: object) -> Generator:
    """The same, by what Pillow does with one image."""
    return partial(changed, change=partial(through_pillow, edit=partial(edit, **arguments)))


# What is planted

PERFECT = "other real images"  # the one that must not be told from real ones

PLANTED: Mapping[str, Generator] = {
    PERFECT: real,
    "noise of 5 grey levels": altered(noisy, levels=5),
    "noise of 10 grey levels": altered(noisy, levels=10),
    "noise of 20 grey levels": altered(noisy, levels=20),
    "blurred to half the size": edited(blur),
    "sharpened": edited(sharpen),
    "JPEG of quality 30": edited(jpeg, quality=30),
    "JPEG of quality 75": edited(jpeg, quality=75),
    "3 bits a pixel": altered(quantised, bits=3),
    "checkerboard of 4 grey levels": altered(checkerboard, levels=4),
    "two dead pixels": altered(dead_pixels),
    "border of one pixel": altered(framed),
    "brighter by 4 grey levels": altered(brighter, levels=4),
    "contrast -10%": altered(contrast, factor=0.9),
    "contrast +30%": altered(contrast, factor=1.3),
    "saturation -25%": altered(saturation, factor=0.75),
    "hue turned by 30 degrees": altered(hue, degrees=30),
    "red and blue exchanged": altered(exchanged_channels),
    "mean image mixed in, 10%": altered(towards_mean, share=0.10),
    "mean image mixed in, 25%": altered(towards_mean, share=0.25),
    "two images blended": altered(blended),
    "right half of another image": altered(half_of_another),
    "patches shuffled": altered(shuffled_patches),
    "moved by an eighth": altered(moved),
    "mirrored": altered(mirrored),
    "upside down": altered(upside_down),
    "1 image in 50 is noise": altered(some_noise, share=0.02),
    "one class": partial(of_classes, weights=lambda place, _: float(place == 0)),
    "half of the classes": partial(of_classes, weights=lambda place, of: float(place < of / 2)),
    "one class missing": partial(of_classes, weights=lambda place, _: float(place != 0)),
    "one class four times as often": partial(of_classes, weights=lambda p, _: 4.0 if not p else 1),
    "each image twice": partial(repeated, times=2),
    "each image ten times": partial(repeated, times=10),
    "copies of the reference": of_reference,
    "copies of training images": copies,
    "copies, mirrored": partial(copies, change=mirrored),
    "copies with noise of 2 grey levels": partial(copies, change=partial(noisy, levels=2)),
    "1 image in 10 is a copy": partial(copies, share=0.1),
}
COLOUR_ONLY = {"saturation -25%", "hue turned by 30 degrees", "red and blue exchanged"}

# Listed before the first run: what no score is expected to tell from real images at 2,000, and why.
# Copies of training images are not listed: they are real images to every score, and it is the
# search for neighbours that has to find them.
INVISIBLE: Mapping[str, Mapping[str, str]] = {
    "photos": {
        PERFECT: "nothing is wrong with them",
        "mirrored": "photos have no left and right, and the network learned from mirrored ones; "
        "nothing catches it, but a text or a clock among the samples",
        "JPEG of quality 75": "these photos were JPEGs of this quality before",
        "mean image mixed in, 10%": "a little less contrast, which photos have in every amount; "
        "25% are seen",
        "contrast -10%": "the same; 30% more are seen",
    },
    "fashion": {PERFECT: "nothing is wrong with them"},
    "digits": {
        PERFECT: "nothing is wrong with them",
        **dict.fromkeys(
            [
                "noise of 5 grey levels", "noise of 10 grey levels", "JPEG of quality 75",
                "checkerboard of 4 grey levels", "3 bits a pixel",
            ],
            "20 principal components hold no detail as fine as that",
        ),
        **dict.fromkeys(
            ["brighter by 4 grey levels", "mean image mixed in, 10%", "contrast -10%"],
            "less than the spread among 400 images",
        ),
        "1 image in 50 is noise": "eight images of 400",
    },
}  # fmt: skip
