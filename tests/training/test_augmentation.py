"""Changes to training images."""

from __future__ import annotations

import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.augmentation import Flip, NoAugmentation


def images(count: int, device: torch.device) -> torch.Tensor:
    values = torch.arange(count * 2 * 3 * 4) % 251
    return values.to(torch.uint8).reshape(count, 2, 3, 4).to(device)


def test_about_half_are_flipped_and_nothing_else(device: torch.device) -> None:
    before = images(400, device)
    rows = torch.arange(400, device=device)
    after = Flip()(before, seed=1, step=3, rows=rows)
    same = (after == before).flatten(1).all(1)
    mirrored = (after == before.flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert after.dtype == torch.uint8
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.1)


def test_a_slice_of_the_batch_flips_as_the_batch_does(device: torch.device) -> None:
    before, rows = images(12, device), torch.arange(12, device=device)
    whole = Flip()(before, seed=1, step=3, rows=rows)
    part = Flip()(before[4:9], seed=1, step=3, rows=rows[4:9])
    assert torch.equal(whole[4:9], part)
    other_step = Flip()(before, seed=1, step=4, rows=rows)
    assert not torch.equal(whole, other_step)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_never_and_always(probability: float) -> None:
    before = images(50, torch.device("cpu"))
    after = Flip(probability)(before, seed=0, step=0, rows=torch.arange(50))
    assert torch.equal(after, before.flip(-1) if probability else before)


def test_none_is_none_and_nonsense_is_refused() -> None:
    before = images(3, torch.device("cpu"))
    assert NoAugmentation()(before, seed=0, step=0, rows=torch.arange(3)) is before
    with pytest.raises(InputError, match=r"Flip\.probability=1\.5: input should be less"):
        Flip(1.5)
