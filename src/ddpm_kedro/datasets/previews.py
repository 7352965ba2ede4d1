"""Pictures of samples while the model learned, in the catalog: ``sample_previews``."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt, atomic_folder, publish

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview
    from PIL.Image import Image

_NAME = re.compile(r"preview_(\d+)\.png")


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
    """Make the files of the folder `source` appear as the folder `target`, all at once.

    It is built out of hard links (copies where there are none).

    Raises:
        InputError: `target` is a file.
        OSError: it cannot be written; the old folder stays.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: a file is in the way of a folder; move it")
    with atomic_folder(target) as aside:
        for path in source.iterdir():
            if path.is_file() and not path.name.startswith("."):
                publish(path, aside / path.name)
