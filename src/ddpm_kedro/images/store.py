"""Prepared images, kept under a key of what they were made from."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt, atomic_folder, atomic_write
from ddpm_kedro.locks import FileLock

LOGGER = logging.getLogger(__name__)

CARD_NAME = "data_card.json"
SPLIT_NAMES = {"train": "train_images.safetensors", "test": "test_images.safetensors"}


@dataclass(frozen=True)
class PreparedImages:
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
        files of `SPLIT_NAMES` into the folder that it is given, and returns the data card, in which
        ``splits.<split>.file_bytes`` is the size of each.

        Raises:
            InputError: the store's folder is not writable, or its disk is full.
        """
        try:
            key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        except TypeError as error:
            raise InputError(f"facts() of {facts.get('source', 'the source')}: {error}") from error
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            with FileLock(self.path / f".{key}.lock", work="preparing these images"):
                found = self._find(key)
                if found is None:
                    self._make(key, make)
                    found = self._find(key)
                else:
                    LOGGER.info("images prepared before, found in %s", self.path / key)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise _unwritable(self.path, error) from error
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"no space left for prepared images in {self.path}: free some, or set "
                    "prepared_root to a larger disk"
                ) from error
            raise
        if found is None:
            raise RuntimeError(f"{self.path / key} vanished while it was written")
        return found

    def _find(self, key: str) -> PreparedImages | None:
        folder = self.path / key
        try:
            card = json.loads((folder / CARD_NAME).read_text("utf-8"))
            receipts = {}
            for split, name in SPLIT_NAMES.items():
                facts = card["splits"][split]
                if (folder / name).stat().st_size != facts["file_bytes"]:
                    raise ValueError(f"{name} has another size than it was written with")
                small = {fact: facts[fact] for fact in ("num_images", "content_hash")}
                receipts[split] = Receipt(folder / name, small)
        except (FileNotFoundError, ValueError, KeyError) as error:
            if folder.exists():
                why = "" if isinstance(error, FileNotFoundError) else f" ({error})"
                LOGGER.warning("%s is not whole%s; preparing these images again", folder, why)
            return None
        return PreparedImages(**receipts, card=card)

    def _make(self, key: str, make: Callable[[Path], Mapping[str, Any]]) -> None:
        with atomic_folder(self.path / key) as aside:
            card = {**make(aside), "key": key}
            with atomic_write(aside / CARD_NAME, "w") as file:
                json.dump(card, file, indent=2)


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write prepared images to {path} ({error.strerror}): set prepared_root (or "
        "data_root) to a folder that you may write to"
    )
