"""Noise schedule, objective and sampler of ours, and diffusers' scheduler, which is all three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ddpm_kedro.diffusion.noise_schedule import (
    CosineSchedule,
    DiscreteSchedule,
    FlowSchedule,
    LinearSchedule,
    NoiseSchedule,
)
from ddpm_kedro.diffusion.objective import (
    EpsilonPrediction,
    FlowVelocity,
    Objective,
    VPrediction,
    X0Prediction,
)
from ddpm_kedro.diffusion.samplers import DDIM, Ancestral, Sampler
from ddpm_kedro.diffusion.samplers.thresholding import DynamicThreshold
from ddpm_kedro.errors import InputError

SCHEDULES = "ddpm_kedro.diffusion.noise_schedule"
OBJECTIVES = "ddpm_kedro.diffusion.objective"
SAMPLERS = "ddpm_kedro.diffusion.samplers"
PREDICTIONS: Mapping[type[Objective], str] = {
    EpsilonPrediction: "epsilon",
    X0Prediction: "sample",
    VPrediction: "v_prediction",
}
NO_MAXIMUM = 1e6  # diffusers' dynamic threshold has always a maximum


def export_scheduler(
    schedule: NoiseSchedule, objective: Objective, sampler: Sampler | None
) -> tuple[str, dict[str, Any]]:
    """The pipeline's name and the scheduler's configuration.

    An :class:`Ancestral` sampler becomes a ``DDPMScheduler``, every other one a ``DDIMScheduler``
    with its spacing; the straight path becomes a ``FlowMatchEulerDiscreteScheduler``. Note that
    diffusers' ``DDIMScheduler`` steps by T // n whatever its timesteps are: with spacing linspace,
    or trailing where n does not divide T, its images differ from ours. Where it clips x_0, its step
    equals ours with ``use_clipped_model_output=True``; else it keeps the eps of the unclipped x_0.

    Raises:
        InputError: diffusers has no such schedule, or no such objective on it.
    """
    if isinstance(schedule, FlowSchedule) and isinstance(objective, FlowVelocity):
        return "DDPMPipeline", {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 1.0,
        }
    if not isinstance(schedule, DiscreteSchedule) or type(objective) not in PREDICTIONS:
        raise InputError(
            f"diffusers has no equal of {type(objective).__name__} on {type(schedule).__name__}: "
            "a discrete schedule with eps, x0 or v prediction can be exported, and flow matching"
        )
    config = {
        "num_train_timesteps": schedule.num_timesteps,
        "prediction_type": PREDICTIONS[type(objective)],
        "rescale_betas_zero_snr": False,
        "steps_offset": 0,
        **_betas(schedule),
        **_sampling(sampler),
    }
    if isinstance(sampler, Ancestral):
        variance = f"fixed_{sampler.variance}"
        return "DDPMPipeline", {
            "_class_name": "DDPMScheduler",
            "variance_type": variance,
            **config,
        }
    return "DDIMPipeline", {"_class_name": "DDIMScheduler", "set_alpha_to_one": True, **config}


def import_scheduler(
    config: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """Options of the noise schedule, the objective and the sampler (None where we lack its like).

    Args:
        config: ``scheduler_config.json``.

    Raises:
        InputError: we have no such schedule or prediction.
    """
    kind = config.get("_class_name")
    if kind == "FlowMatchEulerDiscreteScheduler":
        if config.get("shift", 1.0) != 1.0 or config.get("use_dynamic_shifting"):
            raise InputError(f"{kind} with a shift: only shift=1.0 can be imported")
        return (
            {"type": f"{SCHEDULES}.FlowSchedule"},
            {"type": f"{OBJECTIVES}.FlowVelocity"},
            {"type": f"{SAMPLERS}.FlowEuler", "num_steps": 50},
        )
    total = config.get("num_train_timesteps", 1000)
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise InputError(f"scheduler with num_train_timesteps={total!r}: not a number of steps")
    objectives = {
        name: {"type": f"{OBJECTIVES}.{objective.__name__}"}
        for objective, name in PREDICTIONS.items()
    }
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in objectives:
        raise InputError(f"scheduler with prediction_type={prediction!r}: cannot be imported")
    return _schedule_option(config, total), objectives[prediction], _sampler_option(config, total)


def _betas(schedule: DiscreteSchedule) -> dict[str, Any]:
    if type(schedule) is LinearSchedule:
        betas = schedule.betas
        return {
            "beta_schedule": "linear",
            "beta_start": float(betas[0]),
            "beta_end": float(betas[-1]),
            "trained_betas": None,
        }
    cosine = CosineSchedule(schedule.num_timesteps).betas
    if torch.allclose(schedule.betas, cosine, rtol=0, atol=1e-12):
        return {"beta_schedule": "squaredcos_cap_v2", "trained_betas": None}
    return {"trained_betas": schedule.betas.tolist()}  # exact, whatever made them


def _sampling(sampler: Sampler | None) -> dict[str, Any]:
    spacing = (sampler and sampler.spacing) or "trailing"  # None is that on discrete schedules
    threshold = None if sampler is None else sampler.threshold
    dynamic = isinstance(threshold, DynamicThreshold)
    config = {
        # Real times (Karras) have no place on diffusers' grid of whole ones.
        "timestep_spacing": spacing if spacing != "karras" else "trailing",
        "clip_sample": (sampler is None or threshold is not None) and not dynamic,
        "clip_sample_range": 1.0,
        "thresholding": dynamic,
    }
    if dynamic:
        config["dynamic_thresholding_ratio"] = threshold.quantile
        config["sample_max_value"] = threshold.maximum or NO_MAXIMUM
    return config


def _schedule_option(config: Mapping[str, Any], total: int) -> dict[str, Any]:
    name = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        raise InputError("scheduler with trained_betas: only a named beta_schedule can be imported")
    if name == "linear":
        # Ours are stated for T = 1000 and scaled, theirs are not.
        option = {
            "type": f"{SCHEDULES}.LinearSchedule",
            "num_timesteps": total,
            "beta_start": config.get("beta_start", 1e-4) * total / 1000,
            "beta_end": config.get("beta_end", 0.02) * total / 1000,
        }
    elif name == "squaredcos_cap_v2":
        option = {"type": f"{SCHEDULES}.CosineSchedule", "num_timesteps": total}
    else:
        raise InputError(
            f"scheduler with beta_schedule={name!r}: linear and squaredcos_cap_v2 can be imported"
        )
    if config.get("rescale_betas_zero_snr"):
        option = {"type": f"{SCHEDULES}.ZeroTerminalSNR", "schedule": option}
    return option


def _sampler_option(config: Mapping[str, Any], total: int) -> dict[str, Any] | None:
    option: dict[str, Any] = {"spacing": config.get("timestep_spacing", "leading")}
    if config.get("thresholding"):
        option["thresholding"] = "dynamic"
    else:
        option["thresholding"] = "static" if config.get("clip_sample", True) else None
    if config.get("_class_name") == "DDPMScheduler":
        large = "large" in config.get("variance_type", "fixed_small")
        option |= {"num_steps": total, "variance": "large" if large else "small"}
        return {"type": f"{SAMPLERS}.{Ancestral.__name__}", **option}
    if config.get("_class_name") == "DDIMScheduler":
        return {"type": f"{SAMPLERS}.{DDIM.__name__}", "num_steps": min(50, total), **option}
    return None
