"""DDPMUNet and diffusers' UNet2DModel: the same network under two sets of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.blocks import ResidualBlock
from ddpm_kedro.diffusion.backbones.ddpm import DDPMUNet
from ddpm_kedro.diffusion.backbones.layers import EPS, GroupNorm
from ddpm_kedro.errors import InputError

# What DDPMUNet is, the network of google/ddpm-cifar10-32 ...
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
# ... and what UNet2DModel takes a key for that its config.json leaves out.
DEFAULTS: Mapping[str, Any] = {
    **FIXED,
    "attention_head_dim": 8,
    "block_out_channels": None,
    "down_block_types": None,
    "downsample_padding": 1,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "out_channels": 3,
    "up_block_types": None,
}
OUTSIDE = {
    "time_layer1": "time_embedding.linear_1",
    "time_layer2": "time_embedding.linear_2",
    "label_embedding.table": "class_embedding",
    "stem": "conv_in",
    "out_norm": "conv_norm_out",
    "out": "conv_out",
}
IN_A_BLOCK = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
IN_A_BLOCK |= {"skip": "conv_shortcut"}
# Names that attention layers had before diffusers 0.15, which google's files still have.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SIDES = {
    "encoder": ("down_blocks.{}", "downsamplers"),
    "middle": ("mid_block", ""),
    "decoder": ("up_blocks.{}", "upsamplers"),
}
ALL = slice(None)


def export_unet(
    network: nn.Module, height: int, width: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and weights of the `UNet2DModel` that equals a `DDPMUNet`.

    InputError where diffusers has no equal of the network, or none for images of this size.
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
    if network.widths[0] != network.stem.out_channels:
        raise InputError(
            "diffusers' UNet2DModel has as many channels in its stem as in its first level: "
            "only a DDPMUNet whose channel_mults begin with 1 can be exported"
        )
    groups = {module.num_groups for module in network.modules() if isinstance(module, GroupNorm)}
    if len(groups) > 1:
        raise InputError(
            "diffusers' UNet2DModel has one number of groups for all its normalisations, this "
            f"network has {', '.join(map(str, sorted(groups)))}: it was built with a num_groups "
            "that does not fit its channels"
        )
    widths, heads = network.widths, network.middle[0].attention.num_heads
    per_head = None if network.channels_per_head is None else widths[-1] // heads
    attends = [level in network.attention_levels for level in range(len(widths))]
    down = ["AttnDownBlock2D" if attention else "DownBlock2D" for attention in attends]
    config = {
        **FIXED,
        "attention_head_dim": per_head,
        "block_out_channels": list(widths),
        "down_block_types": down,
        "dropout": network.encoder[0].dropout.p,
        "in_channels": network.stem.in_channels,
        "layers_per_block": network.blocks_per_level,
        "norm_num_groups": groups.pop(),
        "num_class_embeds": None if network.num_classes is None else network.num_classes + 1,
        "num_train_timesteps": None,
        "out_channels": network.stem.in_channels,
        "sample_size": height if height == width else [height, width],
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
    }
    state = network.state_dict()
    return config, {theirs: state[ours][rows].clone() for ours, rows, theirs in _tensors(network)}


def import_unet(
    config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of the `DDPMUNet` that equals a `UNet2DModel`, and its weights.

    `config` is the model's `config.json`; `weights` may have diffusers' names of before 0.15 too.
    InputError where the model differs from `DDPMUNet`, or its weights from its configuration.
    """
    arguments = _arguments({**DEFAULTS, **config})
    with torch.device("meta"):
        network = DDPMUNet(**arguments)
    wanted = arguments["num_groups"]
    for name, module in network.named_modules():
        if isinstance(module, GroupNorm) and module.num_groups != wanted:
            raise InputError(
                f"UNet2DModel with norm_num_groups={wanted}: {name} of "
                f"{module.num_channels} channels would have fewer than two channels in a group"
            )
    weights = {_new_name(name): tensor for name, tensor in weights.items()}
    tensors = list(_tensors(network))
    different = sorted({theirs for *_, theirs in tensors} ^ weights.keys())
    if different:
        raise InputError(f"its weights do not fit its config.json, first {different[0]}")
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    state = {name: torch.empty(shape, dtype=torch.float32) for name, shape in shapes.items()}
    for ours, share, theirs in tensors:
        rows, tensor = state[ours][share], weights[theirs]
        if rows.shape != tensor.shape and rows.numel() != tensor.numel():
            raise InputError(
                f"its {theirs} has the shape {tuple(tensor.shape)}, "
                f"its config.json says {tuple(rows.shape)}"
            )
        rows.copy_(tensor.reshape(rows.shape))
    return arguments, state


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of DDPMUNet in a UNet2DModel's configuration."""

    def demand(holds: bool, name: str, right: str) -> None:
        if not holds:
            raise InputError(f"UNet2DModel with {name}={config[name]!r}: {right}")

    for name, value in FIXED.items():
        right = f"only networks laid out like google/ddpm-cifar10-32 can be imported: {value!r}"
        demand(config[name] == value, name, right)
    lists = ("block_out_channels", "down_block_types", "up_block_types")
    widths, down, up = (config[name] for name in lists)
    for name in lists:
        demand(isinstance(config[name], list | tuple) and config[name], name, "give a list")
    is_known = not set(down) - {"DownBlock2D", "AttnDownBlock2D"} and len(down) == len(widths)
    demand(is_known, "down_block_types", "cannot be imported")
    mirror = [name.replace("Down", "Up") for name in reversed(down)]
    demand(mirror == list(up), "up_block_types", "not down_block_types' mirror")
    are_multiples = all(isinstance(width, int) and not width % widths[0] for width in widths)
    demand(are_multiples, "block_out_channels", "give multiples of the first")
    channels, embeds = config["in_channels"], config["num_class_embeds"]
    demand(config["out_channels"] == channels, "out_channels", f"give in_channels, {channels}")
    return {
        "in_channels": channels,
        "base_channels": widths[0],
        "channel_mults": [width // widths[0] for width in widths],
        "blocks_per_level": config["layers_per_block"],
        "attention_levels": [level for level, name in enumerate(down) if "Attn" in name],
        "dropout": config["dropout"],
        "channels_per_head": config["attention_head_dim"],
        "num_groups": config["norm_num_groups"],
        "num_classes": None if embeds is None else embeds - 1,
    }


def _new_name(name: str) -> str:
    """The name that diffusers gives a tensor today."""
    parts = name.split(".")
    if "attentions" in parts:
        parts = [OLD_NAMES.get(item, item) for item in parts]
    return ".".join(parts)


def _tensors(network: DDPMUNet) -> Iterator[tuple[str, slice, str]]:
    """(our tensor, rows of it, diffusers' tensor that they are the whole of): each tensor once."""
    state = network.state_dict()
    for ours, rows, theirs in _layers(network):
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in state:
                yield f"{ours}.{kind}", rows, f"{theirs}.{kind}"


def _layers(network: DDPMUNet) -> Iterator[tuple[str, slice, str]]:
    """(our layer, rows of its tensors, their layer); some have no such tensor."""
    yield from ((ours, ALL, theirs) for ours, theirs in OUTSIDE.items())
    first = 0
    for ours, layer, theirs in _places(network):
        if not isinstance(layer, ResidualBlock):
            yield f"{ours}.conv", ALL, f"{theirs}.conv"
            continue
        yield from (
            (f"{ours}.{name}", ALL, f"{theirs}.{other}") for name, other in IN_A_BLOCK.items()
        )
        channels = layer.modulation_size
        yield "modulation", slice(first, first + channels), f"{theirs}.time_emb_proj"
        first += channels
        if layer.attention is not None:
            attention = theirs.replace("resnets", "attentions")
            yield f"{ours}.attention.norm", ALL, f"{attention}.group_norm"
            yield f"{ours}.attention.proj", ALL, f"{attention}.to_out.0"
            for index, name in enumerate("qkv"):
                rows = slice(index * channels, (index + 1) * channels)
                yield f"{ours}.attention.qkv", rows, f"{attention}.to_{name}"


def _places(network: DDPMUNet) -> Iterator[tuple[str, nn.Module, str]]:
    """(our name, layer, diffusers' name) in the order in which the modulation is split."""
    for side, (theirs, resamplers) in SIDES.items():
        level, block = 0, 0
        for index, layer in enumerate(getattr(network, side)):
            is_block = isinstance(layer, ResidualBlock)
            place = f"resnets.{block}" if is_block else f"{resamplers}.0"
            yield f"{side}.{index}", layer, f"{theirs.format(level)}.{place}"
            level, block = (level, block + 1) if is_block else (level + 1, 0)
