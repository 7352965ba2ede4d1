"""Learning rates as functions of images seen."""

from __future__ import annotations

import math

import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.lr_schedule import Constant, Cosine, LinearWarmup, is_torch_scheduler


def test_constant_is_one() -> None:
    assert Constant().factor(0, 10) == Constant().factor(9, 10) == 1


def test_warmup_rises_linearly_and_stays() -> None:
    schedule = LinearWarmup(warmup_kimg=2)
    assert [schedule.factor(n, 10_000) for n in (0, 500, 2000, 9000)] == [0, 0.25, 1, 1]
    assert LinearWarmup(warmup_kimg=0).factor(0, 10) == 1


def test_cosine_after_its_warmup() -> None:
    schedule = Cosine(warmup_kimg=2, final_factor=0.1)
    factors = [schedule.factor(n, 10_000) for n in (0, 1000, 2000, 4000, 6000, 10_000)]
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    assert factors == pytest.approx([0, 0.5, 1, quarter, 0.55, 0.1])


def test_only_the_cosine_depends_on_the_budget() -> None:
    assert Cosine().depends_on_budget
    assert not Constant().depends_on_budget
    assert not LinearWarmup(1).depends_on_budget


@pytest.mark.parametrize(
    "make",
    [lambda: LinearWarmup(-1), lambda: Cosine(1, final_factor=1.5), lambda: Cosine(math.inf)],
)
def test_values_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError, match="give a number"):
        make()


def test_schedules_of_torch_are_told_apart() -> None:
    assert is_torch_scheduler({"type": "torch.optim.lr_scheduler.StepLR", "step_size": 3})
    assert not is_torch_scheduler({"type": "ddpm_kedro.training.lr_schedule.Constant"})
    with pytest.raises(InputError, match="metric"):
        is_torch_scheduler({"type": "torch.optim.lr_scheduler.ReduceLROnPlateau"})
    with pytest.raises(InputError, match="not a learning-rate schedule"):
        is_torch_scheduler({"type": "torch.optim.Adam"})
