"""DDPM++, the UNet of Song et al. 2021 (arXiv:2011.13456) as set for EDM (arXiv:2206.00364)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ddpm_kedro.diffusion.backbones.ddpm import DDPMUNet
from ddpm_kedro.diffusion.backbones.layers import double, halve
from ddpm_kedro.diffusion.backbones.unet import Depth, Levels, Multipliers, Size
from ddpm_kedro.ranges import Share


@dataclass(eq=False, repr=False)
class DDPMPlusPlus(DDPMUNet):
    """The CIFAR-10 network of EDM with its default sizes: 55.7M parameters.

    Against the DDPM paper's: four residual blocks in a level, all residual sums scaled by sqrt(1/2)
    (which keeps their variance), levels joined by residual blocks that resample with the filter
    [1, 1], on the way up one attention block in a level, and residual branches that start next to
    zero (1e-5) instead of at it. The time is added in front of the second normalisation, as EDM
    sets it for this network; its adaptive scale belongs to another one (ADM). EDM's augmentation
    labels are left out: this project augments by flips alone, which need none. Its dropout on
    CIFAR-10 is 0.13.
    """

    skip_scale = math.sqrt(0.5)
    attention_once_upwards = True
    zero_gain = 1e-5
    qkv_gain = math.sqrt(0.2)
    labels_on_features = True
    num_groups: ClassVar[int] = 32
    channels_per_head: ClassVar[None] = None

    in_channels: Size = 3
    base_channels: Size = 128
    channel_mults: Multipliers = (2, 2, 2)
    blocks_per_level: Depth = 4
    attention_levels: Levels = (1,)
    dropout: Share = 0.13

    def downsampler(self, channels: int) -> nn.Module:
        return self.new_block(channels, channels, False, resample=halve)

    def upsampler(self, channels: int) -> nn.Module:
        return self.new_block(channels, channels, False, resample=double)
