"""A model of ours as a diffusers pipeline, and the other way."""

from __future__ import annotations

from torch import Tensor

from ddpm_kedro.construction import long_form
from ddpm_kedro.diffusion.interchange.folder import DiffusersModel
from ddpm_kedro.diffusion.interchange.scheduler import export_scheduler, import_scheduler
from ddpm_kedro.diffusion.interchange.unet import export_unet, import_unet
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.errors import InputError


def to_diffusers(model: Model) -> DiffusersModel:
    """The diffusers pipeline whose network equals the model's and whose scheduler samples like it.

    InputError where diffusers has no equal of its backbone, schedule or objective.
    """
    spec, denoiser = model.spec, model.denoiser
    sampler = spec.build("sampler") if spec.sampler else None
    pipeline, scheduler = export_scheduler(denoiser.schedule, denoiser.objective, sampler)
    unet, weights = export_unet(model.network, spec.height, spec.width)
    return DiffusersModel(pipeline, unet, weights, scheduler)


def from_diffusers(
    pipeline: DiffusersModel, classes: tuple[str, ...] = ()
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The spec and the backbone's weights of a pipeline laid out like google/ddpm-cifar10-32.

    A conditional network's last class counts as "no class", as in what `to_diffusers` makes; the
    others are named by `classes`, by their numbers where none are given. InputError where something
    in it has no equal among ours.
    """
    arguments, weights = import_unet(pipeline.unet, pipeline.weights)
    schedule, objective, sampler = import_scheduler(pipeline.scheduler)
    channels, num_classes = arguments.pop("in_channels"), arguments.pop("num_classes")
    size = pipeline.unet.get("sample_size")
    sizes = [size, size] if isinstance(size, int) else size
    if not isinstance(sizes, list | tuple) or len(sizes) != 2:
        raise InputError(f"UNet2DModel with sample_size={size!r}: give a side, or two")
    if classes and len(classes) != (num_classes or 0):
        raise InputError(f"classes: {len(classes)} names for a network of {num_classes or 0}")
    spec = ModelSpec(
        backbone=long_form({"type": "ddpm_kedro.DDPMUNet", **arguments}),
        noise_schedule=schedule,
        objective=objective,
        channels=channels,
        height=sizes[0],
        width=sizes[1],
        classes=classes or tuple(map(str, range(num_classes or 0))),
        conditional=num_classes is not None,
        sampler=sampler,
        provenance={"imported_from": "diffusers", "pipeline": pipeline.pipeline},
    )
    return spec, weights
