"""The chosen options: whether each can be built, and whether they go together.

Imported when the shape of the tree is right and not before: a wrong key is told without waiting for
torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ddpm_kedro.construction import build, check
from ddpm_kedro.diffusion.model_spec import KINDS, vet
from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule
from ddpm_kedro.diffusion.precision import choose_device
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.diffusion.samplers.usual import drawn_with
from ddpm_kedro.diffusion.timesteps import TimestepSampling
from ddpm_kedro.errors import InputError
from ddpm_kedro.parameters import Parameters
from ddpm_kedro.training.lr_schedule import is_torch_scheduler
from ddpm_kedro.training.settings import TrainingSettings


def check_options(parameters: Parameters) -> None:
    """Bind the chosen options' arguments, and build what is cheap to find clashes.

    Raises:
        InputError: an unknown class or argument, or options that do not go together.
    """
    training, sampling = parameters.training, parameters.sampling
    choose_device(parameters.device)
    with _named("datasets", parameters.dataset):
        check(parameters.preparation.source)
    with _named("augmentations", parameters.augmentation):
        build(training.augmentation)
    with _named("backbones", parameters.backbone):
        _vet(training, "backbone")
        check(training.backbone, in_channels=3, num_classes=None)
    schedule = _schedule(parameters)
    with _named("objectives", parameters.objective):
        _vet(training, "objective")
        build(training.objective).check(schedule)
    with _named("loss_weights", parameters.loss_weight):
        _vet(training, "loss_weight")
        build(training.loss_weight)
    with _named("timestep_samplings", parameters.timestep_sampling):
        vet(training.timesteps, TimestepSampling, "timesteps")
        build(training.timesteps).check(schedule)
    with _named("optimizers", parameters.optimizer):
        # On a dummy: torch checks ranges (a negative rate) when an optimizer is made, not before
        optimizer = build(training.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    with _named("lr_schedules", parameters.lr_schedule):
        made_by_torch = is_torch_scheduler(training.lr_schedule)
        build(training.lr_schedule, *([optimizer] if made_by_torch else []))
    with _named("evaluation", "features"):
        build(parameters.evaluation.features)
    _check_classes(parameters)
    with _named("samplers", parameters.sampler):
        _vet(training, "sampler")
        build(training.sampler)
    if sampling.sampler is not None and "type" in sampling.sampler:  # else it changes a file's own
        with _named("sampling", "sampler"):
            vet(sampling.sampler, Sampler, "sampler")
            build(drawn_with({}, sampling.sampler, sampling.num_steps))


def check_samplers(parameters: Parameters) -> None:
    """Whether previews and samples can be drawn on the schedule that is trained on.

    For runs that train: a finished model has a schedule of its own, and sampling asks that one.

    Raises:
        InputError: a sampler does not fit the schedule.
    """
    schedule, own = _schedule(parameters), parameters.training.sampler
    with _named("samplers", parameters.sampler):
        build(own).check(schedule)
    sampling = parameters.sampling
    with _named("sampling", "sampler"):
        build(drawn_with(own, sampling.sampler, sampling.num_steps)).check(schedule)


def _schedule(parameters: Parameters) -> NoiseSchedule:
    with _named("noise_schedules", parameters.noise_schedule):
        _vet(parameters.training, "noise_schedule")
        return build(parameters.training.noise_schedule)


def _vet(training: TrainingSettings, name: str) -> None:
    vet(getattr(training, name), KINDS[name], name)


def _check_classes(parameters: Parameters) -> None:
    """What only a conditional model can be asked for."""
    training, sampling = parameters.training, parameters.sampling
    for name in ("label", "guidance"):
        value = getattr(sampling, name)
        if value is not None and not training.conditional:
            raise InputError(
                f"sampling.{name}={value}: only a conditional model has classes to choose "
                "from; set training.conditional=true too"
            )
    if sampling.guidance is None and sampling.guidance_interval is not None:
        raise InputError(
            f"sampling.guidance_interval={list(sampling.guidance_interval)}: says where "
            "sampling.guidance applies; give that too"
        )
    if sampling.guidance not in (None, 1) and training.label_dropout == 0:
        raise InputError(
            f"sampling.guidance={sampling.guidance}: compares with images drawn without a "
            "label, which training.label_dropout=0 never shows the network; set it to 0.1"
        )


@contextlib.contextmanager
def _named(table: str, name: str) -> Iterator[None]:
    """Say in which table's entry a mistake stands."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{table}.{name}: {error}") from error
