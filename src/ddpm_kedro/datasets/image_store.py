"""The catalog's handle on prepared images: ``image_store``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from ddpm_kedro.images.store import ImageStore


class ImageStoreDataset(AbstractDataset):
    """Loads as a live ``ImageStore``; the preparing node writes through it.

    Args:
        path: the store's folder; it is made when something is prepared.
        metadata: for plugins.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> ImageStore:
        """The store; nothing is read."""
        return ImageStore(self._path)

    def save(self, data: Any) -> NoReturn:
        """Not possible.

        Raises:
            DatasetError: always.
        """
        raise DatasetError("image_store is a handle: a node takes it as an input and writes to it")

    def _exists(self) -> bool:
        return self._path.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}
