"""Noise schedule, objective and sampler of ours, and diffusers' scheduler, which is all three."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
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
from ddpm_kedro.diffusion.samplers.thresholding import DynamicThreshold, StaticThreshold
from ddpm_kedro.errors import InputError

LOGGER = logging.getLogger(__name__)

SCHEDULES = "ddpm_kedro.diffusion.noise_schedule"
OBJECTIVES = "ddpm_kedro.diffusion.objective"
SAMPLERS = "ddpm_kedro.diffusion.samplers"
PREDICTIONS: Mapping[type[Objective], str] = {
    EpsilonPrediction: "epsilon",
    X0Prediction: "sample",
    VPrediction: "v_prediction",
}
FLOW = "FlowMatchEulerDiscreteScheduler"
NO_MAXIMUM = 1e6  # diffusers' dynamic threshold has always a maximum
# What diffusers takes a field for that a configuration leaves out; null stands for it too.
DEFAULTS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
}
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}
# Fields that change what is sampled, with the value at which it is what our samplers do; the last
# one is of diffusers' first releases.
FIXED: Mapping[str, Any] = {
    "clip_sample_range": 1.0,
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "predict_epsilon": True,
}
FLOW_FIXED: Mapping[str, Any] = {
    "num_train_timesteps": 1000,  # FlowSchedule tells the network 1000 t
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "invert_sigmas": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "stochastic_sampling": False,
}
SHIFTING = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")
# Other solvers on the same schedules: what of their fields changes what the network is told.
OTHER_SOLVERS: Mapping[str, Mapping[str, Any]] = {
    "DEISMultistepScheduler": {"use_flow_sigmas": False},
    "DPMSolverMultistepScheduler": {"use_flow_sigmas": False},
    "DPMSolverSinglestepScheduler": {"use_flow_sigmas": False},
    "EulerAncestralDiscreteScheduler": {},
    "EulerDiscreteScheduler": {"timestep_type": "discrete"},
    "PNDMScheduler": {},
    "UniPCMultistepScheduler": {"use_flow_sigmas": False},
}


def export_scheduler(
    schedule: NoiseSchedule, objective: Objective, sampler: Sampler | None
) -> tuple[str, dict[str, Any]]:
    """The pipeline's name and the scheduler's configuration.

    An :class:`Ancestral` sampler becomes a ``DDPMScheduler``, every other one a ``DDIMScheduler``
    with its spacing; the straight path becomes a ``FlowMatchEulerDiscreteScheduler``, which never
    thresholds. diffusers' ``DDIMScheduler`` steps by T // n whatever its timesteps are: with
    spacing linspace, or trailing where n does not divide T, its images differ from ours. Where it
    clips x_0, its step equals ours with ``use_clipped_model_output=True``; else it keeps the eps of
    the unclipped x_0.

    Raises:
        InputError: diffusers has no such schedule, no such objective on it or no such threshold.
    """
    threshold = None if sampler is None else sampler.threshold
    if not isinstance(threshold, StaticThreshold | DynamicThreshold | None):
        raise InputError(f"diffusers has no equal of {type(threshold).__name__}")
    if isinstance(schedule, FlowSchedule) and isinstance(objective, FlowVelocity):
        config = {"_class_name": FLOW, "num_train_timesteps": 1000, "shift": 1.0}
        return "DDPMPipeline", config
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
        config |= {"_class_name": "DDPMScheduler", "variance_type": f"fixed_{sampler.variance}"}
        return "DDPMPipeline", config
    return "DDIMPipeline", {"_class_name": "DDIMScheduler", "set_alpha_to_one": True, **config}


def import_scheduler(
    config: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """Options of noise schedule, objective and sampler in a ``scheduler_config.json``.

    The sampler is None, and a warning says so, where the scheduler is another solver on a schedule
    that we have. Nothing else is lost: a field is read, or without effect beside the others, or
    refused.

    Raises:
        InputError: we have no such scheduler, or none with such a field.
    """
    kind = config.get("_class_name")
    given = {name: value for name, value in config.items() if value is not None}
    if kind == FLOW:
        _refuse_others(given, FLOW_FIXED, SHIFTING)
        sampler = {"type": f"{SAMPLERS}.FlowEuler", "num_steps": 50, "thresholding": None}
        objective = {"type": f"{OBJECTIVES}.FlowVelocity"}
        return {"type": f"{SCHEDULES}.FlowSchedule"}, objective, sampler
    config = {**DEFAULTS, **given}
    if kind in ("DDPMScheduler", "DDIMScheduler"):
        _refuse_others(given, FIXED, {*DEFAULTS, "trained_betas", *_without_effect(config)})
    elif kind in OTHER_SOLVERS:
        _refuse_others(given, OTHER_SOLVERS[kind], given.keys() - OTHER_SOLVERS[kind].keys())
        LOGGER.warning("%s: how it samples is not imported, the usual sampler is used", kind)
    else:
        raise InputError(f"scheduler with _class_name={kind!r}: cannot be imported")
    objectives = {name: objective.__name__ for objective, name in PREDICTIONS.items()}
    prediction = config["prediction_type"]
    if prediction not in objectives:
        raise _refused(config, "prediction_type")
    schedule = _schedule_option(config)
    sampler = None if kind in OTHER_SOLVERS else _sampler_option(config)
    return schedule, {"type": f"{OBJECTIVES}.{objectives[prediction]}"}, sampler


def _refused(
    config: Mapping[str, Any], name: str, reason: str = "cannot be imported"
) -> InputError:
    return InputError(f"{config['_class_name']} with {name}={config[name]!r}: {reason}")


def _refuse_others(
    config: Mapping[str, Any], fixed: Mapping[str, Any], others: Collection[str] = ()
) -> None:
    """Refuse a field that is neither one of ``others`` nor has its ``fixed`` value."""
    for name, value in config.items():
        if name.startswith("_") or name in others or (name in fixed and value == fixed[name]):
            continue
        only = f"only {fixed[name]!r} can be imported" if name in fixed else "cannot be imported"
        raise _refused(config, name, only)


def _without_effect(config: Mapping[str, Any]) -> Iterator[str]:
    """Fields of DDPMScheduler or DDIMScheduler that change nothing beside the others."""
    yield "tensor_format"  # of diffusers' first releases
    if config["_class_name"] == "DDPMScheduler":
        yield "set_alpha_to_one"
    if config["thresholding"] or not config["clip_sample"]:
        yield "clip_sample_range"
    if config["timestep_spacing"] != "leading":
        yield "steps_offset"


def _betas(schedule: DiscreteSchedule) -> dict[str, Any]:
    if type(schedule) is LinearSchedule:
        start, end = float(schedule.betas[0]), float(schedule.betas[-1])
        named = {"beta_schedule": "linear", "beta_start": start, "beta_end": end}
        return {**named, "trained_betas": None}
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


def _schedule_option(config: Mapping[str, Any]) -> dict[str, Any]:
    name, total = config["beta_schedule"], config["num_train_timesteps"]
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise _refused(config, "num_train_timesteps", "not a number of steps")
    if "trained_betas" in config:
        kind = config["_class_name"]
        raise InputError(f"{kind} with trained_betas: only a named beta_schedule can be imported")
    if name == "linear":
        # Ours are stated for T = 1000 and scaled, theirs are not.
        option = {
            "type": f"{SCHEDULES}.LinearSchedule",
            "num_timesteps": total,
            "beta_start": _number(config, "beta_start") * total / 1000,
            "beta_end": _number(config, "beta_end") * total / 1000,
        }
    elif name == "squaredcos_cap_v2":
        option = {"type": f"{SCHEDULES}.CosineSchedule", "num_timesteps": total}
    else:
        raise _refused(config, "beta_schedule", "linear and squaredcos_cap_v2 can be imported")
    if config["rescale_betas_zero_snr"]:
        option = {"type": f"{SCHEDULES}.ZeroTerminalSNR", "schedule": option}
    return option


def _sampler_option(config: Mapping[str, Any]) -> dict[str, Any]:
    total = config["num_train_timesteps"]
    option = {"spacing": config["timestep_spacing"], "thresholding": _threshold_option(config)}
    if option["spacing"] not in ("leading", "trailing", "linspace"):
        raise _refused(config, "timestep_spacing")
    if config["_class_name"] == "DDIMScheduler":
        return {"type": f"{SAMPLERS}.{DDIM.__name__}", "num_steps": min(50, total), **option}
    if config["variance_type"] not in VARIANCES:
        raise _refused(config, "variance_type")
    option |= {"num_steps": total, "variance": VARIANCES[config["variance_type"]]}
    return {"type": f"{SAMPLERS}.{Ancestral.__name__}", **option}


def _threshold_option(config: Mapping[str, Any]) -> Mapping[str, Any] | str | None:
    if not config["thresholding"]:
        return "static" if config["clip_sample"] else None
    quantile = _number(config, "dynamic_thresholding_ratio")
    maximum = _number(config, "sample_max_value")
    if not 0 < quantile <= 1 or not maximum >= 1:
        raise InputError(
            f"{config['_class_name']} with dynamic_thresholding_ratio={quantile} and "
            f"sample_max_value={maximum}: a share in (0, 1] and at least 1 can be imported"
        )
    return {
        "type": f"{SAMPLERS}.thresholding.{DynamicThreshold.__name__}",
        "quantile": quantile,
        "maximum": None if maximum >= NO_MAXIMUM else maximum,
    }


def _number(config: Mapping[str, Any], name: str) -> float:
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refused(config, name, "not a number")
    return value
