"""Small files, on any file system, in versions where wanted: JSON, text and pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kedro_datasets.json import JSONDataset
from kedro_datasets.pillow import ImageDataset
from kedro_datasets.text import TextDataset
from PIL import Image

from ddpm_kedro.datasets.file_entry import FileEntry

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview, JSONPreview, PlotlyPreview, TablePreview

# The same bytes on every system: no locale's encoding, no translated line ends
_UTF8 = {"encoding": "utf-8", "newline": ""}


class JSONFile(FileEntry, JSONDataset):
    """Plain data in UTF-8, indented for a person; a number that is not finite is refused."""

    DEFAULT_SAVE_ARGS = {"indent": 2, "ensure_ascii": False, "allow_nan": False}  # noqa: RUF012
    DEFAULT_FS_ARGS = {"open_args_save": {"mode": "w", **_UTF8}}  # noqa: RUF012
    _content = "JSON"
    _end = b"\n"

    def preview(self) -> JSONPreview:
        """The file's content for Kedro-Viz."""
        return json.dumps(self.load(), ensure_ascii=False) if self._exists() else ""


class MetricsFile(JSONFile):
    """A flat JSON object of numbers; Kedro-Viz shows it as a table."""

    def preview(self) -> TablePreview:
        """One row for each metric."""
        metrics: Mapping[str, Any] = self.load() if self._exists() else {}
        rows = [[key, _readable(value)] for key, value in metrics.items()]
        return {"index": list(range(len(rows))), "columns": ["metric", "value"], "data": rows}


class DiagnosticsFile(JSONFile):
    """A JSON object with Plotly figures by name under `figures`; Kedro-Viz shows one of them."""

    def preview(self, figure: str | None = None) -> PlotlyPreview:
        """The figure of that name, or the first; the catalog chooses it by
        `metadata: {kedro-viz: {preview_args: {figure: nearest_training}}}`."""
        figures: Mapping[str, Any] = self.load()["figures"] if self._exists() else {}
        return figures.get(figure or next(iter(figures), ""), {})


class TextFile(FileEntry, TextDataset):
    """Text in UTF-8, such as an HTML page; line ends are kept."""

    DEFAULT_FS_ARGS = {  # noqa: RUF012
        "open_args_save": {"mode": "w", **_UTF8},
        "open_args_load": {"mode": "r", **_UTF8},
    }
    _content = "text in UTF-8"


class PictureFile(FileEntry, ImageDataset):
    """A picture, in the format of its suffix; without a clock or a program's name in it, equal ones
    are equal bytes."""

    DEFAULT_SAVE_ARGS = {"optimize": True}  # noqa: RUF012
    _content = "a whole picture"

    def preview(self, max_side: int = 1024) -> ImagePreview:
        """The picture, made smaller if a side has more than `max_side` pixels."""
        return encoded(self.load(), max_side) if self._exists() else ""


def encoded(image: Image.Image, max_side: int | None = None) -> str:
    """A picture, made smaller if a side has more than `max_side` pixels, as the base64 text of its
    PNG bytes, as Kedro-Viz wants it."""
    if max_side is not None:
        image.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _readable(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
