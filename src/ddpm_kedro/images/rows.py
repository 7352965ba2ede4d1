"""Which rows of an array are looked at where all are too many."""

from __future__ import annotations

import numpy as np


def spread(values: np.ndarray, count: int | None) -> np.ndarray:
    """At most `count` of the rows, evenly over the whole, so that sorted classes all occur."""
    if count is None or len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(np.int64)]
