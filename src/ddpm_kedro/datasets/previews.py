"""Pictures of samples while the model learned, in the catalog: ``sample_previews``."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt, fsync_folder, publish

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview
    from PIL.Image import Image

_NAME = re.compile(r"preview_(\d+)\.png")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class PreviewFolder(AbstractDataset):
    """A folder of PNG grids ``preview_<images seen>.png``; Kedro-Viz shows the newest.

    Args:
        path: the folder.
        metadata: for plugins.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> dict[int, Image]:
        """The grids by the number of training images seen, ascending; none without the folder."""
        from PIL import Image

        grids = {}
        for images_seen, path in self._grids():
            with Image.open(path) as grid:
                grids[images_seen] = grid.copy()
        return grids

    def save(self, data: Receipt) -> None:
        """Publish the folder that training wrote; a reader finds the old one or the new one."""
        publish_folder(data.path, self._path)

    def preview(self) -> ImagePreview:
        """The newest grid as base64."""
        grids = self._grids()
        return base64.b64encode(grids[-1][1].read_bytes()).decode() if grids else ""

    def _grids(self) -> list[tuple[int, Path]]:
        paths = self._path.iterdir() if self._path.is_dir() else ()
        named = ((_NAME.fullmatch(path.name), path) for path in paths)
        return sorted((int(match[1]), path) for match, path in named if match)

    def _exists(self) -> bool:
        return self._path.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}


def publish_folder(source: Path, target: Path) -> None:
    """Make the files of the folder ``source`` appear as the folder ``target``, all at once.

    The new folder is built beside the target out of hard links (copies where there are none) and
    changes places with the old one in one system call on Linux. Where that call is missing, two
    renames follow each other, and between them a reader finds no folder.

    Raises:
        InputError: ``target`` is a file.
        OSError: it cannot be written; the old folder stays.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: a file is in the way of a folder; move it")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.new")
    shutil.rmtree(aside, ignore_errors=True)  # left by a killed run
    aside.mkdir()
    try:
        for path in source.iterdir():
            if path.is_file() and not path.name.startswith("."):
                publish(path, aside / path.name)
        fsync_folder(aside)
        if not target.exists():
            os.rename(aside, target)
        elif not _exchange(aside, target):
            _swap(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # by now the old folder, or what failed
    fsync_folder(target.parent)


def _swap(aside: Path, target: Path) -> None:
    """Put ``aside`` in the place of ``target``, and ``target`` back if that fails."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    try:
        os.rename(aside, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change places at once; False where the system or file system cannot."""
    with contextlib.suppress(OSError, AttributeError):
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        names = os.fsencode(first), os.fsencode(second)
        return renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    return False
