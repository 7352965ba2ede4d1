"""Prepared images, kept under a key of what they were made from."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_kedro.content import content_hash, remembering
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt, atomic_folder, atomic_write
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.locks import FileLock

LOGGER = logging.getLogger(__name__)

CARD_NAME = "data_card.json"
HASHES_NAME = ".hashes.json"  # of files, so that a large store is not read at each run
SPLIT_NAMES = {"train": "train_images.safetensors", "test": "test_images.safetensors"}


class PreparedImages(NamedTuple):
    """The two splits as files, and what is known about them."""

    train: Receipt
    test: Receipt
    card: dict[str, Any]


class ImageStore:
    """A folder, made where missing, with one folder for each preparation, named by its key.

    A preparation is written aside and gets its name in one rename when it is whole, so a folder
    with a key for a name is finished work; it is found again and not redone. Runs that want the
    same images at the same time wait for the first. Nothing is ever pruned; each folder may be
    deleted by hand at any time, for the published files are links or copies.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def find_or_make(
        self, facts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> PreparedImages:
        """The finished preparation with these facts; made now if there is none.

        `facts` are all that the prepared bytes depend on, JSON-serialisable. `make` writes the
        files of `SPLIT_NAMES` into the folder that it is given, and returns the data card, to which
        `splits.<split>.sha256` of each file is added. What is found is not trusted: files that were
        altered in place are made again. InputError where the store's folder is not writable, or
        its disk is full.
        """
        try:
            key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        except TypeError as error:
            raise InputError(f"facts() of {facts.get('source', 'the source')}: {error}") from error
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / f".{key}.lock", work="preparing these images"):
                with remembering(self.path / HASHES_NAME):
                    found = self._find(key)
                if found is not None:
                    LOGGER.info("images prepared before, found in %s", self.path / key)
                    return found
                with atomic_folder(self.path / key) as aside:
                    card = {**make(aside), "key": key}
                    for split, name in SPLIT_NAMES.items():
                        card["splits"][split]["sha256"] = content_hash(aside / name)
                    with atomic_write(aside / CARD_NAME, "w") as file:
                        json.dump(card, file, indent=2)
                return _prepared(self.path / key, card)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"no space left for prepared images in {self.path}: free some, or set "
                    "prepared_root to a larger disk"
                ) from error
            denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            if not denied and self.path.is_dir():
                raise
            raise InputError(
                f"cannot write prepared images to {self.path} ({error.strerror}): set "
                "prepared_root (or data_root) to a folder that you may write to"
            ) from error

    def _find(self, key: str) -> PreparedImages | None:
        folder = self.path / key
        try:
            card = json.loads((folder / CARD_NAME).read_text("utf-8"))
            for split, name in SPLIT_NAMES.items():
                if not _is_whole(folder / name, card["splits"][split]):
                    raise ValueError(f"{name} is not what was written")
            return _prepared(folder, card)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            if folder.exists():
                why = "" if isinstance(error, FileNotFoundError) else f" ({error})"
                LOGGER.warning("%s is not whole%s; preparing these images again", folder, why)
            return None


def _is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    if "sha256" in facts:
        return content_hash(path) == facts["sha256"]
    # Earlier cards say what the images are, not the file
    found = ImageSet.open(path)
    images = ImageSet(found.images, found.labels, found.classes)
    return images.content_hash == found.content_hash == facts["content_hash"]


def _prepared(folder: Path, card: dict[str, Any]) -> PreparedImages:
    receipts = []
    for split, name in SPLIT_NAMES.items():
        small = {fact: card["splits"][split][fact] for fact in ("num_images", "content_hash")}
        receipts.append(Receipt(folder / name, small))
    return PreparedImages(*receipts, card)
