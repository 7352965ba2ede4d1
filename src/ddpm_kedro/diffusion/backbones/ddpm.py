"""The UNet of "Denoising diffusion probabilistic models" (Ho et al. 2020, arXiv:2006.11239)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.layers import TimeFeatures
from ddpm_kedro.diffusion.backbones.unet import Depth, Levels, Multipliers, Size, UNet
from ddpm_kedro.ranges import Share


def strided_conv(channels: int) -> nn.Sequential:
    """Halve height and width by a 3x3 convolution; the zeros stand right and below alone.

    That is TensorFlow's "SAME" padding of even sizes, which the published weights were made with.
    """
    conv = nn.Conv2d(channels, channels, 3, stride=2)
    return nn.Sequential(OrderedDict(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=conv))


def up_conv(channels: int) -> nn.Sequential:
    """Double height and width, then a 3x3 convolution."""
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(OrderedDict(enlarge=nn.Upsample(scale_factor=2.0), conv=conv))


@dataclass(eq=False, repr=False)
class DDPMUNet(UNet):
    """The CIFAR-10 network of the DDPM paper with its default sizes: 35.75M parameters.

    Appendix B: four levels, two residual blocks in each (three on the way up), self-attention at
    16x16 (level 1 of 32x32 images) and in the middle, one head, dropout 0.1, a sinusoidal time
    embedding added to every block. Equal to diffusers' `google/ddpm-cifar10-32` weight by weight.
    Initial weights are Xavier-uniform and biases zero; the last layer of each residual branch and
    the output begin with `zero_gain` times that, queries, keys and values with `qkv_gain`.
    """

    downsampler = staticmethod(strided_conv)
    upsampler = staticmethod(up_conv)
    zero_gain: ClassVar[float] = 0.0
    qkv_gain: ClassVar[float] = 1.0
    labels_on_features: ClassVar[bool] = False  # classes join the time before its two layers

    in_channels: Size = 3
    base_channels: Size = 128
    channel_mults: Multipliers = (1, 2, 2, 2)
    blocks_per_level: Depth = 2
    attention_levels: Levels = (1,)
    dropout: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Matrices stored as one, each with its own fan-out.
        for matrix in self.modulation.weight.detach().split(self.modulation_sizes):
            nn.init.xavier_uniform_(matrix)
        for block in self.blocks():
            if block.attention is not None:
                for matrix in block.attention.qkv.weight.detach().chunk(3):
                    nn.init.xavier_uniform_(matrix, gain=self.qkv_gain)
        for layer in self.branch_ends():
            layer.weight.detach().mul_(self.zero_gain)

    def add_embedding(self, num_features: int) -> None:
        base = num_features // 4
        self.time_features = TimeFeatures(base)
        self.label_embedding = self.new_label_embedding(
            base if self.labels_on_features else num_features
        )
        self.time_layer1 = nn.Linear(base, num_features)
        self.time_layer2 = nn.Linear(num_features, num_features)

    def embed(self, t: Tensor, labels: Tensor | None) -> Tensor:
        features = self.time_features(t)
        if self.labels_on_features:
            features = self.add_labels(features, labels)
        embedding = self.time_layer2(F.silu(self.time_layer1(features)))
        return embedding if self.labels_on_features else self.add_labels(embedding, labels)
