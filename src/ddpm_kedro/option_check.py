"""The chosen options: whether each can be built, and whether they go together.

Imported when the shape of the tree is right and not before: a wrong key is told without waiting for
torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ddpm_kedro.construction import build, check
from ddpm_kedro.diffusion.drawing import drawn_with
from ddpm_kedro.diffusion.model_spec import KINDS, vet
from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule
from ddpm_kedro.diffusion.precision import choose_device
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.diffusion.timesteps import TimestepSampling
from ddpm_kedro.errors import InputError
from ddpm_kedro.training.lr_schedule import is_torch_scheduler
from ddpm_kedro.training.settings import TrainingSettings


def check_options(tree: Mapping[str, Any]) -> None:
    """Bind the chosen options' arguments, and build what is cheap to find clashes.

    Args:
        tree: the parameters as plain values in the shape of ``Parameters``.

    Raises:
        InputError: an unknown class or argument, or options that do not go together.
    """
    training = tree["training"]
    choose_device(tree["device"])
    with _named("datasets", tree["dataset"]):
        check(tree["preparation"]["source"])
    with _named("augmentations", tree["augmentation"]):
        check(training["augmentation"])
    with _named("backbones", tree["backbone"]):
        _vet(training, "backbone")
        check(training["backbone"], in_channels=3, num_classes=None)
    schedule = _schedule(tree)
    with _named("objectives", tree["objective"]):
        _vet(training, "objective")
        build(training["objective"]).check(schedule)
    with _named("loss_weights", tree["loss_weight"]):
        _vet(training, "loss_weight")
        build(training["loss_weight"])
    with _named("timestep_samplings", tree["timestep_sampling"]):
        vet(training["timesteps"], TimestepSampling, "timesteps")
        build(training["timesteps"]).check(schedule)
    with _named("optimizers", tree["optimizer"]):
        optimizer = _build_optimizer(training["optimizer"])
    with _named("lr_schedules", tree["lr_schedule"]):
        made_by_torch = is_torch_scheduler(training["lr_schedule"])
        build(training["lr_schedule"], *([optimizer] if made_by_torch else []))
    with _named("evaluation", "features"):
        build(tree["evaluation"]["features"])
    _check_classes(training, tree["sampling"])
    with _named("samplers", tree["sampler"]):
        _vet(training, "sampler")
        build(training["sampler"])
    asked, num_steps = tree["sampling"]["sampler"], tree["sampling"]["num_steps"]
    if asked is not None and "type" in asked:  # without one it changes a sampler that a file names
        with _named("sampling", "sampler"):
            vet(asked, Sampler, "sampler")
            build(drawn_with({}, asked, num_steps))
    TrainingSettings(**training)  # ranges that depend on one another


def check_samplers(tree: Mapping[str, Any]) -> None:
    """Whether previews and samples can be drawn on the schedule that is trained on.

    For runs that train: a finished model has a schedule of its own, and sampling asks that one.

    Raises:
        InputError: a sampler does not fit the schedule.
    """
    schedule, own, sampling = _schedule(tree), tree["training"]["sampler"], tree["sampling"]
    with _named("samplers", tree["sampler"]):
        build(own).check(schedule)
    with _named("sampling", "sampler"):
        build(drawn_with(own, sampling["sampler"], sampling["num_steps"])).check(schedule)


def _schedule(tree: Mapping[str, Any]) -> NoiseSchedule:
    with _named("noise_schedules", tree["noise_schedule"]):
        _vet(tree["training"], "noise_schedule")
        return build(tree["training"]["noise_schedule"])


def _vet(training: Mapping[str, Any], name: str) -> None:
    vet(training[name], KINDS[name], name)


def _check_classes(training: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """What only a conditional model can be asked for."""
    for name in ("label", "guidance"):
        value = sampling[name]
        if value is not None and not training["conditional"]:
            raise InputError(
                f"sampling.{name}={value}: only a conditional model has classes to choose "
                "from; set training.conditional=true too"
            )
    if sampling["guidance"] not in (None, 1) and training["label_dropout"] == 0:
        raise InputError(
            f"sampling.guidance={sampling['guidance']}: compares with images drawn without a "
            "label, which training.label_dropout=0 never shows the network; set it to 0.1"
        )


def _build_optimizer(option: Mapping[str, Any]) -> Any:
    """Built once on a dummy parameter: torch checks ranges there (a negative rate), not before."""
    return build(option, [torch.nn.Parameter(torch.zeros(1))])


@contextlib.contextmanager
def _named(table: str, name: str) -> Iterator[None]:
    """Say in which table's entry a mistake stands."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{table}.{name}: {error}") from error
