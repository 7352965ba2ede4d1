"""All weights cast to half precision at once, where autocast would cast each by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

PRODUCTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # whose weights and biases autocast casts


class HalfWeights(nn.Module):
    """A loss whose products get their weights from one cast of them all, forward and back.

    Autocast launches a kernel for each weight and one for each gradient, hundreds in a UNet. Loss
    and gradients are the same bit for bit, but for a layer that is called twice, whose gradients
    are added up in half precision. `dtype` is that of autocast around this module.
    """

    def __init__(self, loss: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.loss, self.dtype = loss, dtype
        self._weights = {
            f"{prefix}.{name}": weight
            for prefix, module in loss.named_modules()
            if isinstance(module, PRODUCTS)
            for name, weight in module.named_parameters(recurse=False)
            if name in ("weight", "bias") and weight.requires_grad
        }

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """As the loss."""
        halves = _Cast.apply(self.dtype, *self._weights.values())
        return functional_call(self.loss, dict(zip(self._weights, halves, strict=True)), inputs)


class _Cast(torch.autograd.Function):
    """Copies of fp32 tensors in another dtype, whose gradients come back in fp32."""

    @staticmethod
    def forward(context: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        context.set_materialize_grads(False)
        return _cast(weights, dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        full = iter(_cast([g for g in gradients if g is not None], torch.float32))
        return None, *(None if g is None else next(full) for g in gradients)


def _cast(tensors: tuple[Tensor, ...] | list[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """One kernel for all, as each copy is laid out as its tensor."""
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, tensors)
    return tuple(copies)
