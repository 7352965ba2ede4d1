"""What training will take, in one line before it starts."""

from __future__ import annotations

from ddpm_kedro.diffusion.cost import cost_of
from ddpm_kedro.errors import InputError
from ddpm_kedro.training.precision import Precision
from ddpm_kedro.training.state import LearningState


def describe_cost(state: LearningState, rows: int, precision: Precision) -> str:
    """Parameters, FLOPs of an image, and an estimate of the memory.

    Args:
        state: before the first step.
        rows: images of one forward and backward pass on this device.
        precision: of the network.
    """
    try:
        cost = cost_of(state.network, state.model.spec.image_shape, precision.name)
    except InputError as error:  # the network needs values, and on meta there are none
        parameters = sum(parameter.numel() for parameter in state.parameters)
        return f"{parameters:,} parameters; no estimate of cost ({error})"
    group = state.optimizer.param_groups[0]
    slots = 2 if "betas" in group else int(bool(group.get("momentum")))
    memory_bytes = cost.training_bytes(
        rows, num_averages=len(state.ema.averages), optimizer_slots=slots
    )
    return (
        f"{cost.parameters:,} parameters, {cost.forward_flops / 1e9:,.3g} GFLOP forward, "
        f"{cost.training_flops / 1e9:,.3g} in training per image, about "
        f"{_size(memory_bytes)} of memory for {rows:,} images at a time"
    )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"
