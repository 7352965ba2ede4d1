"""IDX files, the format of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import gzip
import math
from itertools import product
from pathlib import Path

import numpy as np

from ddpm_kedro.errors import InputError

PREFIXES = {"train": "train", "test": "t10k"}


def idx_pairs(folders: list[Path], split: str) -> list[tuple[np.ndarray, np.uint8]] | None:
    """Images (H, W), uint8, each with its label, of a split in the first folder that has both of
    its files; None where no folder has them. InputError where they are broken."""
    for folder, suffix in product(folders, ("", ".gz")):
        images = folder / f"{PREFIXES[split]}-images-idx3-ubyte{suffix}"
        labels = folder / f"{PREFIXES[split]}-labels-idx1-ubyte{suffix}"
        if images.is_file() and labels.is_file():
            scans, digits = read_idx(images), read_idx(labels)
            if len(scans) == len(digits):
                return list(zip(scans, digits, strict=True))
            held = f"{images.name} holds {len(scans)} images and {labels.name} {len(digits)} labels"
            raise InputError(held)
    return None


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file of bytes (magic number 0x0000_08nn, nn dimensions);
    InputError where the file is broken or holds something else."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise InputError(f"{path}: {error}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise InputError(f"{path} is not an IDX file of bytes")
    start = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    if len(content) != start + math.prod(shape):
        raise InputError(f"{path}: {len(content):,} bytes do not hold an array {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
