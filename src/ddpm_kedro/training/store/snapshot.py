"""Copies of tensors in CPU memory, taken without waiting for the GPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Snapshot:
    """The values of ``tensors`` at this point of the program, whatever happens to them later.

    Tensors on the CPU are copied at once. Tensors on a GPU are copied into page-locked memory by
    the current stream, behind the work that is already queued there and before any that is queued
    later, so the host need not wait; :meth:`ready` waits in whatever thread needs the values.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._events: list[torch.cuda.Event] = []
        self._tensors: dict[str, Tensor] = {}
        self._sources: list[Tensor] = []
        devices = set()
        for name, tensor in tensors.items():
            tensor = tensor.detach()
            if tensor.device.type == "cuda":  # pragma: cuda only
                tensor = tensor.contiguous()
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                copy.copy_(tensor, non_blocking=True)
                self._sources.append(tensor)  # a temporary must outlive its copy
                devices.add(tensor.device)
            else:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype)
                copy.copy_(tensor)
            self._tensors[name] = copy
        for device in devices:  # pragma: cuda only
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)

    def ready(self) -> dict[str, Tensor]:
        """The copies: contiguous CPU tensors; waits until the last of them has arrived."""
        for event in self._events:  # pragma: cuda only
            event.synchronize()
        self._sources.clear()
        return self._tensors
