"""What CUDA demands of the engine, held on a GPU that computes nothing (see ``fake_cuda``).

Waits of the host, captures, compilations and kernels are PyTorch's own there; values are not, so no
test here looks at one. The first test runs all others in a process that has such a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny_training
import torch
from test_samplers import ALL, SHAPE, denoiser_for
from tiny_training import tiny_images, tiny_settings
from torch import Tensor

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.diffusion.samplers import DDIM
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.denoising_loss import denoising_loss
from ddpm_kedro.training.step.acceleration import make_step
from ddpm_kedro.training.step.memory import FittingStep
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.step.training_step import LossModule, TrainingStep
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IS_THERE = hasattr(ctypes.CDLL(None), "null_gpu_used")
on_null_gpu = pytest.mark.skipif(not IS_THERE, reason="runs on the null GPU, by the first test")
BF16 = Precision("bf16", "cuda", "")
OPTIMIZERS = (
    "Adam", "AdamW", "SGD", "Adagrad", "RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta",
)  # fmt: skip


@pytest.mark.skipif(IS_THERE, reason="this is that process")
@pytest.mark.skipif(torch.version.cuda is None, reason="a build of torch without CUDA")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_rules_hold_on_the_null_gpu() -> None:
    command = [sys.executable, str(HERE / "fake_cuda.py"), "-m", "pytest", "-q", "-p",
               "no:cacheprovider", f"{Path(__file__)}"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "FAKE_CUDA_GPUS": "2"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def state_of(device: int = 0, **changes: Any) -> LearningState:
    settings = tiny_settings(**changes)
    torch.manual_seed(0)
    model = Model(model_spec(tiny_images(), settings))
    model.network.to(torch.device("cuda", device))
    return LearningState(model, settings)


def eager_step(state: LearningState) -> TrainingStep:
    return TrainingStep(state, LossModule(state.model.denoiser), BF16, Team())


def take(step: Any, state: LearningState, count: int = 6) -> None:
    """Steps as the engine takes them."""
    images = torch.zeros((8, 1, 4, 4), dtype=torch.uint8, device=state.device)
    for number in range(count):
        torch.manual_seed(number)
        state.set_rates()
        step(images, None)
        state.advance()


# First, in an empty memory: what other tests leave reserved is in pieces --------------------------


@pytest.fixture
def little_memory() -> Iterator[None]:
    """1,400 MB more than is in use, of which eight images at a time take more and four less.

    With room to spare: before torch 2.13 each failure leaves 30 to 70 MB behind, in no tensor.
    """
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1400e6) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


LARGE = {"type": "tiny_training.TinyNetwork", "width": 1 << 20}


@on_null_gpu
@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_halves_the_images_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    state = state_of(backbone=LARGE, optimizer={"type": "torch.optim.SGD", "lr": 0.0})
    step = FittingStep(state, BF16, Team())
    take(step, state)
    assert 1 <= step.rows < 8
    assert f"going on with {step.rows}, and the same draws" in caplog.text
    assert state.step == 6


class GreedyNetwork(tiny_training.TinyNetwork):
    """Has no room for more than four images in a graph's own memory."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if torch.cuda.is_current_stream_capturing() and len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x, t, labels)


tiny_training.GreedyNetwork = GreedyNetwork


@on_null_gpu
def test_out_of_memory_in_a_capture_halves_them_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    state = state_of(backbone={"type": "tiny_training.GreedyNetwork", "dropout": 0.5})
    step = FittingStep(state, BF16, Team())
    take(step, state, 12)
    assert step.rows == 4
    assert "one CUDA graph" in caplog.text
    assert "going on without" not in caplog.text


@on_null_gpu
@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_is_one_line_where_a_micro_batch_was_asked_for() -> None:
    state = state_of(backbone=LARGE, micro_batch_size=8)
    with pytest.raises(InputError, match=r"out of memory on cuda.* 8 images .*micro_batch_size="):
        take(FittingStep(state, BF16, Team()), state)


def large_model() -> Model:
    model = Model(model_spec(tiny_images(), tiny_settings(backbone=LARGE)))
    model.network.to("cuda").eval()
    return model


@on_null_gpu
@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_in_sampling_and_evaluation_is_one_line() -> None:
    model, images = large_model(), tiny_images(64).images
    said = "out of memory on cuda.* with 64 images at a time; {}.batch_size=32 may fit"
    with pytest.raises(InputError, match=said.format("sampling")):
        model.sample(64, batch_size=64)
    with pytest.raises(InputError, match=said.format("evaluation")):
        denoising_loss(model.denoiser, images, batch_size=256, device="cuda")


class LookingNetwork(tiny_training.TinyNetwork):
    """Reads a number back from the GPU, which no capture survives."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        float(x.sum())
        return super().forward(x, t, labels)


tiny_training.LookingNetwork = LookingNetwork


@on_null_gpu
def test_a_step_never_waits() -> None:
    import fake_cuda

    state = state_of()
    step = eager_step(state)
    take(step, state, 1)
    images = torch.zeros((8, 1, 4, 4), dtype=torch.uint8, device=state.device)
    with fake_cuda.record() as seen:
        state.set_rates()
        step(images, None)
        state.advance()
    assert not seen.waits
    assert seen.kernels


@on_null_gpu
@pytest.mark.parametrize("name", ALL)
def test_a_sampler_never_waits(name: str) -> None:
    import fake_cuda

    denoiser, rows = denoiser_for(name, "cuda"), torch.arange(4, device="cuda")
    ALL[name]().sample(denoiser, SHAPE, rows, 0)
    with fake_cuda.record() as seen:
        ALL[name]().sample(denoiser, SHAPE, rows, 0)
    assert not seen.waits


@on_null_gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_becomes_one_graph(optimizer: str, caplog: pytest.LogCaptureFixture) -> None:
    import fake_cuda

    caplog.set_level(logging.INFO)
    state = state_of(optimizer={"type": f"torch.optim.{optimizer}", "lr": 1e-3})
    step = make_step(state, BF16, Team())
    take(step, state)
    assert "one CUDA graph" in caplog.text
    with fake_cuda.record() as seen:
        take(step, state, 1)
    assert not seen.waits
    assert seen.kernels < 20  # what is left beside the graph


@on_null_gpu
def test_all_weights_become_half_precision_in_one_kernel(caplog: pytest.LogCaptureFixture) -> None:
    """And their gradients fp32 in another: autocast takes one each for the DDPM UNet's 226."""
    import fake_cuda

    caplog.set_level(logging.INFO)
    state = state_of(backbone={"type": "ddpm_kedro.diffusion.backbones.DDPMUNet"})
    kernels = []
    for step in (eager_step(state), make_step(state, BF16, Team())):
        take(step, state, 2)
        with fake_cuda.record() as seen:
            take(step, state, 1)
        assert not seen.waits
        kernels.append(seen.kernels)
    assert kernels[1] <= kernels[0] - 300
    take(step, state, 2)
    assert "one CUDA graph" in caplog.text


@on_null_gpu
def test_the_loss_is_compiled_once() -> None:
    torch._dynamo.reset()
    state = state_of()
    loss = torch.compile(LossModule(state.model.denoiser), dynamic=False, backend="eager")
    step = TrainingStep(state, loss, BF16, Team())
    step.rehearse()
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    take(step, state, 2)
    assert counted["unique_graphs"] == before > 0


@on_null_gpu
def test_after_a_failed_capture_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Dropout draws from a generator that must not take itself to be captured still."""
    stream = torch.cuda.current_stream()
    state = state_of(backbone={"type": "tiny_training.LookingNetwork", "dropout": 0.5})
    take(make_step(state, BF16, Team()), state, 8)
    assert "going on without" in caplog.text
    assert "previous error during capture" not in caplog.text  # the cause, not what came of it
    assert torch.cuda.current_stream() == stream
    torch.rand(3, device="cuda")


@on_null_gpu
def test_momentum_that_a_schedule_moves_is_not_frozen_into_a_graph(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cycle = {"type": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.01, "total_steps": 50}
    state = state_of(lr_schedule=cycle)
    take(make_step(state, BF16, Team()), state, 10)
    assert "going on without: a schedule moves" in caplog.text


@on_null_gpu
def test_an_optimizer_that_is_not_capturable_runs_without_a_graph() -> None:
    option = {"type": "torch.optim.Adam", "lr": 1e-3, "foreach": True, "capturable": False}
    state = state_of(optimizer=option)
    take(make_step(state, BF16, Team()), state)


@on_null_gpu
def test_a_tensor_on_the_wrong_device_is_an_error() -> None:
    state = state_of(backbone={"type": "tiny_training.TinyNetwork", "device_mixup": True})
    with pytest.raises(RuntimeError, match="device"):
        take(eager_step(state), state, 1)


class NotingNetwork(tiny_training.TinyNetwork):
    """Notes whether cuDNN may search while the network is captured."""

    searches: ClassVar[set[bool]] = set()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            self.searches.add(torch.backends.cudnn.benchmark)
        return super().forward(x, t, labels)


tiny_training.NotingNetwork = NotingNetwork


@on_null_gpu
def test_cudnn_searches_in_a_whole_training_and_not_after_it(tmp_path: Path) -> None:
    backbone = {"type": "tiny_training.NotingNetwork"}
    tiny_training.run(tmp_path, device="cuda", precision="bf16", backbone=backbone)
    assert NotingNetwork.searches == {True}
    assert not torch.backends.cudnn.benchmark


@on_null_gpu
def test_a_whole_training_runs_on_the_second_gpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = torch.cuda.current_device()
    try:
        receipts = tiny_training.run(tmp_path, device="cuda:1", precision="bf16")
    finally:
        torch.cuda.set_device(before)
    assert receipts.model.path.is_file()
    assert "one CUDA graph" in caplog.text


def drawn(compile: str, **changes: Any) -> Any:
    """What the GPU was asked for while three batches were drawn in three steps each."""
    import fake_cuda

    model = state_of(**changes).model
    for _ in range(2):  # the schedule makes its tables at first
        with fake_cuda.record() as seen:
            model.sample(12, batch_size=4, sampler=DDIM(3), compile=compile, progress=False)
    return seen


@on_null_gpu
@pytest.mark.parametrize("conditional", [False, True])
def test_sampling_waits_for_a_batch_only_when_the_next_is_queued(conditional: bool) -> None:
    events = drawn("off", conditional=conditional).events
    kinds = ["conv" if name == "cudnn" else kind for kind, name in events]
    convolutions = 3 * 2  # of a batch
    between = "".join(kind[0] for kind in kinds if kind in ("conv", "wait")).split("w")
    assert list(map(len, between)) == [2 * convolutions, convolutions, 0, 0]


@on_null_gpu
def test_sampling_replays_a_graph_from_its_second_step_on() -> None:
    seen = drawn("auto")
    assert seen.events.count(("capture", "begins")) == 1
    assert [kind for kind, _ in seen.events].count("graph") == 8
    assert not seen.breaks


@on_null_gpu
def test_sampling_goes_on_where_its_capture_fails(caplog: pytest.LogCaptureFixture) -> None:
    seen = drawn("auto", backbone={"type": "tiny_training.LookingNetwork"})
    assert caplog.text.count("sampling without a CUDA graph: ") == 2
    assert [kind for kind, _ in seen.events].count("graph") == 0
