"""Which training is this: a short hash of everything that shapes it, and what differs from another.

Two runs with equal fingerprints compute the same thing, so the second may continue the first. What
shapes a training goes in (data, network, schedule, objective, optimizer, seed ...); what only
changes how fast or where it runs stays out (device, precision, workers, intervals, paths).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ddpm_kedro.errors import InputError

FINGERPRINT_DIGITS = 16
_ABSENT = "(absent)"


def fingerprint(shaping: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of SHA-256 over the canonical JSON of ``shaping``.

    The order of keys, tuples against lists and 1 against 1.0 make no difference; every value does.

    Args:
        shaping: nested mappings and sequences of strings, numbers, booleans and None.

    Raises:
        InputError: a value is of another kind; the message names its dotted key.
    """
    return hashlib.sha256(canonical_json(shaping).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces, ASCII, see :func:`plain`."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any, key: str = "") -> Any:
    """``value`` in the types of JSON: dict, list, str, int, float, bool and None.

    Whole floats become integers (YAML's ``1`` and ``1.0`` mean the same rate), infinities and NaN
    become their names (JSON has none), paths become strings, NumPy scalars become Python's.

    Args:
        value: what to convert.
        key: the dotted key under which it stands, for the message.

    Raises:
        InputError: the value has no such form.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(v, f"{key}.{i}" if key else str(i)) for i, v in enumerate(value)]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(float(value))
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, PurePath):
        return str(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a NumPy or torch scalar
        return plain(value.item(), key)
    raise InputError(
        f"{key or 'the value'}: {type(value).__name__} cannot be recorded; "
        "use text, numbers, booleans, lists and mappings"
    )


def differences(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> list[str]:
    """What ``later`` changes in ``earlier``, one ``"optimizer.lr: 0.002 -> 0.1"`` per dotted key.

    Lists are compared as a whole. A key that only one of them has reads ``(absent)`` in the other.
    """
    before, after = _leaves(plain(earlier)), _leaves(plain(later))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if old != new:
            lines.append(f"{key}: {old} -> {new}")
    return lines


def _leaves(value: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys with the text of their values; an empty mapping is a value too."""
    if isinstance(value, dict) and value:
        leaves: dict[str, str] = {}
        for key, item in value.items():
            leaves.update(_leaves(item, f"{prefix}.{key}" if prefix else key))
        return leaves
    if not prefix:
        return {}
    return {prefix: value if isinstance(value, str) and value else json.dumps(value)}
