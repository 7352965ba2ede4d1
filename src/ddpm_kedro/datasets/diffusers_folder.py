"""Folders of Hugging Face diffusers in the catalog: `diffusers_export`, `diffusers_import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddpm_kedro.datasets.local_entry import LocalEntry
from ddpm_kedro.errors import InputError

if TYPE_CHECKING:
    from ddpm_kedro.diffusion.interchange import DiffusersModel


class DiffusersFolder(LocalEntry):
    """A folder with `model_index.json`, `unet/` and `scheduler/`; diffusers is not needed."""

    def load(self) -> DiffusersModel:
        """Configurations and weights; InputError where there is no such folder, nobody has named
        one, or a file in it is missing or torn."""
        from ddpm_kedro.diffusion.interchange import read_folder

        if self._path is None:
            raise InputError("which diffusers folder? say --params import_path=/some/folder")
        return read_folder(self._path)

    def save(self, data: DiffusersModel) -> None:
        """Write the folder whole, in the place of an older export."""
        from ddpm_kedro.diffusion.interchange import write_folder

        write_folder(self._path, data)
