"""DDPMUNet and diffusers' UNet2DModel: the same network under two sets of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.ddpm import DDPMUNet
from ddpm_kedro.diffusion.backbones.layers import GroupNorm
from ddpm_kedro.diffusion.backbones.unet import EPS, ResidualBlock
from ddpm_kedro.errors import InputError

# What UNet2DModel takes a key for that its config.json leaves out ...
DEFAULTS: Mapping[str, Any] = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "add_attention": True,
    "attention_head_dim": 8,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "num_train_timesteps": None,
    "out_channels": 3,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
# ... and what DDPMUNet is: the network of google/ddpm-cifar10-32.
FIXED: Mapping[str, Any] = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "add_attention": True,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 0,
    "downsample_type": "conv",
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": EPS,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
# Names that attention layers had before diffusers 0.15, which google's files still have.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Entry:
    """Rows ``first`` to ``last`` of our tensor ``ours`` are the whole of diffusers' ``theirs``."""

    ours: str
    first: int
    last: int
    theirs: str


def export_unet(
    network: nn.Module, height: int, width: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and weights of the ``UNet2DModel`` that equals ``network``.

    Args:
        network: a :class:`DDPMUNet`.
        height, width: of the images, multiples of what the network halves them by.

    Raises:
        InputError: diffusers has no equal of the network.
    """
    if type(network) is not DDPMUNet:
        raise InputError(
            f"diffusers has no equal of {type(network).__name__}: only DDPMUNet can be exported"
        )
    if height % network.size_multiple or width % network.size_multiple:
        raise InputError(
            f"diffusers' UNet2DModel takes no images of {height}x{width}: its levels need "
            f"multiples of {network.size_multiple}; DDPMUNet pads them"
        )
    groups = {module.num_groups for module in network.modules() if isinstance(module, GroupNorm)}
    if len(groups) > 1:
        raise InputError(
            "diffusers' UNet2DModel has one number of groups for all its normalisations, this "
            f"network has {', '.join(map(str, sorted(groups)))}: it was built with a num_groups "
            "that does not fit its channels"
        )
    base = network.stem.out_channels
    mults, blocks, attention = _layout(network)
    down = [
        "AttnDownBlock2D" if level in attention else "DownBlock2D" for level in range(len(mults))
    ]
    config = {
        **FIXED,
        "attention_head_dim": _channels_per_head(network),
        "block_out_channels": [base * mult for mult in mults],
        "down_block_types": down,
        "dropout": network.encoder[0].dropout.p,
        "in_channels": network.stem.in_channels,
        "layers_per_block": blocks,
        "norm_num_groups": groups.pop(),
        "num_class_embeds": None if network.num_classes is None else network.num_classes + 1,
        "num_train_timesteps": None,
        "out_channels": network.stem.in_channels,
        "sample_size": height if height == width else [height, width],
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
    }
    state = network.state_dict()
    weights = {
        entry.theirs: state[entry.ours][entry.first : entry.last].clone()
        for entry in _entries(network)
    }
    return config, weights


def import_unet(
    config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of the :class:`DDPMUNet` that equals a ``UNet2DModel``, and its weights.

    Args:
        config: the model's ``config.json``.
        weights: its tensors by diffusers' names, those of before 0.15 too.

    Returns:
        ``(arguments, state)``: the first holds ``in_channels`` and ``num_classes`` too.

    Raises:
        InputError: the model differs from :class:`DDPMUNet`, or its weights from its configuration.
    """
    config = {**DEFAULTS, **config}
    for key, value in FIXED.items():
        if config[key] != value:
            raise InputError(
                f"UNet2DModel with {key}={config[key]!r}: only networks laid out like "
                f"google/ddpm-cifar10-32 can be imported, which have {key}={value!r}"
            )
    arguments = _arguments(config)
    with torch.device("meta"):
        network = DDPMUNet(**arguments)
    for name, module in network.named_modules():
        if isinstance(module, GroupNorm) and module.num_groups != config["norm_num_groups"]:
            raise InputError(
                f"UNet2DModel with norm_num_groups={config['norm_num_groups']}: {name} of "
                f"{module.num_channels} channels would have fewer than two channels in a group"
            )
    weights = {_new_name(name): tensor for name, tensor in weights.items()}
    entries = _entries(network)
    different = sorted({entry.theirs for entry in entries} ^ weights.keys())
    if different:
        raise InputError(f"its weights do not fit its config.json, first {different[0]}")
    state = {
        name: torch.empty(value.shape, dtype=torch.float32)
        for name, value in network.state_dict().items()
    }
    for entry in entries:
        rows, tensor = state[entry.ours][entry.first : entry.last], weights[entry.theirs]
        if rows.shape != tensor.shape and rows.numel() != tensor.numel():
            raise InputError(
                f"its {entry.theirs} has the shape {tuple(tensor.shape)}, "
                f"its config.json says {tuple(rows.shape)}"
            )
        rows.copy_(tensor.reshape(rows.shape))
    return arguments, state


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of DDPMUNet in a UNet2DModel's configuration."""
    widths = config.get("block_out_channels")
    down, up = config.get("down_block_types"), config.get("up_block_types")
    if not all(isinstance(value, (list, tuple)) and value for value in (widths, down, up)):
        raise InputError("UNet2DModel: its config.json has no block_out_channels or block types")
    if set(down) - {"DownBlock2D", "AttnDownBlock2D"} or len(down) != len(widths):
        raise InputError(f"UNet2DModel with down_block_types={list(down)}: cannot be imported")
    if [name.replace("Up", "Down") for name in reversed(up)] != list(down):
        raise InputError(
            f"UNet2DModel with up_block_types={list(up)}: not down_block_types' mirror"
        )
    if any(not isinstance(width, int) or width % widths[0] for width in widths):
        raise InputError(
            f"UNet2DModel with block_out_channels={list(widths)}: give multiples of the first"
        )
    if config["in_channels"] != config["out_channels"]:
        raise InputError(
            f"UNet2DModel with in_channels={config['in_channels']} and "
            f"out_channels={config['out_channels']}: they must be equal"
        )
    embeds = config["num_class_embeds"]
    return {
        "in_channels": config["in_channels"],
        "base_channels": widths[0],
        "channel_mults": [width // widths[0] for width in widths],
        "blocks_per_level": config["layers_per_block"],
        "attention_levels": [level for level, name in enumerate(down) if "Attn" in name],
        "dropout": config["dropout"],
        "channels_per_head": config["attention_head_dim"],
        "num_groups": config["norm_num_groups"],
        "num_classes": None if embeds is None else embeds - 1,
    }


def _layout(network: DDPMUNet) -> tuple[list[int], int, list[int]]:
    """Channel multipliers, blocks in a level and levels with attention, read off the encoder."""
    levels: list[list[ResidualBlock]] = [[]]
    for layer in network.encoder:
        if isinstance(layer, ResidualBlock):
            levels[-1].append(layer)
        else:
            levels.append([])
    base = network.stem.out_channels
    mults = [blocks[0].modulation_size // base for blocks in levels]
    attention = [i for i, blocks in enumerate(levels) if blocks[0].attention is not None]
    return mults, len(levels[0]), attention


def _channels_per_head(network: DDPMUNet) -> int | None:
    """None where each attention has one head, as diffusers writes it."""
    block = network.middle[0]
    heads = block.attention.num_heads
    return None if heads == 1 else block.modulation_size // heads


def _entries(network: DDPMUNet) -> list[Entry]:
    """Which rows of which of our tensors are which of diffusers' tensors: all of both."""
    state = network.state_dict()
    entries: list[Entry] = []

    def same(ours: str, theirs: str) -> None:
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in state:
                rows = len(state[f"{ours}.{kind}"])
                entries.append(Entry(f"{ours}.{kind}", 0, rows, f"{theirs}.{kind}"))

    def part(ours: str, first: int, last: int, theirs: str) -> None:
        for kind in ("weight", "bias"):
            entries.append(Entry(f"{ours}.{kind}", first, last, f"{theirs}.{kind}"))

    same("time_layer1", "time_embedding.linear_1")
    same("time_layer2", "time_embedding.linear_2")
    same("label_embedding.table", "class_embedding")
    same("stem", "conv_in")
    same("out_norm", "conv_norm_out")
    same("out", "conv_out")
    ends = pairwise(accumulate(network.modulation_sizes, initial=0))
    for (ours, layer, theirs), (first, last) in zip(_places(network), ends, strict=True):
        if not isinstance(layer, ResidualBlock):
            same(f"{ours}.conv", f"{theirs}.conv")
            continue
        for name in ("norm1", "conv1", "norm2", "conv2"):
            same(f"{ours}.{name}", f"{theirs}.{name}")
        same(f"{ours}.skip", f"{theirs}.conv_shortcut")
        part("modulation", first, last, f"{theirs}.time_emb_proj")
        if layer.attention is not None:
            attention = theirs.replace(".resnets.", ".attentions.")
            same(f"{ours}.attention.norm", f"{attention}.group_norm")
            same(f"{ours}.attention.proj", f"{attention}.to_out.0")
            channels = layer.modulation_size
            for index, name in enumerate(("to_q", "to_k", "to_v")):
                rows = index * channels, (index + 1) * channels
                part(f"{ours}.attention.qkv", *rows, f"{attention}.{name}")
    return entries


def _places(network: DDPMUNet) -> Iterator[tuple[str, nn.Module, str]]:
    """(our name, layer, diffusers' name) in the order in which the modulation is split."""
    yield from _side("encoder", network.encoder, "down_blocks", "downsamplers")
    for index, layer in enumerate(network.middle):
        yield f"middle.{index}", layer, f"mid_block.resnets.{index}"
    yield from _side("decoder", network.decoder, "up_blocks", "upsamplers")


def _side(
    ours: str, layers: Sequence[nn.Module], theirs: str, resamplers: str
) -> Iterator[tuple[str, nn.Module, str]]:
    level, block = 0, 0
    for index, layer in enumerate(layers):
        if isinstance(layer, ResidualBlock):
            yield f"{ours}.{index}", layer, f"{theirs}.{level}.resnets.{block}"
            block += 1
        else:
            yield f"{ours}.{index}", layer, f"{theirs}.{level}.{resamplers}.0"
            level, block = level + 1, 0


def _new_name(name: str) -> str:
    parts = name.split(".")
    if "attentions" in parts:
        parts = [OLD_NAMES.get(item, item) for item in parts]
    return ".".join(parts)
