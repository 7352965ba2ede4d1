"""What every source of images offers: splits, class names, facts, and images one by one."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ddpm_kedro.content import content_hash
from ddpm_kedro.errors import InputError
from ddpm_kedro.progress import Progress

Pixels = Image.Image | np.ndarray
"""A Pillow image of any mode, or a uint8 array (H, W) or (H, W, C) with C = 1, 3 or 4."""

SPLIT_OF = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_OF |= dict.fromkeys(("val", "valid", "validation", "eval"), "validation")
_BYTES_A_SECOND = 1_000_000_000  # about what is hashed in one
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RawImage:
    """One image before it is decoded."""

    name: str
    """What a person finds it by: a path, or a file and a row."""
    load: Callable[[], tuple[Pixels, int | None]]
    """Reads it and returns its pixels and its label (None: it has none). It runs in a worker thread
    and may raise anything where the image is broken."""


@dataclass(frozen=True)
class SplitInfo:
    """What is known of a split before it is read."""

    num_images: int | None = None
    """How many images it has, broken ones included; None where only reading tells."""


class ImageSource(ABC):
    """Images as somebody published or collected them. Making one touches no disk."""

    name: str
    """What the set is called in progress lines and in the data card."""

    @abstractmethod
    def splits(self) -> Mapping[str, SplitInfo]:
        """`"train"`, and `"test"` where the source has a split of its own for it; InputError where
        nothing is there, or it is not what this source reads."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...] | None:
        """Names in label order; empty without labels; None where labels are bare numbers."""

    @abstractmethod
    def read(self, split: str) -> Iterator[RawImage]:
        """The images of a split in an order that is always the same."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the pixels depend on, JSON-serialisable: options and the files' contents, neither
        their place nor their times. Every run asks; `content.content_hash` remembers what is slow.
        """


def by_split(named: Sequence[tuple[str | None, _Item]]) -> dict[str, list[_Item]]:
    """Items under `train` and `test`, each given with its name in `SPLIT_OF`; `validation` is the
    test split where nothing else is."""
    found: dict[Any, list[_Item]] = {}
    for name, item in named:
        found.setdefault(name, []).append(item)
    splits = {"train": found.get("train"), "test": found.get("test", found.get("validation"))}
    return {split: items for split, items in splits.items() if items}


def existing_path(path: str | Path | None, what: str) -> Path:
    """`path` as a Path; InputError where it is None or nothing is there, with `what` should be."""
    if path is None or str(path) == "":
        raise InputError(f"image_path is not set: give {what}")
    path = Path(path).expanduser()
    try:
        path.stat()
    except OSError as error:
        raise InputError(f"image_path={path}: {error.strerror or error}; give {what}") from error
    return path


def file_facts(files: Iterable[Path], root: Path, name: str) -> dict[str, Any]:
    """How many `files` there are, and a hash of their paths below `root` and of their contents:
    other images, other facts, wherever they lie and whenever they were written. Progress is shown
    for more than a gigabyte, under the `name` of the set."""
    sizes = {file: os.path.getsize(file) if os.path.exists(file) else 0 for file in files}
    total, whole = sum(sizes.values()), hashlib.sha256()
    megabytes, is_quick = int(total / 1e6), total < _BYTES_A_SECOND
    with Progress(megabytes, "MB", f"reading the files of {name}", silent=is_quick) as progress:
        for file, size in sizes.items():
            try:
                content = content_hash(file)
            except OSError:  # a link to nowhere, say: reading the image will fail and name it
                content = ""
            whole.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{content}\n"))
            progress.update(size / 1e6)
    return {"files": len(sizes), "sha256": whole.hexdigest()}
