"""Ways from noise to images, each one step that `Sampler.sample` repeats."""

from __future__ import annotations

from ddpm_kedro.diffusion.samplers.ancestral import Ancestral
from ddpm_kedro.diffusion.samplers.ddim import DDIM
from ddpm_kedro.diffusion.samplers.dpm_solver import DPMSolver2M, DPMSolver2S
from ddpm_kedro.diffusion.samplers.flow import FlowEuler, FlowHeun
from ddpm_kedro.diffusion.samplers.probability_flow import Euler, Heun
from ddpm_kedro.diffusion.samplers.sampler import Sampler

__all__ = [
    "DDIM",
    "Ancestral",
    "DPMSolver2M",
    "DPMSolver2S",
    "Euler",
    "FlowEuler",
    "FlowHeun",
    "Heun",
    "Sampler",
]
