"""What a value may be, declared once: settings ask when they are made, pydantic when it reads YAML.

A field such as `batch_size: Count` of a class derived from `Settings` is checked by the same
function in Python (`TrainingSettings(batch_size=0, ...)`) and in a tree of parameters, so that both
take and refuse the same values with the same words.
"""

from __future__ import annotations

import math
import numbers
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


class Settings:
    """Base of frozen dataclasses whose fields are checked, each by its annotation; InputError with
    the key, the value and what would be right. None is taken where the annotation says so, and a
    mapping where it names other settings."""

    section: ClassVar[str]  # of the parameters, for the message; an option says its class instead
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
                where = getattr(self, "section", type(self).__name__)
                raise InputError(f"{where}.{name}={value}: {error}") from error


@cache
def _checks(settings: type[Settings]) -> dict[str, tuple[Callable[[Any], Any], bool]]:
    """For each field what checks it, and whether it may be None."""
    hints = typing.get_type_hints(settings, include_extras=True)
    checks = {}
    for field in fields(settings):
        hint = hints[field.name]
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kind, *others = typing.get_args(hint) if is_union else (hint,)
        if isinstance(kind, type) and not issubclass(kind, Settings):
            continue  # as it comes, in a class of the user's own
        check = partial(_made if isinstance(kind, type) else checked, kind)
        checks[field.name] = (check, type(None) in others)
    return checks


def _made(kind: type[Settings], value: Any) -> Settings:
    right = f"input should be a dictionary or an instance of {kind.__name__}"
    require(isinstance(value, kind | Mapping), right)
    return value if isinstance(value, kind) else kind(**value)


def require(holds: Any, right: str) -> None:
    """Raise a ValueError that says what would be right unless it holds."""
    if not holds:
        raise ValueError(right)


_BOUNDS = {
    "least": (operator.ge, "greater than or equal to"),
    "above": (operator.gt, "greater than"),
    "most": (operator.le, "less than or equal to"),
    "below": (operator.lt, "less than"),
}


def number(kind: type[int] | type[float], **bounds: float) -> Check:
    """A finite number, or a text that spells one; `least`, `above`, `most`, `below` bound it."""
    what = "integer" if kind is int else "number"

    def check(value: Any) -> float:
        require(not isinstance(value, bool), "give a number")  # Python takes True for 1
        require(isinstance(value, numbers.Real | str), f"input should be a valid {what}")
        try:
            found = kind(value)
            is_finite = kind is int or math.isfinite(found)
        except (ValueError, OverflowError):
            word = "an integer" if kind is int else "a number"
            right = f"input should be a valid {what}, unable to parse string as {word}"
            require(not isinstance(value, str), right)
            is_finite = False
        require(is_finite, "input should be a finite number")
        is_same = isinstance(value, str) or found == value
        require(is_same, "input should be a valid integer, got a number with a fractional part")
        for name, bound in bounds.items():
            holds, words = _BOUNDS[name]
            require(holds(found, bound), f"input should be {words} {bound}")
        return found

    return Check(check)


def kept(*demands: tuple[Callable[[Any], Any], str]) -> Check:
    """A value as it is, of which every demand holds; beside each stands what would be right."""

    def check(value: Any) -> Any:
        for holds, right in demands:
            require(holds(value), right)
        return value

    return Check(check)


def choice(*options: str | int) -> Check:
    """One of a few values, of its very type: True is not 1."""
    known = [(type(option), option) for option in options]
    *others, last = map(repr, options)
    right = f"input should be {', '.join(others)} or {last}"
    return kept((lambda value: (type(value), value) in known, right))


_TEXT = (lambda value: isinstance(value, str), "input should be a valid string")
_TABLE = (lambda value: isinstance(value, Mapping), "input should be a valid dictionary")
_TYPED = (lambda option: "type" in option, "needs a type, the dotted path of a class")


def text(pattern: str, right: str) -> Check:
    """A text of this form."""
    return kept(_TEXT, (re.compile(pattern).fullmatch, right))


def _switch(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    require(str(value).lower() in words, "input should be a valid boolean")
    return words[str(value).lower()]


Count = Annotated[int, number(int, least=1)]
CountOrZero = Annotated[int, number(int, least=0)]
Real = Annotated[float, number(float)]
Positive = Annotated[float, number(float, above=0)]
NotNegative = Annotated[float, number(float, least=0)]
Share = Annotated[float, number(float, least=0, below=1)]
Part = Annotated[float, number(float, above=0, most=1)]
Probability = Annotated[float, number(float, least=0, most=1)]
Seed = Annotated[int, number(int, least=0, below=2**63)]
Switch = Annotated[bool, Check(_switch)]
Text = Annotated[str, kept(_TEXT)]
Precision = Annotated[str, choice("auto", "fp32", "bf16", "fp16")]
Device = Annotated[
    str, text(r"auto|cpu|mps|cuda(:\d+)?", "choose one of auto, cpu, cuda, cuda:N, mps")
]
Table = Annotated[Mapping[str, Any], kept(_TABLE)]
Option = Annotated[Mapping[str, Any], kept(_TABLE, _TYPED)]
