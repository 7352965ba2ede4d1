"""Costs are what the papers state, and the arithmetic is right where it can be done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion import backbones
from ddpm_kedro.diffusion.cost import Cost, cost_of, main, network_calls
from ddpm_kedro.diffusion.noise_schedule import CosineSchedule
from ddpm_kedro.diffusion.samplers import DDIM, DPMSolver2S, Heun, Sampler
from ddpm_kedro.errors import InputError


class OneConv(nn.Module):
    """A 3x3 convolution from 2 to 4 channels, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.conv(x)


def test_one_convolution_by_hand() -> None:
    cost = cost_of(OneConv(), (2, 5, 7))
    assert cost.parameters == 4 * 2 * 9 + 4
    assert cost.forward_flops == 2 * (4 * 2 * 9) * 5 * 7
    assert cost.training_flops == 3 * cost.forward_flops
    assert cost.activation_bytes == 4 * 2 * 5 * 7  # its input, which its weight's gradient needs


def test_half_precision_keeps_half_of_a_convolution_and_a_copy_of_its_weights() -> None:
    cost = cost_of(OneConv(), (2, 5, 7), "bf16")
    kept = 2 * 2 * 5 * 7 + 2 * 4 * 2 * 9  # input and weights, cast; the bias is not kept
    assert cost.activation_bytes == kept - 2 * cost.parameters
    assert cost.training_bytes(1) == 5 * 4 * cost.parameters + kept


@pytest.mark.parametrize(
    ("name", "precision", "batch_size", "peak_bytes"),
    [  # by torch's allocator on CUDA, AdamW and one average, the step neither compiled nor captured
        ("DDPMUNet", "bf16", 32, 1.863e9),
        ("DDPMUNet", "bf16", 128, 5.202e9),
        ("DDPMUNet", "fp32", 128, 6.911e9),
        ("HomeworkUNet", "bf16", 128, 2.265e9),
        ("HomeworkUNet", "fp32", 32, 0.952e9),
    ],
)
def test_memory_is_right_within_15_percent(
    name: str, precision: str, batch_size: int, peak_bytes: float
) -> None:
    options = {"dropout": 0.1} if name == "DDPMUNet" else {}
    with torch.device("meta"):
        network = getattr(backbones, name)(**options)
    cost = cost_of(network, (3, 32, 32), precision)
    assert cost.training_bytes(batch_size) == pytest.approx(peak_bytes, rel=0.15)


@pytest.mark.parametrize(
    ("name", "parameters", "gflop"),
    [
        ("HomeworkUNet", 11_349_379, 5.350),
        ("DDPMUNet", 35_746_307, 12.444),  # diffusers' google/ddpm-cifar10-32
        ("DDPMPlusPlus", 55_732_739, 42.380),  # EDM's 55,733,891 less its 9 x 128 augmentation part
    ],
)
def test_papers_networks_cost_what_they_state(name: str, parameters: int, gflop: float) -> None:
    with torch.device("meta"):
        network = getattr(backbones, name)()
    cost = cost_of(network, (3, 32, 32))
    assert cost.parameters == parameters
    assert cost.forward_flops / 1e9 == pytest.approx(gflop, abs=5e-4)


def test_the_compact_one_is_small() -> None:
    cost = cost_of(backbones.CompactUNet(in_channels=1), (1, 8, 8))
    assert 0.4e6 < cost.parameters < 0.5e6


def test_neither_weights_nor_gradients_are_touched() -> None:
    network = backbones.CompactUNet(in_channels=1, base_channels=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        cost = cost_of(network, (1, 8, 8))
    assert cost.activation_bytes > 0
    assert {value.device.type for value in network.state_dict().values()} == {"cpu"}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_flops_follow_the_number_of_pixels() -> None:
    network = backbones.HomeworkUNet(hidden_size=8)
    small, large = (cost_of(network, (3, side, side)).forward_flops for side in (32, 64))
    assert large / small == pytest.approx(4, rel=1e-2)


def test_memory_by_hand() -> None:
    cost = Cost(parameters=10, forward_flops=1, activation_bytes=100)
    assert cost.training_bytes(3) == 5 * 40 + 300  # weights, gradients, two moments, one average
    assert cost.training_bytes(3, num_averages=2, optimizer_slots=1) == 5 * 40 + 300
    half = replace(cost, activation_bytes=50, precision="bf16")
    assert half.training_bytes(3) == 5 * 40 + 150 + 20


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(InputError, match=r"CompactUNet.*\(3, 8, 8\)"):
        cost_of(backbones.CompactUNet(in_channels=1), (3, 8, 8))


def test_prints_every_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--shape", "1", "28", "28", "--batch-size", "64"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["backbone", *backbones.__all__]


@pytest.mark.parametrize(("sampler", "calls"), [(DDIM(7), 7), (Heun(7), 13), (DPMSolver2S(7), 13)])
def test_a_sampler_s_calls_are_counted(sampler: Sampler, calls: int) -> None:
    assert network_calls(sampler, CosineSchedule()) == calls
