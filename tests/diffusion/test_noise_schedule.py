"""Noise schedules: end points, marginals from one-step kernels, posterior, inverses, precision."""

from __future__ import annotations

import math

import pytest
import torch
from gaussians import GaussianDenoiser, PixelNetwork

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.noise_schedule import (
    STRAIGHT_PATH,
    CosineSchedule,
    DiscreteSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    ZeroTerminalSNR,
    perturb,
)
from ddpm_kedro.diffusion.objective import VPrediction
from ddpm_kedro.diffusion.samplers import DDIM, DPMSolver2S
from ddpm_kedro.errors import InputError

DISCRETE = {
    "linear": lambda: LinearSchedule(),
    "linear-250": lambda: LinearSchedule(250),
    "cosine": lambda: CosineSchedule(),
    "cosine-1": lambda: CosineSchedule(1),
    "sigmoid": lambda: SigmoidSchedule(),
    "zero-linear": lambda: ZeroTerminalSNR(LinearSchedule()),
    "zero-cosine": lambda: ZeroTerminalSNR(CosineSchedule(100)),
}


class Quarter(NoiseSchedule):
    """A quarter of a circle: what somebody new to the package would write."""

    def alpha(self, t):
        return torch.cos(t.double() * math.pi / 2)

    def sigma(self, t):
        return torch.sin(t.double() * math.pi / 2)


CONTINUOUS = {"edm": EDMSchedule, "flow": FlowSchedule, "quarter": Quarter}
ALL = DISCRETE | CONTINUOUS


def grid(schedule):
    return torch.arange(-1, schedule.num_timesteps, dtype=torch.float64)


def at(t):
    return torch.tensor(t, dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
def test_time_starts_at_the_image_and_noise_only_grows(name):
    schedule = ALL[name]()
    assert schedule.alpha(at(schedule.t_clean)) == 1
    assert schedule.sigma(at(schedule.t_clean)) == 0
    t = torch.linspace(schedule.t_clean, schedule.t_max, 501, dtype=torch.float64)
    assert (schedule.alpha(t).diff() <= 0).all()
    assert (schedule.sigma(t).diff() >= 0).all()
    assert (schedule.sigma(t) / schedule.alpha(t)).diff().min() > 0


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_schedules_preserve_variance_also_between_levels(name):
    schedule = DISCRETE[name]()
    t = torch.linspace(-1, schedule.t_max, 777, dtype=torch.float64)
    total = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", DISCRETE)
def test_marginals_are_the_composition_of_one_step_kernels(name):
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z, from x_{-1} = x_0, T times."""
    schedule = DISCRETE[name]()
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas.tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert abs(mean - float(schedule.alpha(at(t)))) < 1e-12
        assert abs(variance - float(schedule.sigma(at(t))) ** 2) < 1e-12


def test_linear_betas_are_the_paper_s():
    betas = LinearSchedule().betas
    assert len(betas) == 1000
    expected = 1e-4 + (0.02 - 1e-4) * torch.arange(1000, dtype=torch.float64) / 999
    assert torch.allclose(betas, expected, rtol=0, atol=1e-15)
    # T = 250: four times the betas, so that the last level is as noisy.
    assert torch.allclose(LinearSchedule(250).betas[[0, -1]], at([4e-4, 0.08]), rtol=1e-12)


def test_first_level_is_noisy_and_the_index_is_not_shifted():
    """T betas from index 0: alpha_bar_0 = 1 - beta_0, and not 1."""
    schedule = LinearSchedule()
    assert float(schedule.sigma(at(0.0))) == pytest.approx(0.01, abs=1e-12)
    assert float(schedule.alpha(at(0.0))) ** 2 == pytest.approx(1 - 1e-4, abs=1e-15)
    assert float(schedule.alpha_bar[0]) == pytest.approx(1 - 1e-4, abs=1e-15)
    betas = [1e-4 + (0.02 - 1e-4) * t / 999 for t in range(1000)]
    for t in (1, 500, 999):
        product = math.prod(1 - beta for beta in betas[: t + 1])
        assert float(schedule.alpha(at(t))) ** 2 == pytest.approx(product, rel=1e-12)
    assert float(schedule.sigma(at(500.0))) == pytest.approx(0.960, abs=1e-3)


def test_cosine_is_the_paper_s_formula_up_to_the_cap():
    schedule, s = CosineSchedule(), 0.008
    for t in (0, 499, 998):
        f = [math.cos(((u / 1000) + s) / (1 + s) * math.pi / 2) ** 2 for u in (t + 1, 0)]
        assert float(schedule.alpha(at(t))) ** 2 == pytest.approx(f[0] / f[1], rel=1e-9)
    assert float(schedule.betas[-1]) == pytest.approx(0.999, abs=1e-9)


def test_sigmoid_is_the_paper_s_formula_up_to_the_cap():
    schedule = SigmoidSchedule(start=-3, end=3, tau=0.9)

    def sigmoid(v):
        return 1 / (1 + math.exp(-v / 0.9))

    for t in (0, 499, 998):
        u = (t + 1) / 1000
        expected = (sigmoid(3) - sigmoid(-3 + 6 * u)) / (sigmoid(3) - sigmoid(-3))
        assert float(schedule.alpha(at(t))) ** 2 == pytest.approx(expected, rel=1e-9)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_level():
    plain = LinearSchedule()
    schedule = ZeroTerminalSNR(plain)
    assert float(schedule.alpha(at(999.0))) == 0
    assert float(schedule.sigma(at(999.0))) == 1
    assert float(schedule.alpha(at(0.0))) == pytest.approx(float(plain.alpha(at(0.0))), abs=1e-15)
    alpha = plain.alpha_bar.sqrt()
    expected = (alpha[400] - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    assert float(schedule.alpha(at(400.0))) == pytest.approx(float(expected), abs=1e-14)
    assert float(schedule.betas[-1]) == 1


def test_edm_and_flow_are_their_definitions():
    t = at([0.25, 0.5, 1.0])
    edm, flow = EDMSchedule(), FlowSchedule()
    assert torch.equal(edm.alpha(t), torch.ones(3, dtype=torch.float64))
    assert torch.equal(edm.sigma(t), t)
    assert torch.allclose(edm.time_input(t), (t.log() / 4).float())
    assert torch.equal(flow.alpha(t), 1 - t)
    assert torch.equal(flow.sigma(t), t)
    assert flow.time_input(t).tolist() == [250, 500, 1000]
    assert LinearSchedule().time_input(at([0.0, 999.0])).tolist() == [0, 999]


@pytest.mark.parametrize(("name", "std"), [("linear", 1), ("edm", 80), ("flow", 1)])
def test_sampling_starts_from_the_noise_the_network_knows(name, std):
    schedule = ALL[name]()
    assert schedule.initial_std(schedule.t_max) == std


@pytest.mark.parametrize("name", ALL)
def test_log_snr_and_its_inverse(name):
    schedule = ALL[name]()
    t = torch.linspace(max(schedule.t_min, 1e-3), schedule.t_max, 50, dtype=torch.float64)[1:-1]
    if name == "cosine-1":
        t = at([-0.7, -0.2])  # one level only: between the image and it
    log_snr = schedule.log_snr(t)
    expected = (schedule.alpha(t) ** 2 / schedule.sigma(t) ** 2).log()
    assert torch.allclose(log_snr, expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(schedule.from_log_snr(log_snr), t, rtol=1e-9, atol=1e-9)


def test_a_schedule_of_two_methods_is_whole():
    """The defaults are those of the straight path where it has none of its own."""
    schedule, flow = Quarter(), FlowSchedule()
    t, u = at([0.0, 0.25, 1.0]), at([0.0, 0.25, 0.75])
    assert torch.equal(schedule.time_input(t), flow.time_input(t))
    assert schedule.from_uniform(u).tolist() == [1, 0.75, 0.25]
    assert schedule.initial_std(1.0) == 1
    path = DDIM(200).sample(
        GaussianDenoiser(schedule, 0.3, 0.5), (1, 10, 10), range(40), 0, trajectory=True
    )
    assert float(path[-1].mean()) == pytest.approx(0.3, abs=0.04)
    assert float(path[-1].std()) == pytest.approx(0.5, abs=0.04)
    objective = VPrediction()
    objective.check(schedule)
    DPMSolver2S(4).sample(Denoiser(PixelNetwork(2), schedule, objective), (2, 5, 7), [0], 0)
    assert NoiseSchedule.from_log_snr(flow, flow.log_snr(u[1:])).tolist() == pytest.approx(
        [0.25, 0.75], abs=1e-15
    )
    assert schedule.from_log_snr(at([math.inf, -math.inf])).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("name", DISCRETE)
def test_inverse_log_snr_is_clamped_to_the_path(name):
    schedule = DISCRETE[name]()
    assert schedule.from_log_snr(at([math.inf, -math.inf])).tolist() == [-1, schedule.t_max]


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid", "zero-linear"])
def test_the_training_cast_leaves_every_level_its_own(name):
    schedule = DISCRETE[name]()
    t = grid(schedule)[1:]
    pairs = {*zip(schedule.alpha(t).float().tolist(), schedule.sigma(t).float().tolist())}  # noqa: B905
    assert len(pairs) == schedule.num_timesteps
    assert len(set(schedule.time_input(t).tolist())) == schedule.num_timesteps


def test_forward_process_has_the_right_coefficients(device):
    schedule = LinearSchedule()
    t = torch.tensor([0.0, 500.0, 999.0], dtype=torch.float64, device=device)
    one, zero = torch.ones(3, 2, 4, 4, device=device), torch.zeros(3, 2, 4, 4, device=device)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert torch.equal(perturb(one, zero, alpha, sigma)[:, 0, 0, 0], alpha.float())
    assert torch.equal(perturb(zero, one, alpha, sigma)[:, 1, 2, 3], sigma.float())
    half = perturb(zero.bfloat16(), one.bfloat16(), alpha, sigma)
    assert half.dtype == torch.float32
    assert torch.equal(half, perturb(zero, one, alpha, sigma))


@pytest.mark.parametrize("name", ALL)
def test_answers_live_where_the_question_does(name, device):
    schedule = ALL[name]()
    for place in (device, torch.device("meta")):
        for shape in ((), (5,)):
            t = torch.full(shape, float(schedule.t_max), device=place)
            for answer in (schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t)):
                assert (answer.device.type, answer.dtype) == (place.type, torch.float64)
                assert answer.shape == shape
            assert schedule.time_input(t).dtype == torch.float32
            assert schedule.from_log_snr(t).device.type == place.type
            assert schedule.from_uniform(t).device.type == place.type


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearSchedule(20), "num_timesteps > 20"),
        (lambda: LinearSchedule(0), "at least 1"),
        (lambda: LinearSchedule(10.5), "whole number"),
        (lambda: LinearSchedule(1000, 0.02, 1e-4), "beta_start <= beta_end"),
        (lambda: LinearSchedule(1000, 0.0), "0 < beta_start"),
        (lambda: CosineSchedule(0), "at least 1"),
        (lambda: CosineSchedule(10**12), "at most 1,000,000"),
        (lambda: CosineSchedule(s=-1), "s is"),
        (lambda: SigmoidSchedule(start=3, end=-3), "start < end"),
        (lambda: ZeroTerminalSNR(EDMSchedule()), "discrete"),
        (lambda: ZeroTerminalSNR(CosineSchedule(1)), "at least 2"),
        (lambda: EDMSchedule(sigma_min=0), "sigma_min"),
        (lambda: EDMSchedule(sigma_max=math.inf), "sigma_max"),
        (lambda: DiscreteSchedule(at([0.9, 0.9])), "timestep 1"),
        (lambda: DiscreteSchedule(at([1.0, 0.9])), "timestep 0"),
    ],
)
def test_impossible_schedules_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_linear_schedule_works_down_to_the_last_possible_length():
    assert float(LinearSchedule(21).betas[-1]) == pytest.approx(20 / 21)


class Path(NoiseSchedule):
    """alpha and sigma as given, functions of time."""

    def __init__(self, alpha, sigma, family=NoiseSchedule.family) -> None:
        self._alpha, self._sigma, self.family = alpha, sigma, family

    def alpha(self, t):
        return self._alpha(t)

    def sigma(self, t):
        return self._sigma(t)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (Path(lambda t: 0.9 - 0.5 * t, lambda t: 0.1 + t), "are 1 and 0 at t_clean=0, not 0.9"),
        (Path(torch.sin, torch.cos), "are 1 and 0 at t_clean=0, not 0 and 1"),
        (Path(lambda t: 1 - t * (1 - t), lambda t: t * (1 - t)), "must fall"),
        (Path(lambda t: 1 - t, lambda t: t), "say of which family"),
    ],
)
def test_what_is_no_path_to_noise_is_refused(path, words):
    with pytest.raises(InputError, match=words):
        path.check()


def test_paths_of_each_family_pass():
    Path(lambda t: torch.cos(1.5 * t), lambda t: torch.sin(1.5 * t)).check()
    Path(lambda t: 1 - t, lambda t: t, STRAIGHT_PATH).check()
    for schedule in (CosineSchedule(), LinearSchedule(50), EDMSchedule(), FlowSchedule()):
        schedule.check()
