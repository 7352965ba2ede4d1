"""What a model is, in plain values: enough to build it again, from a file of unknown origin too."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import nn

from ddpm_kedro.construction import build, locate
from ddpm_kedro.diffusion.loss_weight import LossWeight
from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule
from ddpm_kedro.diffusion.objective import Objective
from ddpm_kedro.diffusion.samplers import Sampler
from ddpm_kedro.diffusion.samplers.thresholding import Threshold
from ddpm_kedro.errors import InputError

OWN_MODULES = ("ddpm_kedro",)
MAX_SIDE = 1 << 16
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


@dataclass(frozen=True)
class ModelSpec:
    """The plain description of a model; JSON-serialisable, no tensors.

    Args:
        backbone, noise_schedule, objective: options ``{type: dotted.path, **arguments}``; the
            backbone is also given ``in_channels`` and ``num_classes``.
        channels: 1, 3, 4 or any other number of image channels.
        height, width: size of the images it was trained on, in pixels.
        classes: names of the classes of the data, in the order of their labels.
        conditional: whether the network is told the class.
        loss_weight: option of the weight it was trained with; None is the uniform one.
        sampler: option of the sampler that it is used with if none is asked for; None leaves it to
            :meth:`Model.sample`.
        provenance: facts about its training (versions, images seen, data hash, ...), for people.
    """

    backbone: Mapping[str, Any]
    noise_schedule: Mapping[str, Any]
    objective: Mapping[str, Any]
    channels: int
    height: int
    width: int
    classes: tuple[str, ...] = ()
    conditional: bool = False
    loss_weight: Mapping[str, Any] | None = None
    sampler: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in KINDS:
            is_left_out = given[name] is None and name in ("loss_weight", "sampler")
            _demand(is_left_out or isinstance(given[name], Mapping), name, "an option with a type")
        for name in ("channels", "height", "width"):
            is_size = type(given[name]) is int and 1 <= given[name] <= MAX_SIDE
            _demand(is_size, name, f"a whole number in 1..{MAX_SIDE}")
        _demand(isinstance(self.conditional, bool), "conditional", "true or false")
        _demand(isinstance(self.provenance, Mapping), "provenance", "a table")
        is_list = isinstance(self.classes, Sequence) and not isinstance(self.classes, str)
        are_names = is_list and all(isinstance(name, str) for name in self.classes)
        _demand(are_names, "classes", "a list of names")
        _demand(len(self.classes) > 0 or not self.conditional, "classes", "at least one class")
        object.__setattr__(self, "classes", tuple(self.classes))

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
        _demand(isinstance(values, Mapping), "spec", "a table")
        known = sorted(item.name for item in fields(cls))
        unknown = [str(name) for name in values if name not in known]
        _demand(not unknown, ", ".join(unknown), f"only {', '.join(known)}")
        try:
            return cls(**values)
        except TypeError as error:  # a field without a default is missing
            raise InputError(f"model spec: {error}") from error

    def build(self, name: str, trusted: Sequence[str] | None = None) -> Any:
        """Make the object of one option that is not None: "backbone", "noise_schedule", ...

        Raises:
            InputError: a type that :func:`vet` refuses, before anything is called, or arguments
                that it refuses itself.
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
    """Refuse an option whose type is not a `kind`, or that has options where they do not belong.

    Args:
        option: ``{type: dotted.path, **arguments}``.
        kind: class that its type must be derived from.
        name: of the option, for the message.
        trusted: module prefixes that a type may name (None: any).

    Raises:
        InputError: its type, or that of an option inside it, is not trusted or of another kind.
    """
    _demand(isinstance(option, Mapping) and "type" in option, name, "an option with a type")
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
    """The kind of option that an argument takes: ``Threshold`` of ``str | Threshold | None``.

    An argument without annotation takes the kind of its owner, as a schedule made from a schedule.
    """
    try:
        annotations = typing.get_type_hints(owner.__init__)
    except NameError:  # names that only a type checker imports
        annotations = {}
    if name not in annotations:
        return kind
    members = typing.get_args(annotations[name]) or (annotations[name],)
    classes = [member for member in members if inspect.isclass(member)]
    return next((member for member in classes if issubclass(member, NESTED_KINDS)), None)


def _demand(holds: bool, name: str, right: str) -> None:
    if not holds:
        raise InputError(f"model spec: {name}: give {right}")
