"""Compiled and captured steps, and the way back from them."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_training import assert_same_bits, tiny_images, tiny_settings

from ddpm_kedro.diffusion.execution import Compiled
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.training.step.acceleration import GraphedStep, make_step, wants_compilation
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.step.training_step import LossModule, TrainingStep
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

FP32 = Precision("fp32", "cpu", "")


def state_of(device: torch.device, **changes: Any) -> LearningState:
    torch.manual_seed(0)
    settings = tiny_settings(**changes)
    model = Model(model_spec(tiny_images(), settings))
    model.network.to(device=device, memory_format=torch.channels_last)
    return LearningState(model, settings)


def test_auto_compiles_long_trainings_on_cuda_only() -> None:
    auto, cuda, cpu = tiny_settings(compile="auto"), torch.device("cuda"), torch.device("cpu")
    assert wants_compilation(replace(auto, budget_kimg=100), cuda)
    assert not wants_compilation(auto, cuda)
    assert not wants_compilation(replace(auto, budget_kimg=100), cpu)
    assert wants_compilation(tiny_settings(compile="on"), cpu)
    assert not wants_compilation(tiny_settings(compile="off", budget_kimg=100), cuda)


def test_a_failed_compilation_goes_on_without_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compiler(module: torch.nn.Module, **options: Any) -> Callable[..., Any]:
        def fail(*arguments: Any) -> None:
            raise RuntimeError("no C++ compiler\nmore lines")

        return fail

    monkeypatch.setattr(torch, "compile", compiler)
    state = state_of(torch.device("cpu"), compile="on")
    step = make_step(state, FP32, Team())
    images = torch.from_numpy(tiny_images().images[:8])
    with caplog.at_level(logging.WARNING):
        step(images, None)
        step(images, None)
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile failed, going on without it: RuntimeError: no C++ compiler"
    ]
    assert int(state.counters["loss_count"]) == 2
    assert isinstance(step, TrainingStep)
    assert isinstance(step.loss, Compiled)
    assert isinstance(step.loss.network, LossModule)


@pytest.mark.parametrize("calls", ["make_step", "loss"])
def test_no_memory_left_is_not_taken_for_a_failure_of_the_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, calls: str
) -> None:
    def compiler(module: torch.nn.Module, **options: Any) -> Callable[..., Any]:
        def fail(*arguments: Any) -> None:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")

        return fail

    monkeypatch.setattr(torch, "compile", compiler)
    state = state_of(torch.device("cpu"), compile="on")
    call = {
        "make_step": lambda: make_step(state, FP32, Team()),
        "loss": lambda: Compiled(LossModule(state.model.denoiser))(None, None, None, None),
    }[calls]
    with pytest.raises(torch.OutOfMemoryError):
        call()
    assert not caplog.records


class _Graph:
    """Stands for a CUDA graph: what was called while it was captured is done at each replay."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def replay(self) -> None:
        for work in self.work:
            work()


class _Device:
    """Stands for torch.cuda where there is none: work during a capture is noted, not done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capture_fails: bool = False) -> None:
        self.capturing: _Graph | None = None
        self.captures = 0
        self.capture_fails = capture_fails
        stream = SimpleNamespace(wait_stream=lambda other: None, device=torch.device("cpu"))
        for name, value in {
            "Stream": lambda device: stream,
            "current_stream": lambda: stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "set_stream": lambda stream: None,
            "synchronize": lambda: None,
            "CUDAGraph": _Graph,
            "graph": self._capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextlib.contextmanager
    def _capture(self, graph: _Graph, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.captures += 1
        self.capturing = graph
        try:
            yield
        finally:
            self.capturing = None

    def step(self, step: TrainingStep) -> Callable[..., None]:
        def take(images: torch.Tensor, labels: torch.Tensor | None) -> None:
            if self.capturing is None:
                step(images, labels)
                return
            if self.capture_fails:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            self.capturing.work.append(lambda: step(images, labels))

        return take


@pytest.mark.parametrize("capture_fails", [False, True], ids=["captured", "refused"])
def test_each_step_is_taken_once_with_its_own_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capture_fails: bool
) -> None:
    """The bookkeeping around a graph: steps before it, the one it is captured in, replays."""
    device = _Device(monkeypatch, capture_fails)
    results = []
    for graphed in (False, True):
        state = state_of(torch.device("cpu"), conditional=True)
        step = TrainingStep(state, LossModule(state.model.denoiser), FP32, Team())
        take = GraphedStep(device.step(step), state) if graphed else step
        feed = tiny_images()
        for number in range(7):
            images = torch.from_numpy(feed.images[number : number + 8])
            labels = torch.from_numpy(feed.labels[number : number + 8])
            state.set_rates()
            take(images, labels)
            state.advance()
        results.append((int(state.counters["step"]), state))
    (steps, plain), (other_steps, other) = results
    assert steps == other_steps == 7
    assert device.captures == (2 if capture_fails else 1)  # another ends the one that failed
    for name, value in plain.tensors().items():
        torch.testing.assert_close(other.tensors()[name], value, rtol=1e-5, atol=1e-7)
    rates = [group["lr"] for group in other.optimizer.param_groups]
    assert all(isinstance(rate, float) == capture_fails for rate in rates)
    assert ("no CUDA graph of the step" in caplog.text) == capture_fails


def test_a_backward_pass_that_does_not_compile_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> None:
            raise RuntimeError("backward does not lower")

    monkeypatch.setattr(
        torch, "compile", lambda module, **options: lambda *inputs: Fails.apply(module(*inputs))
    )
    images = torch.from_numpy(tiny_images().images[:8])
    states = []
    for choice in ("off", "on"):
        state = state_of(torch.device("cpu"), compile=choice)
        step = make_step(state, FP32, Team())
        for _ in range(3):
            step(images, None)
        states.append(state)
    assert "torch.compile failed, going on without it: RuntimeError: backward" in caplog.text
    assert_same_bits(*(state.tensors() for state in states))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_gradients_are_the_eager_ones(caplog: pytest.LogCaptureFixture) -> None:
    """By torch's real compiler, on the CPU in fp32; all of it before the first step."""
    graphs = torch._dynamo.utils.counters["stats"]
    compact = {"type": "ddpm_kedro.diffusion.backbones.CompactUNet", "base_channels": 8,
               "channel_mults": [1]}  # fmt: skip
    images = torch.from_numpy(tiny_images().images[:8])
    norms, made = [], []
    for choice in ("off", "on"):
        state = state_of(torch.device("cpu"), compile=choice, backbone=compact, micro_batch_size=4)
        step = make_step(state, FP32, Team())
        made.append(graphs["unique_graphs"])
        steps = []
        for _ in range(3):
            step(images, None)
            steps.append(float(state.counters["grad_norm"]))
        made.append(graphs["unique_graphs"])
        norms.append(steps)
    assert made[0] == made[1] < made[2] == made[3]
    assert "torch.compile failed" not in caplog.text
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


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
        step = make_step(state, precision, Team())
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
    step = make_step(state, Precision("fp32", "cuda", ""), Team())
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
