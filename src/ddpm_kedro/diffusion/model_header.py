"""What a model file says of itself, read without its tensors and without torch."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors import safe_open

# The header holds one entry: safetensors writes several in an order that changes from run to run,
# and a model file's bytes are to depend on the model alone.
HEADER = "ddpm_kedro.model"


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header with the model's `spec`, the names of its `weights` and the `sha256` over both,
    not proven here. OSError, SafetensorError, KeyError or ValueError where it is no model file of
    ours."""
    with safe_open(path, framework="np") as file:
        return json.loads((file.metadata() or {})[HEADER])


def content_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 over spec and tensors that a model file says it has."""
    return read_header(path)["sha256"]
