"""Images of one's own: a folder of files, or an archive of one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ddpm_kedro.errors import InputError
from ddpm_kedro.images.collection import FileCollection, open_collection
from ddpm_kedro.images.source import (
    TEST_NAMES,
    TRAIN_NAMES,
    VALIDATION_NAMES,
    ImageSource,
    RawImage,
    SplitInfo,
    existing_path,
)

logger = logging.getLogger(__name__)


class ImageFolder(ImageSource):
    """A folder of image files and the folders below it, or a zip or tar archive of that.

    Subfolders named ``train`` and ``test`` (or ``val``, where there is no ``test``) and nothing
    else beside them are splits. Two or more other subfolders are classes, if every image lies in
    one. Anything else is a set of images without labels.

    Args:
        path: the folder or archive.
        class_folders: True insists on classes, False sees none, None looks.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, class_folders: bool | None = None
    ) -> None:
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
            if {name.lower() for name in top} & {*TRAIN_NAMES}:
                break
            pairs = [(member, _without_top(below)) for member, below in pairs]
        folders = {below.parts[0].lower() for _, below in pairs if len(below.parts) > 1}
        known = {*TRAIN_NAMES, *TEST_NAMES, *VALIDATION_NAMES}
        if not (
            all(len(below.parts) > 1 and below.parts[0].lower() in known for _, below in pairs)
            and folders & {*TRAIN_NAMES}
        ):
            return {"train": pairs}
        members = {}
        tests = TEST_NAMES if folders & {*TEST_NAMES} else VALIDATION_NAMES
        for split, names in (("train", TRAIN_NAMES), ("test", tests)):
            members[split] = [
                (member, _without_top(below))
                for member, below in pairs
                if below.parts[0].lower() in names
            ]
        unused = sorted(folders - {*TRAIN_NAMES, *tests})
        if unused:
            logger.warning(f"{self.path}: the folders {', '.join(unused)} are not used")
        return {split: pairs for split, pairs in members.items() if pairs}

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
            logger.warning(
                f"{self.path}: no labels, for {len(loose)} of {len(belows)} images, such as "
                f"{loose[0]}, lie in no class folder"
            )
            return ()
        return tuple(names)

    def read(self, split: str) -> Iterator[RawImage]:
        belows = dict(self._members[split])
        numbers = {name: number for number, name in enumerate(self.classes)}
        for member, opener in self._collection.open_all(list(belows)):
            label = numbers.get(belows[member].parts[0]) if numbers else None
            yield RawImage(str(member), partial(_open, opener, label))

    def facts(self) -> dict[str, Any]:
        return {
            "path": str(self._collection.path.resolve()),
            "class_folders": self.class_folders,
            "files": self._collection.facts(),
        }


def _without_top(path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(*path.parts[1:])


def _open(opener: Callable[[], Image.Image], label: int | None) -> tuple[Image.Image, int | None]:
    return opener(), label
