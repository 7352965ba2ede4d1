"""What a model is, in plain values: enough to build it again, from a file of unknown origin too."""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

from torch import nn

from ddpm_kedro.construction import build, locate
from ddpm_kedro.diffusion.loss_weight import LossWeight
from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule
from ddpm_kedro.diffusion.objective import Objective
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.diffusion.samplers.thresholding import Threshold
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import Check, Option, Settings, Switch, Table, number, require

OWN_MODULES = ("ddpm_kedro",)
# What each option may be; anything else that a trusted module holds is not called.
KINDS: Mapping[str, type] = {
    "backbone": nn.Module,
    "noise_schedule": NoiseSchedule,
    "objective": Objective,
    "loss_weight": LossWeight,
    "sampler": Sampler,
}
# What an option inside an option may be, by the annotation of the argument that it is given to.
NESTED_KINDS = (*KINDS.values(), Threshold)


def _names(value: Any) -> tuple[str, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    require(is_list and all(isinstance(name, str) for name in value), "give a list of names")
    return tuple(value)


Side = Annotated[int, number(int, least=1, most=1 << 16)]


@dataclass(frozen=True)
class ModelSpec(Settings):
    """The plain description of a model; JSON-serialisable, no tensors.

    An option is `{type: dotted.path, **arguments}`.
    """

    section: ClassVar[str] = "model spec"

    backbone: Option
    """It is also given `in_channels` and `num_classes`."""
    noise_schedule: Option
    objective: Option
    channels: Side
    height: Side
    """Of the images it was trained on, in pixels."""
    width: Side
    classes: Annotated[tuple[str, ...], Check(_names)] = ()
    """Names of the classes of the data, in the order of their labels."""
    conditional: Switch = False
    """Whether the network is told the class."""
    loss_weight: Option | None = None
    """What it was trained with; None is the uniform one."""
    sampler: Option | None = None
    """What draws if nothing else is asked for; None leaves it to `Model.sample`."""
    provenance: Table = field(default_factory=dict)
    """Facts about its training (versions, images seen, data hash, ...), for people."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conditional and not self.classes:
            raise InputError("model spec.classes: give at least one class for a conditional model")

    @property
    def num_classes(self) -> int | None:
        """Number of classes that the network is told, None for an unconditional model."""
        return len(self.classes) if self.conditional else None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was trained on."""
        return self.channels, self.height, self.width

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain values for JSON."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: Any) -> ModelSpec:
        """The spec of such plain values; InputError where a key is missing or unknown."""
        try:
            return cls(**values)
        except TypeError as error:  # it names the key
            raise InputError(f"model spec: {error}") from error

    def build(self, name: str, trusted: Sequence[str] | None = None) -> Any:
        """Make the object of one option that is not None: "backbone", "noise_schedule", ...

        InputError for a type that `vet` refuses, before anything is called, or arguments that it
        refuses itself.
        """
        option = getattr(self, name)
        vet(option, KINDS[name], name, trusted)
        given = {"in_channels": self.channels, "num_classes": self.num_classes}
        try:
            return build(option, trusted=trusted, **(given if name == "backbone" else {}))
        except (RuntimeError, OverflowError, MemoryError) as error:  # sizes beyond all bounds
            reason = str(error).split("\n", 1)[0]
            raise InputError(f"{name} {option['type']}: {reason}") from error


def vet(option: Any, kind: type, name: str, trusted: Sequence[str] | None = None) -> None:
    """Refuse the option called `name` by an InputError unless it is one of a `kind`.

    Its type, and that of an option inside it, must name a class derived from its kind, in a module
    whose path begins with one of `trusted` (None: in any).
    """
    if not isinstance(option, Mapping) or "type" not in option:
        raise InputError(f"{name}: give an option with a type")
    found = locate(option["type"], trusted)
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise InputError(f"{name}: {option['type']} is not a {kind.__name__}")
    for key, value in option.items():
        if isinstance(value, Mapping) and "type" in value:
            nested = _kind_of_argument(found, str(key), kind)
            if nested is None:
                raise InputError(f"{name}.{key}: {option['type']} takes no option there")
            vet(value, nested, f"{name}.{key}", trusted)


def _kind_of_argument(owner: type, name: str, kind: type) -> type | None:
    """The kind of option that an argument takes: `Threshold` of `str | Threshold | None`.

    An argument without annotation takes the kind of its owner, as a schedule made from a schedule.
    """
    annotations: dict[str, Any] = {}
    for place in (owner, owner.__init__):  # a dataclass's fields, or the arguments written out
        with contextlib.suppress(NameError):  # names that only a type checker imports
            annotations |= typing.get_type_hints(place)
    if name not in annotations:
        return kind
    members = typing.get_args(annotations[name]) or (annotations[name],)
    classes = [member for member in members if inspect.isclass(member)]
    return next((member for member in classes if issubclass(member, NESTED_KINDS)), None)
