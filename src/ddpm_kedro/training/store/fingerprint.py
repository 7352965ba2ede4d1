"""Which training is this: a short hash of everything that shapes it, and what differs from another.

Two runs with equal fingerprints compute the same thing, so the second may continue the first. What
shapes a training goes in (data, network, schedule, objective, optimizer, seed ...); what only
changes how fast or where it runs stays out (device, precision, workers, intervals, paths).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ddpm_kedro.plain import canonical, canonical_json

FINGERPRINT_DIGITS = 16
_ABSENT = "(absent)"


def fingerprint(shaping: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of SHA-256 over the canonical JSON of `shaping`.

    The order of keys, tuples against lists and 1 against 1.0 make no difference; every value does.
    What JSON does not hold is refused, as by `ddpm_kedro.plain.canonical`.
    """
    return hashlib.sha256(canonical_json(shaping).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def differences(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> list[str]:
    """What `later` changes in `earlier`, one `"optimizer.lr: 0.002 -> 0.1"` per dotted key.

    Lists are compared as a whole. A key that only one of them has reads `(absent)` in the other.
    """
    before, after = _leaves(canonical(earlier)), _leaves(canonical(later))
    return [
        f"{key}: {before.get(key, _ABSENT)} -> {after.get(key, _ABSENT)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _leaves(value: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys with the text of their values; an empty mapping is a value too."""
    if isinstance(value, dict) and (value or not prefix):
        parts = (_leaves(v, f"{prefix}.{key}" if prefix else key) for key, v in value.items())
        return {name: text for part in parts for name, text in part.items()}
    return {prefix: value if isinstance(value, str) and value else json.dumps(value)}
