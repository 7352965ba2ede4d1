"""Random numbers without state: every number is a function of where it is used.

A number depends on (seed, stream, step, row, element) alone, through the counter-based generator
Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). So nothing
has to be saved to resume exactly, seeking to a step costs nothing, a slice of a batch equals the
slice of the whole batch, and another batch size, micro-batch split or worker count sees the same
numbers. The integer part gives the same bits on every device.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Device = torch.device | str | None

_MASK = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85


class Stream(enum.IntEnum):
    """What a random number is for; streams never share numbers. Values are part of the contract:
    a renumbered stream would change every resumed training."""

    TIMESTEP = 1
    NOISE = 2
    FLIP = 3
    LABEL_DROPOUT = 4
    DROPOUT = 5
    INITIAL = 6
    SAMPLER = 7
    HELD_OUT = 8
    HELD_OUT_TIMESTEP = 9
    WEIGHTS = 11


def philox(
    counter: Sequence[Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32 with 10 rounds: four int64 tensors of 32-bit words, uniformly distributed.

    `counter` holds words like them in four tensors that broadcast together, `key` is two words.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(10):
        # A product of two 32-bit words wraps in int64, but its 64 bits are the right ones.
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            ((product_1 >> 32) & _MASK) ^ c1 ^ k0,
            product_1 & _MASK,
            ((product_0 >> 32) & _MASK) ^ c3 ^ k1,
            product_0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


def _words(
    seed: int, stream: int, step: int | Tensor, rows: Tensor, shape: Sequence[int], device: Device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four int64 tensors (B, blocks) of 32-bit words, together enough for the shape."""
    device = rows.device if device is None else torch.device(device)
    rows = rows.to(device=device, dtype=torch.int64)
    block = torch.arange((math.prod(shape) + 3) // 4, device=device, dtype=torch.int64)
    if isinstance(step, int):  # filled on the device: a copy of a host's number would be a wait
        step = torch.full((), step, device=device, dtype=torch.int64)
    # 24 bits of the fourth word extend the step, 8 name the stream. The zero makes of the first a
    # sum of tensors for a compiler, which would compute with a bare range in 32 bits.
    counter = (
        block[None, :] + (step & 0).reshape(1, 1),
        (rows & _MASK)[:, None],
        (step & _MASK).reshape(1, 1),
        (((step >> 32) & 0xFFFFFF) << 8 | int(stream)).reshape(1, 1),
    )
    return philox(counter, (seed & _MASK, (seed >> 32) & _MASK))


def uniform(
    seed: int,
    stream: int,
    step: int | Tensor,
    rows: Tensor,
    shape: Sequence[int] = (),
    *,
    device: Device = None,
) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24: float32 (B, *shape), `shape` of one sample.

    They depend on `seed` (any int; its low 64 bits count), on `stream` (a `Stream`, or 0..255), on
    the number of the `step` (0..2^56-1; a 0-dim int64 tensor keeps a CUDA graph capturable) and on
    `rows`, int64 (B,): the number of each sample in the global batch or of each image, 0..2^32-1.
    They live on `device`; None is that of `rows`.
    """
    words = torch.stack(_words(seed, stream, step, rows, shape, device), dim=-1)
    return _shaped((words >> 8).to(torch.float32) * 2.0**-24, shape)


def normal(
    seed: int,
    stream: int,
    step: int | Tensor,
    rows: Tensor,
    shape: Sequence[int],
    *,
    device: Device = None,
) -> Tensor:
    """Standard normal numbers by Box and Muller's transform (1958); arguments as for `uniform`.

    float32 (B, *shape), of magnitude at most sqrt(2 * 33 ln 2) = 6.8.
    """
    w0, w1, w2, w3 = _words(seed, stream, step, rows, shape, device)
    # (w + 1/2) / 2^32 lies in (0, 1): the logarithm is finite, and the tail reaches 6.7 sigma.
    pairs = []
    for of_radius, of_angle in ((w0, w1), (w2, w3)):
        radius = ((of_radius.to(torch.float32) + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = of_angle.to(torch.float32) * (2.0 * math.pi * 2.0**-32)
        pairs += [radius * angle.cos(), radius * angle.sin()]
    return _shaped(torch.stack(pairs, dim=-1), shape)


def _shaped(values: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *shape) of four numbers for each block (B, blocks, 4), of which some may be left over."""
    return values.flatten(1)[:, : math.prod(shape)].reshape(len(values), *shape)
