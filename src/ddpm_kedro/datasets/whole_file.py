"""What the one-file datasets share: a path, a clear word when it is missing, whole saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from kedro.io import AbstractDataset

from ddpm_kedro.errors import InputError

In = TypeVar("In")
Out = TypeVar("Out")


class WholeFile(AbstractDataset[In, Out]):
    """A dataset that is one file, read whole and replaced whole.

    Args:
        filepath: the file; its folder is made on the first save.
        written_by: the stage that writes it, named to a user who loads it too early.
        metadata: for plugins, such as Kedro-Viz's layer.
    """

    def __init__(
        self,
        *,
        filepath: str,
        written_by: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._filepath = Path(filepath)
        self._written_by = written_by
        self.metadata = metadata

    def _existing(self) -> Path:
        """The path of the file.

        Raises:
            InputError: there is none yet.
        """
        if not self._filepath.is_file():
            stage = f" --pipelines {self._written_by}" if self._written_by else ""
            raise InputError(f"no file {self._filepath}: run `kedro run{stage}` first")
        return self._filepath

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
