"""The import node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddpm_kedro.diffusion.interchange import DiffusersModel, from_diffusers
from ddpm_kedro.diffusion.model import save_model
from ddpm_kedro.diffusion.model_header import content_hash
from ddpm_kedro.evaluation.cards import IMPORTED
from ddpm_kedro.files import Receipt


def import_model(pipeline: DiffusersModel, data_root: str) -> tuple[Receipt, dict[str, Any]]:
    """Write a pipeline laid out like google/ddpm-cifar10-32 as a model file of ours, beside the
    trained models (saving it as `model` publishes it); with the card that says that it has no
    training log."""
    spec, weights = from_diffusers(pipeline)
    path = Path(data_root) / "06_models" / "imported" / "model.safetensors"
    save_model(path, spec, {"ema": weights})
    parameters = sum(tensor.numel() for tensor in weights.values())
    receipt = Receipt(path, {"parameters": parameters, "image_shape": list(spec.image_shape)})
    return receipt, {"model": content_hash(path), "status": IMPORTED}
