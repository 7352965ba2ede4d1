"""Drawing: what is asked of a model becomes uint8 images, with one function for each concern."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.execution import Captured, Compiled, Tiled, rows_of_a_tile
from ddpm_kedro.diffusion.guidance import ClassifierFreeGuidance
from ddpm_kedro.diffusion.lanes import Lanes
from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.diffusion.noise_schedule import (
    STRAIGHT_PATH,
    VARIANCE_EXPLODING,
    VARIANCE_PRESERVING,
)
from ddpm_kedro.diffusion.precision import (
    PRECISIONS,
    autocast,
    product_mode,
    told_out_of_memory,
)
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.diffusion.samplers.sampler import DenoiserLike
from ddpm_kedro.errors import InputError
from ddpm_kedro.heap import kept_heap
from ddpm_kedro.images.pixels import quantise
from ddpm_kedro.progress import Progress, duration
from ddpm_kedro.ranges import Count, Settings, choice, number

PIXELS_PER_BATCH = 1 << 20
MOST_IMAGES_PER_BATCH = 512
FEWEST_CALLS_TO_COMPILE = 1000  # compiling takes a minute or two, which this many calls win back
MOST_SECONDS_OF_TIMING, MOST_STEPS_TIMED = 1.0, 4
# For a model that came without a sampler, by its schedule's family. A test holds them to the
# samplers of the formulations in conf/base/parameters.
USUAL_SAMPLERS: Mapping[str, Mapping[str, Any]] = {
    VARIANCE_PRESERVING: {"type": "ddpm_kedro.diffusion.samplers.DDIM", "num_steps": 50},
    VARIANCE_EXPLODING: {"type": "ddpm_kedro.diffusion.samplers.Heun", "num_steps": 25},
    STRAIGHT_PATH: {"type": "ddpm_kedro.diffusion.samplers.FlowHeun", "num_steps": 25},
}


def drawn_with(
    own: Mapping[str, Any], asked: Mapping[str, Any] | None, num_steps: int | None = None
) -> dict[str, Any]:
    """The option of the sampler that draws: the model's `own` where nothing is `asked`.

    A table with a type takes its place, one without changes arguments of it; `num_steps`, if it is
    given, is of whichever it is.
    """
    option = {**(own if asked is None or "type" not in asked else {}), **(asked or {})}
    return option if num_steps is None else {**option, "num_steps": num_steps}


class _Enough(Exception):
    """Raised out of a walk of which enough is known."""


@dataclass(frozen=True)
class Drawing(Settings):
    """One call of `Model.sample`, whose arguments these are, and the model's two halves."""

    section: ClassVar[str] = "sampling"

    spec: ModelSpec
    denoiser: Denoiser
    solver: Sampler
    num_samples: Count
    seed: Annotated[int, number(int)]
    batch_size: Count | None
    labels: Any
    guidance: Any
    precision: Annotated[str, choice(*PRECISIONS)]
    compile: Annotated[str, choice("auto", "on", "off")]

    def images(
        self, device: torch.device, progress: bool | Callable[[float], object]
    ) -> np.ndarray:
        """(N, C, H, W) uint8, drawn on the network's device."""
        labels, lanes = self._label_of_each(), Lanes(torch.get_num_threads())
        network, batch_size, at_once, multiple = self._plan(device, lanes)
        denoiser, shown = self._guided(network), progress is True
        with (
            told_out_of_memory("sampling", batch_size, device),
            autocast(self.precision, device.type),
            product_mode(self.precision),
            kept_heap(),
            lanes,
            Progress(self.num_samples, "images", "sampling", silent=not shown) as bar,
        ):
            if shown and (seconds := self._seconds(denoiser, at_once, labels, device)):
                bar.say(
                    f"sampling {self.num_samples:,} images in {self.solver.num_steps} steps in "
                    f"{self.precision} takes about {duration(seconds)}",
                    predicted={"sampling": seconds},
                )
            on_images = progress if callable(progress) else bar.update
            return self._walk(denoiser, device, labels, batch_size, multiple, on_images)

    def _label_of_each(self) -> Tensor | None:
        """The label of each image, (N,) int64, or None for an unconditional model."""
        num_classes, labels = self.spec.num_classes, self.labels
        if num_classes is None:
            if labels is not None:
                raise InputError("labels: this model was trained without classes")
            return None
        if labels is None:
            return torch.arange(self.num_samples) % num_classes
        if isinstance(labels, str | Integral):
            labels = [labels] * self.num_samples
        if len(labels) != self.num_samples:
            raise InputError(f"labels: {len(labels)} were given for {self.num_samples} images")
        index = {name: place for place, name in enumerate(self.spec.classes)}
        places = [index.get(label, -1) if isinstance(label, str) else label for label in labels]
        for label, place in zip(labels, places, strict=True):
            if int(place) != place or not 0 <= place <= num_classes:
                raise InputError(
                    f"labels: no class {label!r}; give one of {', '.join(self.spec.classes)}, its "
                    f"number 0..{num_classes - 1}, or {num_classes} for no class"
                )
        return torch.tensor([int(place) for place in places])

    def _guided(self, network: nn.Module) -> DenoiserLike:
        """The model's denoiser around `network`, under the guidance that is asked for."""
        denoiser = Denoiser(network, self.denoiser.schedule, self.denoiser.objective)
        if self.guidance is None:
            return denoiser
        is_table = isinstance(self.guidance, Mapping)
        options = self.guidance if is_table else {"scale": self.guidance}
        training, scale = self.spec.provenance.get("training"), options.get("scale")
        dropout = training.get("label_dropout") if isinstance(training, Mapping) else None
        if dropout == 0 and scale != 1:
            raise InputError(
                f"guidance={scale}: this model was trained with label_dropout=0 and never saw an "
                "image without its label; sample without guidance, or train with label_dropout=0.1"
            )
        return ClassifierFreeGuidance(denoiser, **options)

    def _plan(self, device: torch.device, lanes: Lanes) -> tuple[nn.Module, int, int, int]:
        """The network in tiles or compiled; how many images walk together, and go through it at
        once; the number of rows of which a batch must be a multiple."""
        pixels = self.spec.height * self.spec.width
        fitting = min(MOST_IMAGES_PER_BATCH, max(1, PIXELS_PER_BATCH // pixels))
        at_once = batch_size = min(self.num_samples, self.batch_size or fitting)
        num_calls = self.solver.num_steps * -(-self.num_samples // batch_size)
        network, multiple = self.denoiser.network, 1
        if device.type == "cpu":
            tile, is_exact = rows_of_a_tile(pixels, self.precision), self.precision == "fp32"
            # In half precision bytes are not promised, and a lone tile may be a single image.
            network = Tiled(network, tile, None if self.compile == "on" else lanes, is_exact)
            at_once = min(tile * lanes.count, batch_size)
            if is_exact:  # for the bytes' sake all tiles are full
                multiple = tile
                batch_size += -batch_size % tile
        pays = device.type == "cuda" and num_calls >= FEWEST_CALLS_TO_COMPILE
        if self.compile == "on" or (self.compile == "auto" and pays):
            network = Compiled(network)
            multiple = at_once = batch_size  # of one size: each other one would compile again
        if device.type == "cuda" and self.compile != "off":
            network = Captured(network)
        return network, batch_size, at_once, multiple

    def _seconds(
        self, denoiser: DenoiserLike, at_once: int, labels: Tensor | None, device: torch.device
    ) -> float | None:
        """What drawing will take, from up to three warm steps of so many images `at_once`.

        Everything in a step counts: network, guidance, noise, thresholding. The first one is cold
        and left out where there is another. None for a sampler that does not tell of its steps.
        """
        times = [time.perf_counter()]

        def on_step(number: int, x: Tensor) -> None:
            if device.type == "cuda":  # pragma: cuda only
                torch.cuda.synchronize(device)
            times.append(time.perf_counter())
            is_long = times[-1] - times[0] > MOST_SECONDS_OF_TIMING and len(times) > 2
            if is_long or len(times) > MOST_STEPS_TIMED:
                raise _Enough

        rows = torch.arange(at_once)
        given = None if labels is None else labels[rows % self.num_samples]
        options = {"labels": given, "device": device, "on_step": on_step}
        with contextlib.suppress(_Enough):
            self.solver.sample(denoiser, self.spec.image_shape, rows, 0, **options)
        warm = times[1:] if len(times) > 2 else times
        if len(warm) < 2:
            return None
        step_seconds = (warm[-1] - warm[0]) / (len(warm) - 1)
        return step_seconds * self.solver.num_steps * math.ceil(self.num_samples / at_once)

    def _walk(
        self,
        denoiser: DenoiserLike,
        device: torch.device,
        labels: Tensor | None,
        batch_size: int,
        multiple: int,
        on_images: Callable[[float], object],
    ) -> np.ndarray:
        """(N, C, H, W) uint8, batch by batch; each step tells `on_images` its share of N."""
        images = np.empty((self.num_samples, *self.spec.image_shape), dtype=np.uint8)
        drawn: tuple[int, Tensor] | None = None
        # Made where they are used: moving them there would stop the host before each batch.
        labels = None if labels is None else labels.to(device, non_blocking=True)
        for first in range(0, self.num_samples, batch_size):
            count = min(batch_size, self.num_samples - first)
            share = count / self.solver.num_steps
            rows = torch.arange(first, first + count + -count % multiple, device=device)
            batch = self.solver.sample(
                denoiser,
                self.spec.image_shape,
                rows,
                self.seed,
                labels=None if labels is None else labels[rows % self.num_samples],
                on_step=lambda number, x, share=share: on_images(share),
            )
            # Read back when the next batch is queued, so that a GPU never waits for the host.
            if drawn is not None:
                images[drawn[0] : first] = drawn[1].cpu().numpy()
            drawn = first, quantise(batch[:count])
        images[drawn[0] :] = drawn[1].cpu().numpy()
        return images
