"""The import node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_kedro.diffusion.model_header import content_hash
from ddpm_kedro.files import Receipt

if TYPE_CHECKING:
    from ddpm_kedro.diffusion.interchange import DiffusersModel
else:  # Kedro reads the annotations at every start, which does without torch
    DiffusersModel = Any


def import_model(pipeline: DiffusersModel, data_root: str) -> tuple[Receipt, dict[str, Any]]:
    """Write a pipeline laid out like google/ddpm-cifar10-32 as a model file of ours, beside the
    trained models (saving it as `model` publishes it); with the card that says that it has no
    training log."""
    from ddpm_kedro.diffusion.interchange import from_diffusers
    from ddpm_kedro.diffusion.model import save_model
    from ddpm_kedro.evaluation.cards import IMPORTED

    spec, weights = from_diffusers(pipeline)
    path = Path(data_root) / "06_models" / "imported" / "model.safetensors"
    save_model(path, spec, {"ema": weights})
    parameters = sum(tensor.numel() for tensor in weights.values())
    receipt = Receipt(path, {"parameters": parameters, "image_shape": list(spec.image_shape)})
    return receipt, {"model": content_hash(path), "status": IMPORTED}
