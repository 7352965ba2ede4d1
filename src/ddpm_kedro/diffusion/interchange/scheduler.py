"""Noise schedule, objective and sampler of ours, and diffusers' scheduler, which is all three."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch

from ddpm_kedro.construction import long_form
from ddpm_kedro.diffusion import noise_schedule as schedules
from ddpm_kedro.diffusion import objective as objectives
from ddpm_kedro.diffusion.samplers import Ancestral, Sampler
from ddpm_kedro.diffusion.samplers.thresholding import DynamicThreshold, StaticThreshold
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import Count, Part, Real, Settings, Switch, Text, choice, number

LOGGER = logging.getLogger(__name__)

PREDICTIONS = {
    "epsilon": objectives.EpsilonPrediction,
    "sample": objectives.X0Prediction,
    "v_prediction": objectives.VPrediction,
}
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}
FLOW = "FlowMatchEulerDiscreteScheduler"
NO_MAXIMUM = 1e6  # diffusers' dynamic threshold has always a maximum


@dataclass(frozen=True)
class Fields(Settings):
    """What we have an equal of, and what diffusers takes for a field that is null or left out."""

    section: Text  # the class of the scheduler
    num_train_timesteps: Count = 1000
    beta_start: Real = 1e-4
    beta_end: Real = 0.02
    beta_schedule: Annotated[str, choice("linear", "squaredcos_cap_v2")] = "linear"
    rescale_betas_zero_snr: Switch = False
    prediction_type: Annotated[str, choice(*PREDICTIONS)] = "epsilon"
    variance_type: Annotated[str, choice(*VARIANCES)] = "fixed_small"
    clip_sample: Switch = True
    thresholding: Switch = False
    dynamic_thresholding_ratio: Part = 0.995
    sample_max_value: Annotated[float, number(float, least=1)] = 1.0
    timestep_spacing: Annotated[str, choice("leading", "trailing", "linspace")] = "leading"


FIELDS = {field.name for field in fields(Fields)} - {"section"}
# Fields that change what is sampled, with the value at which it is what our samplers do; the last
# one is of diffusers' first releases.
FIXED = {
    "clip_sample_range": 1.0,
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "predict_epsilon": True,
}
FLOW_FIXED = {
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
# Other solvers on the same schedules, of whose own fields these change what the network is told.
OTHER_SOLVERS = (
    "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "PNDMScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
OTHERS_FIXED = {"use_flow_sigmas": False, "timestep_type": "discrete"}


def export_scheduler(
    schedule: schedules.NoiseSchedule, objective: objectives.Objective, sampler: Sampler | None
) -> tuple[str, dict[str, Any]]:
    """The pipeline's name and the scheduler's configuration.

    An `Ancestral` sampler becomes a `DDPMScheduler`, every other one a `DDIMScheduler` with its
    spacing; the straight path becomes a `FlowMatchEulerDiscreteScheduler`, which never thresholds.
    diffusers' `DDIMScheduler` steps by T // n whatever its timesteps are: with spacing linspace, or
    trailing where n does not divide T, its images differ from ours. Where it clips x_0, its step
    equals ours with `use_clipped_model_output=True`; else it keeps the eps of the unclipped x_0.

    InputError where diffusers has no such schedule, objective on it or threshold.
    """
    threshold = None if sampler is None else sampler.thresholding
    if not isinstance(threshold, StaticThreshold | DynamicThreshold | None):
        raise InputError(f"diffusers has no equal of {type(threshold).__name__}")
    is_straight = isinstance(schedule, schedules.FlowSchedule)
    if is_straight and isinstance(objective, objectives.FlowVelocity):
        config = {"_class_name": FLOW, "num_train_timesteps": 1000, "shift": 1.0}
        return "DDPMPipeline", config
    predictions = {kind: name for name, kind in PREDICTIONS.items()}
    if not isinstance(schedule, schedules.DiscreteSchedule) or type(objective) not in predictions:
        raise InputError(
            f"diffusers has no equal of {type(objective).__name__} on {type(schedule).__name__}: "
            "a discrete schedule with eps, x0 or v prediction can be exported, and flow matching"
        )
    spacing = (sampler and sampler.spacing) or "trailing"  # None is that on discrete schedules
    is_dynamic = isinstance(threshold, DynamicThreshold)
    config = {
        "num_train_timesteps": schedule.num_timesteps,
        "prediction_type": predictions[type(objective)],
        "rescale_betas_zero_snr": False,
        "steps_offset": 0,
        **_betas(schedule),
        # Real times (Karras) have no place on diffusers' grid of whole ones.
        "timestep_spacing": spacing if spacing != "karras" else "trailing",
        "clip_sample": (sampler is None or threshold is not None) and not is_dynamic,
        "clip_sample_range": 1.0,
        "thresholding": is_dynamic,
    }
    if is_dynamic:
        config["dynamic_thresholding_ratio"] = threshold.quantile
        config["sample_max_value"] = threshold.maximum or NO_MAXIMUM
    if isinstance(sampler, Ancestral):
        config |= {"_class_name": "DDPMScheduler", "variance_type": f"fixed_{sampler.variance}"}
        return "DDPMPipeline", config
    return "DDIMPipeline", {"_class_name": "DDIMScheduler", "set_alpha_to_one": True, **config}


def _betas(schedule: schedules.DiscreteSchedule) -> dict[str, Any]:
    if type(schedule) is schedules.LinearSchedule:
        start, end = float(schedule.betas[0]), float(schedule.betas[-1])
        named = {"beta_schedule": "linear", "beta_start": start, "beta_end": end}
        return {**named, "trained_betas": None}
    cosine = schedules.CosineSchedule(schedule.num_timesteps).betas
    if torch.allclose(schedule.betas, cosine, rtol=0, atol=1e-12):
        return {"beta_schedule": "squaredcos_cap_v2", "trained_betas": None}
    return {"trained_betas": schedule.betas.tolist()}  # exact, whatever made them


def import_scheduler(config: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    """Options of noise schedule, objective and sampler in a `scheduler_config.json`.

    The sampler is None, and a warning says so, where the scheduler is another solver on a schedule
    that we have. Nothing else is lost: a field is read, or without effect beside the others, or
    refused by an InputError, as is a scheduler that we have no equal of.
    """
    kind = config.get("_class_name")
    given = {name: value for name, value in config.items() if value is not None}
    if kind == FLOW:
        _refuse_others(given, FLOW_FIXED, SHIFTING)
        sampler = {"type": "ddpm_kedro.FlowEuler", "num_steps": 50, "thresholding": None}
        straight = {"type": "ddpm_kedro.FlowSchedule"}, {"type": "ddpm_kedro.FlowVelocity"}
        return long_form([*straight, sampler])
    is_other = kind in OTHER_SOLVERS
    if not is_other and kind not in ("DDPMScheduler", "DDIMScheduler"):
        raise InputError(f"scheduler with _class_name={kind!r}: cannot be imported")
    known = Fields(kind, **{name: given[name] for name in given.keys() & FIELDS})
    if "trained_betas" in given:
        raise InputError(f"{kind} with trained_betas: only a named beta_schedule can be imported")
    if is_other:
        _refuse_others(given, OTHERS_FIXED, given.keys() - OTHERS_FIXED.keys())
        LOGGER.warning("%s: how it samples is not imported, the usual sampler is used", kind)
    else:
        _refuse_others(given, FIXED, {*FIELDS, *_without_effect(known)})
    objective = {"type": f"ddpm_kedro.{PREDICTIONS[known.prediction_type].__name__}"}
    return long_form([_schedule(known), objective, None if is_other else _sampler(known)])


def _refuse_others(
    config: Mapping[str, Any], fixed: Mapping[str, Any], others: Collection[str]
) -> None:
    """Refuse a field that is neither one of `others` nor has its `fixed` value."""
    for name, value in config.items():
        if name.startswith("_") or name in others or (name in fixed and value == fixed[name]):
            continue
        only = f"only {fixed[name]!r} can be imported" if name in fixed else "cannot be imported"
        raise InputError(f"{config['_class_name']} with {name}={value!r}: {only}")


def _without_effect(known: Fields) -> Iterator[str]:
    """Fields of DDPMScheduler or DDIMScheduler that change nothing beside the others."""
    yield "tensor_format"  # of diffusers' first releases
    if known.section == "DDPMScheduler":
        yield "set_alpha_to_one"
    if known.thresholding or not known.clip_sample:
        yield "clip_sample_range"
    if known.timestep_spacing != "leading":
        yield "steps_offset"


def _schedule(known: Fields) -> dict[str, Any]:
    total = known.num_train_timesteps
    option = {"type": "ddpm_kedro.CosineSchedule", "num_timesteps": total}
    if known.beta_schedule == "linear":
        # Ours are stated for T = 1000 and scaled, theirs are not.
        ends = known.beta_start * total / 1000, known.beta_end * total / 1000
        option |= {"type": "ddpm_kedro.LinearSchedule", "beta_start": ends[0], "beta_end": ends[1]}
    if known.rescale_betas_zero_snr:
        option = {"type": "ddpm_kedro.ZeroTerminalSNR", "schedule": option}
    return option


def _sampler(known: Fields) -> dict[str, Any]:
    total, maximum = known.num_train_timesteps, known.sample_max_value
    threshold = "static" if known.clip_sample else None
    if known.thresholding:
        threshold = {
            "type": "ddpm_kedro.DynamicThreshold",
            "quantile": known.dynamic_thresholding_ratio,
            "maximum": None if maximum >= NO_MAXIMUM else maximum,
        }
    option = {"spacing": known.timestep_spacing, "thresholding": threshold}
    if known.section == "DDIMScheduler":
        return {"type": "ddpm_kedro.DDIM", "num_steps": min(50, total), **option}
    option |= {"num_steps": total, "variance": VARIANCES[known.variance_type]}
    return {"type": "ddpm_kedro.Ancestral", **option}
