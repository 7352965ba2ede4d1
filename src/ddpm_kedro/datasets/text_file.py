"""Text in the catalog: ``report``."""

from __future__ import annotations

from ddpm_kedro.datasets.whole_file import WholeFile
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write


class TextFile(WholeFile[str, str]):
    """One text file in UTF-8, such as an HTML page."""

    def load(self) -> str:
        """The text.

        Raises:
            InputError: there is no file yet, or it is not UTF-8.
        """
        path = self._existing()
        try:
            return path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not text in UTF-8: {error}") from error

    def save(self, data: str) -> None:
        """Write the text as it is; line ends are kept."""
        with atomic_write(self._filepath) as file:
            file.write(data.encode("utf-8"))
