"""From a source of images to two files of bytes, in one pass and in bounded memory."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import time
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_kedro.errors import InputError
from ddpm_kedro.images.decoding import decode
from ddpm_kedro.images.imageset import ImageSetWriter, image_set_writer
from ddpm_kedro.images.source import ImageSource, RawImage, SplitInfo
from ddpm_kedro.images.store import SPLIT_NAMES, ImageStore, PreparedImages
from ddpm_kedro.progress import Progress

logger = logging.getLogger(__name__)

FORMAT = 1  # counted up when the same source and settings would give other bytes than before
IMAGES_PER_TASK = 32  # decoded by one thread at a time
LISTED_FILES = 20  # of the unreadable ones, in the data card
LARGEST_LABEL = 4095  # of classes that have no names; larger numbers are not labels
NO_LABEL = -1


@dataclass(frozen=True)
class PreparationSettings:
    """What is made of the images.

    Args:
        test_fraction: for a source without a test split, the share of the images that becomes one,
            in (0, 1). An image belongs to it when the hash of its prepared pixels, read as a number
            in [0, 1), is below this: whatever the order, and equal images on the same side.
        max_unreadable: the largest share of images in [0, 1] that may be broken; they are left out
            and named. Above it the preparation is refused.
        image_size: side of the square that every image is cropped and resized to; None keeps
            height and width, which must then be the same for all.
        channels: 1 grey, 3 RGB, 4 RGBA; None is 1 if all images are grey, else 3.
        max_images: at most so many images of each split of the source, evenly spaced in its order.

    Raises:
        InputError: a value outside its range.
    """

    test_fraction: float
    max_unreadable: float
    image_size: int | None = None
    channels: int | None = None
    max_images: int | None = None

    def __post_init__(self) -> None:
        for name, value, valid, right in (
            ("test_fraction", self.test_fraction, 0 < self.test_fraction < 1, "above 0, below 1"),
            ("max_unreadable", self.max_unreadable, 0 <= self.max_unreadable <= 1, "0 to 1"),
            ("image_size", self.image_size, (self.image_size or 1) >= 1, "1 or more, or null"),
            ("channels", self.channels, self.channels in (None, 1, 3, 4), "1, 3, 4 or null"),
            ("max_images", self.max_images, (self.max_images or 2) >= 2, "2 or more, or null"),
        ):
            if not valid:
                raise InputError(f"preparation.{name}={value}: give {right}")


def prepare(
    source: ImageSource, store: ImageStore, settings: PreparationSettings
) -> PreparedImages:
    """Prepare the images of ``source``, or find them prepared.

    Raises:
        InputError: the source holds no usable images, their sizes differ and ``image_size`` is
            None, too many are broken, some have labels and some have none, a split stays empty, or
            there is no room for them.
    """
    splits = source.splits()
    relevant = asdict(settings)
    if "test" in splits:
        del relevant["test_fraction"]
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    facts = {"format": FORMAT, "source": kind, "facts": source.facts(), "settings": relevant}

    def make(folder: Path) -> dict[str, Any]:
        started_at = time.monotonic()
        try:
            card = _Pass(source, splits, settings, settings.channels, folder).run()
        except _ColourAfterGrey:
            card = _Pass(source, splits, settings, 3, folder).run()
        seconds = time.monotonic() - started_at
        logger.info(
            f"{source.name}: {card['splits']['train']['num_images']:,} training and "
            f"{card['splits']['test']['num_images']:,} test images of "
            f"{card['channels']}x{card['height']}x{card['width']} in {seconds:.1f} s"
        )
        options = {name: value for name, value in vars(source).items() if not name.startswith("_")}
        return {
            "name": source.name,
            "source": {"type": kind, **{name: _plain(value) for name, value in options.items()}},
            "settings": relevant,
            **card,
            "seconds": round(seconds, 3),
        }

    return store.find_or_make(facts, make)


class _ColourAfterGrey(Exception):
    """A set that began with grey images holds coloured ones: it starts again with 3 channels."""


@dataclass(frozen=True)
class _Decoded:
    name: str
    pixels: np.ndarray  # uint8 (C, H, W)
    label: int | None
    digest: int  # 64 bits: two of 10 million different images agree with probability 3e-6


@dataclass(frozen=True)
class _Unreadable:
    name: str
    reason: str


@dataclass
class _Split:
    """One file being written."""

    writer: ImageSetWriter
    labels: array[int] = field(default_factory=lambda: array("q"))
    digests: array[int] = field(default_factory=lambda: array("Q"))
    histogram: np.ndarray | None = None  # int64 (C, 256): how often each value occurs
    first_without_label: str | None = None

    def append(self, images: list[_Decoded]) -> None:
        batch = np.stack([image.pixels for image in images])  # (n, C, H, W)
        self.writer.append(batch)
        counts = np.stack(
            [np.bincount(batch[:, c].ravel(), minlength=256) for c in range(batch.shape[1])]
        )
        self.histogram = counts if self.histogram is None else self.histogram + counts
        for image in images:
            self.digests.append(image.digest)
            label = NO_LABEL if image.label is None or image.label < 0 else image.label
            if label == NO_LABEL and self.first_without_label is None:
                self.first_without_label = image.name
            self.labels.append(label)


class _Pass:
    """One pass through all images, with the number of channels decided or to be found."""

    def __init__(
        self,
        source: ImageSource,
        splits: dict[str, SplitInfo],
        settings: PreparationSettings,
        channels: int | None,
        folder: Path,
    ) -> None:
        self.source, self.splits, self.settings = source, splits, settings
        self.forced_channels = channels
        self.folder = folder
        self.shape: tuple[int, ...] | None = None  # (C, H, W) of the first image
        self.first_name = ""
        self.unreadable: list[_Unreadable] = []
        self.written: dict[str, _Split] = {}
        limit = settings.max_images or math.inf
        numbers = [info.num_images for info in splits.values()]
        self.total = None if None in numbers else int(sum(min(n, limit) for n in numbers))

    def run(self) -> dict[str, Any]:
        workers = min(4, os.cpu_count() or 1)
        with (
            ExitStack() as files,
            ThreadPoolExecutor(workers, "decode") as pool,
            Progress(self.total or 0, "images", f"preparing {self.source.name}") as progress,
        ):
            seen = 0
            for split, info in self.splits.items():
                images = _every(self.source.read(split), info, self.settings.max_images)
                for decoded in _decoded(images, pool, workers, self._decode):
                    seen += len(decoded)
                    self._take(split, decoded, files)
                    progress.update(len(decoded))
            self._refuse_unreadable(seen)
            return self._finish()

    def _decode(self, image: RawImage) -> _Decoded | _Unreadable:
        try:
            pixels, label = image.load()
            array = decode(pixels, self.settings.image_size, self.forced_channels)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # a decoder may raise anything at bytes that are not an image
            return _Unreadable(image.name, _reason(error))
        array = np.ascontiguousarray(array)
        digest = hashlib.blake2b(array.data, digest_size=8).digest()
        return _Decoded(image.name, array, label, int.from_bytes(digest, "little"))

    def _take(self, split: str, images: list[_Decoded | _Unreadable], files: ExitStack) -> None:
        batches: dict[str, list[_Decoded]] = {"train": [], "test": []}
        for image in images:
            if isinstance(image, _Unreadable):
                self.unreadable.append(image)
                if self.total is not None:
                    self._refuse_unreadable(self.total)
                continue
            if self.shape is None:
                self._start(image, files)
            image = self._of_one_shape(image)
            target = split
            if "test" not in self.splits:
                share = image.digest / 2**64
                target = "test" if share < self.settings.test_fraction else "train"
            batches[target].append(image)
        for target, batch in batches.items():
            if batch:
                self.written[target].append(batch)

    def _start(self, image: _Decoded, files: ExitStack) -> None:
        self.shape, self.first_name = image.pixels.shape, image.name
        if self.total is not None:
            needed = self.total * image.pixels.size
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                raise InputError(
                    f"{self.total:,} images need {needed / 1e6:,.0f} MB in {self.folder.parent}, "
                    f"where {free / 1e6:,.0f} MB are free; set prepared_root to a larger disk"
                )
        for split, name in SPLIT_NAMES.items():
            writer = image_set_writer(self.folder / name, self.shape, self.source.classes)
            self.written[split] = _Split(files.enter_context(writer))

    def _of_one_shape(self, image: _Decoded) -> _Decoded:
        assert self.shape is not None
        channels, *size = image.pixels.shape
        if list(self.shape[1:]) != size:
            _, height, width = self.shape
            raise InputError(
                f"images of different sizes: {self.first_name} is {width}x{height}, {image.name} "
                f"is {size[1]}x{size[0]}; set image_size (such as image_size="
                f"{_power_of_two(min(height, width, *size))}) to crop and resize them to squares"
            )
        if channels > self.shape[0]:
            raise _ColourAfterGrey
        if channels == self.shape[0]:
            return image
        # The digest stays that of the pixels as they are written.
        pixels = np.repeat(image.pixels, self.shape[0], axis=0)
        digest = hashlib.blake2b(pixels.data, digest_size=8).digest()
        return _Decoded(image.name, pixels, image.label, int.from_bytes(digest, "little"))

    def _refuse_unreadable(self, total: int) -> None:
        number, share = len(self.unreadable), self.settings.max_unreadable
        if number and number > share * total:
            some = ", ".join(f"{image.name} ({image.reason})" for image in self.unreadable[:3])
            raise InputError(
                f"{number} of {total} images cannot be read, more than the share of {share:g} that "
                f"preparation.max_unreadable allows: {some}{', ...' if number > 3 else ''}; mend "
                "or remove them, or allow a larger share"
            )

    def _finish(self) -> dict[str, Any]:
        if self.shape is None:
            raise InputError(f"{self.source.name}: no images found")
        if self.unreadable:
            names = ", ".join(image.name for image in self.unreadable[:LISTED_FILES])
            logger.warning(f"{len(self.unreadable)} unreadable images left out: {names}")
        for split, written in self.written.items():
            if not written.digests:
                number = sum(len(other.digests) for other in self.written.values())
                raise InputError(
                    f"{self.source.name}: none of its {number} images is in the {split} split; "
                    "give more images, or another preparation.test_fraction"
                )
        classes = self._classes()
        splits = {
            split: self._finish_split(split, written, classes)
            for split, written in self.written.items()
        }
        train, test = (np.unique(np.array(self.written[s].digests)) for s in SPLIT_NAMES)
        channels, height, width = self.shape
        histogram = self.written["train"].histogram
        assert histogram is not None
        values = np.arange(256)
        mean = histogram @ values / histogram.sum(axis=1)
        variance = histogram @ values**2 / histogram.sum(axis=1) - mean**2
        own = "test" in self.splits
        return {
            "channels": channels,
            "height": height,
            "width": width,
            "classes": list(classes),
            "test_split": "of the source" if own else "by a hash of the pixels",
            "splits": splits,
            "channel_mean": [round(float(value), 4) for value in mean],
            "channel_std": [round(math.sqrt(max(0.0, value)), 4) for value in variance],
            "duplicates_across_splits": int(np.isin(test, train, assume_unique=True).sum()),
            "unreadable": {
                "number": len(self.unreadable),
                "files": [vars(image) for image in self.unreadable[:LISTED_FILES]],
            },
        }

    def _classes(self) -> tuple[str, ...]:
        known = self.source.classes
        labels = [np.array(written.labels) for written in self.written.values()]
        largest = max(int(each.max()) for each in labels)
        if known is None:
            if largest > LARGEST_LABEL:
                raise InputError(
                    f"{self.source.name}: a label of {largest} without class names; this column "
                    "does not hold labels, choose another or none"
                )
            return tuple(str(number) for number in range(largest + 1))
        if known and largest >= len(known):
            raise InputError(
                f"{self.source.name}: a label of {largest}, but names for {len(known)} classes only"
            )
        return known if largest >= 0 else ()

    def _finish_split(
        self, split: str, written: _Split, classes: tuple[str, ...]
    ) -> dict[str, Any]:
        labels = np.array(written.labels, dtype=np.int64)
        has_labels = bool((labels != NO_LABEL).any())
        if has_labels and written.first_without_label is not None:
            raise InputError(
                f"{self.source.name}: {written.first_without_label} has no label and others of the "
                f"{split} split have one; label all of them or none"
            )
        written.writer.finish(labels if has_labels else None, classes if has_labels else ())
        counts = np.bincount(labels, minlength=len(classes)).tolist() if has_labels else []
        path = self.folder / SPLIT_NAMES[split]
        digests = np.array(written.digests)
        return {
            "num_images": len(labels),
            "images_per_class": dict(zip(classes, counts, strict=True)) if has_labels else {},
            "duplicates": len(digests) - len(np.unique(digests)),
            "content_hash": written.writer.content_hash,
            "file_bytes": written.writer.file_bytes,
            "file": path.name,
        }


def _decoded(
    images: Iterator[RawImage], pool: ThreadPoolExecutor, workers: int, decode_one: Any
) -> Iterator[list[_Decoded | _Unreadable]]:
    """Lists of decoded images in the order of ``images``; few wait at a time."""
    pending: deque[Future[list[_Decoded | _Unreadable]]] = deque()

    def decode_all(task: list[RawImage]) -> list[_Decoded | _Unreadable]:
        return [decode_one(image) for image in task]

    task: list[RawImage] = []
    for image in images:
        task.append(image)
        if len(task) == IMAGES_PER_TASK:
            pending.append(pool.submit(decode_all, task))
            task = []
        if len(pending) > workers:
            yield pending.popleft().result()
    pending.append(pool.submit(decode_all, task))
    while pending:
        yield pending.popleft().result()


def _every(
    images: Iterator[RawImage], info: SplitInfo, max_images: int | None
) -> Iterator[RawImage]:
    """``max_images`` of them, evenly spaced where their number is known, else the first."""
    if max_images is None:
        return images
    number = info.num_images
    if number is None or number <= max_images:
        return islice(images, max_images)
    return (
        image
        for index, image in enumerate(images)
        if (index + 1) * max_images // number > index * max_images // number
    )


def _power_of_two(side: int) -> int:
    return 1 << (side.bit_length() - 1)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
