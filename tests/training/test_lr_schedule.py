"""Learning rates as functions of images seen."""

from __future__ import annotations

import math

import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.lr_schedule import (
    Constant,
    Cosine,
    LinearWarmup,
    WarmupStableDecay,
    is_torch_scheduler,
)


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


def test_stable_between_warmup_and_decay() -> None:
    schedule = WarmupStableDecay(warmup_kimg=2, decay_share=0.2, final_factor=0.1)
    factors = [schedule.factor(n, 10_000) for n in (0, 1000, 2000, 8000, 9000, 10_000)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 0.55, 0.1])


def test_a_decay_that_begins_inside_the_warmup_never_rises_above_it() -> None:
    schedule = WarmupStableDecay(warmup_kimg=8, decay_share=0.5)
    factors = [schedule.factor(n, 10_000) for n in (4000, 6000, 8000)]
    assert factors == pytest.approx([0.5, 0.75, 0.4])


@pytest.mark.parametrize(
    "schedule", [Constant(), LinearWarmup(1), Cosine(1), WarmupStableDecay(1, 0.3)]
)
def test_before_the_settled_point_a_higher_budget_gives_the_same_rates(schedule) -> None:
    settled = schedule.settled_images(5000)
    assert settled <= schedule.settled_images(9000)
    for images_seen in range(0, settled, 50):
        assert schedule.factor(images_seen, 5000) == schedule.factor(images_seen, 9000)


def test_what_is_settled() -> None:
    assert Constant().settled_images(50) == LinearWarmup(1).settled_images(50) == 50
    assert Cosine(1).settled_images(50) == 0
    assert WarmupStableDecay(decay_share=0.2).settled_images(50) == 40


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearWarmup(-1),
        lambda: Cosine(1, final_factor=1.5),
        lambda: Cosine(math.inf),
        lambda: WarmupStableDecay(decay_share=0),
        lambda: WarmupStableDecay(final_factor=2),
    ],
)
def test_values_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError, match=r"=\S+: input should be (a finite|greater|less)"):
        make()


def test_schedules_of_torch_are_told_apart() -> None:
    assert is_torch_scheduler({"type": "torch.optim.lr_scheduler.StepLR", "step_size": 3})
    assert not is_torch_scheduler({"type": "ddpm_kedro.training.lr_schedule.Constant"})
    with pytest.raises(InputError, match="metric"):
        is_torch_scheduler({"type": "torch.optim.lr_scheduler.ReduceLROnPlateau"})
    with pytest.raises(InputError, match="not a learning-rate schedule"):
        is_torch_scheduler({"type": "torch.optim.Adam"})
