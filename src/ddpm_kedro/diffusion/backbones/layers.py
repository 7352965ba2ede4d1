"""Blocks that the backbones share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.diffusion.lanes import generator_of_this_lane
from ddpm_kedro.errors import InputError

EPS = 1e-6
MAX_TOKENS_IN_A_TABLE = 1024
Resample = Callable[[Tensor], Tensor] | None


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Surround images (B, C, H, W) with zeros (mid-grey) to sides that `multiple` divides."""
    height, width = x.shape[-2:]
    more_rows, more_columns = -height % multiple, -width % multiple
    if more_rows == 0 and more_columns == 0:
        return x
    top, left = more_rows // 2, more_columns // 2
    return F.pad(x, (left, more_columns - left, top, more_rows - top))


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Take the central (B, C, height, width) out of what `pad_to_multiple` made."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


KERNEL_KEEPS_FORMAT = torch.__version__ >= "2.15"


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018) with statistics in fp32 and the memory format kept.

    torch's own kernel in fp32: on a CPU in bf16 and channels-last it is ten times slower than with
    the cast and back. Under torch.compile on CUDA the formula is written out instead, as one
    reduction and one multiply-add, which fuse with what stands around them; and before torch 2.15,
    whose CUDA kernel was the first to keep channels-last.

    The input is (B, C, H, W), `num_channels` C. There are `num_groups`, or the largest divisor that
    divides C too and leaves a group two channels at least: with one, a time embedding added before
    would be taken out again.
    """

    def __init__(self, num_channels: int, num_groups: int = 32, eps: float = 1e-5) -> None:
        common = math.gcd(num_groups, num_channels)
        fitting = [n for n in range(1, common + 1) if common % n == 0 and 2 * n <= num_channels]
        super().__init__(max(fitting, default=1), num_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda" and (torch.compiler.is_compiling() or not KERNEL_KEEPS_FORMAT):
            return spelled_group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return super().forward(x.float()).to(x.dtype)


def spelled_group_norm(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """weight (x - mean) / sqrt(variance + eps) + bias, written out.

    x (B, C, H, W) keeps its memory format; mean and variance are those of C/G channels.
    """
    image = x.float()
    groups = image.unflatten(1, (num_groups, -1))  # (B, G, C/G, H, W)
    variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0)  # (B, G)
    scale = (variance + eps).rsqrt()[..., None] * weight.view(num_groups, -1)  # (B, G, C/G)
    offset = bias.view(num_groups, -1) - mean[..., None] * scale
    scale, offset = scale.flatten(1)[..., None, None], offset.flatten(1)[..., None, None]
    return torch.addcmul(offset, image, scale).to(x.dtype)


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014), on a CPU with a mask from 16 random bits for each number.

    torch draws 64 bits for each there, one after the other on one core, which takes a twelfth of
    the DDPM UNet's training step. p in [0, 1) is rounded to a multiple of 2^-16, and the scale
    belongs to the rounded one, so that the mean is kept exactly. In a lane it draws from the lane's
    own generator (see `ddpm_kedro.diffusion.lanes`), else from torch's global one.
    """

    def forward(self, x: Tensor) -> Tensor:
        usual = x.device.type != "cpu" or torch.compiler.is_compiling()
        if usual or not self.training or self.p == 0:
            return super().forward(x)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
        words.random_(-(2**63), None, generator=generator_of_this_lane())
        draws = words.view(torch.int16)[: x.numel()]
        kept = (draws >= dropped - 2**15).to(x.dtype).mul_(2**16 / (2**16 - dropped))
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            batch, channels, height, width = x.shape
            return x * kept.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return x * kept.view(x.shape)


class TimeFeatures(nn.Module):
    """Sines and cosines of what a noise schedule tells the network about time.

    (sin(t w_1), ..., sin(t w_n), cos(t w_1), ..., cos(t w_n)) with w_k falling geometrically from 1
    to 1/10000 (Ho et al. 2020, after Vaswani et al. 2017), computed in fp32; `num_features` is 2n,
    even and at least 4.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        if num_features < 4 or num_features % 2:
            raise InputError(f"{num_features} time features: give an even number of at least 4")
        self.num_features = num_features

    def forward(self, t: Tensor) -> Tensor:
        half = self.num_features // 2
        # Made anew at each call: a buffer would be lost when a model is built on the meta device.
        exponents = torch.arange(half, dtype=torch.float32, device=t.device) / (half - 1)
        phases = t.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)  # (B, n)
        return torch.cat([phases.sin(), phases.cos()], dim=1)


class LabelEmbedding(nn.Module):
    """A learned vector for each of K classes and for "no class" (label K, also for None)."""

    def __init__(self, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, num_features)

    def forward(self, labels: Tensor | None, batch: int) -> Tensor:
        if labels is None:
            return self.table.weight[self.num_classes].expand(batch, -1)
        return self.table(labels)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V; each (B, heads, tokens, d).

    By torch's fused kernels, but for half precision on a CPU, where their backward pass is slow:
    there by two products (twice as fast), or in fp32 where the tokens' table would be large.
    """
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value)
    if query.shape[-2] <= MAX_TOKENS_IN_A_TABLE:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return scores.float().softmax(-1).to(value.dtype) @ value
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    return mixed.to(query.dtype)


class SelfAttention(nn.Module):
    """Self-attention over the pixels of an image: skip_scale (x + proj(attention(norm(x)))).

    x is (B, C, H, W), `channels` C, of which `num_heads` is a divisor; `num_groups` and `eps` are
    of the group normalisation.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_groups: int = 32,
        eps: float = 1e-6,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.skip_scale = skip_scale
        self.norm = GroupNorm(channels, num_groups, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C), a view in channels-last
        qkv = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1))  # (B, HW, 3, heads, C/heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, HW, C/heads)
        mixed = attend(query, key, value)
        update = self.proj(mixed.transpose(1, 2).flatten(2))  # (B, HW, C)
        y = x + update.transpose(1, 2).unflatten(2, (height, width))
        return y if self.skip_scale == 1.0 else y * self.skip_scale


def zero_init(module: nn.Module) -> nn.Module:
    """Set a layer's weight and bias to zero, so that its residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def halve(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2): means of 2x2 pixels, the resample filter [1, 1]."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResidualBlock(nn.Module):
    """s (skip(x) + conv(dropout(silu(norm(conv(silu(norm(x))) + embedding))))), then attention.

    `in_channels` and `out_channels` are C and C'; the skip connection is a 1x1 convolution where
    they differ or where the block resamples, by `resample` (`halve` or `double`) in front of first
    convolution and skip. The attention, of `num_heads` (None: there is none), is itself residual
    and scaled; s is `skip_scale`, the factor of both residual sums.
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
        """x (B, C, H, W); modulation (B, modulation_size), the same for every pixel."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = F.silu(self.modulated_norm(self.conv1(h), modulation[:, :, None, None]))
        y = self.skip(x) + self.conv2(self.dropout(h))
        y = y if self.skip_scale == 1.0 else y * self.skip_scale
        return y if self.attention is None else self.attention(y)
