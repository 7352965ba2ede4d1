"""What a value may be, declared once: settings ask when they are made, pydantic when it reads YAML.

A field such as `batch_size: Count` of a class derived from :class:`Settings` is checked by the same
function in Python (`TrainingSettings(batch_size=0, ...)`) and in a tree of parameters, so that both
take and refuse the same values with the same words.
"""

from __future__ import annotations

import math
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Annotated, Any, ClassVar

from ddpm_kedro.errors import InputError


@dataclass(frozen=True)
class Check:
    """Stands in the annotation of a field. `of` returns the value as it is kept, or raises a
    ValueError that says what would be right."""

    of: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        # Written out, as pydantic is no part of the library
        return {"type": "function-plain", "function": {"type": "no-info", "function": self.of}}


def checked(kind: Any, value: Any) -> Any:
    """`value` as a field annotated with one of the kinds below keeps it."""
    return kind.__metadata__[0].of(value)


@dataclass(frozen=True)
class Settings:
    """Base of frozen dataclasses whose fields are checked, each by its annotation. None is taken
    where that says so, and a mapping where it names other settings.

    Raises:
        InputError: one line with the key, the value and what would be right.
    """

    section: ClassVar[str]  # where they stand among the parameters, for the message
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for name, (check, is_optional) in _checks(type(self)).items():
            value = getattr(self, name)
            if value is None and is_optional:
                continue
            try:
                object.__setattr__(self, name, check(value))
            except InputError:  # of settings inside these
                raise
            except (TypeError, ValueError) as error:
                raise InputError(f"{self.section}.{name}={value}: {error}") from error


@cache
def _checks(settings: type[Settings]) -> dict[str, tuple[Callable[[Any], Any], bool]]:
    """For each field what checks it, and whether it may be None."""
    hints = typing.get_type_hints(settings, include_extras=True)
    checks = {}
    for field in fields(settings):
        hint = hints[field.name]
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kind, *others = typing.get_args(hint) if is_union else (hint,)
        check = _made(kind) if isinstance(kind, type) else partial(checked, kind)
        checks[field.name] = (check, type(None) in others)
    return checks


def _made(kind: type[Settings]) -> Callable[[Any], Settings]:
    def make(value: Any) -> Settings:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"input should be a dictionary or an instance of {kind.__name__}")
        return kind(**value)

    return make


_BOUNDS = {
    "least": (operator.ge, "greater than or equal to"),
    "above": (operator.gt, "greater than"),
    "most": (operator.le, "less than or equal to"),
    "below": (operator.lt, "less than"),
}


def number(kind: type[int] | type[float], **bounds: float) -> Check:
    """A finite number, also as a text that spells one; `least`, `above`, `most` and `below` bound
    it."""

    def check(value: Any) -> float:
        found = _finite(kind, value)
        for name, bound in bounds.items():
            holds, words = _BOUNDS[name]
            if not holds(found, bound):
                raise ValueError(f"input should be {words} {bound}")
        return found

    return Check(check)


def _finite(kind: type[int] | type[float], value: Any) -> float:
    what = "integer" if kind is int else "number"
    if isinstance(value, bool):  # Python takes True for 1
        raise ValueError("give a number")
    if not isinstance(value, int | float | str):
        raise ValueError(f"input should be a valid {what}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("input should be a finite number")
    try:
        found = kind(value)
    except (ValueError, OverflowError):
        raise ValueError(
            f"input should be a valid {what}, unable to parse {type(value).__name__} as {what}"
        ) from None
    if isinstance(value, float) and found != value:
        raise ValueError("input should be a valid integer, got a number with a fractional part")
    if not math.isfinite(found):
        raise ValueError("input should be a finite number")
    return found


def choice(*options: str | int) -> Check:
    """One of a few values."""
    known = {(type(option), option) for option in options}
    *others, last = map(repr, options)

    def check(value: Any) -> Any:
        if not isinstance(value, str | int) or (type(value), value) not in known:
            raise ValueError(f"input should be {', '.join(others)} or {last}")
        return value

    return Check(check)


def _switch(value: Any) -> bool:
    for wanted, words in ((True, ("true", "yes", "on", "1")), (False, ("false", "no", "off", "0"))):
        if str(value).lower() in words:
            return wanted
    raise ValueError("input should be a valid boolean")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("input should be a valid string")
    return value


def _device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError("choose one of auto, cpu, cuda, cuda:N, mps")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("input should be a valid dictionary")
    return dict(value)


def _option(value: Any) -> dict[str, Any]:
    if "type" not in (option := _table(value)):
        raise ValueError("needs a type, the dotted path of a class")
    return option


Count = Annotated[int, number(int, least=1)]
CountOrZero = Annotated[int, number(int, least=0)]
Positive = Annotated[float, number(float, above=0)]
NotNegative = Annotated[float, number(float, least=0)]
Share = Annotated[float, number(float, least=0, below=1)]
Seed = Annotated[int, number(int, least=0, below=2**63)]
Switch = Annotated[bool, Check(_switch)]
Text = Annotated[str, Check(_text)]
Precision = Annotated[str, choice("auto", "fp32", "bf16", "fp16")]
Device = Annotated[str, Check(_device)]
Table = Annotated[Mapping[str, Any], Check(_table)]
Option = Annotated[Mapping[str, Any], Check(_option)]
"""A table with a type: `{type: dotted.path, **arguments}`."""
