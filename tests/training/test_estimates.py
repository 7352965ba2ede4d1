"""The line about cost that training begins with."""

from __future__ import annotations

import pytest
import torch
from tiny_training import tiny_images, tiny_settings
from torch import nn

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.training.estimates import describe_cost
from ddpm_kedro.training.loop import model_spec
from ddpm_kedro.training.precision import Precision
from ddpm_kedro.training.state import LearningState


class LooksAtValues(nn.Module):
    """A user's network that cannot run without values."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: object = None) -> torch.Tensor:
        return x * (self.scale.sum() if float(t[0]) > 0 else 1)


class NeedsNonzero(LooksAtValues):
    """Another one: its shapes depend on values."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: object = None) -> torch.Tensor:
        return x * self.scale[: len(t.nonzero())].sum()


def state_with(network: nn.Module | None) -> LearningState:
    settings = tiny_settings(backbone={
        "type": "ddpm_kedro.diffusion.backbones.CompactUNet", "base_channels": 8,
        "channel_mults": [1],
    })  # fmt: skip
    return LearningState(Model(model_spec(tiny_images(), settings), network), settings)


def test_counts_parameters_flops_and_memory() -> None:
    state = state_with(None)
    parameters = sum(parameter.numel() for parameter in state.parameters)
    said = describe_cost(state, 8, Precision("fp32", "cpu", ""))
    assert said.startswith(f"{parameters:,} parameters, ")
    assert "GFLOP forward" in said
    assert said.endswith("of memory for 8 images at a time")


@pytest.mark.parametrize("network", [LooksAtValues, NeedsNonzero])
def test_a_network_that_needs_values_trains_without_an_estimate(network: type) -> None:
    said = describe_cost(state_with(network()), 8, Precision("fp32", "cpu", ""))
    assert said.startswith(f"3 parameters; no estimate of cost ({network.__name__} ")
