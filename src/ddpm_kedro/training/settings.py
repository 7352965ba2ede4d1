"""Everything that the engine is told, in one closed, checked, picklable object."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ddpm_kedro.construction import build, check, locate, long_form
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import sha256_of
from ddpm_kedro.training.lr_schedule import is_torch_scheduler

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
COMPILE_CHOICES = ("auto", "on", "off")
Option = Mapping[str, Any]

# What shapes a training and goes into its fingerprint as it stands. Everything else is recorded.
_SHAPING = (
    "augmentation", "backbone", "noise_schedule", "objective", "loss_weight", "timesteps",
    "optimizer", "lr_schedule", "batch_size", "clip_norm", "ema", "conditional", "label_dropout",
    "seed", "held_out_fraction", "held_out_images",
)  # fmt: skip
_OPTIONS = (
    "augmentation", "backbone", "noise_schedule", "objective", "loss_weight", "timesteps",
    "optimizer", "lr_schedule", "sampler",
)  # fmt: skip


@dataclass(frozen=True)
class EMASettings:
    """Which exponential moving averages of the weights are kept.

    Args:
        halflives_kimg: half-lives in thousands of images, each >= 0 and all different; the first is
            the set that a model file calls ``ema``, the others are ``ema_<n>kimg``.
        warmup_ratio: the half-life in force is at most this share (> 0) of the images seen so far;
            None switches the warm-up off. EDM uses 0.05.
    """

    halflives_kimg: tuple[float, ...]
    warmup_ratio: float | None

    def __post_init__(self) -> None:
        halflives = tuple(self.halflives_kimg)
        object.__setattr__(self, "halflives_kimg", halflives)
        if not halflives or not all(_is_number(h) and h >= 0 for h in halflives):
            raise InputError(f"training.ema.halflives_kimg={list(halflives)}: give numbers >= 0")
        if len(set(halflives)) < len(halflives):
            raise InputError(f"training.ema.halflives_kimg={list(halflives)}: each one once")
        _demand_optional("ema.warmup_ratio", self.warmup_ratio, above=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The sets' names in a model file, in the order of the half-lives."""
        return ("ema", *(f"ema_{halflife:g}kimg" for halflife in self.halflives_kimg[1:]))


@dataclass(frozen=True)
class DistributedSettings:
    """How many processes train together.

    Args:
        workers: processes on this machine, >= 1; one runs in this process, without a launcher.
        nodes: machines, >= 1.
        rendezvous: ``host:port`` where the machines meet; needed when there are several.
        wait_minutes: how long to wait for the other machines, > 0.
        max_restarts: how often a job with a dead worker starts again from its last checkpoint.
    """

    workers: int = 1
    nodes: int = 1
    rendezvous: str | None = None
    wait_minutes: float = 10.0
    max_restarts: int = 3

    def __post_init__(self) -> None:
        _demand_whole("distributed.workers", self.workers, 1)
        _demand_whole("distributed.nodes", self.nodes, 1)
        _demand_optional("distributed.wait_minutes", self.wait_minutes, above=0, optional=False)
        _demand_whole("distributed.max_restarts", self.max_restarts, 0)
        if self.nodes > 1 and not self.rendezvous:
            raise InputError(
                f"training.distributed.nodes={self.nodes}: give training.distributed.rendezvous "
                "too, the host:port where the machines meet"
            )
        if self.rendezvous is not None and not re.fullmatch(r".+:\d+", self.rendezvous):
            raise InputError(f"training.distributed.rendezvous={self.rendezvous}: give host:port")

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.workers * self.nodes


@dataclass(frozen=True)
class TrainingSettings:
    """The arguments of the engine. Time is counted in images: 1 kimg is 1,000 images seen.

    Args:
        batch_size: images of one optimizer step, over all workers and micro-batches, >= 1.
        budget_kimg: when training ends; rounded up to whole steps.
        max_minutes: save, write the model and return after so long; None: no limit.
        restart: start over, even if this training was begun before.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16`` (with a loss scale), of the network.
        compile: ``auto``, ``on`` or ``off``: compiled kernels and a CUDA graph.
        micro_batch_size: rows of one forward pass of one worker; None: its whole share.
        lanes: parts of a micro-batch computed at the same time on a CPU, <= ``batch_size``; 1: all
            OpenMP threads in each operation; None: one a core, or what training was begun with.
        init_from: model file whose weights training starts from, or None.
        clip_norm: largest norm of the gradient, or None.
        label_dropout: share of rows trained without their label, 0 <= p < 1; when conditional.
        conditional: tell the network the class of each image.
        ema: see :class:`EMASettings`; a mapping will do.
        log_every_kimg, checkpoint_every_kimg: intervals of records and checkpoints.
        preview_every_kimg: interval of previews; None: only the one at the end.
        keep_checkpoints: newest checkpoints kept, beside one that a higher budget goes on from.
        keep_trainings: trainings used last whose checkpoints stay when they are finished; None:
            all. Their models, logs and previews always stay.
        held_out_fraction: share of the training images kept back to measure the loss on, as above.
        held_out_images: at most so many of them.
        max_skipped_updates: updates in a row that may be skipped for a loss or gradient that is
            not finite.
        num_previews: images of each set of weights in a preview.
        augmentation, backbone, noise_schedule, objective, loss_weight, timesteps, optimizer,
            lr_schedule, sampler: options ``{type: dotted.path, **arguments}``.
        seed: of everything random, 0 <= seed < 2^63.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        distributed: see :class:`DistributedSettings`; a mapping will do.

    Raises:
        InputError: a value outside its range; the message names the key.
    """

    batch_size: int
    budget_kimg: float
    augmentation: Option
    backbone: Option
    noise_schedule: Option
    objective: Option
    loss_weight: Option
    timesteps: Option
    optimizer: Option
    lr_schedule: Option
    sampler: Option
    ema: EMASettings
    seed: int
    max_minutes: float | None = None
    restart: bool = False
    precision: str = "auto"
    compile: str = "auto"
    micro_batch_size: int | None = None
    lanes: int | None = None
    init_from: str | None = None
    clip_norm: float | None = None
    label_dropout: float = 0.0
    conditional: bool = False
    log_every_kimg: float = 10.0
    preview_every_kimg: float | None = None
    checkpoint_every_kimg: float = 100.0
    keep_checkpoints: int = 3
    keep_trainings: int | None = None
    held_out_fraction: float = 0.0
    held_out_images: int = 1024
    max_skipped_updates: int = 50
    num_previews: int = 64
    device: str = "auto"
    distributed: DistributedSettings = field(default_factory=DistributedSettings)

    def __post_init__(self) -> None:
        for name, kind in (("ema", EMASettings), ("distributed", DistributedSettings)):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                try:
                    object.__setattr__(self, name, kind(**value))
                except TypeError as error:
                    raise InputError(f"training.{name}: {error}") from error
        self._check_ranges()
        for name in _OPTIONS:
            option = getattr(self, name)
            if not isinstance(option, Mapping) or "type" not in option:
                raise InputError(f"training.{name}={option!r}: give an option with a type")
        for name in ("augmentation", "noise_schedule", "objective", "loss_weight", "timesteps"):
            check(getattr(self, name))
        check(self.optimizer, [])

    def _check_ranges(self) -> None:
        _demand_whole("batch_size", self.batch_size, 1)
        _demand_whole("keep_checkpoints", self.keep_checkpoints, 1)
        _demand_whole("held_out_images", self.held_out_images, 0)
        _demand_whole("max_skipped_updates", self.max_skipped_updates, 0)
        _demand_whole("num_previews", self.num_previews, 1)
        _demand_whole("seed", self.seed, 0)
        if self.seed >= 2**63:
            raise InputError(f"training.seed={self.seed}: give a whole number below 2^63")
        for name in ("micro_batch_size", "lanes", "keep_trainings"):
            if getattr(self, name) is not None:
                _demand_whole(name, getattr(self, name), 1)
        if self.lanes is not None and self.lanes > self.batch_size:
            raise InputError(f"training.lanes={self.lanes}: a batch has {self.batch_size} images")
        for name in ("budget_kimg", "log_every_kimg", "checkpoint_every_kimg"):
            _demand_optional(name, getattr(self, name), above=0, optional=False)
        for name in ("max_minutes", "clip_norm", "preview_every_kimg"):
            _demand_optional(name, getattr(self, name), above=0)
        for name, choices in (("precision", PRECISIONS), ("compile", COMPILE_CHOICES)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"training.{name}={getattr(self, name)}: choose one of {', '.join(choices)}"
                )
        for name, share in (
            ("label_dropout", self.label_dropout),
            ("held_out_fraction", self.held_out_fraction),
        ):
            if not _is_number(share) or not 0 <= share < 1:
                raise InputError(f"training.{name}={share}: give a number from 0 to below 1")
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
        if is_torch_scheduler(self.lr_schedule):
            return self.budget_images
        settled = build(self.lr_schedule).settled_images(self.budget_images)
        return min(math.ceil(settled / self.batch_size) * self.batch_size, self.budget_images)

    def timestep_sampling(self) -> Any:
        """The distribution of training times, built."""
        return build(self.timesteps)

    def shaping(self, content_hash: str) -> dict[str, Any]:
        """What decides the result: equal values mean the same training.

        Args:
            content_hash: of the training images.
        """
        shaping: dict[str, Any] = {"images": content_hash}
        shaping |= {name: getattr(self, name) for name in _SHAPING}
        shaping["ema"] = asdict(self.ema)
        shaping["lr_schedule"] = with_defaults(self.lr_schedule)
        if self.settled_images == 0:
            shaping["lr_schedule"]["budget_images"] = self.budget_images
        shaping["optimizer"] = with_defaults(self.optimizer)
        for name in ("augmentation", "noise_schedule", "objective", "loss_weight", "timesteps"):
            shaping[name] = with_defaults(getattr(self, name))
        if not self.conditional:  # then nothing is dropped, whatever the share
            shaping["label_dropout"] = 0
        shaping["init_from"] = None if self.init_from is None else _hash_of_model(self.init_from)
        return long_form(shaping)

    def recorded(self) -> dict[str, Any]:
        """What changes where, how fast or how often, but not what is learned."""
        left_out = {*_SHAPING, "restart", "keep_trainings"}
        return {
            item.name: _plain(getattr(self, item.name))
            for item in fields(self)
            if item.name not in left_out
        }


# How a step is computed, not what: a user may set them without starting a new training.
_NOT_SHAPING_ARGUMENTS = ("fused", "foreach", "capturable", "differentiable")


def with_defaults(option: Option) -> dict[str, Any]:
    """An option with the plain defaults of its type's signature written out.

    So that ``{type: torch.optim.Adam}`` and the same with ``lr: 0.001`` are the same training, and
    a default that changes with a release is seen.
    """
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


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, EMASettings | DistributedSettings) else value


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _demand_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"training.{name}={value}: give a whole number of at least {least}")


def _demand_optional(name: str, value: Any, *, above: float, optional: bool = True) -> None:
    if value is None and optional:
        return
    if not _is_number(value) or value <= above:
        raise InputError(f"training.{name}={value}: give a number above {above:g}")
