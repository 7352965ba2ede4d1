"""Which device computes, and in which precision a network runs there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ddpm_kedro.errors import InputError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(
    precision: str, device_type: str, **options: Any
) -> contextlib.AbstractContextManager[object]:
    """A context in which products of matrices, and convolutions, run in "fp32", "bf16" or "fp16",
    also where another one surrounds it; `options` are those of `torch.autocast`."""
    dtype = PRECISIONS[precision]
    enabled = dtype is not None
    if not enabled and not torch.amp.is_autocast_available(device_type):  # the meta device
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype or torch.bfloat16, enabled=enabled, **options)


@contextlib.contextmanager
def product_mode(precision: str) -> Iterator[None]:
    """TF32 for the fp32 products left beside half precision, exact fp32 for "fp32"; and cuDNN's
    search for the fastest convolution of each shape, since shapes are the same at every call."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    wanted = precision != "fp32"
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    cudnn.allow_tf32, cudnn.benchmark = wanted, True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


@contextlib.contextmanager
def told_out_of_memory(stage: str, rows: int, device: torch.device | str) -> Iterator[None]:
    """A GPU that runs out of memory with so many `rows` at a time is an InputError, whose one line
    names a `batch_size` of the `stage` (such as "sampling") that may fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = f"{stage}.batch_size={rows // 2} may fit"
        if rows == 1:
            advice = "not one fits: choose a smaller network or image"
        said = f"{stage}: out of memory on {device} with {rows} images at a time; {advice}"
        raise InputError(said) from error.with_traceback(None)  # which holds what fills the memory


def choose_device(requested: str) -> torch.device:
    """The device of "auto", "cpu", "cuda", "cuda:N" or "mps"; InputError where there is none here.

    "auto" takes CUDA where there is one, else the CPU; mps, where training is untried, only when it
    is asked for.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        device = None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None or device.type not in ("cpu", "cuda", "mps", "meta"):
        right = "choose one of auto, cpu, cuda, cuda:N, mps"
    elif device.type == "cuda" and (device.index or 0) >= count:
        found = f"finds {count} CUDA devices" if count else "finds no CUDA device"
        right = f"this PyTorch {found}; use device=auto"
    elif device.type == "mps" and not torch.backends.mps.is_available():
        right = "this PyTorch finds no Apple GPU; use device=auto"
    else:
        return device
    raise InputError(f"device={requested}: {right}")


@dataclass(frozen=True)
class Precision:
    """How the network computes; weights, schedule, noise, t and loss are fp32 or wider always."""

    name: str  # "fp32", "bf16" or "fp16"
    device_type: str
    reason: str
    """Why it was chosen, in words."""

    @property
    def needs_loss_scale(self) -> bool:
        """fp16 gradients underflow unless the loss is scaled up."""
        return self.name == "fp16"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A context in which the network's products run in this precision."""
        # Without the cache of cast weights: a CUDA graph must cast them anew at each replay.
        return autocast(self.name, self.device_type, cache_enabled=False)

    def product_mode(self) -> contextlib.AbstractContextManager[None]:
        """Of the other products, see the function."""
        return product_mode(self.name)


def choose_precision(requested: str, device: torch.device) -> Precision:
    """bf16 for "auto" where the processor multiplies it natively, else fp32."""
    if requested != "auto":
        return Precision(requested, device.type, "as asked")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", device.type, "the GPU multiplies it natively")
        return Precision("fp32", device.type, "the GPU has no native bf16")
    if device.type == "cpu" and cpu_multiplies_bf16():
        return Precision("bf16", device.type, "the processor multiplies it natively")
    return Precision("fp32", device.type, "no native bf16 here")


def cpu_multiplies_bf16() -> bool:
    """Whether this processor has bf16 products (avx512_bf16 or amx) that PyTorch uses."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
