"""What changes from step to step: the averages and rates that one step moves."""

from __future__ import annotations

import pytest
import torch
from tiny_training import tiny_images, tiny_settings

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.train import model_spec


def make(settings: TrainingSettings) -> LearningState:
    torch.manual_seed(0)
    return LearningState(Model(model_spec(tiny_images(), settings)), settings)


def test_a_step_moves_every_average_to_the_weights_it_made() -> None:
    settings = tiny_settings(ema={"halflives_kimg": [0.0, 0.05], "warmup_ratio": None})
    state = make(settings)
    start = [parameter.detach().clone() for parameter in state.parameters]
    with torch.no_grad():
        for parameter in state.parameters:
            parameter.add_(1)
    state.advance()
    assert (state.step, state.images_seen) == (1, 8)
    beta = 0.5 ** (8 / 50)
    for before, now, copied, halved in zip(
        start, state.parameters, *state.ema.averages, strict=True
    ):
        assert torch.equal(copied, now)
        torch.testing.assert_close(halved, beta * before + (1 - beta) * now.detach())


@pytest.mark.parametrize("on_device", [False, True], ids=["number", "tensor"])
def test_a_schedule_of_torch_counts_the_steps(on_device: bool) -> None:
    sgd = {"type": "torch.optim.SGD", "lr": 8.0}
    halving = {"type": "torch.optim.lr_scheduler.StepLR", "step_size": 2, "gamma": 0.5}
    state = make(tiny_settings(optimizer=sgd, lr_schedule=halving))
    if on_device:  # as a CUDA graph needs it
        for group in state.optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"])
    rates = []
    for _ in range(5):
        rates.append(state.lr)
        state.set_rates()
        state.optimizer.step()
        state.advance()
    assert all(isinstance(rate, torch.Tensor) == on_device for rate in rates)
    assert [float(rate) for rate in rates] == pytest.approx([8, 8, 4, 4, 2])
