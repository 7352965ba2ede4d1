"""The residual block of the UNets."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.layers import EPS, Dropout, GroupNorm, SelfAttention

Resample = Callable[[Tensor], Tensor] | None


def halve(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2): means of 2x2 pixels, the resample filter [1, 1]."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResidualBlock(nn.Module):
    """s (skip(x) + conv(dropout(silu(norm(conv(silu(norm(x))) + embedding))))), then attention.

    Args:
        in_channels, out_channels: C and C'; the skip connection is a 1x1 convolution where they
            differ or where the block resamples.
        dropout: probability in front of the second convolution.
        num_heads: heads of the attention that follows, itself residual and scaled; None for none.
        num_groups: of the group normalisations, see :class:`GroupNorm`.
        skip_scale: s, the factor of both residual sums.
        resample: :func:`halve` or :func:`double`, in front of first convolution and skip.
    """

    numbers_per_channel: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dropout: float,
        *,
        num_heads: int | None = None,
        num_groups: int = 32,
        skip_scale: float = 1.0,
        resample: Resample = None,
    ) -> None:
        super().__init__()
        self.modulation_size = self.numbers_per_channel * out_channels
        self.skip_scale = skip_scale
        self.resample = resample
        self.norm1 = GroupNorm(in_channels, num_groups, EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(out_channels, num_groups, EPS)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels and resample is None
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = None
        if num_heads is not None:
            self.attention = SelfAttention(out_channels, num_heads, num_groups, EPS, skip_scale)

    def modulated_norm(self, h: Tensor, modulation: Tensor) -> Tensor:
        """The second normalisation of h (B, C', H, W); modulation (B, C', 1, 1) is added before."""
        return self.norm2(h + modulation)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Args: x (B, C, H, W); modulation (B, modulation_size), the same for every pixel."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = F.silu(self.modulated_norm(self.conv1(h), modulation[:, :, None, None]))
        y = self.skip(x) + self.conv2(self.dropout(h))
        y = y if self.skip_scale == 1.0 else y * self.skip_scale
        return y if self.attention is None else self.attention(y)
