"""Fine-tuning: training starts from the weights of a model file."""

from __future__ import annotations

from torch import Tensor, nn

from ddpm_kedro.diffusion.model import load_model
from ddpm_kedro.errors import InputError
from ddpm_kedro.training.settings import TrainingSettings


def initial_weights(network: nn.Module, settings: TrainingSettings) -> dict[str, Tensor]:
    """The averaged weights of the model file ``init_from``, which fit ``network``.

    Raises:
        InputError: the file is no whole model, or of another backbone.
    """
    assert settings.init_from is not None
    own_module = settings.backbone["type"].rpartition(".")[0]
    weights = load_model(settings.init_from, trusted_modules=(own_module,)).network.state_dict()
    wanted = network.state_dict()
    different = sorted(
        name
        for name in wanted.keys() | weights.keys()
        if name not in wanted or name not in weights or wanted[name].shape != weights[name].shape
    )
    if different:
        raise InputError(
            f"training.init_from={settings.init_from}: its backbone is another one; "
            f"{len(different)} tensors differ, first {different[0]}"
        )
    return weights
