"""From a source of images to two files of bytes, in one pass and in bounded memory."""

from __future__ import annotations

import inspect
import logging
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_kedro.content import remembering
from ddpm_kedro.errors import InputError, one_line
from ddpm_kedro.images.decoding import decode
from ddpm_kedro.images.imageset import image_set_writer
from ddpm_kedro.images.settings import PreparationSettings
from ddpm_kedro.images.source import ImageSource, RawImage, SplitInfo
from ddpm_kedro.images.split_builder import DecodedImage, SplitBuilder
from ddpm_kedro.images.store import HASHES_NAME, SPLIT_NAMES, ImageStore, PreparedImages
from ddpm_kedro.plain import plain
from ddpm_kedro.progress import Progress

LOGGER = logging.getLogger(__name__)

FORMAT = 1  # counted up when the same source and settings would give other bytes than before
IMAGES_PER_TASK = 32  # decoded by one thread at a time, fewer where they are large:
BYTES_PER_TASK = 4 * 2**20
NAMED_FILES = 20  # of the unreadable ones, in the warning and the data card
LARGEST_LABEL = 4095  # of classes that have no names; larger numbers are not labels
_Unreadable = dict[str, str]  # the image's name, and the reason


def prepare(
    source: ImageSource, store: ImageStore, settings: PreparationSettings
) -> PreparedImages:
    """Prepare the images of `source`, or find them prepared.

    InputError where the source holds no usable images, their sizes differ and `image_size` is None,
    too many are broken, some have labels and some have none, a split stays empty, or there is no
    room for them.
    """
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    if not isinstance(source, ImageSource):
        one = "ddpm_kedro.images.ImageFolder is one"
        raise InputError(f"dataset type={kind} is not an ImageSource; {one}")
    splits = source.splits()
    if not isinstance(splits, Mapping) or not isinstance(getattr(source, "name", None), str):
        raise InputError(
            f"{kind}: a source has a name, and splits() gives a mapping such as "
            '{"train": SplitInfo(300)}'
        )
    relevant = {each.name: getattr(settings, each.name) for each in fields(PreparationSettings)}
    if "test" in splits:
        del relevant["test_fraction"]

    def make(folder: Path) -> dict[str, Any]:
        started_at = time.monotonic()
        try:
            card = _Pass(source, splits, settings, settings.channels, folder).run()
        except _ColourAfterGrey:
            card = _Pass(source, splits, settings, 3, folder).run()
        seconds = time.monotonic() - started_at
        train, test = (card["splits"][split]["num_images"] for split in SPLIT_NAMES)
        size = f"{card['channels']}x{card['height']}x{card['width']}"
        counts = f"{train:,} training and {test:,} test images"
        LOGGER.info("%s: %s of %s in %.1f s", source.name, counts, size, seconds)
        made_by = {"type": kind, **_options(source)}
        about = {"name": source.name, "source": made_by, "settings": relevant}
        return {**about, **card, "seconds": round(seconds, 3)}

    with remembering(store.path / HASHES_NAME):
        of_source = source.facts()
    facts = {"format": FORMAT, "source": kind, "facts": of_source, "settings": relevant}
    return store.find_or_make(facts, make)


class _ColourAfterGrey(Exception):
    """A set that began with grey images holds coloured ones: it starts again with 3 channels."""


@dataclass
class _Pass:
    """One pass through all images, with the number of channels decided or to be found."""

    source: ImageSource
    splits: Mapping[str, SplitInfo]
    settings: PreparationSettings
    channels: int | None
    folder: Path
    shape: tuple[int, ...] = ()  # (C, H, W) of the first image
    first_name: str = ""
    unreadable: list[_Unreadable] = field(default_factory=list)
    builders: dict[str, SplitBuilder] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [info.num_images for info in self.splits.values()]
        limit = self.settings.max_images or math.inf
        known = None not in numbers
        self.total = int(sum(min(number, limit) for number in numbers)) if known else None

    def run(self) -> dict[str, Any]:
        workers = min(4, os.cpu_count() or 1)
        with (
            ExitStack() as files,
            ThreadPoolExecutor(workers, "decode") as pool,
            Progress(self.total or 0, "images", f"preparing {self.source.name}") as progress,
        ):
            seen = 0
            for split, info in self.splits.items():
                images = _some(self.source.read(split), info.num_images, self.settings.max_images)
                for read in self._in_threads(images, pool, workers):
                    seen += len(read)
                    self._take(split, read, files)
                    progress.update(len(read))
            self._refuse_unreadable(seen)
            return self._finish()

    def _in_threads(
        self, images: Iterator[RawImage], pool: ThreadPoolExecutor, workers: int
    ) -> Iterator[list[DecodedImage | _Unreadable]]:
        """Lists of results in the order of `images`; no more tasks wait than threads work."""
        pending: deque[Future[list[DecodedImage | _Unreadable]]] = deque()
        while task := list(islice(images, self._images_per_task())):
            pending.append(pool.submit(list, map(self._read, task)))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _images_per_task(self) -> int:
        """One until the size of the first is known."""
        image_bytes = math.prod(self.shape) if self.shape else BYTES_PER_TASK
        return max(1, min(IMAGES_PER_TASK, BYTES_PER_TASK // image_bytes))

    def _read(self, image: RawImage) -> DecodedImage | _Unreadable:
        try:
            pixels, label = image.load()
            array = decode(pixels, self.settings.image_size, self.channels)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # a decoder may raise anything at bytes that are no image
            return {"name": image.name, "reason": one_line(error)}
        return DecodedImage(image.name, array, label)

    def _take(self, split: str, read: list[DecodedImage | _Unreadable], files: ExitStack) -> None:
        batches: dict[str, list[DecodedImage]] = {name: [] for name in SPLIT_NAMES}
        for entry in read:
            if isinstance(entry, dict):
                self.unreadable.append(entry)
                if self.total is not None:
                    self._refuse_unreadable(self.total)
                continue
            if not self.shape:
                self._start(entry, files)
            image = self._of_one_shape(entry)
            target = split
            if "test" not in self.splits:
                target = "test" if image.digest / 2**64 < self.settings.test_fraction else "train"
            batches[target].append(image)
        for target, batch in batches.items():
            if batch:
                self.builders[target].append(batch)

    def _start(self, image: DecodedImage, files: ExitStack) -> None:
        self.shape, self.first_name = image.pixels.shape, image.name
        needed = (self.total or 0) * image.pixels.size
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"{self.total:,} images need {needed / 1e6:,.0f} MB in {self.folder.parent}, "
                f"where {free / 1e6:,.0f} MB are free; set prepared_root to a larger disk"
            )
        for split, name in SPLIT_NAMES.items():
            writer = image_set_writer(self.folder / name, self.shape, self.source.classes)
            self.builders[split] = SplitBuilder(files.enter_context(writer))

    def _of_one_shape(self, image: DecodedImage) -> DecodedImage:
        (channels, height, width), (more, *size) = self.shape, image.pixels.shape
        if [height, width] != size:
            smallest = min(height, width, *size)
            raise InputError(
                f"images of different sizes: {self.first_name} is {width}x{height}, {image.name} "
                f"is {size[1]}x{size[0]}; set image_size (such as image_size="
                f"{1 << (smallest.bit_length() - 1)}) to crop and resize them to squares"
            )
        if more > channels:
            raise _ColourAfterGrey
        if more == channels:
            return image
        grey_as_colour = np.repeat(image.pixels, channels, axis=0)
        return DecodedImage(image.name, grey_as_colour, image.label)

    def _refuse_unreadable(self, total: int) -> None:
        number, share = len(self.unreadable), self.settings.max_unreadable
        if number > share * total:
            some = ", ".join("{name} ({reason})".format(**each) for each in self.unreadable[:3])
            raise InputError(
                f"{self.source.name}: more than the share of {share:g} of its {total} images that "
                f"preparation.max_unreadable allows cannot be read: {some}"
                f"{', ...' if number > 3 else ''}; mend or remove them, or allow more"
            )

    def _finish(self) -> dict[str, Any]:
        if not self.shape:
            raise InputError(f"{self.source.name}: no image of it can be used")
        if self.unreadable:
            names = ", ".join(image["name"] for image in self.unreadable[:NAMED_FILES])
            LOGGER.warning("%d unreadable images left out: %s", len(self.unreadable), names)
        numbers = {split: builder.num_images for split, builder in self.builders.items()}
        if empty := [split for split, number in numbers.items() if number == 0]:
            raise InputError(
                f"{self.source.name}: none of its {sum(numbers.values())} images is in the "
                f"{empty[0]} split; give more images, or another preparation.test_fraction"
            )
        classes = self._classes()
        splits = {
            split: builder.finish(self.folder / SPLIT_NAMES[split], classes)
            for split, builder in self.builders.items()
        }
        train, test = (self.builders[split].distinct() for split in SPLIT_NAMES)
        mean, deviation = self.builders["train"].moments()
        shared = len(np.intersect1d(train, test, assume_unique=True))
        if shared:
            words = "%d images of the test split are in the training split too: it flatters scores"
            LOGGER.warning(words, shared)
        own = "test" in self.splits
        return {
            **dict(zip(("channels", "height", "width"), self.shape, strict=True)),
            "classes": list(classes),
            "test_split": "of the source" if own else "by a hash of the pixels",
            "splits": splits,
            "channel_mean": mean,
            "channel_std": deviation,
            "duplicates_across_splits": shared,
            "unreadable": {
                "number": len(self.unreadable),
                "files": self.unreadable[:NAMED_FILES],
            },
        }

    def _classes(self) -> tuple[str, ...]:
        known = self.source.classes
        largest = max(builder.largest_label for builder in self.builders.values())
        if known is None and largest > LARGEST_LABEL:
            raise InputError(
                f"{self.source.name}: {largest} among labels without class names; these are "
                "no labels, choose another column or none"
            )
        if known and largest >= len(known):
            raise InputError(
                f"{self.source.name}: a label of {largest}, but names for {len(known)} classes only"
            )
        if known is None:
            return tuple(map(str, range(largest + 1)))
        return known if largest >= 0 else ()


def _some(
    images: Iterator[RawImage], num_images: int | None, max_images: int | None
) -> Iterator[RawImage]:
    """`max_images` of them, evenly spaced where their number is known, else the first."""
    if max_images is None or num_images is None or num_images <= max_images:
        return islice(images, max_images)
    return (
        image
        for index, image in enumerate(images)
        if (index + 1) * max_images // num_images > index * max_images // num_images
    )


def _options(source: ImageSource) -> dict[str, Any]:
    """The arguments that a source was made with, as far as it keeps them under their names."""
    names = inspect.signature(type(source)).parameters
    options = {name: getattr(source, name) for name in names if hasattr(source, name)}
    return plain(options, real=float)
