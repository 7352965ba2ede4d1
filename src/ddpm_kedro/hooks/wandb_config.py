"""What of the parameters may leave the machine: all but paths and addresses."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

_PATH_KEY = re.compile(r"(^|_)(path|paths|filepath|root|dir|folder|file|filename)$")
_PATH_VALUE = re.compile(r"[/\\]|^~|^\.{1,2}$")


def without_paths(tree: Any, hidden: Collection[str] = ()) -> Any:
    """A copy of ``tree`` without what tells where files lie.

    Left out are keys in ``hidden``, keys named like a path (``path``, ``image_path``,
    ``data_root``, ``cache_dir`` ...) and texts that hold a slash or a backslash, or begin
    with ``~``.

    Args:
        tree: nested mappings and lists of plain values.
        hidden: names of keys to leave out at any depth.
    """
    if isinstance(tree, Mapping):
        return {
            str(key): without_paths(value, hidden)
            for key, value in tree.items()
            if not (key in hidden or _PATH_KEY.search(str(key)) or _is_path(value))
        }
    if isinstance(tree, list | tuple):
        return [without_paths(value, hidden) for value in tree if not _is_path(value)]
    return tree


def scalars(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers, truth values and short texts of ``tree``, nested as they were.

    Lists (curves, histograms) and anything that looks like a path are left out: a summary is what
    runs are compared by.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            inner = scalars(value)
            if inner:
                found[str(key)] = inner
        elif isinstance(value, bool | int | float) or (
            isinstance(value, str) and not _is_path(value)
        ):
            found[str(key)] = value
    return found


def _is_path(value: Any) -> bool:
    return hasattr(value, "__fspath__") or (
        isinstance(value, str) and _PATH_VALUE.search(value) is not None
    )
