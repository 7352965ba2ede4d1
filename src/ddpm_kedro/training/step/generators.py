"""Torch's own generators, which dropout draws from: seeded anew at every step, left as found."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch


def derived_seed(seed: int, *numbers: int) -> int:
    """A 63-bit seed for them."""
    text = "/".join(map(str, map(int, (seed, *numbers))))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def own_generators(device: torch.device) -> AbstractContextManager[None]:
    """Leave torch's global generators as they were found."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)
