"""The typed shape of the whole parameter tree: closed, so an unknown key is refused everywhere.

The values stand in `conf/`; nothing has a default here, so a YAML file never lacks a line that runs
use. What the values of a section mean and may be stands beside what uses them, in `settings.py` of
images, training, diffusion (for sampling) and evaluation. Tables of options are open by name;
`option_check.py` looks at the options that are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ddpm_kedro.diffusion.settings import SamplingSettings
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.settings import CompareSettings, EvaluationSettings
from ddpm_kedro.images.settings import PreparationSettings
from ddpm_kedro.ranges import Count, Device, Option, Seed, Switch
from ddpm_kedro.training.settings import TrainingSettings

_Kind = TypeVar("_Kind")
Tables = dict[str, dict[str, Any]]
CLOSED: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True)
class PreparationParameters(PreparationSettings):
    """What becomes arrays, and how."""

    source: Option
    """The chosen entry of `datasets`."""


@dataclass(frozen=True)
class FormulationParameters:
    """Choices that fit together, each a short name."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    noise_schedule: str
    objective: str
    timestep_sampling: str
    loss_weight: str
    sampler: str


@dataclass(frozen=True)
class Parameters:
    """The whole tree."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    formulation: str
    """Makes the five choices of `FormulationParameters` unless they are made besides."""
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
    features: str

    formulations: dict[str, FormulationParameters]
    datasets: Tables
    augmentations: Tables
    backbones: Tables
    noise_schedules: Tables
    objectives: Tables
    loss_weights: Tables
    timestep_samplings: Tables
    optimizers: Tables
    lr_schedules: Tables
    samplers: Tables
    feature_extractors: Tables

    seed: Seed
    """Of everything random: weights, data order, noise, held-out images."""
    device: Device
    """auto takes CUDA where there is one, else the CPU; mps is untried and must be asked for."""
    image_path: str | None
    """Where dataset=image_folder or parquet finds its images."""
    image_size: Count | None
    force: Switch
    """Run the chosen nodes even where nothing has changed; a training that is done stays done."""
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
    evaluation: EvaluationSettings  # before what follows it: a mistake is told of what was typed
    training: TrainingSettings
    sampling: SamplingSettings
    compare: CompareSettings

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Parameters:
        """The checked parameters of a composed tree, see `read`."""
        return read(cls, tree)


def read(kind: type[_Kind], tree: Mapping[str, Any]) -> _Kind:
    """`tree` as an object of the dataclass `kind`: its shape is checked, and each value by itself;
    InputError in one line names the key, the value and what would be right."""
    try:
        return TypeAdapter(kind).validate_python(dict(tree))
    except ValidationError as error:
        raise InputError(_one_line(error, kind)) from error


def _one_line(error: ValidationError, kind: type) -> str:
    """The first mistake that pydantic found, as `key=value: what would be right`."""
    mistake = error.errors()[0]
    path = [str(part) for part in mistake["loc"]]
    key = ".".join(path)
    # One value that is interpolated into several places is one mistake.
    others = {repr(other["input"]) for other in error.errors()} - {repr(mistake["input"])}
    more = f" (and {len(others)} more)" if others else ""
    if isinstance(reason := mistake.get("ctx", {}).get("error"), InputError):
        return f"{reason}{more}"  # of values that do not go together, and it names them
    if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        close = get_close_matches(path[-1], _known_keys(kind, path[:-1]), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{key}={mistake['input']}: no such parameter{hint}{more}"
    if mistake["type"] == "missing":
        return f"{key}: missing, and nothing has a default{more}"
    text = mistake["msg"].removeprefix("Value error, ")
    return f"{key}={mistake['input']}: {text[0].lower()}{text[1:]}{more}"


def _known_keys(section: Any, path: list[str]) -> list[str]:
    """The keys of the section that a path below this one names."""
    for key in path:
        is_table = get_origin(section) is dict
        section = get_args(section)[1] if is_table else get_type_hints(section)[key]
    return [field.name for field in fields(section)]
