"""What the UNets of the DDPM and the EDM papers share: residual blocks, wiring, initial weights."""

from __future__ import annotations

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
    label_embedding,
    pad_to_multiple,
)

EPS = 1e-6


def keep(x: Tensor) -> Tensor:
    """(B, C, H, W) as it is."""
    return x


def halve(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2): means of 2x2 pixels, the resample filter [1, 1]."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


RESAMPLE = {"keep": keep, "halve": halve, "double": double}


class ResidualBlock(nn.Module):
    """s (skip(x) + conv(dropout(silu(norm(conv(silu(norm(x))) + embedding))))), then attention.

    Args:
        in_channels, out_channels: C and C'; the skip connection is a 1x1 convolution where they
            differ or where the block resamples.
        dropout: probability in front of the second convolution.
        attention: whether self-attention follows, itself residual and scaled.
        num_heads: heads of the attention.
        skip_scale: s, the factor of both residual sums.
        resample: "keep", "halve" or "double", in front of the first convolution and of the skip.
        joins: whether the input is the output of the block before and a skip connection.
        num_groups: of the group normalisations, see :class:`GroupNorm`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dropout: float,
        *,
        attention: bool = False,
        num_heads: int = 1,
        skip_scale: float = 1.0,
        resample: str = "keep",
        joins: bool = False,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        self.joins = joins
        self.modulation_size = out_channels
        self.skip_scale = skip_scale
        self.resample = RESAMPLE[resample]
        self.norm1 = GroupNorm(in_channels, num_groups, EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(out_channels, num_groups, EPS)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels and resample == "keep"
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = (
            SelfAttention(out_channels, num_heads, num_groups, EPS, skip_scale)
            if attention
            else None
        )

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Args: x (B, C, H, W); modulation (B, C'), added to every pixel."""
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        h = F.silu(self.norm2(h + modulation[:, :, None, None]))
        y = self.skip(self.resample(x)) + self.conv2(self.dropout(h))
        y = y if self.skip_scale == 1.0 else y * self.skip_scale
        return y if self.attention is None else self.attention(y)


class JoiningUNet(nn.Module):
    """A UNet whose every encoder output, the stem's too, is joined to one decoder block's input.

    A subclass appends its layers to ``encoder``, ``middle`` and ``decoder``; each is called with
    (h, modulation), has ``modulation_size`` channels of it (or 0) and says with ``joins`` whether
    it takes a skip connection. Then it calls :meth:`finish`.

    Args:
        in_channels: channels of the image, also of the output.
        base_channels: channels of the stem and number of time features.
        num_levels: each level after the first halves height and width.
        num_classes: number of classes, or None.
        labels_on_features: add the class to the time features instead of to their embedding.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        num_levels: int,
        num_classes: int | None,
        labels_on_features: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.size_multiple = 2 ** (num_levels - 1)
        self.labels_on_features = labels_on_features
        num_features = 4 * base_channels
        self.time_features = TimeFeatures(base_channels)
        self.label_embedding = label_embedding(
            num_classes, base_channels if labels_on_features else num_features
        )
        self.time_layer1 = nn.Linear(base_channels, num_features)
        self.time_layer2 = nn.Linear(num_features, num_features)
        self.stem = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        self.encoder, self.middle, self.decoder = (nn.ModuleList() for _ in range(3))

    def finish(
        self,
        in_channels: int,
        channels: int,
        *,
        zero_gain: float,
        qkv_gain: float,
        num_groups: int = 32,
    ) -> None:
        """Add the layers that depend on the others, and draw the initial weights.

        Weights are Xavier-uniform and biases zero; each residual branch and the output begin with
        ``zero_gain`` times that (0, or next to it), queries, keys and values with ``qkv_gain``.

        Args:
            in_channels: of the image.
            channels: of the last decoder block's output.
            zero_gain, qkv_gain: factors of the initial weights.
            num_groups: of the last group normalisation.
        """
        self.modulation_sizes = [layer.modulation_size for layer in self._layers()]
        # One product for all blocks instead of one each.
        self.modulation = nn.Linear(self.time_layer2.out_features, sum(self.modulation_sizes))
        self.out_norm = GroupNorm(channels, num_groups, EPS)
        self.out = nn.Conv2d(channels, in_channels, 3, padding=1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Matrices stored as one, each with its own fan-out.
        for block in self.modulation.weight.detach().split(self.modulation_sizes):
            if len(block) > 0:
                nn.init.xavier_uniform_(block)
        nearly_zero = [self.out]
        for layer in self._layers():
            if isinstance(layer, ResidualBlock):
                nearly_zero.append(layer.conv2)
                if layer.attention is not None:
                    nearly_zero.append(layer.attention.proj)
                    for matrix in layer.attention.qkv.weight.detach().chunk(3):
                        nn.init.xavier_uniform_(matrix, gain=qkv_gain)
        for module in nearly_zero:
            module.weight.detach().mul_(zero_gain)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x (B, C, H, W); t (B,) what the schedule tells about time; labels (B,) or None."""
        features = self.time_features(t)  # (B, base_channels)
        if self.labels_on_features:
            features = add_labels(features, self.label_embedding, labels)
        embedding = self.time_layer2(F.silu(self.time_layer1(features)))  # (B, 4 base_channels)
        if not self.labels_on_features:
            embedding = add_labels(embedding, self.label_embedding, labels)
        modulations = self.modulation(F.silu(embedding)).split(self.modulation_sizes, dim=1)
        modulation = iter(modulations)

        h = self.stem(pad_to_multiple(x, self.size_multiple))
        skips = [h]
        for layer in self.encoder:
            h = layer(h, next(modulation))
            skips.append(h)
        for layer in self.middle:
            h = layer(h, next(modulation))
        for layer in self.decoder:
            h = torch.cat([h, skips.pop()], dim=1) if layer.joins else h
            h = layer(h, next(modulation))
        return crop(self.out(F.silu(self.out_norm(h))), *x.shape[-2:])

    def _layers(self) -> list[nn.Module]:
        return [*self.encoder, *self.middle, *self.decoder]
