"""The trained model in the catalog: ``model``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt, publish

if TYPE_CHECKING:
    from kedro_datasets._typing import JSONPreview

    from ddpm_kedro.diffusion.model import Model


class ModelFile(AbstractDataset):
    """One safetensors file with the model's spec in its metadata.

    Args:
        filepath: the file.
        weights: the set of weights that a load gives: ``ema``, ``raw``, or another in the file.
        trusted_modules: module prefixes, beside this package's own, that the file's spec may name.
        metadata: for plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        weights: str = "ema",
        trusted_modules: Sequence[str] = (),
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._filepath = Path(filepath)
        self._weights = weights
        self._trusted_modules = tuple(trusted_modules)
        self.metadata = metadata

    def load(self) -> Model:
        """The model on the CPU.

        Raises:
            InputError: there is none yet, or it is not one of ours.
        """
        if not self._filepath.is_file():
            raise InputError(
                f"no model at {self._filepath}: run `kedro run --pipelines training` first"
            )
        from ddpm_kedro.diffusion.model import load_model

        return load_model(
            self._filepath, weights=self._weights, trusted_modules=self._trusted_modules
        )

    def save(self, data: Receipt) -> None:
        """Publish the model file that training wrote, in one rename."""
        publish(data.path, self._filepath)

    def preview(self) -> JSONPreview:
        """The facts in the file's metadata, for Kedro-Viz; nothing of the weights is read."""
        if not self._filepath.is_file():
            return ""
        from safetensors import safe_open

        with safe_open(self._filepath, framework="np") as file:
            facts = file.metadata() or {}
        return json.dumps({key: _decoded(text) for key, text in facts.items()})

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "weights": self._weights}


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
