"""The UNet of "Denoising diffusion probabilistic models" (Ho et al. 2020, arXiv:2006.11239)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.layers import (
    existing_levels,
    multipliers,
    positive,
    probability,
)
from ddpm_kedro.diffusion.backbones.unet import JoiningUNet, ResidualBlock, double
from ddpm_kedro.errors import InputError


class StridedConv(nn.Module):
    """Halve height and width by a 3x3 convolution; the zeros stand right and below alone.

    That is TensorFlow's "SAME" padding of even sizes, which the published weights were made with.
    """

    joins = False
    modulation_size = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class UpConv(nn.Module):
    """Double height and width, then a 3x3 convolution."""

    joins = False
    modulation_size = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        return self.conv(double(x))


class DDPMUNet(JoiningUNet):
    """The CIFAR-10 network of the DDPM paper with its default sizes: 35.75M parameters.

    Appendix B: four levels, two residual blocks in each (three on the way up), self-attention at
    16x16 and in the middle, dropout 0.1, a sinusoidal time embedding added to every block. Equal to
    diffusers' ``google/ddpm-cifar10-32`` weight by weight. The last layer of each residual branch
    and the output start at zero.

    Args:
        in_channels: channels of the image, also of the output.
        base_channels: channels of the first level.
        channel_mults: channels of each level in units of ``base_channels``; each level after the
            first halves height and width.
        blocks_per_level: residual blocks of a level on the way down; one more on the way up.
        attention_levels: levels with self-attention; level 1 is 16x16 for 32x32 images.
        dropout: probability inside the residual blocks.
        channels_per_head: channels of an attention head; None is one head, as in the paper.
        num_groups: groups of the normalisations, fewer where they would have one channel each.
        num_classes: number of classes, or None for a network without labels.

    Raises:
        InputError: a size out of its range, or an attention level that does not exist.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_mults: Sequence[int] = (1, 2, 2, 2),
        blocks_per_level: int = 2,
        attention_levels: Sequence[int] = (1,),
        dropout: float = 0.1,
        channels_per_head: int | None = None,
        num_groups: int = 32,
        num_classes: int | None = None,
    ) -> None:
        positive(in_channels=in_channels, base_channels=base_channels, num_groups=num_groups)
        positive(64, blocks_per_level=blocks_per_level)
        probability("dropout", dropout)
        channel_mults = multipliers("channel_mults", channel_mults)
        existing_levels("attention_levels", attention_levels, len(channel_mults))
        super().__init__(in_channels, base_channels, len(channel_mults), num_classes, False)
        width = [base_channels * mult for mult in channel_mults]
        levels = range(len(width))

        def block(channels: int, level: int, attention: bool, joins: bool = False) -> ResidualBlock:
            heads = 1 if channels_per_head is None else width[level] // channels_per_head
            if heads < 1 or width[level] % heads:
                raise InputError(
                    f"channels_per_head={channels_per_head}: give a divisor of {width[level]}"
                )
            return ResidualBlock(
                channels,
                width[level],
                dropout,
                attention=attention,
                num_heads=heads,
                joins=joins,
                num_groups=num_groups,
            )

        channels, skips = base_channels, [base_channels]
        for level in levels:
            for _ in range(blocks_per_level):
                self.encoder.append(block(channels, level, level in attention_levels))
                channels = width[level]
                skips.append(channels)
            if level < levels[-1]:
                self.encoder.append(StridedConv(channels))
                skips.append(channels)
        self.middle.append(block(channels, levels[-1], True))
        self.middle.append(block(channels, levels[-1], False))
        for level in reversed(levels):
            for _ in range(blocks_per_level + 1):
                joined = channels + skips.pop()
                self.decoder.append(block(joined, level, level in attention_levels, joins=True))
                channels = width[level]
            if level > 0:
                self.decoder.append(UpConv(channels))
        self.finish(in_channels, channels, zero_gain=0.0, qkv_gain=1.0, num_groups=num_groups)
