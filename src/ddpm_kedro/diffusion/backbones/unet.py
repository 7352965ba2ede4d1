"""The encoder and decoder that the UNets share; each network states only what is its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.layers import (
    EPS,
    GroupNorm,
    LabelEmbedding,
    Resample,
    ResidualBlock,
    TimeFeatures,
    crop,
    double,
    pad_to_multiple,
)
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import Check, Settings, Share, number, require


def several(least: int, each: Check) -> Check:
    """A list of numbers, from `least` to 12, of which each is checked; kept as a tuple."""

    def check(values: Any) -> tuple[Any, ...]:
        require(not isinstance(values, str) and least <= len(values) <= 12, f"give {least} to 12")
        return tuple(each.of(value) for value in values)

    return Check(check)


Size = Annotated[int, number(int, least=1, most=1 << 16)]
Depth = Annotated[int, number(int, least=1, most=64)]
Multipliers = Annotated[Sequence[int], several(1, number(int, least=1, most=1024))]
Levels = Annotated[Sequence[int], several(0, number(int, least=0))]


class Backbone(nn.Module, ABC):
    """A network for images of any size: pads them, embeds time and class, crops the answer.

    A subclass calls `add_embedding` and writes `body`. `num_classes` is None for a network without
    labels, `size_multiple` what the downsamplings divide height and width by.
    """

    def __init__(self, num_classes: int | None, size_multiple: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.size_multiple = size_multiple

    def add_embedding(self, num_features: int) -> None:
        """Make the layers of `embed`: here a linear one upon sines and cosines."""
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
        """x (B, C, H, W), multiples of `size_multiple`, and what `embed` made -> output."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); t (B,) what the schedule tells about time; labels (B,) or None."""
        y = self.body(pad_to_multiple(x, self.size_multiple), self.embed(t, labels))
        return crop(y, *x.shape[-2:])


@dataclass(eq=False, repr=False)
class UNet(Settings, Backbone):
    """Residual blocks on the way down and, joined to what was there by skip connections, up again.

    The output of every layer of `encoder` (and of the stem, unless `resamplers_apart`) is joined to
    the input of one block of `decoder`, the last to the first. A subclass sets the class attributes
    and its own numbers in the fields; `downsampler` and `upsampler` make, for C channels, the
    layers between the levels: (B, C, H, W) -> (B, C, H/2, W/2) and back. InputError for a number
    out of its range, or an attention level that does not exist.
    """

    block: ClassVar[type[ResidualBlock]] = ResidualBlock
    skip_scale: ClassVar[float] = 1.0
    downsampler: ClassVar[Callable[[int], nn.Module]]
    upsampler: ClassVar[Callable[[int], nn.Module]]
    middle_attention: ClassVar[Sequence[bool]] = (True, False)  # of each block in the middle
    attention_once_upwards: ClassVar[bool] = False  # of a level's blocks the last alone has it
    resamplers_apart: ClassVar[bool] = False  # in `down` and `up`, not joined; doubled before `up`

    in_channels: Size
    """Of the image, also of the output."""
    base_channels: Size
    """Of the stem."""
    channel_mults: Multipliers
    """Channels of each level in units of `base_channels`; each after the first halves the sides."""
    blocks_per_level: Depth
    """Residual blocks on the way down; on the way up one for each skip connection."""
    attention_levels: Levels
    """Levels (0: full resolution) whose blocks have self-attention; the middle always has it."""
    dropout: Share
    """Probability inside the residual blocks."""
    num_classes: Size | None = None
    """None for a network without labels."""
    num_groups: Size = 32
    """Of the normalisations, fewer where they would have one channel each."""
    channels_per_head: Size | None = None
    """Of an attention; None is one head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = range(len(self.channel_mults))
        if not {*self.attention_levels} <= {*levels}:
            raise InputError(
                f"attention_levels={list(self.attention_levels)}: channel_mults has the levels "
                f"{', '.join(map(str, levels))}"
            )
        Backbone.__init__(self, self.num_classes, 2 ** (len(levels) - 1))
        base_channels = self.base_channels
        self.add_embedding(4 * base_channels)
        self.stem = nn.Conv2d(self.in_channels, base_channels, 3, padding=1)
        self.encoder, self.down, self.middle, self.decoder, self.up = (
            nn.ModuleList() for _ in range(5)
        )
        self.widths = [base_channels * mult for mult in self.channel_mults]
        channels = self._add_levels()
        self.modulation_sizes = [block.modulation_size for block in self.blocks()]
        # One product for all blocks instead of one each: few, large operations.
        self.modulation = nn.Linear(4 * base_channels, sum(self.modulation_sizes))
        self.out_norm = GroupNorm(channels, self.num_groups, EPS)
        self.out = nn.Conv2d(channels, self.in_channels, 3, padding=1)

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
        """A block with this network's options; see `ResidualBlock`."""
        heads = self.heads(out_channels)
        options = {"num_heads": heads if attention else None, "num_groups": self.num_groups}
        options |= {"skip_scale": self.skip_scale, "resample": resample}
        return self.block(in_channels, out_channels, self.dropout, **options)

    def heads(self, channels: int) -> int:
        """Heads of an attention; InputError where they would not divide `channels` evenly."""
        each = self.channels_per_head or channels
        if channels % each:
            raise InputError(f"channels_per_head={each}: give a divisor of {channels}")
        return channels // each

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
