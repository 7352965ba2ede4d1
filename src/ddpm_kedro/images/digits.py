"""scikit-learn's bundled scans of handwritten digits: real images that need no download."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_kedro.images.source import ImageSource, RawImage, SplitInfo


class Digits(ImageSource):
    """1,797 scans, 8x8 pixels, grey, ten classes, no test split of their own.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its
    test part). A pixel counts ink in a 4x4 block of the scan, 0..16; here it is scaled to 0..255.
    """

    name = "digits"
    classes = tuple(str(digit) for digit in range(10))

    @cached_property
    def _scans(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target

    def splits(self) -> dict[str, SplitInfo]:
        return {"train": SplitInfo(len(self._scans[0]))}

    def read(self, split: str) -> Iterator[RawImage]:
        for index, (scan, digit) in enumerate(zip(*self._scans, strict=True)):
            yield RawImage(f"digits[{index}]", partial(tuple, (scan, int(digit))))

    def facts(self) -> dict[str, Any]:
        # Every run asks, and to import scikit-learn takes seconds
        try:
            package = Path(str(find_spec("sklearn").origin)).parent
            content = gzip.decompress((package / "datasets/data/digits.csv.gz").read_bytes())
        except (AttributeError, OSError):
            scans, digits = self._scans
            content = scans.tobytes() + bytes(digits.tolist())
        return {"sha256": hashlib.sha256(content).hexdigest()}
