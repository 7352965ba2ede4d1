"""In which precision a network computes, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(
    precision: str, device_type: str, **options: Any
) -> contextlib.AbstractContextManager[object]:
    """A context in which products of matrices, and convolutions, run in ``precision``, also where
    another one surrounds it.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device_type: of the tensors, such as ``cuda``.
        options: of :class:`torch.autocast`.
    """
    dtype = PRECISIONS[precision]
    enabled = dtype is not None
    if not enabled and not torch.amp.is_autocast_available(device_type):  # the meta device
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype or torch.bfloat16, enabled=enabled, **options)


@contextlib.contextmanager
def product_mode(precision: str) -> Iterator[None]:
    """TF32 for the fp32 products left beside half precision; exact fp32 for ``fp32``."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    wanted = precision != "fp32"
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
