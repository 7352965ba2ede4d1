"""The typed shape of the whole parameter tree: what every value means and what it may be.

The values themselves stand in ``conf/``; nothing here has a default, so a YAML file never lacks a
line that runs use. Sections are closed: an unknown key is refused, at the top level too. Tables of
options are open by name; the chosen options are looked up, their arguments bound against the
signatures of their classes, and the combination checked, before any node runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from ddpm_kedro.errors import InputError


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic takes true for 1
        raise ValueError("give a number")
    return value


Whole = Annotated[int, BeforeValidator(_not_bool)]
Real = Annotated[float, BeforeValidator(_not_bool)]
Count = Annotated[Whole, Field(ge=1)]
CountOrZero = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, lt=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
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

    halflives_kimg: Annotated[list[Annotated[Real, Field(ge=0)]], Field(min_length=1)]
    """Half-lives in thousands of images; the first is the average that `weights: ema` means. 0
    follows the weights themselves."""
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
    max_restarts: CountOrZero
    """How often a job with a dead worker starts again from its last checkpoint."""


class TrainingParameters(_Section):
    """How the model learns; the options in it are the chosen entries of their tables."""

    batch_size: Count
    """Images of one optimizer step, over all workers and micro-batches."""
    budget_kimg: Positive
    """When training ends, in thousands of images seen."""
    max_minutes: Positive | None
    """Stop after so long, save, and let later stages run; None: no limit."""
    precision: Precision
    """Of the network's arithmetic; noise schedule, noise and loss are fp32 always."""
    compile: Literal["auto", "on", "off"]
    """torch.compile of the training step; auto does it on CUDA."""
    micro_batch_size: Count | None
    """Images that one forward pass holds per worker; None: as many as a worker's share."""
    lanes: Count | None
    """Parts of it that are computed at the same time on a CPU, one core each. None: one a core, or
    what the training was begun with; another number changes the last bits of the weights."""
    clip_norm: Positive | None
    """Largest norm of the gradient; None: not clipped."""
    conditional: bool
    """Tell the network the class of each image."""
    label_dropout: Share
    """Share of samples trained without their label, for guidance; used when conditional. 0 leaves
    the network without an idea of no label: then there is no guidance."""
    ema: EmaParameters
    held_out_fraction: Share
    """Share of the training images kept back to measure the loss on, which the log then shows."""
    held_out_images: CountOrZero
    """At most so many of them."""
    log_every_kimg: Positive
    preview_every_kimg: Positive | None
    """None: only the one at the end."""
    checkpoint_every_kimg: Positive
    keep_checkpoints: Count
    """Newest checkpoints kept, beside one that a higher budget goes on from."""
    keep_trainings: Count | None
    """Trainings used last whose checkpoints stay once finished, models always do; None: all."""
    num_previews: Count
    """Images in a preview."""
    max_skipped_updates: CountOrZero
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
    """Steps of whichever sampler draws; None: the sampler's own number."""
    batch_size: Count
    """Images drawn at once; it changes memory and speed, not the images."""
    precision: Precision
    """Of the network's arithmetic; in half precision the last bits depend on the batch size."""
    seed: Seed
    weights: str
    """Which weights of the model file: ema, raw, or another average's name."""
    grid_images: Count
    """Images in the picture sample_grid."""
    label: CountOrZero | str | None
    """Class of all images: its name, or its number 0.. where no class is named so; None: every
    class in turn. Conditional only."""
    guidance: Positive | None
    """Scale of classifier-free guidance, 1 is none; needs label_dropout. Conditional only."""
    sampler: dict[str, Any] | None
    """What draws: an option, or arguments (a table without a type) that change the model file's own
    sampler; None: that one as it is. In YAML a short name from `samplers` will do, and `sampler` in
    conf/local or on the command line is told to sampling too."""
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
    precision: Precision
    """Of the network's arithmetic in the denoising loss."""
    seed: Seed
    device: Device


class FormulationParameters(_Section):
    """Choices that fit together, each a short name."""

    noise_schedule: str
    objective: str
    timestep_sampling: str
    loss_weight: str
    sampler: str


class Parameters(_Section):
    """The whole tree."""

    formulation: str
    """Makes the five choices of :class:`FormulationParameters` unless they are made besides."""
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

    formulations: dict[str, FormulationParameters]
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
    """auto takes CUDA where there is one, else the CPU; mps is untried and must be asked for."""
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
        """Check a composed tree of parameters, for a run of all stages.

        Raises:
            InputError: one line naming the key, the value and what would be right.
        """
        parameters = cls.from_values(tree)
        parameters.check_samplers()
        return parameters

    @classmethod
    def from_values(cls, tree: Mapping[str, Any]) -> Parameters:
        """As :meth:`from_tree`, for a run that may draw from a model trained with other choices."""
        try:
            parameters = cls.model_validate(dict(tree))
        except ValidationError as error:
            raise InputError(_one_line(error)) from error
        from ddpm_kedro.option_check import check_options

        check_options(parameters.model_dump())
        return parameters

    def check_samplers(self) -> None:
        """Whether samplers fit the schedule that is trained on; raises InputError."""
        from ddpm_kedro.option_check import check_samplers

        check_samplers(self.model_dump())


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
        is_table = get_origin(section) is dict
        section = get_args(section)[1] if is_table else section.model_fields[key].annotation
    return list(section.model_fields)
