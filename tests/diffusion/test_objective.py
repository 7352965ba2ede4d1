"""Objectives: closed forms on Gaussian data, round trips, oracles, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from gaussians import best_output

from ddpm_kedro.diffusion.noise_schedule import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    ZeroTerminalSNR,
    perturb,
)
from ddpm_kedro.diffusion.objective import (
    EDMPreconditioning,
    EpsilonPrediction,
    FlowVelocity,
    VPrediction,
    X0Prediction,
)
from ddpm_kedro.errors import InputError

OBJECTIVES = [
    EpsilonPrediction(),
    X0Prediction(),
    VPrediction(),
    FlowVelocity(),
    EDMPreconditioning(),
    EDMPreconditioning(1.3),
]
ZERO_SNR = ZeroTerminalSNR(LinearSchedule())
SCHEDULES = [LinearSchedule(), CosineSchedule(), ZERO_SNR, EDMSchedule(), FlowSchedule()]


def allowed(objective, schedule):
    try:
        objective.check(schedule)
    except InputError:
        return False
    return True


PAIRS = [(o, s) for o in OBJECTIVES for s in SCHEDULES if allowed(o, s)]
NAMES = [f"{type(o).__name__}-{type(s).__name__}" for o, s in PAIRS]


def times(schedule):
    """From a clean level to the noisiest one, (7,)."""
    low = max(schedule.t_min, 1e-3)
    return torch.linspace(low, schedule.t_max, 7, dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("objective", "schedule"), PAIRS, ids=NAMES)
def test_target_and_estimate_are_inverses(objective, schedule):
    t = times(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0, eps = draw(7, 2, 3, 3), draw(7, 2, 3, 3, seed=1)
    x = perturb(x0, eps, alpha, sigma)
    back = objective.to_x0(x, objective.target(x0, eps, alpha, sigma), alpha, sigma)
    # eps at the end of the cosine schedule loses five digits: x_0 is multiplied by alpha = 5e-5
    assert torch.allclose(back, x0, rtol=0, atol=1e-10 if float(alpha.min()) in (0, 1) else 2e-10)
    assert back.isfinite().all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize(("alpha", "sigma"), [(0.8, 0.6), (0.1, math.sqrt(0.99)), (1.0, 3.0)])
def test_estimate_from_the_best_output_is_the_conditional_mean(objective, alpha, sigma):
    mean, std = 0.3, 0.5
    x = draw(2, 1, 4, 4) * 2
    output = best_output(objective, x, alpha, sigma, mean, std)
    if isinstance(objective, EDMPreconditioning):
        # the table's c_in, on y = x / alpha
        r, data = sigma / alpha, objective.sigma_data
        seen = objective.scale_input(x, *as_tensors(alpha, sigma))
        assert torch.allclose(seen, x / alpha / math.sqrt(r**2 + data**2))
    else:
        assert objective.scale_input(x, *as_tensors(alpha, sigma)) is x
    expected = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
    estimate = objective.to_x0(x, output, *as_tensors(alpha, sigma))
    assert torch.allclose(estimate, expected, rtol=0, atol=1e-12)


def as_tensors(*values):
    return [torch.tensor([value] * 2, dtype=torch.float64) for value in values]


def test_targets_are_their_definitions():
    alpha, sigma = as_tensors(0.8, 0.6)
    x0, eps = draw(2, 1, 2, 2), draw(2, 1, 2, 2, seed=1)
    for objective, expected in (
        (EpsilonPrediction(), eps),
        (X0Prediction(), x0),
        (VPrediction(), 0.8 * eps - 0.6 * x0),
        (FlowVelocity(), eps - x0),
        (EDMPreconditioning(1.0), 0.6 * x0 - 0.8 * eps),  # -v
    ):
        assert torch.allclose(objective.target(x0, eps, alpha, sigma), expected, atol=1e-15)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_edm_input_and_target_have_unit_variance(sigma):
    """For data N(0, sigma_data^2): Karras et al. 2022, appendix B.6."""
    objective = EDMPreconditioning(0.5)
    a, b = objective.coefficients(*as_tensors(1.0, sigma))
    assert torch.allclose(a**2 * 0.25 + b**2, torch.ones(2, dtype=torch.float64))
    one = torch.ones(2, 1, 1, 1, dtype=torch.float64)
    gain = objective.scale_input(one, *as_tensors(1.0, sigma))
    assert torch.allclose(gain**2 * (0.25 + sigma**2), one)


def test_ratios_of_losses():
    """L_x0 = L_eps / SNR, L_v = (SNR + 1) L_x0, and the ratio of real errors for all."""
    alpha, sigma = as_tensors(0.8, 0.6)
    snr = (alpha / sigma) ** 2
    assert torch.allclose(EpsilonPrediction().x0_loss_ratio(alpha, sigma), 1 / snr)
    assert torch.allclose(VPrediction().x0_loss_ratio(alpha, sigma), 1 / (snr + 1))
    assert torch.allclose(X0Prediction().x0_loss_ratio(alpha, sigma), torch.ones_like(snr))
    x, output, error = draw(2, 1, 2, 2), draw(2, 1, 2, 2, seed=1), 0.1 * draw(2, 1, 2, 2, seed=2)
    for objective in OBJECTIVES:
        shift = objective.to_x0(x, output + error, alpha, sigma)
        shift = shift - objective.to_x0(x, output, alpha, sigma)
        ratio = shift.square().sum((1, 2, 3)) / error.square().sum((1, 2, 3))
        assert torch.allclose(objective.x0_loss_ratio(alpha, sigma), ratio)


def test_half_precision_outputs_are_widened():
    alpha, sigma = as_tensors(0.8, 0.6)
    x = draw(2, 1, 2, 2).float()
    assert VPrediction().to_x0(x, x.bfloat16(), alpha, sigma).dtype == torch.float32
    assert VPrediction().target(x.bfloat16(), x.bfloat16(), alpha, sigma).dtype == torch.float32


@pytest.mark.parametrize("schedule", [ZERO_SNR, FlowSchedule()], ids=["zero-snr", "flow"])
def test_eps_is_refused_where_the_last_level_is_pure_noise(schedule):
    with pytest.raises(InputError, match=r"pure noise.*choose objective VPrediction"):
        EpsilonPrediction().check(schedule)


@pytest.mark.parametrize("objective", OBJECTIVES[:4], ids=lambda o: type(o).__name__)
def test_unscaled_input_is_refused_on_the_variance_exploding_path(objective):
    with pytest.raises(InputError, match="choose objective EDMPreconditioning"):
        objective.check(EDMSchedule())


def test_sigma_data_is_positive():
    with pytest.raises(InputError, match="sigma_data"):
        EDMPreconditioning(0)
