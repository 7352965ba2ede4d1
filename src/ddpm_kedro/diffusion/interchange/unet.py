"""DDPMUNet and diffusers' UNet2DModel: the same network under two sets of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.backbones.ddpm import DDPMUNet
from ddpm_kedro.diffusion.backbones.layers import EPS, GroupNorm
from ddpm_kedro.diffusion.interchange.names import entries, new_name
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
}


def export_unet(
    network: nn.Module, height: int, width: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and weights of the ``UNet2DModel`` that equals a :class:`DDPMUNet`.

    Raises:
        InputError: diffusers has no equal of the network, or none for images of this size.
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
    down = [
        "AttnDownBlock2D" if level in network.attention_levels else "DownBlock2D"
        for level in range(len(widths))
    ]
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
    weights = {
        entry.theirs: state[entry.ours][entry.first : entry.last].clone()
        for entry in entries(network)
    }
    return config, weights


def import_unet(
    config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of the :class:`DDPMUNet` that equals a ``UNet2DModel``, and its weights.

    `config` is the model's ``config.json``; `weights` may have diffusers' names of before 0.15 too.

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
    weights = {new_name(name): tensor for name, tensor in weights.items()}
    tensors = entries(network)
    different = sorted({entry.theirs for entry in tensors} ^ weights.keys())
    if different:
        raise InputError(f"its weights do not fit its config.json, first {different[0]}")
    state = {
        name: torch.empty(value.shape, dtype=torch.float32)
        for name, value in network.state_dict().items()
    }
    for entry in tensors:
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
