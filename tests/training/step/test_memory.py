"""Out of memory: fewer images at a time with the same draws, or one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_training import tiny_images, tiny_settings
from torch import Tensor

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.errors import InputError
from ddpm_kedro.training.step import memory
from ddpm_kedro.training.step.memory import FittingStep
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

FP32 = Precision("fp32", "cpu", "")
DROPOUT = {"type": "tiny_training.TinyNetwork", "dropout": 0.5}


def state_of(**changes: Any) -> LearningState:
    torch.manual_seed(0)
    settings = tiny_settings(backbone=DROPOUT, **changes)
    return LearningState(Model(model_spec(tiny_images(), settings)), settings)


def room_for(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that holds so many images at a time: the pass forward raises beyond."""
    make_step = memory.make_step

    def made(state: LearningState, *arguments: Any, **options: Any) -> Callable[..., None]:
        step = make_step(state, *arguments, **options)
        loss = step.loss.forward

        def forward(x0: Tensor, *others: Any) -> Tensor:
            torch.rand(3)  # what was drawn before the failure must not matter
            if len(x0) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return loss(x0, *others)

        step.loss.forward = forward
        return step

    monkeypatch.setattr(memory, "make_step", made)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 40, 1 << 40))


def losses_of(state: LearningState) -> list[float]:
    step, losses = FittingStep(state, FP32, Team()), []
    for number in range(4):
        torch.manual_seed(number)
        state.set_rates()
        step(torch.from_numpy(tiny_images().images[number : number + 8]), None)
        state.advance()
        losses.append(float(state.counters["loss_sum"]))
    return losses


def test_it_goes_on_with_fewer_images_and_the_same_draws(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room_for(2, monkeypatch)
    asked = losses_of(state_of(micro_batch_size=2))
    found = losses_of(state_of())
    assert found == asked
    assert "with 8 images at a time: going on with 4" in caplog.text
    assert "with 4 images at a time: going on with 2" in caplog.text


@pytest.mark.parametrize("changes", [{"micro_batch_size": 8}, {"batch_size": 1}])
def test_what_may_not_shrink_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, int]
) -> None:
    room_for(0, monkeypatch)
    with pytest.raises(InputError) as caught:
        losses_of(state_of(**changes))
    said = str(caught.value)
    assert "\n" not in said
    assert ("training.micro_batch_size=4" in said) == ("micro_batch_size" in changes)
