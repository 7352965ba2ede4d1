"""Every sampler on Gaussian data: each step is affine, so mean and variance are known exactly.

A sampler's output is c + A x_T + sum_k B_k z_k. Rows that see no noise, x_T = 1, z_0 = 1, ... give
c, A and B_k; the references below are scalar recursions in other variables than the samplers'.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from gaussians import GaussianDenoiser

from ddpm_kedro.diffusion.noise import Stream
from ddpm_kedro.diffusion.noise_schedule import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    LinearSchedule,
    ZeroTerminalSNR,
)
from ddpm_kedro.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver2M,
    DPMSolver2S,
    FlowHeun,
    Heun,
)

MEAN, STD = 0.3, 0.5
SCHEDULES = {
    "linear": LinearSchedule(),
    "cosine": CosineSchedule(),
    "zero": ZeroTerminalSNR(LinearSchedule()),
    "edm": EDMSchedule(),
    "flow": FlowSchedule(),
}


def estimate(x, alpha, sigma):
    """E[x_0 | x] of N(MEAN, STD^2)."""
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def ancestral(path, x, z, large):
    """The product of the Gaussians q(x_t | x_s) and q(x_s | x_0), in precisions."""
    for k, ((a_t, s_t, _), (a_s, s_s, _)) in enumerate(pairwise(path)):
        x0 = estimate(x, a_t, s_t)
        if s_s == 0:
            return x0
        step, beta = a_t / a_s, s_t**2 - (a_t / a_s * s_s) ** 2
        precision = step**2 / beta + 1 / s_s**2
        x = (step * x / beta + a_s * x0 / s_s**2) / precision
        x += math.sqrt(beta if large else 1 / precision) * z[k]
    return None


def ddim(path, x, z, eta):
    """Song et al. 2021, eq. 12 and 16, in alpha_bar (a variance-preserving path)."""
    for k, ((a_t, s_t, _), (a_s, _, _)) in enumerate(pairwise(path)):
        x0 = estimate(x, a_t, s_t)
        bar_t, bar_s = a_t**2, a_s**2
        c = eta * math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
        eps = (x - math.sqrt(bar_t) * x0) / math.sqrt(1 - bar_t)
        x = math.sqrt(bar_s) * x0 + math.sqrt(max(1 - bar_s - c**2, 0)) * eps + c * z[k]
    return x


def flow_of(path):
    """The path in y = x / alpha: (r, estimate of x_0 from y) for each level."""
    return [(s / a, lambda y, a=a, s=s: estimate(a * y, a, s)) for a, s, _ in path]


def euler(path, x, z):
    y = x / path[0][0]
    for (r, x0), (r_next, _) in pairwise(flow_of(path)):
        y += (r_next - r) * (y - x0(y)) / r
    return y


def heun(path, x, z):
    y = x / path[0][0]
    for (r, x0), (r_next, x0_next) in pairwise(flow_of(path)):
        d = (y - x0(y)) / r
        guess = y + (r_next - r) * d
        if r_next == 0:
            return guess
        y += (r_next - r) * (d + (guess - x0_next(guess)) / r_next) / 2
    return y


def solver_2m(path, x, z):
    """With l = -ln r: y' = (r'/r) y - expm1(-h) D."""
    y, last = x / path[0][0], None
    for (r, x0), (r_next, _) in pairwise(flow_of(path)):
        here = x0(y)
        if r_next == 0:
            return here
        h, better = math.log(r / r_next), here
        if last is not None:
            ratio = math.log(last[0] / r) / h
            better = (1 + 1 / (2 * ratio)) * here - last[1] / (2 * ratio)
        y = r_next / r * y - math.expm1(-h) * better
        last = (r, here)
    return None


def solver_2s(path, x, z):
    y = x / path[0][0]
    family = path[0][0] ** 2 + path[0][1] ** 2
    for (r, x0), (r_next, _) in pairwise(flow_of(path)):
        if r_next == 0:
            return x0(y)
        middle = math.sqrt(r * r_next)
        guess = middle / r * y - math.expm1(-math.log(r / middle)) * x0(y)
        # E[x_0 | y] depends on the path through r alone
        alpha = 1 / math.sqrt(1 + middle**2) if family < 1.1 else 1.0
        better = estimate(alpha * guess, alpha, alpha * middle)
        y = r_next / r * y - math.expm1(-math.log(r / r_next)) * better
    return None


def flow_euler(path, x, z):
    for (a, s, t), (_, _, t_next) in pairwise(path):
        x0 = estimate(x, a, s)
        x += (t_next - t) * ((x - a * x0) / s - x0)
    return x


def flow_heun(path, x, z):
    def velocity(x, level):
        x0 = estimate(x, level[0], level[1])
        return (x - level[0] * x0) / level[1] - x0

    for now, then in pairwise(path):
        u = velocity(x, now)
        guess = x + (then[2] - now[2]) * u
        x = guess if then[1] == 0 else x + (then[2] - now[2]) * (u + velocity(guess, then)) / 2
    return x


SAMPLERS = {
    "small": (Ancestral, {"variance": "small"}, lambda p, x, z: ancestral(p, x, z, False)),
    "large": (Ancestral, {"variance": "large"}, lambda p, x, z: ancestral(p, x, z, True)),
    "ddim-0": (DDIM, {"eta": 0.0}, lambda p, x, z: ddim(p, x, z, 0)),
    "ddim-0.6": (DDIM, {"eta": 0.6}, lambda p, x, z: ddim(p, x, z, 0.6)),
    "ddim-1": (DDIM, {"eta": 1.0}, lambda p, x, z: ddim(p, x, z, 1)),
    "euler": (DDIM, {}, euler),
    "heun": (Heun, {}, heun),
    "2m": (DPMSolver2M, {}, solver_2m),
    "2s": (DPMSolver2S, {}, solver_2s),
    "flow-euler": (DDIM, {}, flow_euler),
    "flow-heun": (FlowHeun, {}, flow_heun),
}

PRESERVING = [name for name in SAMPLERS if not name.startswith("flow")]
CASES = [
    (name, schedule, spacing, steps)
    for schedule in ("linear", "cosine")
    for name in PRESERVING
    for spacing, steps in [
        ("leading", 10),
        ("leading", 7),
        ("trailing", 1),
        ("trailing", 7),
        ("trailing", 33),
        ("linspace", 12),
        ("karras", 9),
    ]
]
CASES += [(name, "zero", "trailing", 9) for name in ("small", "large", "ddim-0", "ddim-0.6")]
CASES += [
    (name, "edm", spacing, steps)
    for name in ("small", "euler", "heun", "2m", "2s")
    for spacing, steps in [("karras", 18), (None, 5), ("karras", 6)]
]
CASES += [
    (name, "flow", spacing, steps)
    for name in ("flow-euler", "flow-heun", "small")
    for spacing, steps in [("trailing", 1), ("trailing", 10), ("linspace", 7)]
]


def basis(seed, stream, step, rows, shape):
    """Row 1 has x_T = 1, row 2 + k has z_k = 1, all else is 0."""
    one = {Stream.INITIAL: 1, Stream.SAMPLER: 2 + step}[stream]
    return (rows == one).float().reshape(-1, *[1] * len(shape)).expand(-1, *shape)


def affine(outputs):
    """(mean, variance) of c + A x_T + sum B_k z_k over standard normal numbers."""
    c, others = outputs[0], outputs[1:]
    return c, sum((value - c) ** 2 for value in others)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("name", "schedule_name", "spacing", "steps"), CASES)
def test_mean_and_variance_follow_the_exact_recursion(
    name, schedule_name, spacing, steps, dtype, monkeypatch
):
    make, options, reference = SAMPLERS[name]
    schedule = SCHEDULES[schedule_name]
    sampler = make(steps, spacing=spacing, thresholding=None, **options)
    monkeypatch.setattr("ddpm_kedro.diffusion.samplers.sampler.normal", basis)
    outputs = sampler.sample(
        GaussianDenoiser(schedule, MEAN, STD), (1, 1, 1), range(steps + 2), seed=0, dtype=dtype
    )
    assert outputs.dtype == dtype

    levels = sampler.levels(schedule)
    path = [(level.alpha, level.sigma, level.t) for level in levels]
    start = schedule.initial_std(levels[0].t)
    zeros = [0.0] * steps
    expected = [reference(path, 0.0, zeros), reference(path, start, zeros)]
    for k in range(steps):
        expected.append(reference(path, 0.0, [float(i == k) for i in range(steps)]))

    mean, variance = affine(outputs.flatten().double().tolist())
    true_mean, true_variance = affine(expected)
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5
    assert mean == pytest.approx(true_mean, abs=tolerance, rel=tolerance)
    assert variance == pytest.approx(true_variance, abs=tolerance, rel=tolerance)
    assert variance > 0 or steps == 1


@pytest.mark.parametrize("name", ["heun", "2m", "2s", "euler"])
@pytest.mark.parametrize("schedule_name", ["zero", "flow"])
def test_deterministic_samplers_leave_pure_noise_by_a_first_order_step(name, schedule_name):
    """Where sigma/alpha is infinite the step is DDIM's, and the rest goes on from there."""
    schedule = SCHEDULES[schedule_name]
    make, options, reference = SAMPLERS[name]
    denoiser = GaussianDenoiser(schedule, MEAN, STD)
    arguments = dict(shape=(1, 2, 2), rows=range(3), seed=5, trajectory=True, dtype=torch.float64)
    path = make(12, thresholding=None, **options).sample(denoiser, **arguments)
    first = DDIM(12, thresholding=None).sample(denoiser, **arguments)[1]
    assert torch.allclose(path[1], first, rtol=0, atol=1e-12)
    assert path.isfinite().all()

    if name != "2m":  # its second step still remembers the first
        levels = make(12, **options).levels(schedule)[1:]
        scalar = [(level.alpha, level.sigma, level.t) for level in levels]
        expected = [reference(scalar, value, []) for value in first.flatten().tolist()]
        assert path[-1].flatten().tolist() == pytest.approx(expected, abs=1e-9)
    else:
        # h_last is infinite in the second step: no extrapolation yet
        now, then = make(12).levels(schedule)[1:3]
        x0 = estimate(first, now.alpha, now.sigma)
        keep = then.sigma / now.sigma
        second = keep * first + (then.alpha - now.alpha * keep) * x0
        assert torch.allclose(path[2], second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["small", "large", "ddim-1"])
def test_no_noise_at_the_last_step(name, monkeypatch):
    make, options, _ = SAMPLERS[name]
    sampler = make(10, thresholding=None, **options)
    seen = []

    def count(seed, stream, step, rows, shape):
        seen.append((stream, step))
        return torch.zeros(len(rows), *shape)

    monkeypatch.setattr("ddpm_kedro.diffusion.samplers.sampler.normal", count)
    denoiser = GaussianDenoiser(SCHEDULES["linear"], MEAN, STD)
    path = sampler.sample(denoiser, (1, 1, 1), [0], 0, trajectory=True)
    assert seen == [(Stream.INITIAL, 0)] + [(Stream.SAMPLER, k) for k in range(9)]
    last = sampler.levels(SCHEDULES["linear"])[-2]
    assert torch.allclose(path[-1], estimate(path[-2], last.alpha, last.sigma), atol=1e-6)


def test_large_variance_is_exact_for_data_of_unit_variance():
    """Images N(0, 1): with beta_t as the variance, x_t keeps variance 1 at every step."""
    sampler = Ancestral(20, thresholding=None, variance="large")
    variance = 1.0
    for now, then in pairwise(sampler.levels(SCHEDULES["linear"])):
        beta = 1 - (now.alpha / then.alpha) ** 2
        gain = now.alpha / then.alpha * (then.sigma / now.sigma) ** 2
        gain += then.alpha * beta / now.sigma**2 * now.alpha  # E[x_0 | x] = alpha x
        variance = gain**2 * variance + (beta if then.sigma else 0)
        if then.sigma:
            assert variance == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_with_eta_of_1_is_ancestral(spacing):
    denoiser = GaussianDenoiser(SCHEDULES["cosine"], MEAN, STD)
    arguments = dict(shape=(1, 4, 4), rows=range(4), seed=3, dtype=torch.float64)

    def run(sampler):
        return sampler.sample(denoiser, **arguments)

    options = dict(spacing=spacing, thresholding="static")
    assert torch.allclose(
        run(DDIM(15, eta=1.0, **options)),
        run(Ancestral(15, variance="small", **options)),
        atol=1e-9,
    )
    assert not torch.allclose(run(DDIM(15, eta=0.5, **options)), run(DDIM(15, **options)), atol=0.1)
