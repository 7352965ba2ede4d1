"""Fine-tuning: training starts from the weights of a model file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
from torch import Tensor, nn

from ddpm_kedro.diffusion.model_file import read_model_file
from ddpm_kedro.errors import InputError
from ddpm_kedro.training.settings import TrainingSettings

_PREFIX = "ema/"


def initial_weights(network: nn.Module, settings: TrainingSettings) -> dict[str, Tensor]:
    """The averaged weights of the model file ``init_from``, which fit ``network``.

    Only tensors are taken: nothing that the file names is built.

    Raises:
        InputError: the file is no whole model, or of another backbone.
    """
    assert settings.init_from is not None
    _, tensors = read_model_file(Path(settings.init_from))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _check(network, settings.init_from, shapes)
    return {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(_PREFIX)
    }


def check_initial_weights(network: nn.Module, settings: TrainingSettings) -> None:
    """See by the header of the model file ``init_from`` whether its weights fit ``network``.

    Raises:
        InputError: there is no such file, or its weights are of another backbone.
    """
    assert settings.init_from is not None
    try:
        with safetensors.safe_open(settings.init_from, framework="pt") as file:
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"training.init_from={settings.init_from}: not a whole model file ({error})"
        ) from error
    _check(network, settings.init_from, shapes)


def _check(network: nn.Module, path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    found = {
        name.removeprefix(_PREFIX): shape
        for name, shape in shapes.items()
        if name.startswith(_PREFIX)
    }
    if not found:
        raise InputError(
            f"training.init_from={path}: it has no weights 'ema'; give a model file of this program"
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    names = wanted.keys() | found.keys()
    different = sorted(name for name in names if wanted.get(name) != found.get(name))
    if different:
        raise InputError(
            f"training.init_from={path}: its backbone is another one; "
            f"{len(different)} tensors differ, first {different[0]}"
        )
