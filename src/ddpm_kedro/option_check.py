"""The chosen options: whether each can be built, and whether they go together.

Imported when the shape of the tree is right and not before: a wrong key is told without waiting for
torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ddpm_kedro.construction import build, check
from ddpm_kedro.diffusion.drawing import drawn_with
from ddpm_kedro.diffusion.model_spec import KINDS, OWN_MODULES, vet
from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule
from ddpm_kedro.diffusion.precision import choose_device
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.diffusion.timesteps import TimestepSampling
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features import FeatureExtractor
from ddpm_kedro.parameters import Parameters
from ddpm_kedro.training.lr_schedule import is_torch_scheduler
from ddpm_kedro.training.settings import TrainingSettings


def check_options(parameters: Parameters) -> tuple[NoiseSchedule, Sampler]:
    """Build the chosen options once, and bind the arguments of those that are dear or need data.

    InputError for an unknown class or argument, or options that do not go together; else what
    `check_samplers` asks of: the schedule and the sampler of a training.
    """
    training, sampling = parameters.training, parameters.sampling
    choose_device(parameters.device)
    with _named("datasets", parameters.dataset):
        check(parameters.preparation.source)
    with _named("backbones", parameters.backbone):
        vet(training.backbone, KINDS["backbone"], "backbone")
        check(training.backbone, in_channels=3, num_classes=None)
    with _named("noise_schedules", parameters.noise_schedule):
        schedule = _built(training, "noise_schedule")
        schedule.check()
    with _named("augmentations", parameters.augmentation):
        build(training.augmentation)
    with _named("objectives", parameters.objective):
        _built(training, "objective").check(schedule)
    with _named("loss_weights", parameters.loss_weight):
        _built(training, "loss_weight")
    with _named("timestep_samplings", parameters.timestep_sampling):
        vet(training.timesteps, TimestepSampling, "timesteps")
        build(training.timesteps).check(schedule)
    with _named("optimizers", parameters.optimizer):
        # On a dummy: torch checks ranges (a negative rate) when an optimizer is made, not before
        optimizer = build(training.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    with _named("lr_schedules", parameters.lr_schedule):
        made_by_torch = is_torch_scheduler(training.lr_schedule)
        build(training.lr_schedule, *([optimizer] if made_by_torch else []))
    with _named("feature_extractors", parameters.features):
        _check_features(parameters)
    _check_classes(parameters)
    with _named("samplers", parameters.sampler):
        own = _built(training, "sampler")
    if sampling.sampler is not None and "type" in sampling.sampler:  # else it changes a file's own
        with _named("sampling", "sampler"):
            vet(sampling.sampler, Sampler, "sampler")
            build(drawn_with({}, sampling.sampler, sampling.num_steps))
    _check_trust(parameters)
    return schedule, own


def check_samplers(parameters: Parameters, schedule: NoiseSchedule, own: Sampler) -> None:
    """InputError where previews or samples cannot be drawn on the schedule that is trained on.

    For runs that train: a finished model has a schedule of its own, and sampling asks that one.
    """
    with _named("samplers", parameters.sampler):
        own.check(schedule)
    sampling = parameters.sampling
    if sampling.sampler is not None or sampling.num_steps is not None:
        drawn = drawn_with(parameters.training.sampler, sampling.sampler, sampling.num_steps)
        with _named("sampling", "sampler"):
            build(drawn).check(schedule)


def _built(training: TrainingSettings, name: str) -> Any:
    vet(getattr(training, name), KINDS[name], name)
    return build(getattr(training, name))


def _check_features(parameters: Parameters) -> None:
    """Whether what scores are made of is there, and sees images such as are asked for."""
    vet(parameters.evaluation.features, FeatureExtractor, "features")
    extractor = build(parameters.evaluation.features)
    extractor.check()
    # What is not asked for is not known before the images are there, and is refused then.
    side = parameters.image_size or 256
    extractor.for_images((parameters.preparation.channels or 3, side, side))


def _check_trust(parameters: Parameters) -> None:
    """Whether the model file of a training, which names these options, will be read back."""
    trusted = (*OWN_MODULES, *parameters.trusted_modules)
    for name in KINDS:
        path = getattr(parameters.training, name)["type"]
        if isinstance(path, str) and not path.startswith(tuple(f"{each}." for each in trusted)):
            raise InputError(
                f"training.{name}: {path} is named in the model file, which is read back with "
                f"trusted modules only; add {path.rpartition('.')[0]} to trusted_modules"
            )


def _check_classes(parameters: Parameters) -> None:
    """What only a conditional model can be asked for."""
    training, sampling = parameters.training, parameters.sampling
    for name in () if training.conditional else ("label", "guidance"):
        if (value := getattr(sampling, name)) is not None:
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
