"""The files of a diffusers pipeline with a UNet and a scheduler."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_folder, atomic_write

INDEX = "model_index.json"
UNET_CONFIG = "config.json"
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER_CONFIG = "scheduler_config.json"


@dataclass(frozen=True)
class DiffusersModel:
    """What a diffusers folder holds, in plain values and tensors."""

    pipeline: str
    """Name of its class, such as "DDIMPipeline"."""
    unet: Mapping[str, Any]
    """Configuration of its `UNet2DModel`."""
    weights: Mapping[str, Tensor]
    """The UNet's tensors by diffusers' names."""
    scheduler: Mapping[str, Any]
    """Configuration of its scheduler, with the class under "_class_name"."""


def write_folder(path: str | os.PathLike[str], model: DiffusersModel) -> None:
    """Write `model_index.json`, `unet/` and `scheduler/`: the folder is whole or not there.

    An older export in the same place is replaced; it stays at an OSError, where the disk is full or
    not writable. InputError where something else is in the way: a file, or another folder.
    """
    path = Path(path)
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not (path / INDEX).is_file() and not is_empty:
        raise InputError(f"{path}: not an earlier export, so it is left alone; choose another path")
    index = {
        "_class_name": model.pipeline,
        "scheduler": ["diffusers", model.scheduler["_class_name"]],
        "unet": ["diffusers", model.unet["_class_name"]],
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.weights.items()}
    with atomic_folder(path) as new:
        for name, values in (
            (INDEX, index),
            (f"unet/{UNET_CONFIG}", model.unet),
            (f"scheduler/{SCHEDULER_CONFIG}", model.scheduler),
        ):
            with atomic_write(new / name, "w") as file:
                file.write(json.dumps(values, indent=2, sort_keys=True) + "\n")
        with atomic_write(new / "unet" / UNET_WEIGHTS) as file:
            file.write(safetensors.torch.save(tensors, {"format": "pt"}))


def read_folder(path: str | os.PathLike[str]) -> DiffusersModel:
    """Read a folder laid out like google/ddpm-cifar10-32, with or without `unet/` subfolders.

    InputError where a file is missing or torn, or the weights are there as a pickle alone.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no folder; give one with a {INDEX}, as diffusers saves it")
    unet, scheduler = (
        path / part if (path / part).is_dir() else path for part in ("unet", "scheduler")
    )
    index = _read_json(path / INDEX) if (path / INDEX).is_file() else {}
    weights = unet / UNET_WEIGHTS
    if not weights.is_file():
        pickles = sorted(item.name for item in unet.glob("*.bin"))
        also = f"; {pickles[0]} is a pickle, which is never opened" if pickles else ""
        raise InputError(f"{weights}: no such file{also}")
    try:
        tensors = safetensors.torch.load_file(weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{weights}: not a whole safetensors file ({error})") from error
    configs = _read_json(unet / UNET_CONFIG), _read_json(scheduler / SCHEDULER_CONFIG)
    return DiffusersModel(str(index.get("_class_name", "")), configs[0], tensors, configs[1])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}, not a table")
    return values
