"""The model file: tensors and a spec in one safetensors file, proven unaltered when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.model_header import HEADER
from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write

VERSION = 1


def save_model(
    path: str | os.PathLike[str], spec: ModelSpec, weights: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write a model file: one safetensors file, whole or not at all.

    `weights` are sets by name, such as "ema" and "raw", each a `state_dict()` of the backbone; a
    tensor is stored as "<set>/<its name>", the spec in the header as JSON. InputError without a
    set, or for a name with a slash; at an OSError, where the disk is full or not writable, an older
    file stays as it was.
    """
    for name in weights:
        if not name or "/" in name:
            raise InputError(f"weights {name!r}: give the set a name without a slash")
    if not weights:
        raise InputError("weights: give at least one set")
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()  # safetensors refuses two tensors in one place, as in equal sets
    for group, state in weights.items():
        for name, tensor in state.items():
            tensor = tensor.detach().to("cpu").contiguous()
            address = tensor.untyped_storage().data_ptr()
            tensors[f"{group}/{name}"] = tensor.clone() if address in memory else tensor
            memory.add(address)
    spec_json = json.dumps(spec.to_dict(), sort_keys=True)
    header = {
        "version": VERSION,
        "spec": json.loads(spec_json),
        "weights": sorted(weights),
        "sha256": _digest(spec_json, tensors),
    }
    data = safetensors.torch.save(tensors, {HEADER: json.dumps(header, sort_keys=True)})
    with atomic_write(path) as file:
        file.write(data)


def read_model_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and all tensors of a model file, proven unaltered; else an InputError."""

    def demand(holds: bool, right: str) -> None:
        if not holds:
            raise InputError(f"model file {path}: {right}")

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
            demand(text is not None, "not a model of this package")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(text)
        version, sets = header["version"], sorted({name.partition("/")[0] for name in tensors})
        demand(version == VERSION, f"version {version}, this package reads {VERSION}")
        digest = _digest(json.dumps(header["spec"], sort_keys=True), tensors)
        is_whole = header["sha256"] == digest and header["weights"] == sets
        demand(is_whole, "damaged, its checksum does not match")
    except FileNotFoundError as error:
        raise InputError(f"model file {path}: there is none; train a model first") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"model file {path}: not a whole safetensors file ({error})") from error
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"model file {path}: damaged, its header cannot be read") from error
    return header, tensors


def _digest(spec_json: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the spec and each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(spec_json.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network on the meta device its weights, in fp32 where they are numbers."""
    expected, found = (
        {(name, tensor.shape) for name, tensor in given.items()}
        for given in (network.state_dict(), state)
    )
    different = sorted({name for name, _ in expected ^ found})
    if different:
        raise InputError(
            f"its weights do not fit its backbone in {len(different)} tensors, first {different[0]}"
        )
    state = {  # copies, so that nothing of the network stays mapped to the file
        name: tensor.to(torch.float32 if tensor.is_floating_point() else None, copy=True)
        for name, tensor in state.items()
    }
    network.load_state_dict(state, assign=True)
    network.requires_grad_(True)
