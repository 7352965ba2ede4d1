"""Runs to compare and what came of it, in the catalog: `runs`, `comparison_table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError

from ddpm_kedro.content import content_hash
from ddpm_kedro.datasets.local_entry import LocalEntry
from ddpm_kedro.datasets.report_files import JSONFile

if TYPE_CHECKING:
    from kedro_datasets._typing import TablePreview


class RunFolders(LocalEntry):
    """The folders of finished runs; `path` is where the sweeps lie whose trials `runs` may name,
    see `find_runs`."""

    def __init__(self, *, runs: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._runs = tuple(runs)

    def load(self) -> dict[str, Path]:
        """Folders by name; InputError where none is named, or one is not found or was not
        evaluated."""
        from ddpm_kedro.evaluation.comparison.runs import files_of, find_runs

        found = find_runs(self._runs, self._path)
        for folder in found.values():
            files_of(folder)
        return found

    def save(self, data: Any) -> None:
        """Always a DatasetError."""
        raise DatasetError("runs are read, not saved")

    def facts(self) -> dict[str, dict[str, str]]:
        """By run, the hash of each file that a comparison reads; InputError as in `load`."""
        from ddpm_kedro.evaluation.comparison.runs import files_of

        return {
            name: {
                path.relative_to(folder).as_posix(): content_hash(path) for path in files_of(folder)
            }
            for name, folder in self.load().items()
        }

    def _exists(self) -> bool:
        return bool(self._runs)

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "runs": list(self._runs)}


class ComparisonTable(JSONFile):
    """What a comparison found; Kedro-Viz shows a line for each run."""

    def preview(self) -> TablePreview:
        """Runs, the best first, with their scores and what they took."""
        runs = self.load()["runs"] if self._exists() else {}
        columns = list(dict.fromkeys(key for row in runs.values() for key in row))
        columns = [key for key in columns if not key.endswith("_interval")]
        rows = [[name, *(_shown(row, key) for key in columns)] for name, row in runs.items()]
        return {"index": list(range(len(rows))), "columns": ["run", *columns], "data": rows}


def _shown(row: dict[str, Any], key: str) -> Any:
    """A value with its interval, in four digits."""
    value, interval = row.get(key), row.get(f"{key}_interval")
    if not isinstance(value, float):
        return value
    return f"{value:.4g}" + (f" \u00b1 {interval:.2g}" if interval is not None else "")
