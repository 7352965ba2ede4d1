"""A training step as compiled kernels in one CUDA graph, where that pays; else as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.execution import Compiled, capture, first_line
from ddpm_kedro.diffusion.lanes import Lanes, is_well_known
from ddpm_kedro.diffusion.precision import PRECISIONS, Precision
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.half_weights import HalfWeights
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.step.training_step import LossModule, TrainingStep
from ddpm_kedro.training.workers.team import Team

LOGGER = logging.getLogger(__name__)

EAGER_STEPS = 3  # real steps before the capture: they make the optimizer's state and the kernels
FEWEST_STEPS_TO_COMPILE = 2000  # compiling takes a minute or two, which this many steps win back
Step = Callable[[Tensor, Tensor | None], None]
Draw = Callable[[Tensor, Tensor | None, slice], tuple[Tensor, Tensor, Tensor, Tensor | None]]


def wants_compilation(settings: TrainingSettings, device: torch.device) -> bool:
    """Whether the loss goes through torch.compile: `auto` does it on CUDA, for long trainings.

    By the steps of the whole budget, not by those left: compiled dropout draws other masks, and a
    training that was stopped near its end is to go on with its own. A CPU gains little and compiles
    for a minute or more.
    """
    if settings.compile == "auto":
        return device.type == "cuda" and settings.num_steps >= FEWEST_STEPS_TO_COMPILE
    return settings.compile == "on"


def make_step(
    state: LearningState, precision: Precision, team: Team, *, lanes: Lanes | None = None
) -> Step:
    """The step for this device and team: compiled, captured and shared where that pays.

    The settings of `state`, which is restored already, decide. With several processes the loss is
    wrapped in DDP, whose all-reduce runs beside the backward pass; such a step is not captured.
    `lanes` as in `TrainingStep`.
    """
    device, settings = state.device, state.settings
    loss: nn.Module = LossModule(state.model.denoiser)
    if wants_compilation(settings, device):
        loss = _compiled(loss, state, precision, team)
    elif shares_a_cast(state, precision, team):
        loss = HalfWeights(loss, PRECISIONS[precision.name])
    if team.world_size > 1:
        devices = [device] if device.type == "cuda" else None
        # All have the same buffers. torch 2.15 warns of the name that this had before.
        buffers = "forward_sync_buffers" if torch.__version__ >= "2.15" else "broadcast_buffers"
        loss = nn.parallel.DistributedDataParallel(loss, device_ids=devices, **{buffers: False})
    step = TrainingStep(state, loss, precision, team, lanes)
    is_whole = step.micro_batch_size >= len(step.rows)  # each other part would compile once more
    if device.type == "cuda" and is_whole and wants_compilation(settings, device):
        step.draw = compiled_draw(step)
    if team.world_size > 1:
        step.rehearse()
    can_capture = all(group.get("capturable", True) for group in state.optimizer.param_groups)
    if team.world_size == 1 and device.type == "cuda" and settings.compile != "off" and can_capture:
        return GraphedStep(step, state)
    return step


def shares_a_cast(state: LearningState, precision: Precision, team: Team) -> bool:
    """Whether all weights become half-precision ones at once: on CUDA, where launches count, and in
    a network that has no module which could be surprised by such a weight."""
    is_half = PRECISIONS[precision.name] is not None
    is_alone = state.device.type == "cuda" and team.world_size == 1
    return is_half and is_alone and is_well_known(state.network)


def _compiled(loss: nn.Module, state: LearningState, precision: Precision, team: Team) -> Compiled:
    """The loss compiled both ways: the backward pass is compiled when it first runs, so it does."""
    compiled = Compiled(loss)
    devices = [state.device] if state.device.type == "cuda" else []
    # In the mode of the steps to come, or the first of them would compile again
    with torch.random.fork_rng(devices=devices), precision.product_mode():
        try:
            TrainingStep(state, compiled, precision, team).rehearse()
        except torch.OutOfMemoryError:  # no fault of the compiler's
            raise
        except Exception as error:
            compiled.give_up(error)
    return compiled


def compiled_draw(step: TrainingStep) -> Draw:
    """What the step draws, in a few kernels instead of hundreds; without the compiler where it
    fails, or where what it made draws other numbers."""
    compiled = torch.compile(step.draws_of, dynamic=False)
    spec, rows = step.state.model.spec, step.rows
    images = torch.zeros((len(rows), *spec.image_shape), dtype=torch.uint8, device=rows.device)
    labels = torch.zeros_like(rows) if spec.conditional else None
    arguments = images, labels, slice(0, len(rows))
    try:
        for right, made in zip(step.draws_of(*arguments), compiled(*arguments), strict=True):
            if right is not None and not torch.allclose(right, made, rtol=1e-4, atol=1e-4):
                raise RuntimeError("the compiled draws are other numbers")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        LOGGER.warning("drawing without torch.compile: %s", first_line(error))
        return step.draws_of
    return compiled


class GraphedStep:
    """A step recorded once as a CUDA graph and replayed, so that launching costs nothing.

    The first steps are taken eagerly on a side stream; then the step is captured. All it reads is
    in fixed places: images and labels are copied there, the step number and the optimizer's rates
    are tensors, and dropout's generator is registered with the graph, whose seed and offset are
    read anew at each replay. A failed capture goes back to eager steps, with a line saying why; so
    does a schedule that moves other numbers of the optimizer (OneCycleLR its momentum), which a
    graph would keep as they were.
    """

    def __init__(self, step: TrainingStep, state: LearningState) -> None:
        self._step, self._state = step, state
        self._graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0
        self._failed = False
        self._stream = torch.cuda.Stream(state.device)
        self._inputs: tuple[Tensor, Tensor | None] | None = None
        self._constants = self._state.constants()
        self._use_tensor_rates(True)

    def __call__(self, images: Tensor, labels: Tensor | None) -> None:
        """As `TrainingStep`."""
        if not self._failed and self._constants != self._state.constants():
            self._give_up("a schedule moves other numbers of the optimizer than its rate")
        if self._failed:
            self._step(images, labels)
        elif self._taken < EAGER_STEPS:
            self._taken += 1
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                self._step(images, labels)
            current.wait_stream(self._stream)
        elif self._graph is None and not self._capture(images, labels):
            self._step(images, labels)
        else:
            assert self._graph is not None
            assert self._inputs is not None
            self._inputs[0].copy_(images, non_blocking=True)
            if labels is not None and self._inputs[1] is not None:
                self._inputs[1].copy_(labels, non_blocking=True)
            self._graph.replay()

    def _capture(self, images: Tensor, labels: Tensor | None) -> bool:
        inputs = images.clone(), None if labels is None else labels.clone()
        self._state.optimizer.zero_grad(set_to_none=True)
        try:
            self._graph, _ = capture(lambda: self._step(*inputs), self._stream)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._give_up(first_line(error))
            return False
        self._inputs = inputs
        LOGGER.info("the training step runs as one CUDA graph")
        return True

    def _give_up(self, reason: str) -> None:
        self._failed, self._graph, self._inputs = True, None, None
        self._use_tensor_rates(False)
        LOGGER.warning("no CUDA graph of the step, going on without: %s", reason)

    def _use_tensor_rates(self, use: bool) -> None:
        for group in self._state.optimizer.param_groups:
            rate = float(group["lr"])
            group["lr"] = torch.tensor(rate, device=self._state.device) if use else rate
