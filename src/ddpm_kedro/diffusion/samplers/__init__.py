"""Ways from noise to images, each one step that `Sampler.sample` repeats."""

from ddpm_kedro.diffusion.samplers.ancestral import Ancestral
from ddpm_kedro.diffusion.samplers.ddim import DDIM
from ddpm_kedro.diffusion.samplers.dpm_solver import DPMSolver2M, DPMSolver2S
from ddpm_kedro.diffusion.samplers.probability_flow import FlowHeun, Heun
from ddpm_kedro.diffusion.samplers.sampler import Level, Sampler, SamplingRun, first_order

__all__ = [
    "DDIM", "Ancestral", "DPMSolver2M", "DPMSolver2S", "FlowHeun", "Heun", "Level", "Sampler",
    "SamplingRun", "first_order",
]  # fmt: skip

Euler = FlowEuler = DDIM  # what model files, and their users, also call its step with eta = 0
