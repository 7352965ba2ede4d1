"""Images of one's own: a folder of files, or an archive of one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.images.collection import FileCollection, open_collection
from ddpm_kedro.images.source import (
    SPLIT_OF,
    ImageSource,
    RawImage,
    SplitInfo,
    by_split,
    existing_path,
)

LOGGER = logging.getLogger(__name__)


class ImageFolder(ImageSource):
    """A folder of image files and the folders below it, or a zip or tar archive of that.

    Subfolders named `train` and `test` (or `val`, where there is no `test`) and nothing else beside
    them are splits. Two or more other subfolders are classes, if every image lies in one. Anything
    else is a set of images without labels. With `class_folders` True classes are insisted on, with
    False none are seen.
    """

    def __init__(self, path: str | Path | None, class_folders: bool | None = None) -> None:
        self.path = path
        self.class_folders = class_folders
        self.name = Path(path).stem if path else "image_folder"

    @cached_property
    def _collection(self) -> FileCollection:
        path = existing_path(self.path, "a folder of images, or a zip or tar archive of one")
        collection = open_collection(path)
        if not collection.members:
            raise InputError(
                f"image_path={path}: no images found among its {collection.num_ignored} files; "
                "their names must end in .png, .jpg, .webp or the like"
            )
        return collection

    @cached_property
    def _members(self) -> dict[str, list[tuple[PurePosixPath, PurePosixPath]]]:
        """For each split pairs of a member and its path below the split's folder."""
        pairs = [(member, member) for member in self._collection.members]
        while len(top := {below.parts[0] for _, below in pairs}) == 1 and all(
            len(below.parts) > 1 for _, below in pairs
        ):
            if SPLIT_OF.get(top.pop().lower()) == "train":
                break
            pairs = [(member, _without_top(below)) for member, below in pairs]
        tops = [below.parts[0].lower() if len(below.parts) > 1 else "" for _, below in pairs]
        names = [SPLIT_OF.get(top) for top in tops]
        if None in names or "train" not in names:
            return {"train": pairs}
        if {"test", "validation"} <= {*names}:
            unused = sorted({top for top in tops if SPLIT_OF[top] == "validation"})
            LOGGER.warning("%s: the folders %s are not used", self.path, ", ".join(unused))
        inside = [(member, _without_top(below)) for member, below in pairs]
        return by_split(list(zip(names, inside, strict=True)))

    def splits(self) -> dict[str, SplitInfo]:
        return {split: SplitInfo(len(pairs)) for split, pairs in self._members.items()}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        belows = [below for pairs in self._members.values() for _, below in pairs]
        loose = [below for below in belows if len(below.parts) == 1]
        names = sorted({below.parts[0] for below in belows if len(below.parts) > 1})
        if self.class_folders and loose:
            raise InputError(
                f"image_path={self.path}: {len(loose)} images, such as {loose[0]}, lie in no class "
                "folder; move them into one, or set class_folders to false"
            )
        if self.class_folders is False or (self.class_folders is None and len(names) < 2):
            return ()
        if loose:
            words = "%s: no labels, for %d of %d images, such as %s, lie in no class folder"
            LOGGER.warning(words, self.path, len(loose), len(belows), loose[0])
            return ()
        return tuple(names)

    def read(self, split: str) -> Iterator[RawImage]:
        belows = dict(self._members[split])
        numbers = {name: number for number, name in enumerate(self.classes)}
        for member, opener in self._collection.open_all(list(belows)):
            label = numbers.get(belows[member].parts[0]) if numbers else None
            yield RawImage(str(member), lambda opener=opener, label=label: (opener(), label))

    def facts(self) -> dict[str, Any]:
        return {"class_folders": self.class_folders, **self._collection.facts()}


def _without_top(path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(*path.parts[1:])
