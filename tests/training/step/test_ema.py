"""Averages of weights against their closed forms."""

from __future__ import annotations

import pytest
import torch

from ddpm_kedro.training.step.ema import EMA


def test_closed_form(device: torch.device) -> None:
    """After n updates: beta^n start + (1 - beta) sum_k beta^(n-k) weights_k."""
    weights = [torch.nn.Parameter(torch.zeros(3, 2, device=device))]
    halflives, batch_size = (30.0, 400.0), 10
    ema = EMA(weights, halflives, warmup_ratio=None)
    history = [torch.randn(3, 2, generator=torch.Generator().manual_seed(k)) for k in range(7)]
    for number, values in enumerate(history):
        with torch.no_grad():
            weights[0].copy_(values)
        ema.update(number * batch_size, batch_size)
    for halflife, (average,) in zip(halflives, ema.averages, strict=True):
        beta = 0.5 ** (batch_size / halflife)
        expected = sum(
            (1 - beta) * beta ** (len(history) - 1 - k) * v.double() for k, v in enumerate(history)
        )
        torch.testing.assert_close(average.cpu().double(), expected, rtol=1e-5, atol=1e-6)


def test_half_of_the_start_is_left_after_a_halflife() -> None:
    weights = [torch.nn.Parameter(torch.ones(1))]
    ema = EMA(weights, [80.0], None)
    with torch.no_grad():
        weights[0].zero_()
    for step in range(8):
        ema.update(step * 10, 10)
    assert float(ema.averages[0][0]) == pytest.approx(0.5)


def test_warmup_forgets_the_start() -> None:
    """The half-life is at most a share of the images seen, so the first update is a copy."""
    ema = EMA([torch.nn.Parameter(torch.ones(1))], [1000.0, 20.0], warmup_ratio=0.1)
    assert ema.betas(0, 10) == [0, 0]
    assert ema.betas(100, 10) == pytest.approx([0.5, 0.5])
    assert ema.betas(400, 10) == pytest.approx([0.5 ** (10 / 40), 0.5 ** (10 / 20)])
    assert ema.betas(10**6, 10) == pytest.approx([0.5 ** (10 / 1000), 0.5 ** (10 / 20)])


def test_averages_keep_no_graph_and_share_no_memory() -> None:
    weights = [torch.nn.Parameter(torch.ones(2))]
    ema = EMA(weights, [0.0], None)
    ema.update(0, 10)
    assert not ema.averages[0][0].requires_grad
    assert ema.averages[0][0].data_ptr() != weights[0].data_ptr()
