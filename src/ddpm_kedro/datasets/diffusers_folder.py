"""Folders of Hugging Face diffusers in the catalog: ``diffusers_export``, ``diffusers_import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from ddpm_kedro.errors import InputError

if TYPE_CHECKING:
    from ddpm_kedro.diffusion.interchange import DiffusersModel


class DiffusersFolder(AbstractDataset):
    """A folder with ``model_index.json``, ``unet/`` and ``scheduler/``; diffusers is not needed.

    Args:
        path: the folder; None where the user has yet to name one.
        parameter: the parameter that names it, for the message when it is None.
        metadata: for plugins.
    """

    def __init__(
        self,
        *,
        path: str | None,
        parameter: str = "import_path",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._folder = None if path is None else Path(path)
        self._parameter = parameter
        self.metadata = metadata

    def load(self) -> DiffusersModel:
        """Configurations and weights.

        Raises:
            InputError: there is no such folder, or a file in it is missing or torn.
        """
        from ddpm_kedro.diffusion.interchange import read_folder

        return read_folder(self._named())

    def save(self, data: DiffusersModel) -> None:
        """Write the folder whole, in the place of an older export."""
        from ddpm_kedro.diffusion.interchange import write_folder

        write_folder(self._named(), data)

    def _named(self) -> Path:
        if self._folder is None:
            raise InputError(f"which diffusers folder? say --params {self._parameter}=/some/folder")
        return self._folder

    def _exists(self) -> bool:
        return self._folder is not None and self._folder.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"path": None if self._folder is None else str(self._folder)}
