"""The one place that knows the pixel range: bytes 0..255 on disk, floats -1..1 in the model."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(images: Tensor) -> Tensor:
    """Bytes (uint8) to float32 of the same shape and device, in [-1, 1]: `x / 127.5 - 1`."""
    return images.to(torch.float32) / 127.5 - 1.0


def quantise(images: Tensor) -> Tensor:
    """Floats to uint8 of the same shape and device: the inverse of `normalise`, rounded to nearest;
    values outside [-1, 1] become 0 or 255."""
    return ((images.to(torch.float32) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
