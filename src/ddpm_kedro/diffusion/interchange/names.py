"""Which rows of which of DDPMUNet's tensors are which of UNet2DModel's tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from ddpm_kedro.diffusion.backbones.blocks import ResidualBlock
from ddpm_kedro.diffusion.backbones.ddpm import DDPMUNet

OUTSIDE = {
    "time_layer1": "time_embedding.linear_1",
    "time_layer2": "time_embedding.linear_2",
    "label_embedding.table": "class_embedding",
    "stem": "conv_in",
    "out_norm": "conv_norm_out",
    "out": "conv_out",
}
IN_A_BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
IN_A_BLOCK |= {"skip": "conv_shortcut"}
IN_AN_ATTENTION = {"norm": "group_norm", "proj": "to_out.0"}
# Names that attention layers had before diffusers 0.15, which google's files still have.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Entry:
    """Rows ``first`` to ``last`` of our tensor ``ours`` are the whole of diffusers' ``theirs``."""

    ours: str
    first: int
    last: int | None
    theirs: str


def entries(network: DDPMUNet) -> list[Entry]:
    """All tensors of both, each once."""
    state = network.state_dict()
    return [
        Entry(f"{ours}.{kind}", first, last, f"{theirs}.{kind}")
        for ours, first, last, theirs in _layers(network)
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in state
    ]


def new_name(name: str) -> str:
    """The name that diffusers gives a tensor today."""
    parts = name.split(".")
    if "attentions" in parts:
        parts = [OLD_NAMES.get(item, item) for item in parts]
    return ".".join(parts)


def _layers(network: DDPMUNet) -> Iterator[tuple[str, int, int | None, str]]:
    """(our layer, first and last row of its tensors, their layer); some have no such tensor."""
    for ours, theirs in OUTSIDE.items():
        yield ours, 0, None, theirs
    starts = accumulate(network.modulation_sizes, initial=0)
    for ours, layer, theirs in _places(network):
        if not isinstance(layer, ResidualBlock):
            yield f"{ours}.conv", 0, None, f"{theirs}.conv"
            continue
        for name, other in IN_A_BLOCK.items():
            yield f"{ours}.{name}", 0, None, f"{theirs}.{other}"
        first, channels = next(starts), layer.modulation_size
        yield "modulation", first, first + channels, f"{theirs}.time_emb_proj"
        attention = theirs.replace(".resnets.", ".attentions.")
        if layer.attention is not None:
            for name, other in IN_AN_ATTENTION.items():
                yield f"{ours}.attention.{name}", 0, None, f"{attention}.{other}"
            for index, name in enumerate(("to_q", "to_k", "to_v")):
                first = index * channels
                yield f"{ours}.attention.qkv", first, first + channels, f"{attention}.{name}"


def _places(network: DDPMUNet) -> Iterator[tuple[str, nn.Module, str]]:
    """(our name, layer, diffusers' name) in the order in which the modulation is split."""
    yield from _side(network.encoder, "encoder", "down_blocks", "downsamplers")
    for index, layer in enumerate(network.middle):
        yield f"middle.{index}", layer, f"mid_block.resnets.{index}"
    yield from _side(network.decoder, "decoder", "up_blocks", "upsamplers")


def _side(
    layers: Iterable[nn.Module], ours: str, theirs: str, resamplers: str
) -> Iterator[tuple[str, nn.Module, str]]:
    level, block = 0, 0
    for index, layer in enumerate(layers):
        is_block = isinstance(layer, ResidualBlock)
        place = f"resnets.{block}" if is_block else f"{resamplers}.0"
        yield f"{ours}.{index}", layer, f"{theirs}.{level}.{place}"
        level, block = (level, block + 1) if is_block else (level + 1, 0)
