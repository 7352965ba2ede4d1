"""Handles: a node takes one as an input, and reads or writes through it as it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError, Version

from ddpm_kedro.construction import build
from ddpm_kedro.datasets.local_entry import local_path
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.source import ImageSource


class Handle(AbstractDataset):
    """Loads as one live object, the same at every load: made at the first, nothing is read then.

    Args:
        of: the dotted path of its class, or an option `{type: dotted path, **arguments}`.
        version: what Kedro hands over for `versioned: true`: refused, as `credentials` are.
        metadata: for plugins.
        arguments: the object's own; a `path` is a folder on the local disk.
    """

    _SINGLE_PROCESS = True  # neither locks nor listeners travel between processes

    def __init__(
        self,
        *,
        of: str | Mapping[str, Any],
        version: Version | None = None,
        credentials: Any = None,
        metadata: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        option = {"type": of} if isinstance(of, str) else dict(of)
        self._path = None
        if "path" in arguments:
            self._path = local_path(arguments["path"], version, credentials)
            arguments["path"] = str(self._path)
        elif version is not None or credentials is not None:
            local_path(option["type"], version, credentials)
        self._option = {**option, **arguments}
        self._made: Any = None
        self.metadata = metadata

    def load(self) -> Any:
        """The object.

        Raises:
            InputError: its type is unknown or refuses its arguments.
        """
        if self._made is None:
            self._made = build(self._option)
        return self._made

    def save(self, data: Any) -> NoReturn:
        """Always a DatasetError."""
        kind = self._option["type"]
        raise DatasetError(f"{kind} is a handle: a node takes it as an input; nothing is saved")

    def _exists(self) -> bool:
        return self._path is None or self._path.is_dir()

    def _describe(self) -> dict[str, Any]:
        return self._option


class RawImages(Handle):
    """A handle on images as they were published or collected, an `ImageSource`."""

    def load(self) -> ImageSource:
        """The source.

        Raises:
            InputError: its type is unknown, makes something else, or refuses its arguments.
        """
        source = super().load.__wrapped__(self)
        if not isinstance(source, ImageSource):
            raise InputError(
                f"dataset type={self._option['type']} is not an ImageSource; "
                "ddpm_kedro.images.ImageFolder is one"
            )
        return source

    def _exists(self) -> bool:
        try:
            return bool(self.load.__wrapped__(self).splits())
        except InputError:
            return False
