"""Handles: a node takes one as an input, and reads or writes through it as it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from kedro.io import DatasetError

from ddpm_kedro.construction import build
from ddpm_kedro.datasets.local_entry import LocalEntry

_OF_ENTRY = ("path", "version", "credentials", "metadata")


class Handle(LocalEntry):
    """Loads as one live object, the same at every load: made at the first, nothing is read then.

    `of` is the dotted path of its class, or an option `{type: dotted path, **arguments}`; other
    `arguments` are its own too, beside what a `LocalEntry` takes. A `path` is a folder.
    """

    _SINGLE_PROCESS = True  # neither locks nor listeners travel between processes

    def __init__(self, *, of: str | Mapping[str, Any], **arguments: Any) -> None:
        option = {"type": of} if isinstance(of, str) else dict(of)
        super().__init__(**{key: arguments.pop(key, None) for key in _OF_ENTRY})
        place = {} if self._path is None else {"path": str(self._path)}
        self._option = {**option, **arguments, **place}
        self._made: Any = None

    def load(self) -> Any:
        """The object; InputError where its type is unknown or refuses its arguments."""
        if self._made is None:
            self._made = build(self._option)
        return self._made

    def save(self, data: Any) -> NoReturn:
        """Always a DatasetError."""
        kind = self._option["type"]
        raise DatasetError(f"{kind} is a handle: a node takes it as an input; nothing is saved")

    def facts(self) -> dict[str, Any] | None:
        """What the object says that its content is; nothing where it is a place to work in."""
        made = self.load()
        return made.facts() if hasattr(made, "facts") else {}

    def _exists(self) -> bool:
        return self._path is None or self._path.is_dir()

    def _describe(self) -> dict[str, Any]:
        return self._option
