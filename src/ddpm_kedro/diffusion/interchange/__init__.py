"""Models to and from Hugging Face diffusers' folders; diffusers itself is not needed for either."""

from ddpm_kedro.diffusion.interchange.conversion import from_diffusers, to_diffusers
from ddpm_kedro.diffusion.interchange.folder import DiffusersModel, read_folder, write_folder

__all__ = ["DiffusersModel", "from_diffusers", "read_folder", "to_diffusers", "write_folder"]
