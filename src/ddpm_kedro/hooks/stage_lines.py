"""One line for each node that is done: its name, how long it took, where its outputs went."""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DatasetError

from ddpm_kedro.progress import duration

LOGGER = logging.getLogger(__name__)


class StageLines:
    """Logs `name: 3.1 s -> file, file` when the last output of a node is saved.

    The time runs from the loading of the first input to the saving of the last output. Outputs
    without a path, such as those that stay in memory, are not named.
    """

    def __init__(self) -> None:
        self._catalog: Any = None
        self._started_at: dict[Any, float] = {}  # by node
        self._saved_at: dict[Any, dict[str, float]] = {}  # by node and output

    @hook_impl
    def before_pipeline_run(self, catalog: Any) -> None:
        self._catalog, self._started_at, self._saved_at = catalog, {}, {}

    @hook_impl  # the check of parameters, which is no part of the node's time, comes first
    def before_dataset_loaded(self, node: Any) -> None:
        self._started_at.setdefault(node, time.monotonic())

    before_node_run = before_dataset_loaded  # of a node without inputs

    @hook_impl
    def after_node_run(self, node: Any) -> None:
        if not node.outputs:
            self._say(node, time.monotonic())

    @hook_impl(trylast=True)
    def after_dataset_saved(self, dataset_name: str, node: Any) -> None:
        saved_at = self._saved_at.setdefault(node, {})
        saved_at[dataset_name] = time.monotonic()
        # A generator saves every output again and again; only the run's end tells that it is done.
        if len(saved_at) == len(node.outputs) and not inspect.isgeneratorfunction(node.func):
            self._say(node, saved_at[dataset_name])

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self) -> None:
        for node, saved_at in list(self._saved_at.items()):
            self._say(node, max(saved_at.values()))
        self._catalog = None  # it may hold much

    def _say(self, node: Any, ended_at: float) -> None:
        self._saved_at.pop(node, None)
        seconds = ended_at - self._started_at.pop(node)
        took = f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
        where = ", ".join(filter(None, (shown_path(self._catalog, name) for name in node.outputs)))
        LOGGER.info("%s: %s%s", node.name, took, f" -> {where}" if where else "")


def path_of(dataset: Any) -> Path | None:
    """Where a dataset lies on the local disk; None where it has no path there.

    Of a versioned dataset, it is the version that this run saved, else the one it would load.
    """
    is_remote = getattr(dataset, "_protocol", "file") not in ("file", "local")
    place = None if is_remote else _place_of(dataset)
    return None if place is None else Path(place)


def shown_path(catalog: Any, name: str) -> str | None:
    """Where a dataset lies, below the working folder if it lies there; an URL if it is remote."""
    dataset = catalog.get(name)
    path = path_of(dataset)
    if path is None:
        place = _place_of(dataset)
        return None if place is None else f"{dataset._protocol}://{place}"
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return str(path)


def _place_of(dataset: Any) -> str | None:
    version = getattr(dataset, "_version", None) and _version_of(dataset)
    for attribute in ("_filepath", "filepath", "_path", "path", "_folder"):
        place = getattr(dataset, attribute, None)
        if place is not None:
            return str(Path(str(place), version, Path(str(place)).name) if version else place)
    return None


def _version_of(dataset: Any) -> str:
    saved = dataset.resolve_save_version()
    if not dataset._exists_function(str(dataset._get_versioned_path(saved))):
        with contextlib.suppress(DatasetError):  # there is none yet
            return dataset.resolve_load_version()
    return saved
