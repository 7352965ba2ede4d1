"""Records as JSON lines in the catalog: ``training_log``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from ddpm_kedro.files import Receipt, atomic_write

if TYPE_CHECKING:
    from kedro_datasets._typing import PlotlyPreview

_CURVES = {"loss": "training", "held_out_loss": "held out"}


class JSONLines(AbstractDataset):
    """A log with one JSON object a line; Kedro-Viz shows its loss curve.

    Args:
        filepath: the file.
        metadata: for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> list[dict[str, Any]]:
        """The records in order; none where there is no log, as beside a model from elsewhere."""
        from ddpm_kedro.training.tracker import read_log

        return read_log(self._filepath) if self._filepath.is_file() else []

    def save(self, data: Receipt) -> None:
        """Publish the log that training wrote, in one rename.

        It is copied, not linked: training may go on later and append to its own.
        """
        with open(data.path, "rb") as log, atomic_write(self._filepath) as copy:
            shutil.copyfileobj(log, copy)

    def preview(self, max_points: int = 1000) -> PlotlyPreview:
        """The loss against images seen as a Plotly figure, on a logarithmic axis.

        Args:
            max_points: of a longer log, every n-th record is shown.
        """
        if not self._filepath.is_file():
            return {}
        records = self.load()
        curves = []
        for key, name in _CURVES.items():
            points = [r for r in records if r.get(key) is not None and "images_seen" in r]
            points = points[:: max(1, -(-len(points) // max_points))]
            if points:
                curves.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers" if len(points) < 50 else "lines",
                        "name": name,
                        "x": [point["images_seen"] for point in points],
                        "y": [point[key] for point in points],
                    }
                )
        layout = {
            "xaxis": {"title": {"text": "training images seen"}},
            "yaxis": {"title": {"text": "loss"}, "type": "log"},
        }
        return {"data": curves, "layout": layout}

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
