"""One cast of all weights: everything is as under autocast, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import tiny_images, tiny_settings
from torch import Tensor, nn

from ddpm_kedro.diffusion import backbones
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.training.step.acceleration import shares_a_cast
from ddpm_kedro.training.step.half_weights import HalfWeights
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.step.training_step import LossModule, TrainingStep
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

OURS = "ddpm_kedro.diffusion.backbones"
SMALL: dict[str, dict[str, Any]] = {
    "HomeworkUNet": {"hidden_size": 8},
    "CompactUNet": {"base_channels": 8, "attention_levels": [1], "dropout": 0.5},
    "DDPMUNet": {"base_channels": 8, "blocks_per_level": 1, "dropout": 0.5},
    "DDPMPlusPlus": {"base_channels": 8, "blocks_per_level": 1, "dropout": 0.5},
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def state_of(backbone: str, **changes: Any) -> LearningState:
    option = {"type": f"{OURS}.{backbone}", **SMALL[backbone]}
    settings = tiny_settings(backbone=option, conditional=True, **changes)
    torch.manual_seed(0)
    model = Model(model_spec(tiny_images(), settings))
    for parameter in model.network.parameters():  # nothing hides behind zeros
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    return LearningState(model, settings)


def taken(
    backbone: str, precision: str, at_once: bool, **changes: Any
) -> tuple[LearningState, dict[str, Tensor | None]]:
    """Two steps, and the gradients of the second one."""
    state = state_of(backbone, clip_norm=None, **changes)
    loss: nn.Module = LossModule(state.model.denoiser)
    if at_once:
        loss = HalfWeights(loss, DTYPES[precision])
    step = TrainingStep(state, loss, Precision(precision, "cpu", ""), Team())
    images, labels = (torch.from_numpy(v[:8]) for v in (tiny_images().images, tiny_images().labels))
    for number in range(2):
        torch.manual_seed(number)
        state.set_rates()
        step(images, labels)
        state.advance()
    return state, {name: p.grad for name, p in state.network.named_parameters()}


@pytest.mark.parametrize("rows", [None, 3], ids=["whole", "micro-batches"])
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("backbone", backbones.__all__)
def test_steps_are_those_of_autocast(backbone: str, precision: str, rows: int | None) -> None:
    """Loss, gradients, weights, optimizer; and gradients are fp32, laid out as their weights."""
    (plain, expected), (state, gradients) = (
        taken(backbone, precision, at_once, micro_batch_size=rows) for at_once in (False, True)
    )
    for name, value in plain.tensors().items():
        assert torch.equal(state.tensors()[name], value), name
    for name, parameter in state.network.named_parameters():
        gradient, usual = gradients[name], expected[name]
        assert (gradient is None) == (usual is None), name
        if gradient is not None:
            assert torch.equal(gradient, usual), name
            assert gradient.dtype == torch.float32
            assert gradient.stride() == parameter.stride()
            assert gradient.abs().sum() > 0, name


def test_weights_come_back_as_they_were_even_after_an_error() -> None:
    state = state_of("CompactUNet")
    before = dict(state.network.named_parameters())
    loss = HalfWeights(LossModule(state.model.denoiser), torch.bfloat16)
    with pytest.raises(RuntimeError):
        loss(torch.zeros(2, 5, 4, 4), torch.zeros(2), torch.zeros(2, 5, 4, 4), None)
    after = dict(state.network.named_parameters())
    assert all(after[name] is value for name, value in before.items())
    assert after.keys() == before.keys()


class OwnNetwork(nn.Module):
    """A user's, which may do with its weights what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.entry.weight


def test_only_where_no_module_can_be_surprised() -> None:
    state, alone, half = state_of("CompactUNet"), Team(), Precision("bf16", "cuda", "")
    assert not shares_a_cast(state, half, alone)  # on a CPU
    state.device = torch.device("cuda", 0)
    assert shares_a_cast(state, half, alone)
    assert not shares_a_cast(state, Precision("fp32", "cuda", ""), alone)
    assert not shares_a_cast(state, half, Team(0, 2))
    state.network = OwnNetwork()
    assert not shares_a_cast(state, half, alone)
