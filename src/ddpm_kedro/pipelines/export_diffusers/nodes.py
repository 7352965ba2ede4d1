"""The export node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_kedro.diffusion.interchange import DiffusersModel
    from ddpm_kedro.diffusion.model import Model
else:  # Kedro reads the annotations at every start, which does without torch
    DiffusersModel = Model = Any


def export_model(model: Model) -> DiffusersModel:
    """The model as Hugging Face diffusers lays it out; InputError where it knows no such network or
    schedule."""
    from ddpm_kedro.diffusion.interchange import to_diffusers

    return to_diffusers(model)
