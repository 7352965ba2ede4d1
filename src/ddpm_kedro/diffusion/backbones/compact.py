"""A small UNet with today's parts, made for few cores and small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.layers import ResidualBlock, zero_init
from ddpm_kedro.diffusion.backbones.unet import Depth, Levels, Multipliers, Size, UNet
from ddpm_kedro.ranges import Share

CHANNELS_PER_HEAD = 32


class ScaledBlock(ResidualBlock):
    """Residual block whose second normalisation is scaled and shifted: (1 + scale) norm + shift.

    Adaptive normalisation after Dhariwal & Nichol 2021 (arXiv:2105.05233).
    """

    numbers_per_channel = 2

    def modulated_norm(self, h: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm2(h), 1 + scale).to(h.dtype)


@dataclass(eq=False, repr=False)
class CompactUNet(UNet):
    """UNet with scale-and-shift blocks, one block in the middle, and blocks alone joined.

    With its default sizes it has 0.46M parameters and learns 8x8 digits in about a minute on two
    cores. Residual branches and the output start at zero. Attention has 32 channels a head where
    that divides them.
    """

    block = ScaledBlock
    middle_attention = (True,)
    resamplers_apart = True
    num_groups: ClassVar[int] = 8
    channels_per_head: ClassVar[None] = None

    in_channels: Size = 1
    base_channels: Size = 32
    channel_mults: Multipliers = (1, 2)
    blocks_per_level: Depth = 1
    attention_levels: Levels = ()
    dropout: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for layer in self.branch_ends():
            zero_init(layer)

    def heads(self, channels: int) -> int:
        heads = max(1, channels // CHANNELS_PER_HEAD)
        return heads if channels % heads == 0 else 1

    def downsampler(self, channels: int) -> nn.Module:
        return nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def upsampler(self, channels: int) -> nn.Module:
        return nn.Conv2d(channels, channels, 3, padding=1)
