"""What a network costs, known before it runs: parameters, FLOPs, memory.

`python -m ddpm_kedro.diffusion.cost` prints the table of all backbones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from ddpm_kedro.diffusion import backbones
from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule
from ddpm_kedro.diffusion.precision import autocast
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.errors import InputError

BYTES_OF_FLOAT, BYTES_OF_HALF = 4, 2
OPTIMIZER_SLOTS = 2  # Adam's two moments
TRAINING_PASSES = 3  # a forward pass, and a backward pass that costs twice as much


@dataclass(frozen=True)
class Cost:
    """Cost of one network at one image shape."""

    parameters: int
    forward_flops: int
    """Of one image, in convolutions and matrix products; a multiply-add counts as two, the rest is
    below 2% of them."""
    activation_bytes: int
    """What one image's forward pass keeps for the backward pass."""
    precision: str = "fp32"
    """In which that was counted: "fp32", "bf16" or "fp16"."""

    @property
    def training_flops(self) -> int:
        """FLOPs of one training image."""
        return TRAINING_PASSES * self.forward_flops

    def training_bytes(
        self, batch_size: int, *, num_averages: int = 1, optimizer_slots: int = OPTIMIZER_SLOTS
    ) -> int:
        """Estimate of the memory that training takes, in bytes, good to about 10%.

        Weights, gradients, averages (`num_averages` copies) and the optimizer's numbers
        (`optimizer_slots` for each weight: Adam 2, momentum 1) in fp32, activations of `batch_size`
        images at a time, and in half precision a copy of the weights. What libraries take to work
        in is not in it, nor is what the compiler saves.
        """
        copies = 2 + optimizer_slots + num_averages
        state = copies * BYTES_OF_FLOAT * self.parameters + self._cast_bytes
        return state + batch_size * self.activation_bytes

    @property
    def _cast_bytes(self) -> int:
        return 0 if self.precision == "fp32" else BYTES_OF_HALF * self.parameters


def cost_of(network: nn.Module, image_shape: Sequence[int], precision: str = "fp32") -> Cost:
    """The cost of `network` at images (C, H, W), counted on fake tensors: nothing is computed.

    The network's weights, on any device, are neither read nor copied. `precision` is "fp32", "bf16"
    or "fp16", under autocast as a CPU does it: which tensors are kept in fp32 beside the half ones
    is the network's and autocast's to say. InputError where it takes no images of that shape.
    """
    kept: dict[int, torch.UntypedStorage] = {}  # by address; held, so that none is used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    counter = FlopCounterMode(display=False)
    try:
        with FakeTensorMode(), torch.enable_grad():
            state = {
                name: torch.empty(value.shape, dtype=value.dtype, requires_grad=value.requires_grad)
                for name, value in [*network.named_parameters(), *network.named_buffers()]
            }
            inputs = torch.empty(1, *image_shape), torch.empty(1)
            hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
            with autocast(precision, "cpu"), counter, hooks:
                functional_call(network, state, inputs)
    except RuntimeError as error:
        reason, shape = str(error).partition("\n")[0], tuple(image_shape)
        name = type(network).__name__
        raise InputError(f"{name} does not take images of {shape}: {reason}") from error
    for value in state.values():
        kept.pop(value.untyped_storage()._cdata, None)
    cost = Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        forward_flops=counter.get_total_flops(),
        activation_bytes=sum(storage.nbytes() for storage in kept.values()),
        precision=precision,
    )
    return replace(cost, activation_bytes=max(0, cost.activation_bytes - cost._cast_bytes))


def network_calls(sampler: Sampler, schedule: NoiseSchedule) -> int:
    """How often an image's drawing calls the network: counted on one of a single pixel."""
    counter = _CallCounter(schedule)
    sampler.sample(counter, (1, 1, 1), [0], seed=0, device="cpu")
    return counter.calls


class _CallCounter:
    """A denoiser that estimates black and counts how often."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule, self.calls = schedule, 0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += 1
        return torch.zeros_like(x)


def table(image_shape: Sequence[int], batch_size: int) -> str:
    """One line for each backbone with its default sizes: what it costs at images (C, H, W)."""
    lines = [
        f"{'backbone':<14}{'parameters':>12}{'GFLOP forward':>15}{'GFLOP training':>16}"
        f"{f'GiB to train on {batch_size} (fp32 / bf16)':>36}"
    ]
    for name in backbones.__all__:
        with torch.device("meta"):
            network = getattr(backbones, name)(in_channels=image_shape[0])
        cost, half = (cost_of(network, image_shape, precision) for precision in ("fp32", "bf16"))
        gigabytes = (each.training_bytes(batch_size) / 2**30 for each in (cost, half))
        memory = " / ".join(f"{number:.2f}" for number in gigabytes)
        lines.append(
            f"{name:<14}{cost.parameters / 1e6:>11.2f}M{cost.forward_flops / 1e9:>15.3f}"
            f"{cost.training_flops / 1e9:>16.3f}{memory:>36}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; `--shape C H W` and `--batch-size` choose what for."""
    parser = argparse.ArgumentParser(description="Cost of each backbone, one image at a time.")
    parser.add_argument("--shape", nargs=3, type=int, default=[3, 32, 32], metavar=("C", "H", "W"))
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args(arguments)
    print(table(options.shape, options.batch_size))


if __name__ == "__main__":
    main()
