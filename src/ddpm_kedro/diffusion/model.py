"""A trained model: network, schedule and objective in one object, and in one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.drawing import USUAL_SAMPLERS, Drawing, drawn_with
from ddpm_kedro.diffusion.model_file import fill, read_model_file, save_model
from ddpm_kedro.diffusion.model_spec import KINDS, OWN_MODULES, ModelSpec, vet
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.errors import InputError

__all__ = ["Model", "ModelSpec", "load_model", "save_model"]


class Model:
    """A diffusion model that can make images.

    `spec` says what it is, in plain values; `network` is its backbone with weights, None builds one
    with fresh weights; `trusted` are module prefixes that the spec's types may name, None (a spec
    of one's own): any. InputError for an option that cannot be built, or an objective that its
    schedule forbids.
    """

    denoiser: Denoiser
    """Estimate of x_0 from (x_t, t, labels)."""
    identity: dict[str, str] | None = None
    """`{"model": content hash of its file, "weights": name of the set}`; None: made, not loaded."""

    def __init__(
        self,
        spec: ModelSpec,
        network: nn.Module | None = None,
        trusted: Sequence[str] | None = None,
    ) -> None:
        self.spec = spec
        schedule = spec.build("noise_schedule", trusted)
        objective = spec.build("objective", trusted)
        loss_weight = spec.build("loss_weight", trusted) if spec.loss_weight else None
        if spec.sampler:  # refused here and not when it is to draw
            spec.build("sampler", trusted)
        network = spec.build("backbone", trusted) if network is None else network
        self.network = network.to(memory_format=torch.channels_last)  # convolutions are faster so
        self.denoiser = Denoiser(self.network, schedule, objective, loss_weight)

    @classmethod
    def create(cls, *, image_shape: tuple[int, int, int], **fields: Any) -> Model:
        """A model with fresh weights for images (C, H, W); the rest as in `ModelSpec`."""
        channels, height, width = image_shape
        return cls(ModelSpec(channels=channels, height=height, width=width, **fields))

    def sample(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        sampler: Mapping[str, Any] | Sampler | None = None,
        num_steps: int | None = None,
        batch_size: int | None = None,
        labels: int | str | Sequence[int | str] | np.ndarray | Tensor | None = None,
        guidance: float | Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        compile: str = "auto",
        progress: bool | Callable[[float], object] = False,
    ) -> np.ndarray:
        """Make images: (N, C, H, W) uint8.

        Image i depends on the model, the options, `seed` and i, never on `num_samples` (N, at least
        1) or `batch_size`: the bytes are equal on a CPU in fp32, there whatever the number of
        threads too, elsewhere up to rounding.

        `sampler` is an option or an object; None takes the model's own, a table without a type
        changes arguments of that one, and `num_steps` overrides the number of an option.
        `batch_size` images are made at a time; None chooses by image size, and on a CPU in fp32 it
        is rounded up to whole tiles (4 images of 32x32, 64 of 8x8). `labels` is a class (its index,
        its name, or the number of classes for "no class") for all images or for each; None gives a
        conditional model's classes in turn. `guidance`, for conditional models only, is the scale
        of classifier-free guidance or a table of the arguments of `ClassifierFreeGuidance`.

        It computes on `device`, where the model stays; None leaves it where it is. `precision` is
        "fp32", or "bf16" or "fp16" for the network under autocast. `compile` is "on", "off", or
        "auto": on CUDA, where the network is called often enough; unless it is "off", CUDA replays
        the network as a graph. `progress` says how long it takes and shows a progress bar (lines
        where there is no terminal); or it is a function that is called after each step with a
        number of images, which add up to N.

        InputError for an argument out of its range, or one that this model cannot follow.
        """
        if not isinstance(sampler, Sampler):
            sampler = build(self.drawn_with(sampler, num_steps))
        elif num_steps is not None:
            raise InputError("num_steps: the sampler given has its own; leave one of them out")
        drawing = Drawing(
            self.spec, self.denoiser, sampler, num_samples, seed, batch_size, labels, guidance,
            precision, compile,
        )  # fmt: skip
        if device is not None and next(self.network.parameters()).device != torch.device(device):
            self.network.to(device)
        return drawing.images(next(self.network.parameters()).device, progress)

    def drawn_with(
        self, sampler: Mapping[str, Any] | None = None, num_steps: int | None = None
    ) -> dict[str, Any]:
        """The option of the sampler that `sample` draws with when it is asked for these.

        InputError where it is no sampler, or cannot work on this model's schedule.
        """
        own = self.spec.sampler or USUAL_SAMPLERS[self.denoiser.schedule.family]
        option = drawn_with(own, sampler, num_steps)
        vet(option, KINDS["sampler"], "sampler")
        build(option).check(self.denoiser.schedule)
        return option


def load_model(
    path: str | os.PathLike[str],
    weights: str = "ema",
    device: torch.device | str = "cpu",
    trusted_modules: Sequence[str] = (),
) -> Model:
    """Read a model file, with the set of `weights` of that name, such as "ema" or "raw".

    Nothing in it is executed: it may only name classes to build, of this package or of modules
    whose path begins with one of `trusted_modules`. InputError where the file is missing, torn,
    altered, of another kind or of a newer version, names other classes, or has no such weights.
    """
    path = Path(path)
    header, tensors = read_model_file(path)
    try:
        spec = ModelSpec.from_dict(header["spec"])
        sets = header["weights"]
        if weights not in sets:
            raise InputError(f"no weights {weights!r}, it has {', '.join(map(str, sets))}")
        trusted = (*OWN_MODULES, *trusted_modules)
        with torch.device("meta"):  # no memory but the file's own, whatever sizes the spec claims
            network = spec.build("backbone", trusted)
        named = ((name.partition("/"), tensor) for name, tensor in tensors.items())
        fill(network, {name: tensor for (group, _, name), tensor in named if group == weights})
        model = Model(spec, network.to(device).eval(), trusted)
        model.identity = {"model": header["sha256"], "weights": weights}
        return model
    except InputError as error:
        raise InputError(f"model file {path}: {error}") from error
