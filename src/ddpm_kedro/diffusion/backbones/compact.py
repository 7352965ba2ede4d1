"""A small UNet with today's parts, made for few cores and small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.layers import (
    Dropout,
    GroupNorm,
    SelfAttention,
    TimeFeatures,
    add_labels,
    crop,
    existing_levels,
    label_embedding,
    multipliers,
    pad_to_multiple,
    positive,
    probability,
    zero_init,
)

CHANNELS_PER_HEAD = 32
GROUPS = 8


class ModulatedBlock(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the time.

    y = skip(x) + conv(dropout(silu((1 + scale) norm(conv(silu(norm(x)))) + shift))); the last
    convolution starts at zero, so that the block starts as its skip connection.

    Args:
        in_channels, out_channels: C and C'; the skip connection is a 1x1 convolution where they
            differ.
        dropout: probability in front of the last convolution.
        attention: whether self-attention follows.
    """

    def __init__(
        self, in_channels: int, out_channels: int, dropout: float, attention: bool
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.norm1 = GroupNorm(in_channels, GROUPS, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(out_channels, GROUPS, eps=1e-6)
        self.dropout = Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        heads = max(1, out_channels // CHANNELS_PER_HEAD)
        heads = heads if out_channels % heads == 0 else 1
        self.attention = SelfAttention(out_channels, heads, GROUPS) if attention else None
        if self.attention is not None:
            zero_init(self.attention.proj)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Args: x (B, C, H, W); modulation (B, 2 C'), scale and shift."""
        scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale).to(h.dtype)
        y = self.skip(x) + self.conv2(self.dropout(F.silu(h)))
        return y if self.attention is None else self.attention(y)


class CompactUNet(nn.Module):
    """UNet with group normalisation, SiLU, self-attention and a sinusoidal time embedding.

    With its default sizes it has 0.46M parameters and learns 8x8 digits in about a minute on two
    cores. One linear layer makes the scales and shifts of all blocks at once: few, large operations
    are what a CPU wants. Adaptive normalisation after Dhariwal & Nichol 2021 (arXiv:2105.05233).

    Args:
        in_channels: channels of the image, also of the output.
        base_channels: channels of the first level.
        channel_mults: channels of each level in units of ``base_channels``; each level after the
            first halves height and width.
        blocks_per_level: residual blocks of a level on the way down, and again on the way up.
        attention_levels: levels (0 is the full resolution) whose blocks have self-attention; the
            middle has it always.
        dropout: probability inside the residual blocks.
        num_classes: number of classes, or None for a network without labels.

    Raises:
        InputError: a size out of its range, or an attention level that does not exist.
    """

    def __init__(
        self,
        in_channels: int = 1,
        base_channels: int = 32,
        channel_mults: Sequence[int] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: Sequence[int] = (),
        dropout: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        channel_mults = multipliers("channel_mults", channel_mults)
        positive(in_channels=in_channels, base_channels=base_channels)
        positive(64, blocks_per_level=blocks_per_level)
        probability("dropout", dropout)
        levels = range(len(channel_mults))
        existing_levels("attention_levels", attention_levels, len(channel_mults))
        self.num_classes = num_classes
        self.size_multiple = 2 ** (len(channel_mults) - 1)
        width = [base_channels * mult for mult in channel_mults]

        def block(in_channels: int, level: int, attention: bool | None = None) -> ModulatedBlock:
            if attention is None:
                attention = level in attention_levels
            return ModulatedBlock(in_channels, width[level], dropout, attention)

        num_features = 4 * base_channels
        self.time_embedding = nn.Sequential(
            TimeFeatures(num_features), nn.Linear(num_features, num_features)
        )
        self.label_embedding = label_embedding(num_classes, num_features)
        self.stem = nn.Conv2d(in_channels, base_channels, 3, padding=1)

        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        channels, skips = base_channels, []
        for level in levels:
            if level > 0:
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
            for _ in range(blocks_per_level):
                self.encoder.append(block(channels, level))
                channels = width[level]
                skips.append(channels)
        self.middle = nn.ModuleList([block(channels, levels[-1], True)])
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for level in reversed(levels):
            for _ in range(blocks_per_level):
                self.decoder.append(block(channels + skips.pop(), level))
                channels = width[level]
            if level > 0:
                self.up.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.blocks_per_level = blocks_per_level

        blocks = [*self.encoder, *self.middle, *self.decoder]
        self.modulation_sizes = [2 * block.out_channels for block in blocks]
        self.modulation = nn.Linear(num_features, sum(self.modulation_sizes))
        self.out_norm = GroupNorm(channels, GROUPS, eps=1e-6)
        self.out = zero_init(nn.Conv2d(channels, in_channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x (B, C, H, W); t (B,) what the schedule tells about time; labels (B,) or None."""
        embedding = add_labels(self.time_embedding(t), self.label_embedding, labels)
        modulations = iter(self.modulation(F.silu(embedding)).split(self.modulation_sizes, dim=1))

        h = self.stem(pad_to_multiple(x, self.size_multiple))
        skips = []
        for index, block in enumerate(self.encoder):
            if index > 0 and index % self.blocks_per_level == 0:
                h = self.down[index // self.blocks_per_level - 1](h)
            h = block(h, next(modulations))
            skips.append(h)
        for block in self.middle:
            h = block(h, next(modulations))
        for index, block in enumerate(self.decoder):
            if index > 0 and index % self.blocks_per_level == 0:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
                h = self.up[index // self.blocks_per_level - 1](h)
            h = block(torch.cat([h, skips.pop()], dim=1), next(modulations))
        return crop(self.out(F.silu(self.out_norm(h))), *x.shape[-2:])
