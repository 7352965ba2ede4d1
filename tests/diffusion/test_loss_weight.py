"""Loss weights: the formulas of their papers, whatever the network predicts."""

from __future__ import annotations

import math

import pytest
import torch

from ddpm_kedro.diffusion.loss_weight import (
    EDMWeight,
    MinSNRWeight,
    P2Weight,
    SoftMinSNRWeight,
    UniformWeight,
)
from ddpm_kedro.diffusion.noise_schedule import CosineSchedule
from ddpm_kedro.diffusion.objective import (
    EDMPreconditioning,
    EpsilonPrediction,
    FlowVelocity,
    VPrediction,
    X0Prediction,
)
from ddpm_kedro.errors import InputError

SCHEDULE = CosineSchedule()
T = torch.tensor([0.0, 100.0, 500.0, 900.0, 999.0], dtype=torch.float64)
ALPHA, SIGMA = SCHEDULE.alpha(T), SCHEDULE.sigma(T)
SNR = (ALPHA / SIGMA) ** 2
EPS, X0, V = EpsilonPrediction(), X0Prediction(), VPrediction()


def close(a, b):
    return torch.allclose(a, b, rtol=1e-12, atol=0)


def test_uniform_is_one():
    assert torch.equal(UniformWeight()(ALPHA, SIGMA, V), torch.ones_like(ALPHA))


def test_min_snr_is_the_paper_s_for_each_prediction():
    weight, bounded = MinSNRWeight(5), SNR.clamp(max=5)
    assert close(weight(ALPHA, SIGMA, X0), bounded)
    assert close(weight(ALPHA, SIGMA, EPS), bounded / SNR)
    assert close(weight(ALPHA, SIGMA, V), bounded / (SNR + 1))
    assert (SNR > 5).any()
    assert (SNR < 5).any()


@pytest.mark.parametrize("make", [MinSNRWeight, SoftMinSNRWeight])
def test_min_snr_without_a_bound_leaves_eps_unweighted(make):
    assert close(make(math.inf)(ALPHA, SIGMA, EPS), torch.ones_like(SNR))


def test_soft_min_snr_is_below_min_snr_and_halves_it_at_the_corner():
    soft = SoftMinSNRWeight(5)(ALPHA, SIGMA, X0)
    assert close(soft, 1 / (1 / SNR + 1 / 5))
    assert (soft < MinSNRWeight(5)(ALPHA, SIGMA, X0)).all()


def test_p2_is_the_paper_s():
    assert close(P2Weight(0.5, 2.0)(ALPHA, SIGMA, EPS), 1 / (2 + SNR) ** 0.5)
    assert close(P2Weight()(ALPHA, SIGMA, X0), SNR / (1 + SNR))


def test_edm_weight_cancels_edm_preconditioning():
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    one = torch.ones_like(sigma)
    assert close(EDMWeight(0.5)(one, sigma, EDMPreconditioning(0.5)), one)
    expected = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    assert close(EDMWeight(0.5)(one, sigma, X0), expected)
    # on another path the level is sigma / alpha
    assert close(EDMWeight(0.5)(ALPHA, SIGMA, X0), (1 / SNR + 0.25) / (0.25 / SNR))


@pytest.mark.parametrize(
    "weight", [MinSNRWeight(), SoftMinSNRWeight(), P2Weight(), EDMWeight()], ids=lambda w: type(w)
)
def test_a_weight_means_the_same_loss_for_every_prediction(weight):
    """w_o L_o is one number: weights differ by the ratio of the losses alone."""
    reference = weight(ALPHA, SIGMA, X0)
    for objective in (EPS, V, FlowVelocity(), EDMPreconditioning()):
        ratio = objective.x0_loss_ratio(ALPHA, SIGMA)
        assert close(weight(ALPHA, SIGMA, objective), reference * ratio)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MinSNRWeight(0),
        lambda: SoftMinSNRWeight(-1),
        lambda: P2Weight(k=0),
        lambda: EDMWeight(math.nan),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(
        InputError, match=r"Weight.*: input should be (above 0|greater than 0|a finite number)"
    ):
        make()
