"""Random numbers as functions: known answers, slices, streams, and the distribution."""

from __future__ import annotations

import math

import pytest
import torch

from ddpm_kedro.diffusion.noise import Stream, normal, philox, uniform

ROWS = torch.arange(16)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known-answer vectors that the generator's authors publish for philox4x32-10
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, expected, device):
    words = philox([torch.tensor([word], device=device) for word in counter], key)
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("draw", [normal, uniform])
def test_a_slice_of_a_batch_is_the_slice_of_the_whole(draw, device):
    whole = draw(3, Stream.NOISE, 7, ROWS.to(device), (3, 5, 7))
    part = draw(3, Stream.NOISE, 7, ROWS[5:9].to(device), (3, 5, 7))
    assert torch.equal(whole[5:9], part)


@pytest.mark.parametrize("draw", [normal, uniform])
def test_a_prefix_of_a_sample_does_not_depend_on_its_size(draw):
    long, short = (draw(3, Stream.NOISE, 7, ROWS, (n,)) for n in (64, 10))
    assert torch.equal(long[:, :10], short)


@pytest.mark.parametrize("change", ["seed", "high_seed", "stream", "step", "high_step", "row"])
def test_every_coordinate_counts(change):
    base = dict(seed=1, stream=Stream.NOISE, step=5, rows=ROWS, shape=(64,))
    other = (
        base
        | {
            "seed": dict(seed=2),
            "high_seed": dict(seed=1 + (1 << 32)),
            "stream": dict(stream=Stream.SAMPLER),
            "step": dict(step=6),
            "high_step": dict(step=5 + (1 << 32)),
            "row": dict(rows=ROWS + len(ROWS)),
        }[change]
    )
    a, b = normal(**base), normal(**other)
    correlation = float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])
    assert not torch.equal(a, b)
    assert abs(correlation) < 0.15  # 1024 pairs: 4.8 standard errors


def test_a_step_may_live_on_the_device(device):
    step = torch.tensor(9, device=device)
    assert torch.equal(
        normal(1, Stream.NOISE, step, ROWS.to(device), (8,)),
        normal(1, Stream.NOISE, 9, ROWS.to(device), (8,)),
    )


def test_moments_of_the_normal_numbers(device):
    n = 1 << 20
    values = normal(0, Stream.NOISE, 0, torch.arange(1024, device=device), (n // 1024,)).double()
    # Five standard errors of each moment of a standard normal sample of n.
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((values**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((values**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert torch.isfinite(values).all()


def test_uniform_numbers_fill_the_unit_interval():
    n = 1 << 18
    values = uniform(0, Stream.TIMESTEP, 0, torch.arange(n)).double()
    assert values.shape == (n,)
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    steps = torch.arange(1, n + 1) / n
    assert (values.sort().values - steps).abs().max() < 1.95 / math.sqrt(n)  # Kolmogorov, p = 0.001


def test_numbers_are_made_on_the_device_that_is_asked_for():
    assert normal(0, Stream.NOISE, 0, ROWS, (3,), device="meta").device.type == "meta"
    assert uniform(0, Stream.NOISE, 0, ROWS.to("meta")).device.type == "meta"
