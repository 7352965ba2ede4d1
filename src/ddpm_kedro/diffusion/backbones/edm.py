"""DDPM++, the UNet of Song et al. 2021 (arXiv:2011.13456) as set for EDM (arXiv:2206.00364)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ddpm_kedro.diffusion.backbones.layers import (
    existing_levels,
    multipliers,
    positive,
    probability,
)
from ddpm_kedro.diffusion.backbones.unet import JoiningUNet, ResidualBlock

HALF = math.sqrt(0.5)


class DDPMPlusPlus(JoiningUNet):
    """The CIFAR-10 network of EDM with its default sizes: 55.7M parameters.

    Against the DDPM paper's: four residual blocks in a level, all residual sums scaled by sqrt(1/2)
    (which keeps their variance), levels joined by residual blocks that resample with the filter
    [1, 1], on the way up one attention block in a level, and residual branches that start next to
    zero (1e-5) instead of at it. The time is added in front of the second normalisation, as EDM
    sets it for this network; its adaptive scale belongs to another one (ADM). EDM's augmentation
    labels are left out: this project augments by flips alone, which need none.

    Args:
        in_channels: channels of the image, also of the output.
        base_channels: channels of the first level.
        channel_mults: channels of each level in units of ``base_channels``; each level after the
            first halves height and width.
        blocks_per_level: residual blocks of a level on the way down; one more on the way up.
        attention_levels: levels with self-attention; level 1 is 16x16 for 32x32 images.
        dropout: probability inside the residual blocks; EDM has 0.13 on CIFAR-10.
        num_classes: number of classes, or None for a network without labels.

    Raises:
        InputError: a size out of its range, or an attention level that does not exist.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_mults: Sequence[int] = (2, 2, 2),
        blocks_per_level: int = 4,
        attention_levels: Sequence[int] = (1,),
        dropout: float = 0.13,
        num_classes: int | None = None,
    ) -> None:
        positive(in_channels=in_channels, base_channels=base_channels)
        positive(64, blocks_per_level=blocks_per_level)
        probability("dropout", dropout)
        channel_mults = multipliers("channel_mults", channel_mults)
        existing_levels("attention_levels", attention_levels, len(channel_mults))
        super().__init__(in_channels, base_channels, len(channel_mults), num_classes, True)
        width = [base_channels * mult for mult in channel_mults]
        levels = range(len(width))

        def block(channels: int, out_channels: int, **options: object) -> ResidualBlock:
            return ResidualBlock(channels, out_channels, dropout, skip_scale=HALF, **options)

        channels, skips = base_channels, [base_channels]
        for level in levels:
            if level > 0:
                self.encoder.append(block(channels, channels, resample="halve"))
                skips.append(channels)
            for _ in range(blocks_per_level):
                attention = level in attention_levels
                self.encoder.append(block(channels, width[level], attention=attention))
                channels = width[level]
                skips.append(channels)
        self.middle.append(block(channels, channels, attention=True))
        self.middle.append(block(channels, channels))
        for level in reversed(levels):
            if level < levels[-1]:
                self.decoder.append(block(channels, channels, resample="double"))
            for index in range(blocks_per_level + 1):
                attention = level in attention_levels and index == blocks_per_level
                joined = channels + skips.pop()
                self.decoder.append(block(joined, width[level], attention=attention, joins=True))
                channels = width[level]
        self.finish(in_channels, channels, zero_gain=1e-5, qkv_gain=math.sqrt(0.2))
