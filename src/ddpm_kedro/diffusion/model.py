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
from ddpm_kedro.diffusion.execution import Compiled, Tiled, rows_of_a_tile
from ddpm_kedro.diffusion.guidance import ClassifierFreeGuidance
from ddpm_kedro.diffusion.lanes import Lanes
from ddpm_kedro.diffusion.model_file import fill, read_model_file, save_model
from ddpm_kedro.diffusion.model_spec import KINDS, OWN_MODULES, ModelSpec, vet
from ddpm_kedro.diffusion.precision import PRECISIONS, autocast, product_mode
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.diffusion.samplers.usual import USUAL_SAMPLERS, drawn_with
from ddpm_kedro.diffusion.timing import seconds_of_sampling
from ddpm_kedro.errors import InputError
from ddpm_kedro.heap import kept_heap
from ddpm_kedro.images.pixels import quantise
from ddpm_kedro.progress import Progress, duration

__all__ = ["Model", "ModelSpec", "load_model", "save_model"]

PIXELS_PER_BATCH = 1 << 20
FEWEST_CALLS_TO_COMPILE = 1000  # compiling takes a minute or two, which this many calls win back
COMPILE = ("auto", "on", "off")


class Model:
    """A diffusion model that can make images.

    Args:
        spec: what it is, in plain values.
        network: its backbone with weights, or None to build one with fresh weights.
        trusted: module prefixes that the spec's types may name; None (for a spec of one's own)
            allows any.

    Attributes:
        spec: as given.
        network: the backbone, a ``torch.nn.Module``.
        denoiser: estimate of x_0 from (x_t, t, labels), see :class:`Denoiser`.
        identity: ``{"model": content hash of its file, "weights": name of the set}``, None for a
            model that was made and not loaded.

    Raises:
        InputError: an option that cannot be built, or an objective that its schedule forbids.
    """

    def __init__(
        self,
        spec: ModelSpec,
        network: nn.Module | None = None,
        trusted: Sequence[str] | None = None,
    ) -> None:
        self.spec = spec
        self.identity: dict[str, str] | None = None
        schedule = spec.build("noise_schedule", trusted)
        objective = spec.build("objective", trusted)
        loss_weight = spec.build("loss_weight", trusted) if spec.loss_weight else None
        self._sampler = spec.build("sampler", trusted) if spec.sampler else None
        network = spec.build("backbone", trusted) if network is None else network
        self.network = network.to(memory_format=torch.channels_last)  # convolutions are faster so
        self.denoiser = Denoiser(self.network, schedule, objective, loss_weight)

    @classmethod
    def create(
        cls,
        *,
        backbone: Mapping[str, Any],
        noise_schedule: Mapping[str, Any],
        objective: Mapping[str, Any],
        image_shape: tuple[int, int, int],
        loss_weight: Mapping[str, Any] | None = None,
        classes: Sequence[str] = (),
        conditional: bool = False,
        sampler: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Model:
        """A model with fresh weights for images (C, H, W); arguments as in :class:`ModelSpec`."""
        channels, height, width = image_shape
        spec = ModelSpec(
            backbone=backbone,
            noise_schedule=noise_schedule,
            objective=objective,
            channels=channels,
            height=height,
            width=width,
            classes=tuple(classes),
            conditional=conditional,
            loss_weight=loss_weight,
            sampler=sampler,
            provenance=provenance or {},
        )
        return cls(spec)

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
        """Make images.

        Image i depends on the model, the options, ``seed`` and i, never on ``num_samples`` or
        ``batch_size``: the bytes are equal on a CPU in fp32, there whatever the number of threads
        too, elsewhere up to rounding.

        Args:
            num_samples: N, at least 1.
            seed: any whole number.
            sampler: an option or an object; None takes the model's own, and a table without a type
                changes arguments of that one.
            num_steps: number of steps of an option, overriding its own.
            batch_size: how many images to make at a time; None chooses by image size. On a CPU in
                fp32 it is rounded up to whole tiles (4 images of 32x32, 64 of 8x8).
            labels: a class (its index, its name, or the number of classes for "no class") for all
                images or for each; None gives a conditional model's classes in turn.
            guidance: scale of classifier-free guidance, or a table of the arguments of
                :class:`ClassifierFreeGuidance`; for conditional models only.
            device: where to compute, and where the model stays; None leaves it where it is.
            precision: "fp32", or "bf16" or "fp16" for the network under autocast.
            compile: "on", "off", or "auto": on CUDA, where the network is called often enough.
            progress: say how long it takes and show a progress bar (lines where there is no
                terminal); or a function that is called after each step with a number of images,
                which add up to N.

        Returns:
            (N, C, H, W) uint8.

        Raises:
            InputError: an argument out of its range, or one that this model cannot follow.
        """
        if not _whole(num_samples) or num_samples < 1:
            raise InputError(f"num_samples={num_samples!r}: give a whole number of at least 1")
        if not _whole(seed):
            raise InputError(f"seed={seed!r}: give a whole number")
        if batch_size is not None and (not _whole(batch_size) or batch_size < 1):
            raise InputError(f"batch_size={batch_size!r}: give a whole number of at least 1")
        if precision not in PRECISIONS:
            raise InputError(f"precision={precision!r}: choose among {', '.join(PRECISIONS)}")
        if compile not in COMPILE:
            raise InputError(f"compile={compile!r}: choose among {', '.join(COMPILE)}")
        solver = self._solver(sampler, num_steps)
        if device is not None and next(self.network.parameters()).device != torch.device(device):
            self.network.to(device)
        device = next(self.network.parameters()).device
        label_of_row = self._labels(labels, num_samples)

        pixels = self.spec.height * self.spec.width
        batch_size = min(num_samples, batch_size or min(512, max(1, PIXELS_PER_BATCH // pixels)))
        num_calls = solver.num_steps * -(-num_samples // batch_size)
        multiple, at_once, network = 1, batch_size, self.network
        lanes = Lanes(torch.get_num_threads())
        if device.type == "cpu":
            tile = rows_of_a_tile(pixels, precision)
            # In half precision bytes are not promised, and a lone tile may be a single image.
            network = Tiled(network, tile, None if compile == "on" else lanes, precision == "fp32")
            at_once = min(tile * lanes.count, batch_size)
            if precision == "fp32":  # for the bytes' sake all tiles are full
                multiple = tile
                batch_size += -batch_size % tile
        if compile == "on" or (
            compile == "auto" and device.type == "cuda" and num_calls >= FEWEST_CALLS_TO_COMPILE
        ):
            network = Compiled(network)
            multiple = at_once = batch_size  # of one size: each other one would compile again
        denoiser = Denoiser(network, self.denoiser.schedule, self.denoiser.objective)
        if guidance is not None:
            options = guidance if isinstance(guidance, Mapping) else {"scale": guidance}
            self._check_guidance(options.get("scale"))
            denoiser = ClassifierFreeGuidance(denoiser, **options)

        images = np.empty((num_samples, *self.spec.image_shape), dtype=np.uint8)
        firsts = range(0, num_samples, batch_size)
        shown = progress is True
        with (
            autocast(precision, device.type),
            product_mode(precision),
            kept_heap(),
            lanes,
            Progress(num_samples, "images", "sampling", silent=not shown) as bar,
        ):
            on_step = progress if callable(progress) else bar.update
            if shown and (seconds := seconds_of_sampling(
                solver, denoiser, self.spec.image_shape, num_samples,
                at_once=at_once, labels=label_of_row, device=device,
            )):  # fmt: skip
                bar.say(
                    f"sampling {num_samples:,} images in {solver.num_steps} steps in {precision} "
                    f"takes about {duration(seconds)}",
                    predicted={"sampling": seconds},
                )
            drawn: tuple[int, Tensor] | None = None
            for first in firsts:
                count = min(batch_size, num_samples - first)
                share = count / solver.num_steps
                rows = torch.arange(first, first + count + -count % multiple)
                batch = solver.sample(
                    denoiser,
                    self.spec.image_shape,
                    rows,
                    seed,
                    labels=None if label_of_row is None else label_of_row[rows % num_samples],
                    device=device,
                    on_step=lambda number, x, share=share: on_step(share),
                )
                # Read back when the next batch is queued, so that a GPU never waits for the host.
                if drawn is not None:
                    images[drawn[0] : first] = drawn[1].cpu().numpy()
                drawn = first, quantise(batch[:count])
            images[drawn[0] :] = drawn[1].cpu().numpy()
        return images

    def _solver(
        self, sampler: Mapping[str, Any] | Sampler | None, num_steps: int | None
    ) -> Sampler:
        if isinstance(sampler, Sampler):
            if num_steps is not None:
                raise InputError("num_steps: the sampler given has its own; leave one of them out")
            return sampler
        return build(self.drawn_with(sampler, num_steps))

    def drawn_with(
        self, sampler: Mapping[str, Any] | None = None, num_steps: int | None = None
    ) -> dict[str, Any]:
        """The option of the sampler that :meth:`sample` draws with when it is asked for these.

        Raises:
            InputError: it is no sampler, or cannot work on this model's schedule.
        """
        own = self.spec.sampler or USUAL_SAMPLERS[self.denoiser.schedule.family]
        option = drawn_with(own, sampler, num_steps)
        vet(option, KINDS["sampler"], "sampler")
        build(option).check(self.denoiser.schedule)
        return option

    def _check_guidance(self, scale: Any) -> None:
        training = self.spec.provenance.get("training")
        dropout = training.get("label_dropout") if isinstance(training, Mapping) else None
        if dropout == 0 and scale != 1:
            raise InputError(
                f"guidance={scale}: this model was trained with label_dropout=0 and never saw an "
                "image without its label; sample without guidance, or train with label_dropout=0.1"
            )

    def _labels(self, labels: Any, num_samples: int) -> Tensor | None:
        """The label of each image, (N,) int64, or None for an unconditional model."""
        num_classes = self.spec.num_classes
        if num_classes is None:
            if labels is not None:
                raise InputError("labels: this model was trained without classes")
            return None
        if labels is None:
            return torch.arange(num_samples) % num_classes
        if isinstance(labels, (str, int, np.integer)):
            labels = [labels] * num_samples
        if len(labels) != num_samples:
            raise InputError(f"labels: {len(labels)} were given for {num_samples} images")
        index = {name: number for number, name in enumerate(self.spec.classes)}
        numbers = [index.get(label, -1) if isinstance(label, str) else label for label in labels]
        for label, number in zip(labels, numbers, strict=True):
            if int(number) != number or not 0 <= number <= num_classes:
                raise InputError(
                    f"labels: no class {label!r}; give one of {', '.join(self.spec.classes)}, its "
                    f"number 0..{num_classes - 1}, or {num_classes} for no class"
                )
        return torch.tensor([int(number) for number in numbers])


def load_model(
    path: str | os.PathLike[str],
    weights: str = "ema",
    device: torch.device | str = "cpu",
    trusted_modules: Sequence[str] = (),
) -> Model:
    """Read a model file. Nothing in it is executed: it may only name classes to build.

    Args:
        path: what :func:`save_model` wrote.
        weights: which set of weights, such as "ema" or "raw".
        device: where the model goes.
        trusted_modules: module prefixes besides this package's own whose classes the file may name.

    Raises:
        InputError: the file is missing, torn, altered, of another kind or of a newer version, names
            classes that are not trusted, or has no such set of weights.
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
        prefix = f"{weights}/"
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        fill(network, state)
        model = Model(spec, network.to(device).eval(), trusted)
        model.identity = {"model": header["sha256"], "weights": weights}
        return model
    except InputError as error:
        raise InputError(f"model file {path}: {error}") from error


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
