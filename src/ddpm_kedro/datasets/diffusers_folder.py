"""Folders of Hugging Face diffusers in the catalog: `diffusers_export`, `diffusers_import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_kedro.datasets.local_entry import LocalEntry
from ddpm_kedro.errors import InputError

if TYPE_CHECKING:
    from ddpm_kedro.diffusion.interchange import DiffusersModel


class DiffusersFolder(LocalEntry):
    """A folder with `model_index.json`, `unet/` and `scheduler/`; diffusers is not needed.

    Args:
        parameter: the parameter that names the folder, for the message where `path` is None.
        options: those of :class:`LocalEntry`.
    """

    def __init__(self, *, parameter: str = "import_path", **options: Any) -> None:
        super().__init__(**options)
        self._parameter = parameter

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
        if self._path is None:
            raise InputError(f"which diffusers folder? say --params {self._parameter}=/some/folder")
        return self._path
