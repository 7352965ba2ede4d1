"""The typed shape of the whole parameter tree: what every value means and what it may be.

The values themselves stand in ``conf/``; nothing here has a default, so a YAML file never lacks a
line that runs use. Sections are closed: an unknown key is refused, at the top level too. Tables of
options are open by name; the chosen options are looked up, their arguments bound against the
signatures of their classes, and the combination checked, before any node runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ddpm_kedro.construction import build, check
from ddpm_kedro.errors import InputError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


def _has_type(option: dict[str, Any]) -> dict[str, Any]:
    if "type" not in option:
        raise ValueError("needs a type, the dotted path of a class")
    return option


Option = Annotated[dict[str, Any], AfterValidator(_has_type)]
Table = dict[str, dict[str, Any]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PreparationParameters(_Section):
    """How images become arrays."""

    source: Option
    """The chosen entry of ``datasets``."""
    image_size: Count | None
    """Side in pixels; images are cropped to a square and resized. None keeps their size."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of the images that become the test split where the source has none of its own."""
    channels: Literal[1, 3, 4] | None
    """1 grey, 3 RGB, 4 RGBA (otherwise transparent pixels are laid over white). None is 1 if all
    images are grey, else 3."""
    max_images: Annotated[int, Field(ge=2)] | None
    """At most so many images of each split, evenly spaced through it; None takes all."""
    max_unreadable: Annotated[float, Field(ge=0, le=1)]
    """Share of the images that may be broken: they are left out and named. Above it: refused."""


class EmaParameters(_Section):
    """Exponential moving averages of the weights."""

    halflives_kimg: Annotated[list[Positive], Field(min_length=1)]
    """Half-lives in thousands of images; the first is the average that `weights: ema` means."""
    warmup_ratio: Positive | None
    """The half-life is at most this share of the images seen so far (EDM uses 0.05); None: off."""


class DistributedParameters(_Section):
    """Several processes, one for each GPU, on one machine or more."""

    workers: Count
    """Processes on this machine."""
    nodes: Count
    """Machines."""
    rendezvous: str | None
    """host:port where the machines meet; needed when nodes is more than 1."""
    wait_minutes: Positive
    """How long a machine waits there for the others."""
    max_restarts: Annotated[int, Field(ge=0)]
    """How often a job with a dead worker starts again from its last checkpoint."""


class TrainingParameters(_Section):
    """How the model learns; the options in it are the chosen entries of their tables."""

    batch_size: Count
    """Images of one optimizer step, over all workers and micro-batches."""
    budget_kimg: Positive
    """When training ends, in thousands of images seen."""
    max_minutes: Positive | None
    """Stop after so long, save, and let later stages run; None: no limit."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """Of the network's arithmetic; noise schedule, noise and loss are fp32 always."""
    compile: Literal["auto", "on", "off"]
    """torch.compile of the training step; auto does it on CUDA."""
    micro_batch_size: Count | None
    """Images that one forward pass holds per worker; None: as many as a worker's share."""
    clip_norm: Positive | None
    """Largest norm of the gradient; None: not clipped."""
    conditional: bool
    """Tell the network the class of each image."""
    label_dropout: Share
    """Share of samples trained without their label, for guidance; used when conditional."""
    ema: EmaParameters
    held_out_fraction: Share
    """Share of the training images kept back to measure the loss on, which the log then shows."""
    held_out_images: Count
    """At most so many of them."""
    log_every_kimg: Positive
    preview_every_kimg: Positive
    checkpoint_every_kimg: Positive
    keep_checkpoints: Count
    """Newest checkpoints kept, beside one that a higher budget goes on from."""
    keep_trainings: Count | None
    """Trainings used last whose checkpoints stay once finished, models always do; None: all."""
    num_previews: Count
    """Images in a preview."""
    max_skipped_updates: Count
    """Updates in a row that may be skipped for a loss or gradient that is not finite."""
    init_from: str | None
    """A model file whose weights training starts from."""
    restart: bool
    """Start over even if this training was begun before."""
    distributed: DistributedParameters
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
    seed: Seed
    device: Device


class SamplingParameters(_Section):
    """How images are drawn from the model."""

    num_samples: Count
    num_steps: Count | None
    """Steps of the sampler; None: the sampler's own number."""
    batch_size: Count
    """Images drawn at once; it changes memory and speed, not the images."""
    seed: Seed
    weights: str
    """Which weights of the model file: ema, raw, or another average's name."""
    grid_images: Count
    """Images in the picture sample_grid."""
    label: Annotated[int, Field(ge=0)] | str | None
    """Class of all images, its number or its name; None: every class in turn. Conditional only."""
    guidance: Positive | None
    """Scale of classifier-free guidance, 1 is none; needs label_dropout. Conditional only."""
    sampler: Option
    device: Device


class EvaluationParameters(_Section):
    """How samples and model are judged."""

    features: Option
    """What the Frechet distance compares images by."""
    max_images: Annotated[int, Field(ge=2)] | None
    """Images of each set that it uses; None takes all."""
    neighbour_images: Annotated[int, Field(ge=2)]
    """Samples, and held-out images, whose nearest training image is searched."""
    denoising_images: Count
    """Images of each split on which the denoising loss is measured."""
    noise_levels: Annotated[int, Field(ge=3)]
    """Levels of noise at which it is measured."""
    batch_size: Count
    """Images in one forward pass of the network; it changes memory and speed only."""
    seed: Seed
    device: Device


class Parameters(_Section):
    """The whole tree."""

    dataset: str
    augmentation: str
    backbone: str
    noise_schedule: str
    objective: str
    loss_weight: str
    timestep_sampling: str
    optimizer: str
    lr_schedule: str
    sampler: str

    datasets: Table
    augmentations: Table
    backbones: Table
    noise_schedules: Table
    objectives: Table
    loss_weights: Table
    timestep_samplings: Table
    optimizers: Table
    lr_schedules: Table
    samplers: Table

    seed: Seed
    """Of everything random: weights, data order, noise, held-out images."""
    device: Device
    """auto takes CUDA, then mps, then the CPU."""
    image_path: str | None
    """Where dataset=image_folder or parquet finds its images."""
    image_size: Count | None
    import_path: str | None
    """The diffusers folder that the pipeline import_diffusers reads."""
    data_root: str
    """Every file that a run reads or writes lies under it."""
    raw_root: str
    """Downloads; may point elsewhere, so that runs share one."""
    prepared_root: str
    """Prepared arrays, likewise."""
    trusted_modules: list[str]
    """Modules of the user's own whose classes a model file may name."""

    preparation: PreparationParameters
    training: TrainingParameters
    sampling: SamplingParameters
    evaluation: EvaluationParameters

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Parameters:
        """Check a composed tree of parameters.

        Raises:
            InputError: one line naming the key, the value and what would be right.
        """
        try:
            parameters = cls.model_validate(dict(tree))
        except ValidationError as error:
            raise InputError(_one_line(error)) from error
        parameters.check_options()
        return parameters

    def check_options(self) -> None:
        """Bind the chosen options' arguments, and build what is cheap to find clashes.

        Raises:
            InputError: an unknown class or argument, or options that do not go together.
        """
        # Torch is imported here and not at the top: a wrong key is told without waiting for it.
        from ddpm_kedro.training.lr_schedule import is_torch_scheduler
        from ddpm_kedro.training.precision import choose_device
        from ddpm_kedro.training.settings import TrainingSettings

        training, sampling = self.training, self.sampling
        choose_device(self.device)
        with _named("datasets", self.dataset):
            check(self.preparation.source)
        with _named("augmentations", self.augmentation):
            check(training.augmentation)
        with _named("backbones", self.backbone):
            check(training.backbone, in_channels=3, num_classes=None)
        with _named("noise_schedules", self.noise_schedule):
            schedule = build(training.noise_schedule)
        with _named("objectives", self.objective):
            build(training.objective).check(schedule)
        with _named("loss_weights", self.loss_weight):
            build(training.loss_weight)
        with _named("timestep_samplings", self.timestep_sampling):
            build(training.timesteps).check(schedule)
        with _named("optimizers", self.optimizer):
            optimizer = _build_optimizer(training.optimizer)
        with _named("lr_schedules", self.lr_schedule):
            made_by_torch = is_torch_scheduler(training.lr_schedule)
            build(training.lr_schedule, *([optimizer] if made_by_torch else []))
        for name in ("label", "guidance"):
            value = getattr(sampling, name)
            if value is not None and not training.conditional:
                raise InputError(
                    f"sampling.{name}={value}: only a conditional model has classes to choose "
                    "from; set training.conditional=true too"
                )
        with _named("evaluation", "features"):
            build(self.evaluation.features)
        with _named("samplers", self.sampler):
            build(training.sampler).check(schedule)
            if sampling.num_steps is not None:
                build({**sampling.sampler, "num_steps": sampling.num_steps}).check(schedule)
        TrainingSettings(**training.model_dump())  # ranges that depend on one another


def _build_optimizer(option: Mapping[str, Any]) -> Any:
    """Built once on a dummy parameter: torch checks ranges there (a negative rate), not before."""
    import torch

    return build(option, [torch.nn.Parameter(torch.zeros(1))])


@contextlib.contextmanager
def _named(table: str, name: str) -> Iterator[None]:
    """Say in which table's entry a mistake stands."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{table}.{name}: {error}") from error


def _one_line(error: ValidationError) -> str:
    """The first mistake that pydantic found, as ``key=value: what would be right``."""
    mistake = error.errors()[0]
    path = [str(part) for part in mistake["loc"]]
    key = ".".join(path)
    # One value that is interpolated into several places is one mistake.
    others = {repr(other["input"]) for other in error.errors()} - {repr(mistake["input"])}
    more = f" (and {len(others)} more)" if others else ""
    if mistake["type"] == "extra_forbidden":
        close = get_close_matches(path[-1], _known_keys(path[:-1]), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{key}={mistake['input']}: no such parameter{hint}{more}"
    if mistake["type"] == "missing":
        return f"{key}: missing from the parameters{more}"
    text = mistake["msg"].removeprefix("Value error, ")
    return f"{key}={mistake['input']}: {text[0].lower()}{text[1:]}{more}"


def _known_keys(path: list[str]) -> list[str]:
    """The keys of the section that a path names."""
    section: Any = Parameters
    for key in path:
        section = section.model_fields[key].annotation
    return list(section.model_fields)
