"""Our steps against diffusers' in the same process, with the same noise and float64 tables."""

from __future__ import annotations

import pytest
import torch
from gaussians import MixtureDenoiser

from ddpm_kedro.diffusion.noise import Stream, normal
from ddpm_kedro.diffusion.noise_schedule import CosineSchedule, LinearSchedule
from ddpm_kedro.diffusion.objective import EpsilonPrediction, VPrediction, X0Prediction
from ddpm_kedro.diffusion.samplers import DDIM, Ancestral, DPMSolver2M

diffusers = pytest.importorskip("diffusers")

SHAPE, ROWS, SEED = (1, 4, 4), torch.arange(3), 2
PREDICTIONS = {
    "epsilon": EpsilonPrediction(),
    "sample": X0Prediction(),
    "v_prediction": VPrediction(),
}


def answer(denoiser, objective, x, t):
    """A network's output at x_t, from the analytic estimate of x_0."""
    alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    x0 = denoiser(x, t)
    return objective.target(x0, (x - alpha * x0) / sigma, alpha, sigma)


def initial():
    return normal(SEED, Stream.INITIAL, 0, ROWS, SHAPE).double()


def inject(scheduler, schedule):
    """diffusers makes beta from a float32 alpha_bar, 3e-4 off at t = 2: put ours in."""
    scheduler.betas = schedule.betas.clone()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = schedule.alpha_bar.clone()
    scheduler.one = torch.ones((), dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)


@pytest.mark.parametrize("schedule", [LinearSchedule(100), CosineSchedule(100)])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("clip", [True, False])
def test_ancestral_is_diffusers_ddpm(schedule, prediction, variance, clip, monkeypatch):
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=100,
        prediction_type=prediction,
        variance_type=f"fixed_{variance}",
        clip_sample=clip,
    )
    inject(scheduler, schedule)
    scheduler.set_timesteps(100)
    denoiser, x, path = MixtureDenoiser(schedule), initial(), [initial()]
    for k, t in enumerate(scheduler.timesteps):
        noise = normal(SEED, Stream.SAMPLER, k, ROWS, SHAPE).double()
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, noise=noise, **__: noise
        )
        output = answer(denoiser, PREDICTIONS[prediction], x, t.double())
        x = scheduler.step(output, t, x).prev_sample
        path.append(x)

    ours = Ancestral(100, thresholding="static" if clip else None, variance=variance).sample(
        denoiser, SHAPE, ROWS, SEED, trajectory=True, dtype=torch.float64
    )
    assert torch.allclose(ours, torch.stack(path), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("num_steps", [10, 50])
def test_ddim_leading_is_diffusers(prediction, eta, num_steps):
    schedule = LinearSchedule()
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    inject(scheduler, schedule)
    scheduler.set_timesteps(num_steps)
    sampler = DDIM(num_steps, spacing="leading", thresholding=None, eta=eta)
    times = [level.t for level in sampler.levels(schedule)]
    assert times[:-1] == scheduler.timesteps.tolist()

    denoiser, x, path = MixtureDenoiser(schedule), initial(), [initial()]
    for k, t in enumerate(scheduler.timesteps):
        output = answer(denoiser, PREDICTIONS[prediction], x, t.double())
        noise = normal(SEED, Stream.SAMPLER, k, ROWS, SHAPE).double()
        x = scheduler.step(output, int(t), x, eta=eta, variance_noise=noise).prev_sample
        path.append(x)
    ours = sampler.sample(denoiser, SHAPE, ROWS, SEED, trajectory=True, dtype=torch.float64)
    assert torch.allclose(ours, torch.stack(path), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_steps", [16, 25])
def test_dpm_solver_2m_is_diffusers_on_a_common_grid(num_steps):
    """From the same levels; diffusers' own last step, to sigma = 0, is first order as ours."""
    schedule = LinearSchedule()
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        prediction_type="epsilon",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        timestep_spacing="linspace",
    )
    sampler = DPMSolver2M(num_steps, spacing="linspace", thresholding=None)
    levels = sampler.levels(schedule)
    scheduler.set_timesteps(num_steps)
    scheduler.timesteps = torch.tensor([int(level.t) for level in levels[:-1]])
    scheduler.sigmas = torch.tensor([level.ratio for level in levels], dtype=torch.float64)

    denoiser, x, path = MixtureDenoiser(schedule), initial(), [initial()]
    for t in scheduler.timesteps:
        x = scheduler.step(answer(denoiser, EpsilonPrediction(), x, t.double()), t, x).prev_sample
        path.append(x)
    ours = sampler.sample(denoiser, SHAPE, ROWS, SEED, trajectory=True, dtype=torch.float64)
    assert torch.allclose(ours, torch.stack(path), rtol=0, atol=1e-5)
