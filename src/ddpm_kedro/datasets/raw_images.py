"""Images as they were published or collected, in the catalog: ``raw_images``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from ddpm_kedro.construction import build
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.source import ImageSource


class RawImages(AbstractDataset):
    """Loads as an ``ImageSource``: nothing is read before a node asks for it.

    Args:
        source: an option, ``{type: dotted path, **arguments}``: an entry of the table ``datasets``.
        metadata: for plugins.
    """

    def __init__(
        self, *, source: Mapping[str, Any], metadata: dict[str, Any] | None = None
    ) -> None:
        self._source = dict(source)
        self.metadata = metadata

    def load(self) -> ImageSource:
        """The source.

        Raises:
            InputError: its type is unknown, makes something else, or refuses its arguments.
        """
        source = build(self._source)
        if not isinstance(source, ImageSource):
            raise InputError(
                f"dataset type={self._source['type']} is not an ImageSource; "
                "ddpm_kedro.images.ImageFolder is one"
            )
        return source

    def save(self, data: Any) -> NoReturn:
        """Not possible.

        Raises:
            DatasetError: always.
        """
        raise DatasetError("raw_images is where images come from; nothing is written to it")

    def _exists(self) -> bool:
        try:
            return bool(self.load().splits())
        except InputError:
            return False

    def _describe(self) -> dict[str, Any]:
        return self._source
