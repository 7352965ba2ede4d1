"""The encoder and decoder that the UNets share; each network states only what is its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.blocks import Resample, ResidualBlock, double
from ddpm_kedro.diffusion.backbones.layers import (
    EPS,
    GroupNorm,
    LabelEmbedding,
    TimeFeatures,
    crop,
    existing_levels,
    multipliers,
    pad_to_multiple,
    positive,
    probability,
)
from ddpm_kedro.errors import InputError


class Backbone(nn.Module, ABC):
    """A network for images of any size: pads them, embeds time and class, crops the answer.

    A subclass calls :meth:`add_embedding` and writes :meth:`body`. `num_classes` is None for a
    network without labels, `size_multiple` what the downsamplings divide height and width by.
    """

    def __init__(self, num_classes: int | None, size_multiple: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.size_multiple = size_multiple

    def add_embedding(self, num_features: int) -> None:
        """Make the layers of :meth:`embed`: here a linear one upon sines and cosines."""
        linear = nn.Linear(num_features, num_features)
        self.time_embedding = nn.Sequential(TimeFeatures(num_features), linear)
        self.label_embedding = self.new_label_embedding(num_features)

    def new_label_embedding(self, num_features: int) -> LabelEmbedding | None:
        """A vector for each class, or None for a network without classes."""
        return None if self.num_classes is None else LabelEmbedding(self.num_classes, num_features)

    def embed(self, t: Tensor, labels: Tensor | None) -> Tensor:
        """Time and class as (B, num_features)."""
        return self.add_labels(self.time_embedding(t), labels)

    def add_labels(self, embedding: Tensor, labels: Tensor | None) -> Tensor:
        """Add them to the time's embedding (B, E); InputError for a network without classes."""
        if self.label_embedding is not None:
            return embedding + self.label_embedding(labels, embedding.shape[0])
        if labels is not None:
            raise InputError("labels: this network was built without classes (num_classes=None)")
        return embedding

    @abstractmethod
    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), multiples of ``size_multiple``, and what :meth:`embed` made -> output."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x (B, C, H, W); t (B,) what the schedule tells about time; labels (B,) or None."""
        y = self.body(pad_to_multiple(x, self.size_multiple), self.embed(t, labels))
        return crop(y, *x.shape[-2:])


class UNet(Backbone):
    """Residual blocks on the way down and, joined to what was there by skip connections, up again.

    The output of every layer of ``encoder`` (and of the stem, unless ``resamplers_apart``) is
    joined to the input of one block of ``decoder``, the last to the first. A subclass sets the
    class attributes; ``downsampler`` and ``upsampler`` make, for C channels, the layers between the
    levels: (B, C, H, W) -> (B, C, H/2, W/2) and back.

    Args:
        in_channels: channels of the image, also of the output.
        base_channels: channels of the stem.
        channel_mults: channels of each level in units of `base_channels`; each level after the
            first halves height and width.
        blocks_per_level: residual blocks of a level on the way down; on the way up one for each
            skip connection.
        attention_levels: levels (0 is the full resolution) whose blocks have self-attention; the
            middle has it always.
        dropout: probability inside the residual blocks.
        num_classes: number of classes, or None for a network without labels.
        num_groups: groups of the normalisations, fewer where they would have one channel each.
        channels_per_head: channels of an attention head; None is one head.

    Raises:
        InputError: a size out of its range, or an attention level that does not exist.
    """

    block: ClassVar[type[ResidualBlock]] = ResidualBlock
    skip_scale: ClassVar[float] = 1.0
    downsampler: Callable[[int], nn.Module]
    upsampler: Callable[[int], nn.Module]
    middle_attention: ClassVar[Sequence[bool]] = (True, False)  # of each block in the middle
    attention_once_upwards: ClassVar[bool] = False  # of a level's blocks the last alone has it
    resamplers_apart: ClassVar[bool] = False  # in `down` and `up`, not joined; doubled before `up`

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        channel_mults: Sequence[int],
        blocks_per_level: int,
        attention_levels: Sequence[int],
        dropout: float,
        num_classes: int | None,
        num_groups: int = 32,
        channels_per_head: int | None = None,
    ) -> None:
        positive(in_channels=in_channels, base_channels=base_channels, num_groups=num_groups)
        positive(64, blocks_per_level=blocks_per_level)
        probability("dropout", dropout)
        channel_mults = multipliers("channel_mults", channel_mults)
        existing_levels("attention_levels", attention_levels, len(channel_mults))
        super().__init__(num_classes, 2 ** (len(channel_mults) - 1))
        self.blocks_per_level = blocks_per_level
        self.channels_per_head = channels_per_head
        self.dropout, self.num_groups = dropout, num_groups

        self.add_embedding(4 * base_channels)
        self.stem = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        self.encoder, self.down, self.middle, self.decoder, self.up = (
            nn.ModuleList() for _ in range(5)
        )
        self.widths = [base_channels * mult for mult in channel_mults]
        self.attention_levels = set(attention_levels)
        channels = self._add_levels()
        self.modulation_sizes = [block.modulation_size for block in self.blocks()]
        # One product for all blocks instead of one each: few, large operations.
        self.modulation = nn.Linear(4 * base_channels, sum(self.modulation_sizes))
        self.out_norm = GroupNorm(channels, num_groups, EPS)
        self.out = nn.Conv2d(channels, in_channels, 3, padding=1)

    def _add_levels(self) -> int:
        """Fill encoder, middle and decoder; returns the channels that come out of them."""
        widths, channels = self.widths, self.stem.out_channels
        skips = [] if self.resamplers_apart else [channels]
        for level, width in enumerate(widths):
            if level > 0 and self.resamplers_apart:
                self.down.append(self.downsampler(channels))
            elif level > 0:
                self.encoder.append(self.downsampler(channels))
                skips.append(channels)
            for _ in range(self.blocks_per_level):
                self.encoder.append(self.new_block(channels, width, level in self.attention_levels))
                channels = width
                skips.append(channels)
        for attention in self.middle_attention:
            self.middle.append(self.new_block(channels, channels, attention))
        last = len(skips) // len(widths) - 1
        for level, width in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                ups = self.up if self.resamplers_apart else self.decoder
                ups.append(self.upsampler(channels))
            for index in range(last + 1):
                attention = index == last or not self.attention_once_upwards
                attention = attention and level in self.attention_levels
                self.decoder.append(self.new_block(channels + skips.pop(), width, attention))
                channels = width
        return channels

    def new_block(
        self, in_channels: int, out_channels: int, attention: bool, resample: Resample = None
    ) -> ResidualBlock:
        """A block with this network's options; see :class:`ResidualBlock`."""
        heads = self.heads(out_channels)
        options = {"num_heads": heads if attention else None, "num_groups": self.num_groups}
        options |= {"skip_scale": self.skip_scale, "resample": resample}
        return self.block(in_channels, out_channels, self.dropout, **options)

    def heads(self, channels: int) -> int:
        """Heads of an attention; InputError where they would not divide `channels` evenly."""
        each = channels if self.channels_per_head is None else self.channels_per_head
        heads = channels // each if isinstance(each, int) and each > 0 else 0
        if heads < 1 or channels % heads:
            raise InputError(f"channels_per_head={each!r}: give a divisor of {channels}")
        return heads

    def blocks(self) -> list[ResidualBlock]:
        """All residual blocks, in the order of their share of the modulation."""
        layers = [*self.encoder, *self.middle, *self.decoder]
        return [layer for layer in layers if isinstance(layer, ResidualBlock)]

    def branch_ends(self) -> Iterator[nn.Module]:
        """The last layer of each residual branch, and the output layer."""
        yield self.out
        for block in self.blocks():
            yield block.conv2
            if block.attention is not None:
                yield block.attention.proj

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        shares = self.modulation(F.silu(embedding)).split(self.modulation_sizes, dim=1)
        modulations = iter(shares)  # one for each block
        h = self.stem(x)
        skips = [] if self.resamplers_apart else [h]
        for index, layer in enumerate(self.encoder):
            if self._starts_a_level(index):
                h = self.down[index // self.blocks_per_level - 1](h)
            h = modulated(layer, h, modulations)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, next(modulations))
        for index, layer in enumerate(self.decoder):
            if self._starts_a_level(index):
                h = self.up[index // self.blocks_per_level - 1](double(h))
            joins = isinstance(layer, ResidualBlock) and layer.resample is None
            h = torch.cat([h, skips.pop()], dim=1) if joins else h
            h = modulated(layer, h, modulations)
        return self.out(F.silu(self.out_norm(h)))

    def _starts_a_level(self, index: int) -> bool:
        """Whether a resampler that stands apart comes before a block."""
        return self.resamplers_apart and index > 0 and index % self.blocks_per_level == 0


def modulated(layer: nn.Module, h: Tensor, modulations: Iterator[Tensor]) -> Tensor:
    """A layer's answer to h; a block takes its share of the modulation."""
    return layer(h, next(modulations)) if isinstance(layer, ResidualBlock) else layer(h)
