"""The export node."""

from __future__ import annotations

from ddpm_kedro.diffusion.interchange import DiffusersModel, to_diffusers
from ddpm_kedro.diffusion.model import Model


def export_model(model: Model) -> DiffusersModel:
    """The model in diffusers' terms; the weights were chosen when it was loaded."""
    return to_diffusers(model)
