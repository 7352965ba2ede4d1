"""Everything that the engine is told, in one closed, checked, picklable object."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from ddpm_kedro.construction import build, locate, long_form
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import sha256_of
from ddpm_kedro.ranges import (
    Check,
    Count,
    CountOrZero,
    Device,
    NotNegative,
    Option,
    Positive,
    Precision,
    Seed,
    Settings,
    Share,
    Switch,
    Text,
    checked,
    choice,
    require,
    text,
)

# What shapes a training and goes into its fingerprint: options with the defaults of their types,
# and the rest as it stands. Everything else is recorded.
_SHAPING_OPTIONS = (
    "augmentation", "noise_schedule", "objective", "loss_weight", "timesteps", "optimizer",
    "lr_schedule",
)  # fmt: skip
_SHAPING = (
    *_SHAPING_OPTIONS, "backbone", "batch_size", "clip_norm", "ema", "conditional",
    "label_dropout", "seed", "held_out_fraction", "held_out_images",
)  # fmt: skip


def _halflives(value: Any) -> tuple[float, ...]:
    require(isinstance(value, list | tuple) and len(value) > 0, "give numbers, at least one")
    halflives = tuple(checked(NotNegative, halflife) for halflife in value)
    require(len(set(halflives)) == len(halflives), "each one once")
    return halflives


@dataclass(frozen=True)
class EMASettings(Settings):
    """Exponential moving averages of the weights."""

    section: ClassVar[str] = "training.ema"

    halflives_kimg: Annotated[tuple[float, ...], Check(_halflives)]
    """Half-lives in thousands of images; the first is the average that `weights: ema` means, the
    others are called ema_<n>kimg. 0 follows the weights themselves."""
    warmup_ratio: Positive | None
    """The half-life is at most this share of the images seen so far (EDM uses 0.05); None: off."""

    @property
    def names(self) -> tuple[str, ...]:
        """The sets' names in a model file, in the order of the half-lives."""
        return ("ema", *(f"ema_{halflife:g}kimg" for halflife in self.halflives_kimg[1:]))


@dataclass(frozen=True)
class DistributedSettings(Settings):
    """Several processes, one for each GPU, on one machine or more."""

    section: ClassVar[str] = "training.distributed"

    workers: Count
    """Processes on this machine; one runs in this process, without a launcher."""
    nodes: Count
    """Machines."""
    rendezvous: Annotated[str, text(r".+:\d+", "give host:port")] | None
    """host:port where the machines meet; needed when nodes is more than 1."""
    wait_minutes: Positive
    """How long a machine waits there for the others."""
    max_restarts: CountOrZero
    """How often a job with a dead worker starts again from its last checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nodes > 1 and not self.rendezvous:
            raise InputError(
                f"training.distributed.nodes={self.nodes}: give training.distributed.rendezvous "
                "too, the host:port where the machines meet"
            )

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.workers * self.nodes


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """How the model learns. Time is counted in images: 1 kimg is 1,000 images seen."""

    section: ClassVar[str] = "training"

    batch_size: Count
    """Images of one optimizer step, over all workers and micro-batches."""
    budget_kimg: Positive
    """When training ends, in thousands of images seen; rounded up to whole steps."""
    max_minutes: Positive | None
    """Stop after so long, save, and let later stages run; None: no limit."""
    precision: Precision
    """Of the network's arithmetic; noise schedule, noise and loss are fp32 always."""
    compile: Annotated[str, choice("auto", "on", "off")]
    """torch.compile of the training step; auto does it on CUDA."""
    micro_batch_size: Count | None
    """Images that one forward pass holds per worker; None: as many as a worker's share."""
    lanes: Count | None
    """Parts of it that are computed at the same time on a CPU, one core each; 1: all cores in each
    operation. None: one a core, or what the training was begun with; another number changes the
    last bits of the weights."""
    clip_norm: Positive | None
    """Largest norm of the gradient; None: not clipped."""
    conditional: Switch
    """Tell the network the class of each image."""
    label_dropout: Share
    """Share of samples trained without their label, for guidance; used when conditional. 0 leaves
    the network without an idea of no label: then there is no guidance."""
    ema: EMASettings
    held_out_fraction: Share
    """Share of the training images kept back to measure the loss on, which the log then shows."""
    held_out_images: CountOrZero
    """At most so many of them."""
    log_every_kimg: Positive
    preview_every_kimg: Positive | None
    """None: only the one at the end."""
    checkpoint_every_kimg: Positive
    score_every_kimg: Positive | None
    """Between quick scores, see `evaluation.every_kimg`, which this follows."""
    keep_checkpoints: Count
    """Newest checkpoints kept, beside one that a higher budget goes on from."""
    keep_trainings: Count | None
    """Trainings used last whose checkpoints stay once finished, models, logs and previews always
    do; None: all."""
    num_previews: Count
    """Images of each set of weights in a preview."""
    max_skipped_updates: CountOrZero
    """Updates in a row that may be skipped for a loss or gradient that is not finite."""
    init_from: Text | None
    """A model file whose weights training starts from."""
    restart: Switch
    """Start over even if this training was begun before."""
    distributed: DistributedSettings
    augmentation: Option
    backbone: Option
    noise_schedule: Option
    objective: Option
    loss_weight: Option
    timesteps: Option
    optimizer: Option
    lr_schedule: Option
    sampler: Option
    """Draws the previews, and is the model file's own choice of sampler."""
    features: Option
    """What quick scores compare images by."""
    seed: Seed
    device: Device

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lanes is not None and self.lanes > self.batch_size:
            raise InputError(f"training.lanes={self.lanes}: a batch has {self.batch_size} images")
        if self.batch_size < self.distributed.world_size:
            raise InputError(
                f"training.batch_size={self.batch_size}: give each of the "
                f"{self.distributed.world_size} workers one image at least"
            )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole budget."""
        return max(1, math.ceil(round(self.budget_kimg * 1000) / self.batch_size))

    @property
    def budget_images(self) -> int:
        """Images seen when the budget is used up: whole steps."""
        return self.num_steps * self.batch_size

    @property
    def settled_images(self) -> int:
        """Images seen, in whole steps, up to which a higher budget comes to the same state."""
        # Not at the top: a wrong parameter is told without waiting for torch
        from ddpm_kedro.training.lr_schedule import is_torch_scheduler

        if is_torch_scheduler(self.lr_schedule):
            return self.budget_images
        settled = build(self.lr_schedule).settled_images(self.budget_images)
        return min(math.ceil(settled / self.batch_size) * self.batch_size, self.budget_images)

    def shaping(self, content_hash: str) -> dict[str, Any]:
        """What decides the result, with the hash of the images: equal values mean the same
        training."""
        chosen = asdict(self)
        shaping = {"images": content_hash, **{name: chosen[name] for name in _SHAPING}}
        shaping |= {name: with_defaults(chosen[name]) for name in _SHAPING_OPTIONS}
        if self.settled_images == 0:
            shaping["lr_schedule"]["budget_images"] = self.budget_images
        if not self.conditional:  # then nothing is dropped, whatever the share
            shaping["label_dropout"] = 0
        shaping["init_from"] = None if self.init_from is None else _hash_of_model(self.init_from)
        return long_form(shaping)

    def recorded(self) -> dict[str, Any]:
        """What changes where, how fast or how often, but not what is learned."""
        left_out = {*_SHAPING, "restart", "keep_trainings"}
        if self.score_every_kimg is None:
            left_out |= {"score_every_kimg", "features"}
        return long_form({key: value for key, value in asdict(self).items() if key not in left_out})


# How a step is computed, not what: a user may set them without starting a new training.
_NOT_SHAPING_ARGUMENTS = ("fused", "foreach", "capturable", "differentiable")


def with_defaults(option: Mapping[str, Any]) -> dict[str, Any]:
    """An option with the plain defaults of its type's signature written out, so that with and
    without `lr: 0.001` Adam is the same training, and a changed default is seen."""
    full = {}
    for name, parameter in inspect.signature(locate(option["type"])).parameters.items():
        if isinstance(parameter.default, int | float | str | bool | tuple | list | None):
            full[name] = parameter.default
    full |= option
    return {name: value for name, value in full.items() if name not in _NOT_SHAPING_ARGUMENTS}


def _hash_of_model(path: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(
            f"training.init_from={path}: no model file there ({error.strerror})"
        ) from None
