"""Laws of the pixel range."""

from __future__ import annotations

import torch

from ddpm_kedro.images.pixels import normalise, quantise


def test_bytes_survive_the_round_trip(device: torch.device) -> None:
    every_byte = torch.arange(256, dtype=torch.uint8, device=device)
    floats = normalise(every_byte)
    assert floats.dtype == torch.float32
    assert floats[0] == -1
    assert floats[-1] == 1
    assert torch.equal(quantise(floats), every_byte)


def test_quantise_rounds_to_nearest_and_clamps(device: torch.device) -> None:
    step = 2 / 255
    floats = torch.tensor([-3.0, -1 + 0.4 * step, -1 + 0.6 * step, 1 - 0.4 * step, 9.0])
    assert quantise(floats.to(device)).tolist() == [0, 0, 1, 255, 255]
