"""The denoiser: oracles, precision under autocast, devices, batches, gradients."""

from __future__ import annotations

import pytest
import torch
from gaussians import PixelNetwork, best_output
from torch import nn

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.loss_weight import EDMWeight, MinSNRWeight
from ddpm_kedro.diffusion.noise_schedule import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    ZeroTerminalSNR,
)
from ddpm_kedro.diffusion.objective import (
    EDMPreconditioning,
    EpsilonPrediction,
    FlowVelocity,
    VPrediction,
    X0Prediction,
)
from ddpm_kedro.errors import InputError

PAIRS = [
    (EpsilonPrediction(), LinearSchedule()),
    (EpsilonPrediction(), CosineSchedule()),
    (X0Prediction(), LinearSchedule()),
    (VPrediction(), CosineSchedule()),
    (VPrediction(), ZeroTerminalSNR(LinearSchedule())),
    (FlowVelocity(), FlowSchedule()),
    (FlowVelocity(), CosineSchedule()),
    (VPrediction(), FlowSchedule()),
    (EDMPreconditioning(), EDMSchedule()),
    (EDMPreconditioning(1.0), CosineSchedule()),
]
NAMES = [f"{type(o).__name__}-{type(s).__name__}" for o, s in PAIRS]


class Recorder(nn.Module):
    """Remembers what it was asked and answers with a fixed tensor (zeros if none)."""

    def __init__(self, answer=None):
        super().__init__()
        self.answer, self.x, self.t = answer, None, None

    def forward(self, x, t, labels=None):
        self.x, self.t = x, t
        return torch.zeros_like(x) if self.answer is None else self.answer


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def times(schedule):
    low = max(schedule.t_min, 0.01)
    t = torch.linspace(low, schedule.t_max, 5, dtype=torch.float64)
    return t.round() if schedule.num_timesteps else t


@pytest.mark.parametrize(("objective", "schedule"), PAIRS, ids=NAMES)
def test_an_oracle_has_no_loss_and_finds_the_image(objective, schedule):
    t, x0, noise = times(schedule), draw(5, 2, 4, 4).double(), draw(5, 2, 4, 4, seed=1).double()
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x = alpha[:, None, None, None] * x0 + sigma[:, None, None, None] * noise
    # the estimate of x_0 is the image itself for data of no spread: a network that knows the answer
    answers = [
        best_output(objective, x[i], float(alpha[i]), float(sigma[i]), x0[i], 0.0)
        if float(alpha[i])
        else objective.target(x0[i : i + 1], noise[i : i + 1], alpha[i], sigma[i])[0]
        for i in range(5)
    ]
    denoiser = Denoiser(Recorder(torch.stack(answers)), schedule, objective)
    loss = denoiser.loss(x0, t, noise)
    assert loss.shape == (5,)
    assert float(loss.max()) < 1e-12
    assert torch.allclose(denoiser(x, t), x0, atol=1e-8)


@pytest.mark.parametrize(("objective", "schedule"), PAIRS, ids=NAMES)
def test_a_network_of_gaussian_data_gives_the_conditional_mean(objective, schedule):
    mean, std = 0.3, 0.5
    for t in times(schedule):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        if alpha == 0:
            continue
        x = draw(3, 1, 4, 4).double() * (alpha**2 * std**2 + sigma**2) ** 0.5 + alpha * mean
        network = Recorder(best_output(objective, x, alpha, sigma, mean, std))
        expected = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        denoiser = Denoiser(network, schedule, objective)
        assert torch.allclose(denoiser(x, t), expected, atol=1e-8)  # t of no dimension
        assert torch.allclose(denoiser(x, t.expand(3)), expected, atol=1e-8)
        assert network.t.shape == (3,)
        assert torch.equal(network.t, schedule.time_input(t).expand(3))
        scale = 1.0
        if isinstance(objective, EDMPreconditioning):  # c_in, on x / alpha
            scale = ((alpha * objective.sigma_data) ** 2 + sigma**2) ** -0.5
        assert torch.allclose(network.x, scale * x, atol=1e-12)


def test_loss_is_the_mean_square_error_of_the_output_times_its_weight():
    schedule, objective = LinearSchedule(), EpsilonPrediction()
    t, x0, noise = torch.tensor([0.0, 500.0]).double(), draw(2, 1, 4, 4), draw(2, 1, 4, 4, seed=1)
    plain = Denoiser(Recorder(), schedule, objective).loss(x0, t, noise)
    assert torch.allclose(plain, noise.square().mean((1, 2, 3)))
    weighted = Denoiser(Recorder(), schedule, objective, MinSNRWeight(5)).loss(x0, t, noise)
    snr = (schedule.alpha(t) / schedule.sigma(t)) ** 2
    assert torch.allclose(weighted, plain * (snr.clamp(max=5) / snr).float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_output_does_not_round_the_target(dtype):
    t, x0, noise = torch.full((3,), 500.0).double(), draw(3, 1, 8, 8), draw(3, 1, 8, 8, seed=1)
    for objective in (EpsilonPrediction(), VPrediction()):
        half = Denoiser(Recorder(torch.zeros(3, 1, 8, 8, dtype=dtype)), CosineSchedule(), objective)
        full = Denoiser(Recorder(torch.zeros(3, 1, 8, 8)), CosineSchedule(), objective)
        assert half.loss(x0, t, noise).dtype == torch.float32
        assert torch.equal(half.loss(x0, t, noise), full.loss(x0, t, noise))
        assert half(x0, t).dtype == torch.float32
        assert torch.equal(half(x0, t), full(x0, t))


def test_edm_loss_is_the_paper_s():
    """lambda(sigma) ||D - x_0||^2 with lambda = (sigma^2 + data^2)/(sigma data)^2, eq. 8."""
    denoiser = Denoiser(PixelNetwork(), EDMSchedule(), EDMPreconditioning(0.5), EDMWeight(0.5))
    denoiser.eval()
    t, x0, noise = torch.tensor([0.05, 0.7, 20.0]).double(), draw(3, 1, 4, 4), draw(3, 1, 4, 4)
    sigma = t[:, None, None, None].float()
    error = (denoiser(x0 + sigma * noise, t) - x0).square().mean((1, 2, 3))
    weight = (t**2 + 0.25) / (0.5 * t) ** 2
    assert torch.allclose(denoiser.loss(x0, t, noise), error * weight.float(), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_autocast_leaves_every_level_its_own_noise(schedule, dtype):
    """x_t for (x_0, eps) = (0, 1) and (1, 0) is (sigma, alpha): T pairs in training as it is."""
    t, network = torch.arange(1000.0).double(), Recorder()
    one, zero = torch.ones(1000, 1, 1, 1), torch.zeros(1000, 1, 1, 1)
    denoiser = Denoiser(network, schedule, EpsilonPrediction())
    seen = []
    with torch.autocast("cpu", dtype):
        for x0, noise in ((zero, one), (one, zero)):
            loss = denoiser.loss(x0.to(dtype), t, noise.to(dtype))
            seen.append(network.x.flatten())
    assert loss.dtype == torch.float32
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], schedule.sigma(t).float())
    assert torch.equal(seen[1], schedule.alpha(t).float())
    assert len(set(zip(*(values.tolist() for values in seen), strict=True))) == 1000


def test_autocast_loss_is_close_to_full_precision():
    denoiser = Denoiser(PixelNetwork(), CosineSchedule(), VPrediction()).eval()
    t = torch.linspace(0, 999, 16).round().double()
    x0, noise = draw(16, 1, 8, 8), draw(16, 1, 8, 8, seed=1)
    full = denoiser.loss(x0, t, noise)
    with torch.autocast("cpu", torch.bfloat16):
        half = denoiser.loss(x0, t, noise)
    assert half.dtype == torch.float32
    assert half.mean().item() == pytest.approx(full.mean().item(), rel=0.01)


@pytest.mark.parametrize(("objective", "schedule"), PAIRS, ids=NAMES)
def test_training_and_denoising_stay_on_the_model_s_device(objective, schedule, device):
    for place in (device, torch.device("meta")):
        denoiser = Denoiser(PixelNetwork(num_classes=3).to(place), schedule, objective)
        t = times(schedule).to(place)
        x0, noise = torch.zeros(5, 1, 4, 4, device=place), torch.zeros(5, 1, 4, 4, device=place)
        labels = torch.tensor([0, 1, 2, 3, 0], device=place)
        loss = denoiser.loss(x0, t, noise, labels)
        assert loss.device.type == place.type
        assert denoiser(x0, t[2], labels).device.type == place.type
        loss.sum().backward()


def test_a_cpu_time_does_not_slip_into_another_device():
    denoiser = Denoiser(PixelNetwork().to("meta"), LinearSchedule(), EpsilonPrediction())
    x0 = torch.zeros(2, 1, 4, 4, device="meta")
    with pytest.raises(RuntimeError):
        denoiser.loss(x0, torch.zeros(2, dtype=torch.float64), x0)


@pytest.mark.parametrize(("objective", "schedule"), PAIRS, ids=NAMES)
def test_a_batch_is_its_rows_one_by_one(objective, schedule):
    denoiser = Denoiser(PixelNetwork(num_classes=4), schedule, objective).eval()
    t, x0, noise = times(schedule), draw(5, 1, 4, 4), draw(5, 1, 4, 4, seed=1)
    labels = torch.tensor([0, 4, 2, 3, 1])
    whole, estimate = denoiser.loss(x0, t, noise, labels), denoiser(x0, t, labels)
    for i in range(5):
        row = slice(i, i + 1)
        assert torch.allclose(
            whole[row], denoiser.loss(x0[row], t[row], noise[row], labels[row]), rtol=1e-5
        )
        assert torch.allclose(estimate[row], denoiser(x0[row], t[row], labels[row]), atol=1e-5)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = denoiser.loss(x0[order], t[order], noise[order], labels[order])
    assert torch.allclose(shuffled, whole[order], rtol=1e-5)


def test_gradients_reach_every_parameter():
    denoiser = Denoiser(PixelNetwork(num_classes=4), CosineSchedule(), VPrediction()).eval()
    t = times(CosineSchedule())
    labels = torch.tensor([0, 1, 2, 3, 4])
    denoiser.loss(draw(5, 1, 4, 4), t, draw(5, 1, 4, 4, seed=1), labels).sum().backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_refusals():
    with pytest.raises(InputError, match="pure noise"):
        Denoiser(PixelNetwork(), ZeroTerminalSNR(LinearSchedule()), EpsilonPrediction())
    denoiser = Denoiser(PixelNetwork(), LinearSchedule(), EpsilonPrediction())
    with pytest.raises(InputError, match="without classes"):
        denoiser(draw(1, 1, 4, 4), torch.tensor(3.0), torch.tensor([1]))


def test_an_output_of_another_shape_is_no_loss():
    """It would broadcast against the target, and train."""
    grey = Denoiser(GreyNetwork(), LinearSchedule(), EpsilonPrediction())
    x = draw(2, 3, 4, 4)
    with pytest.raises(
        InputError, match=r"GreyNetwork: makes \(1, 4, 4\) of images of \(3, 4, 4\)"
    ):
        grey.loss(x, torch.tensor([3.0, 4.0]), x)


class GreyNetwork(nn.Module):
    def forward(self, x, t, labels=None):
        return x.mean(1, keepdim=True)


class LineNetwork(nn.Module):
    """slope x + shift."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t, labels=None):
        return self.slope * x + self.shift


@pytest.mark.parametrize(("objective", "schedule"), PAIRS, ids=NAMES)
def test_a_linear_network_learns_the_closed_form(objective, schedule):
    """Minimising the loss on Gaussian pixels (a grid of their quantiles) gives E[x_0 | x_t]."""
    mean, std, n = 0.3, 0.5, 60
    middles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    normal = torch.special.ndtri(middles)
    normal = normal / normal.square().mean().sqrt()  # the grid's variance is 1 exactly
    x0 = (mean + std * normal).repeat_interleave(n).reshape(1, 1, n, n)
    noise = normal.repeat(n).reshape(1, 1, n, n)
    t = times(schedule)[2:3]
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()

    network = LineNetwork()
    denoiser = Denoiser(network, schedule, objective)
    solver = torch.optim.LBFGS(
        network.parameters(),
        max_iter=100,
        tolerance_grad=1e-14,
        tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )

    def closure():
        solver.zero_grad()
        loss = denoiser.loss(x0, t, noise).mean()
        loss.backward()
        return loss

    solver.step(closure)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3) * (alpha + sigma)
    expected = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
    assert torch.allclose(denoiser(x, t), expected, rtol=0, atol=1e-5)
