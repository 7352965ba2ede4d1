"""Values in the types of JSON: dict, list, str, int, float, bool and None."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ddpm_kedro.errors import InputError


def finite_or_none(number: float) -> float | None:
    """None for an infinity or NaN, which JSON cannot say."""
    return number if math.isfinite(number) else None


def finite_or_name(number: float) -> float | str:
    """`"inf"`, `"-inf"` or `"nan"` for what JSON cannot say."""
    return number if math.isfinite(number) else str(number)


def plain(
    value: Any,
    *,
    real: Callable[[float], Any] = finite_or_none,
    other: Callable[[Any], Any] | None = str,
    key: str = "",
) -> Any:
    """A copy of `value` in the types of JSON.

    Mappings and sequences keep their order, NumPy's and torch's scalars and arrays become Python's
    numbers and lists, paths become text, each float what `real` makes of it, and a value of any
    other kind what `other` does. Where that is None it is refused by its dotted key, below `key`:
    an InputError.
    """

    def inner(item: Any, name: Any) -> Any:
        return plain(item, real=real, other=other, key=f"{key}.{name}" if key else str(name))

    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return real(float(value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(name): inner(item, name) for name, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist(), real=real, other=other, key=key)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [inner(item, number) for number, item in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if other is None:
        raise InputError(
            f"{key or 'the value'}: {type(value).__name__} cannot be recorded; "
            "use text, numbers, booleans, lists and mappings"
        )
    return other(value)


def objects_of(lines: Iterable[str | bytes]) -> list[dict[str, Any]]:
    """The objects of JSON lines, one in each; what is torn or no object is left out."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [each for each in found if isinstance(each, dict)]


def canonical(value: Any) -> Any:
    """`value` in one spelling: whole floats are integers (YAML's `1` and `1.0` mean the same rate),
    infinities and NaN their names. InputError where it holds something else than text,
    numbers, booleans, paths, lists and mappings."""
    return plain(value, real=_whole_as_int, other=None)


def canonical_json(value: Any) -> str:
    """Equal text for equal values: `canonical`, keys sorted, no spaces, ASCII."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _whole_as_int(number: float) -> float | int | str:
    return int(number) if number.is_integer() else finite_or_name(number)
