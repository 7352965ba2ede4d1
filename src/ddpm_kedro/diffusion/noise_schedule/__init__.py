"""Noise schedules: how much image and how much noise make up x_t = alpha(t) x_0 + sigma(t) eps."""

from ddpm_kedro.diffusion.noise_schedule.base import (
    STRAIGHT_PATH,
    VARIANCE_EXPLODING,
    VARIANCE_PRESERVING,
    NoiseSchedule,
    at_least_float32,
    per_row,
    perturb,
    real_dtype,
)
from ddpm_kedro.diffusion.noise_schedule.continuous import EDMSchedule, FlowSchedule
from ddpm_kedro.diffusion.noise_schedule.discrete import (
    CosineSchedule,
    DiscreteSchedule,
    LinearSchedule,
    SigmoidSchedule,
    ZeroTerminalSNR,
)

__all__ = [
    "STRAIGHT_PATH", "VARIANCE_EXPLODING", "VARIANCE_PRESERVING", "CosineSchedule",
    "DiscreteSchedule", "EDMSchedule", "FlowSchedule", "LinearSchedule", "NoiseSchedule",
    "SigmoidSchedule", "ZeroTerminalSNR", "at_least_float32", "per_row", "perturb", "real_dtype",
]  # fmt: skip
