"""What training will take, said before it starts."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ddpm_kedro.training.state import LearningState

TRAINING_PASSES = 3  # a backward pass costs about two forward passes
OPTIMIZER_COPIES = 2  # Adam keeps two numbers a weight; most others keep fewer


def describe_cost(state: LearningState, rows: int) -> str:
    """One line: parameters, FLOPs of an image, and an estimate of the memory.

    Args:
        state: before the first step.
        rows: images of one forward and backward pass on this device.
    """
    flops, activation_bytes = forward_cost(state)
    parameters = sum(p.numel() for p in state.parameters)
    copies = 2 + len(state.ema.averages) + OPTIMIZER_COPIES
    return (
        f"{parameters:,} parameters, {flops / 1e9:,.3g} GFLOP forward and about "
        f"{TRAINING_PASSES * flops / 1e9:,.3g} in training per image; memory about "
        f"{_size(4 * copies * parameters)} for weights, gradients, averages and optimizer and "
        f"{_size(activation_bytes * rows)} for activations (in fp32)"
    )


def forward_cost(state: LearningState) -> tuple[int, int]:
    """FLOPs of one image's forward pass (1 multiply-add = 2), and the bytes autograd keeps of it.

    Counted on the meta device, so nothing is computed.
    """
    network = copy.deepcopy(state.network).to("meta")
    spec = state.model.spec
    kept_bytes = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept_bytes
        if not isinstance(tensor, torch.nn.Parameter):
            kept_bytes += tensor.nbytes
        return tensor

    x = torch.empty((1, *spec.image_shape), device="meta")
    t = torch.empty((1,), device="meta")
    labels = torch.zeros((1,), dtype=torch.int64, device="meta") if spec.conditional else None
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        network(x, t, labels) if spec.conditional else network(x, t)
    return counter.get_total_flops(), kept_bytes


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
