"""The catalog's handle on all trainings: ``checkpoints``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from ddpm_kedro.training.store.checkpoint_store import CheckpointStore


class CheckpointStoreDataset(AbstractDataset):
    """Loads as a live ``CheckpointStore``; the training node writes through it.

    Args:
        path: the store's folder; it is made when a training starts.
        metadata: for plugins.
    """

    _SINGLE_PROCESS = True  # a lock does not travel between processes

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> CheckpointStore:
        """The store, not yet locked; nothing is read."""
        from ddpm_kedro.training.store.checkpoint_store import CheckpointStore

        return CheckpointStore(self._path)

    def save(self, data: Any) -> NoReturn:
        """Not possible.

        Raises:
            DatasetError: always.
        """
        raise DatasetError("checkpoints is a handle: a node takes it as an input and writes to it")

    def _exists(self) -> bool:
        return self._path.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}
