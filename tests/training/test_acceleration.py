"""Compiled and captured steps, and the way back from them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_training import tiny_images, tiny_settings

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.training.acceleration import CompiledLoss, make_step, wants_compilation
from ddpm_kedro.training.loop import model_spec
from ddpm_kedro.training.precision import Precision
from ddpm_kedro.training.state import LearningState
from ddpm_kedro.training.step import LossModule, TrainingStep
from ddpm_kedro.training.team import Team


def state_of(device: torch.device, **changes: Any) -> LearningState:
    torch.manual_seed(0)
    settings = tiny_settings(**changes)
    model = Model(model_spec(tiny_images(), settings))
    model.network.to(device=device, memory_format=torch.channels_last)
    return LearningState(model, settings)


def test_auto_compiles_long_trainings_on_cuda_only() -> None:
    auto, cuda, cpu = tiny_settings(compile="auto"), torch.device("cuda"), torch.device("cpu")
    assert wants_compilation(auto, cuda, 100_000)
    assert not wants_compilation(auto, cuda, 100)
    assert not wants_compilation(auto, cpu, 100_000)
    assert wants_compilation(tiny_settings(compile="on"), cpu, 1)
    assert not wants_compilation(tiny_settings(compile="off"), cuda, 100_000)


def test_a_failed_compilation_goes_on_without_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compiler(module: torch.nn.Module, **options: Any) -> Callable[..., Any]:
        def fail(*arguments: Any) -> None:
            raise RuntimeError("no C++ compiler\nmore lines")

        return fail

    monkeypatch.setattr(torch, "compile", compiler)
    state = state_of(torch.device("cpu"), compile="on")
    step = make_step(state, Precision("fp32", "cpu", ""), Team(), steps_left=10)
    images = torch.from_numpy(tiny_images().images[:8])
    with caplog.at_level(logging.WARNING):
        step(images, None)
        step(images, None)
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile failed, going on without it: RuntimeError: no C++ compiler"
    ]
    assert int(state.counters["loss_count"]) == 2
    assert isinstance(step, TrainingStep)
    assert isinstance(step.loss, CompiledLoss)
    assert isinstance(step.loss.loss, LossModule)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_captured_steps_follow_eager_ones(optimizer: str) -> None:
    """Losses, weights and rates over 12 steps, capture in the fourth; fp32 without TF32."""
    device = torch.device("cuda", 0)
    option = {"type": f"torch.optim.{optimizer}", "lr": 1e-2}
    results = []
    for compile_choice in ("off", "on"):
        state = state_of(device, optimizer=option, compile=compile_choice)
        precision = Precision("fp32", "cuda", "")
        step = make_step(state, precision, Team(), steps_left=12)
        images = torch.from_numpy(tiny_images().images[:8]).to(device)
        losses = []
        with precision.product_mode():
            for _ in range(12):
                state.set_rates()
                step(images, None)
                state.advance()
                losses.append(float(state.counters["loss_sum"]))
        results.append((losses, [parameter.detach().clone() for parameter in state.parameters]))
    (losses, weights), (other_losses, other_weights) = results
    assert other_losses == pytest.approx(losses, rel=1e-4)
    for one, other in zip(weights, other_weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_dropout_in_a_captured_step_follows_the_seed() -> None:
    """The graph must read the generator anew, or every replay drops the same units."""
    device = torch.device("cuda", 0)
    dropout = {"type": "tiny_training.TinyNetwork", "dropout": 0.5}
    state = state_of(
        device, backbone=dropout, compile="auto", optimizer={"type": "torch.optim.SGD", "lr": 0.0}
    )
    step = make_step(state, Precision("fp32", "cuda", ""), Team(), steps_left=12)
    images = torch.from_numpy(tiny_images().images[:8]).to(device)
    losses = []
    for seed in (0, 0, 0, 1, 2, 1):
        torch.manual_seed(seed)
        state.counters["step"].zero_()
        state.clear_loss()
        step(images, None)
        losses.append(float(state.counters["loss_sum"]))
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(losses[2])
    assert losses[3] == pytest.approx(losses[5])
    assert losses[3] != pytest.approx(losses[4])
