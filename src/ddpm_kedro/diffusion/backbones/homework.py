"""The UNet of the course that this project comes from, with its faults mended."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.layers import GroupNorm
from ddpm_kedro.diffusion.backbones.unet import Backbone, Size
from ddpm_kedro.ranges import Settings

GROUPS = 8
BOTTLENECK = 4  # side of the windows that the bottleneck averages


class ConvNormReLU(nn.Sequential):
    """3x3 convolution, group normalisation, ReLU: (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            GroupNorm(out_channels, GROUPS),
            nn.ReLU(),
        )


class TripleConv(nn.Module):
    """Three convolutions: the first changes the channels; y = f(h) by the other two of its h.

    With `residual` y = (h + f(h)) / sqrt(2), which keeps the variance.
    """

    def __init__(self, in_channels: int, out_channels: int, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.head = ConvNormReLU(in_channels, out_channels)
        self.body = nn.Sequential(
            ConvNormReLU(out_channels, out_channels), ConvNormReLU(out_channels, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        return (h + self.body(h)) * 0.5**0.5 if self.residual else self.body(h)


class Up(nn.Module):
    """Double height and width of [x, skip]: transposed convolution, then six convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.convs = nn.Sequential(
            TripleConv(out_channels, out_channels), TripleConv(out_channels, out_channels)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(self.up(torch.cat([x, skip], dim=1)))


@dataclass(eq=False, repr=False)
class HomeworkUNet(Settings, Backbone):
    """A convolutional UNet of three levels, without attention; 11.35M parameters at width 128.

    The layout is that of the "naive UNet" taught in many courses (from cloneofsimo/minDiffusion): a
    residual stem, three times three convolutions and a max-pooling, a bottleneck that averages 4x4
    windows and is told the time, and three times a transposed convolution and six convolutions.
    Mended against the published code: the time embedding is sinusoidal instead of sin(W t) with a
    small W, which hardly tells neighbouring steps apart; it is added with its two spatial axes; and
    images of any height and width pass, where both had to be multiples of 32.
    """

    in_channels: Size = 3
    """Of the image, also of the output."""
    hidden_size: Size = 128
    """Channels h of the widest level, a multiple of 8; deeper ones have 2h."""
    num_classes: Size | None = None
    """None for a network without labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Backbone.__init__(self, self.num_classes, size_multiple=8)
        in_channels, hidden_size, wide = self.in_channels, self.hidden_size, 2 * self.hidden_size
        self.stem = TripleConv(in_channels, hidden_size, residual=True)
        self.down1 = TripleConv(hidden_size, hidden_size)
        self.down2 = TripleConv(hidden_size, wide)
        self.down3 = TripleConv(wide, wide)
        self.add_embedding(wide)
        self.unpool = nn.ConvTranspose2d(wide, wide, BOTTLENECK, stride=BOTTLENECK)
        self.unpool_norm = GroupNorm(wide, GROUPS)
        self.up1 = Up(2 * wide, wide)
        self.up2 = Up(2 * wide, hidden_size)
        self.up3 = Up(2 * hidden_size, hidden_size)
        self.out = nn.Conv2d(2 * hidden_size, in_channels, 3, padding=1)

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        embedding = embedding[:, :, None, None]  # (B, 2h, 1, 1): one value for a whole channel
        stem = self.stem(x)  # (B, h, H, W)
        level1 = F.max_pool2d(self.down1(stem), 2)  # (B, h, H/2, W/2)
        level2 = F.max_pool2d(self.down2(level1), 2)  # (B, 2h, H/4, W/4)
        level3 = F.max_pool2d(self.down3(level2), 2)  # (B, 2h, H/8, W/8)

        # Windows that reach over the border average what is there, so that small images pass.
        pooled = F.avg_pool2d(level3, BOTTLENECK, ceil_mode=True)  # (B, 2h, up to H/32, W/32)
        spread = self.unpool(pooled + embedding)
        spread = spread[..., : level3.shape[-2], : level3.shape[-1]]
        spread = F.relu(self.unpool_norm(spread))  # (B, 2h, H/8, W/8)

        y = self.up1(spread, level3) + embedding
        y = self.up3(self.up2(y, level2), level1)
        return self.out(torch.cat([y, stem], dim=1))
