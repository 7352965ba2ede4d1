"""What training made, in the catalog: `model`, `training_log`, `sample_previews`."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ddpm_kedro.datasets.local_entry import LocalEntry, PublishedFile, writing
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt, atomic_folder, atomic_write, fsync

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview, JSONPreview, PlotlyPreview

    from ddpm_kedro.diffusion.model import Model

_NAME = re.compile(r"preview_(\d+)\.png")


class ModelFile(PublishedFile):
    """One safetensors file with the model's spec in its metadata.

    `weights` names the set that a load gives: `ema`, `raw`, or another in the file.
    `trusted_modules` are the prefixes, beside this package's own, that the file's spec may name.
    """

    _missing = "no model at"

    def __init__(
        self, *, weights: str = "ema", trusted_modules: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__(**{"written_by": "training", **options})
        self._weights = weights
        self._trusted_modules = tuple(trusted_modules)

    def load(self) -> Model:
        """The model on the CPU; InputError where there is none yet, or it is not one of ours."""
        path = self._existing()
        from ddpm_kedro.diffusion.model import load_model

        return load_model(path, weights=self._weights, trusted_modules=self._trusted_modules)

    def facts(self) -> dict[str, Any] | None:
        """Besides the hash the `spec` of a model of ours, which names its classes."""
        facts = super().facts()
        if facts is None:
            return None
        from safetensors import SafetensorError

        from ddpm_kedro.diffusion.model_header import read_header

        with contextlib.suppress(SafetensorError, KeyError, ValueError, TypeError):
            facts["spec"] = read_header(self._path)["spec"]
        return facts

    def preview(self) -> JSONPreview:
        """The facts in the file's metadata; nothing of the weights is read."""
        if not self._exists():
            return ""
        from safetensors import safe_open

        with safe_open(self._path, framework="np") as file:
            facts = file.metadata() or {}
        return json.dumps({key: _decoded(text) for key, text in facts.items()})


class JSONLines(LocalEntry):
    """A log with one JSON object a line; Kedro-Viz shows its loss curve."""

    def load(self) -> list[dict[str, Any]]:
        """The records in order; none where there is no log, as beside a model from elsewhere."""
        from ddpm_kedro.training.tracker import read_log

        return read_log(self._path) if self._exists() else []

    def save(self, data: Receipt) -> None:
        """Publish a copy of the log that training wrote; it may go on later and append to it."""
        with open(data.path, "rb") as log, writing(self._path), atomic_write(self._path) as copy:
            shutil.copyfileobj(log, copy)

    def preview(self) -> PlotlyPreview:
        """The report's figure of the loss against images seen."""
        from ddpm_kedro.evaluation.curves import loss_figure

        return loss_figure(self.load()) if self._exists() else {}


class PreviewFolder(LocalEntry):
    """A folder of PNG grids `preview_<images seen>.png`; Kedro-Viz shows the newest."""

    def load(self) -> dict[int, Image.Image]:
        """The grids by the number of training images seen, ascending; none without the folder."""
        grids = {}
        for images_seen, path in self._grids():
            with Image.open(path) as grid:
                grids[images_seen] = grid.copy()
        return grids

    def save(self, data: Receipt) -> None:
        """Publish a copy of the folder that training wrote: a reader finds the old one or the new
        one. InputError where a file is in the way, or the folder cannot be written."""
        if self._path.exists() and not self._path.is_dir():
            raise InputError(f"{self._path}: a file is in the way of a folder; move it")
        with writing(self._path), atomic_folder(self._path) as aside:
            for path in data.path.iterdir():
                if path.is_file() and not path.name.startswith("."):
                    # No links: who alters a picture must not alter training's, which nobody checks
                    shutil.copyfile(path, aside / path.name)
                    fsync(aside / path.name)

    def preview(self) -> ImagePreview:
        """The newest grid as base64."""
        grids = self._grids()
        return base64.b64encode(grids[-1][1].read_bytes()).decode() if grids else ""

    def _grids(self) -> list[tuple[int, Path]]:
        paths = self._path.iterdir() if self._path.is_dir() else ()
        named = ((_NAME.fullmatch(path.name), path) for path in paths)
        return sorted((int(match[1]), path) for match, path in named if match)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
