"""Facts and numbers in the catalog: ``data_card``, ``metrics``, ``diagnostics``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddpm_kedro.datasets.whole_file import WholeFile
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write

if TYPE_CHECKING:
    from kedro_datasets._typing import JSONPreview, PlotlyPreview, TablePreview


class JSONFile(WholeFile[Any, Any]):
    """One JSON file in UTF-8, indented for a person; Kedro-Viz shows it.

    Args:
        required: whether a load fails where there is no file; else it gives None.
        options: those of :class:`WholeFile`.
    """

    def __init__(self, *, required: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._required = required

    def load(self) -> Any:
        """What the file holds.

        Raises:
            InputError: there is no file yet, or it is not JSON.
        """
        if not self._required and not self._exists():
            return None
        path = self._existing()
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from error

    def save(self, data: Any) -> None:
        """Write plain data, keys in the order they have.

        Raises:
            InputError: something in it is not JSON, a number that is not finite included.
        """
        try:
            text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self._filepath}: cannot be written as JSON: {error}") from error
        with atomic_write(self._filepath) as file:
            file.write(text.encode("utf-8") + b"\n")

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
    """A JSON object with Plotly figures by name under ``figures``; Kedro-Viz shows one of them."""

    def preview(self, figure: str | None = None) -> PlotlyPreview:
        """A figure of the file.

        Args:
            figure: its name; None takes the first. Set it in the catalog by
                ``metadata: {kedro-viz: {preview_args: {figure: nearest_training}}}``.
        """
        figures: Mapping[str, Any] = self.load()["figures"] if self._exists() else {}
        return figures.get(figure or next(iter(figures), ""), {})


def _readable(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
