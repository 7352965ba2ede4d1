"""A sequential runner that does nothing twice: what was made the same way before stays as it is.

It decides when a unit's turn comes, so that an input made again counts with its new content: where
that is the old one, nothing further is made again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from ddpm_kedro.content import remembering
from ddpm_kedro.datasets.local_entry import writing
from ddpm_kedro.datasets.place import Place, loaded_place, place_of
from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.making import (
    Making,
    differences,
    inputs_of,
    listed,
    making_of,
    orders_of,
)
from ddpm_kedro.framework.record import SUFFIX, Record
from ddpm_kedro.framework.units import units_of, unrecordable
from ddpm_kedro.locks import FileLock

LOGGER = logging.getLogger(__name__)

_KEPT = "kept"  # a node's tag: a change of code alone is no reason to run it
_STARTED_AT = time.time()


class SkippingRunner(SequentialRunner):
    """Runs the units of a pipeline that no record stands for, one after another.

    A unit is skipped where its record is of the same making and its outputs are, byte for byte,
    those of the record. One line a unit says so, or why it runs. `folder` is what a relative
    `data_root`, where the hashes of files are remembered, starts from.
    """

    def __init__(self, is_async: bool = False, folder: Path | None = None) -> None:
        super().__init__(is_async=is_async)
        self._folder = folder or Path()

    def __str__(self) -> str:  # by these words Kedro-Viz knows that nodes run one by one
        kind = SequentialRunner
        return f"<{kind.__module__}.{kind.__qualname__} object that skips what is made>"

    @property
    def _logger(self) -> logging.Logger:
        return logging.getLogger(SequentialRunner.__module__)

    def run(self, *args: Any, only_missing_outputs: bool = False, **options: Any) -> dict[str, Any]:
        """As in Kedro; with `only_missing_outputs` nothing is compared, and no record written."""
        if only_missing_outputs:
            return SequentialRunner(self._is_async).run(*args, only_missing_outputs=True, **options)
        return super().run(*args, **options)

    def _run(
        self, pipeline: Pipeline, catalog: Any, hook_manager: Any = None, run_id: str | None = None
    ) -> None:
        loads = Counter(name for node in pipeline.nodes for name in node.inputs)
        with _hashes_remembered(catalog, self._folder):
            for unit in units_of(pipeline, catalog):
                work = _Work(unit, catalog)
                is_skipped, line = work.judge()
                LOGGER.info("%s", line)
                if not is_skipped:
                    with work.recorded():
                        super()._run(unit, catalog, hook_manager, run_id)
                for node in unit.nodes:
                    self._release_datasets(node, catalog, loads, pipeline)

    def _suggest_resume_scenario(self, *_: Any) -> None:
        self._logger.warning("The same command goes on from here: what is done is skipped.")


def is_made(pipeline: Pipeline, catalog: Any, folder: Path) -> bool:
    """Whether a run would skip all of `pipeline`; `folder` as of `SkippingRunner`. Says nothing."""
    try:
        with _hashes_remembered(catalog, folder):
            units = units_of(pipeline, catalog)
            return all(_Work(unit, catalog).judge()[0] for unit in units)
    except InputError:  # an input is not there yet
        return False


def _hashes_remembered(catalog: Any, folder: Path) -> contextlib.AbstractContextManager[None]:
    if "params:data_root" not in catalog:
        return contextlib.nullcontext()
    return remembering(folder / catalog.load("params:data_root") / ".hashes.json")


class _Work:
    """One unit when its turn has come."""

    def __init__(self, unit: Pipeline, catalog: Any) -> None:
        self._unit, self._catalog = unit, catalog
        self._nodes = [node.name for node in unit.nodes]
        self._name = ", ".join(self._nodes)
        made = {name: catalog.get(name) for node in unit.nodes for name in node.outputs}
        self._outputs = {name: each for name, each in made.items() if place_of(each)}
        self._place: Place | None = None  # of the record; None where there is to be none
        self._making: Making | None = None  # before the work
        self._is_ordered = False  # to run, whatever lies there

    def judge(self) -> tuple[bool, str]:
        """Whether the unit is skipped, and a line that says since when, or why not. InputError
        where an input cannot be read."""
        if reason := unrecordable(self._unit, self._catalog):
            return self._runs([reason])
        first = next(iter(self._outputs.values()))
        self._place = place_of(first).beside(f"{self._nodes[0]}{SUFFIX}")
        self._making = making_of(self._unit, self._catalog)
        orders = orders_of(self._unit, self._catalog)
        if given := [f"{key}=true" for key, value in orders.items() if value]:
            self._is_ordered = True
            return self._runs(given)
        if self._making is None:
            return self._runs(["nobody can tell whether an input has changed"])
        record = Record.read(self._place, self._nodes)
        if record is None:
            is_old = any(map(_hash_of, self._outputs.values()))
            why = "no record says what made its outputs" if is_old else "it has no outputs yet"
            return self._runs([why])

        changed = differences(record.making, self._making)
        altered = list(self._altered(record.outputs))
        if not changed and not altered:
            return True, f"{self._name}: nothing has changed since {record.since}"
        is_code_alone = not differences(
            replace(record.making, code=self._making.code), self._making
        )
        is_kept = all(_KEPT in node.tags for node in self._unit.nodes)
        if altered or not (is_code_alone and is_kept):
            return self._runs(changed + altered)
        modules = changed[0].removeprefix("code of ")
        again = f"{next(iter(orders))}=true {'trains' if len(orders) > 1 else 'runs it'} again"
        return True, f"{self._name}: kept, code differs ({modules}); {again}"

    def _runs(self, reasons: list[str]) -> tuple[bool, str]:
        verb = "run" if len(self._nodes) > 1 else "runs"
        return False, f"{self._name} {verb}: {listed(reasons)}"

    def _altered(self, recorded: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
        """In words, the outputs that are not what the record says."""
        for name, dataset in self._outputs.items():
            sha256 = _hash_of(dataset)
            if sha256 is None or recorded.get(name, {}).get("sha256") != sha256:
                how = "is missing" if sha256 is None else "was altered"
                yield f"its output {os.path.basename(place_of(dataset).path)} {how}"

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """The work is done inside; its record comes when all outputs are saved. Until then the
        earlier one stays: it speaks for the bytes of earlier outputs only. InputError where another
        process does the same work, or the folder is not writable."""
        if self._place is None:
            yield
            return
        with contextlib.ExitStack() as held:
            with self._writing():
                if self._place.files is None:
                    folder = Path(self._place.path).parent
                    folder.mkdir(parents=True, exist_ok=True)
                    held.enter_context(FileLock(folder / f".{self._nodes[0]}.lock"))
                if self._is_ordered:  # begun anew: if it is stopped, the next run goes on with it
                    self._place.remove()
            started_at = time.monotonic()
            yield
            seconds = round(time.monotonic() - started_at, 1)
            outputs = {
                name: {"path": self._place.to(loaded_place(each)), "sha256": sha256}
                for name, each in self._outputs.items()
                if (sha256 := _hash_of(each))
            }
            with self._writing():
                if len(outputs) == len(self._outputs) and self._may_be_recorded():
                    Record(self._nodes, seconds, self._making, outputs).write(self._place)
                else:
                    self._place.remove()

    def _may_be_recorded(self) -> bool:
        """Whether the outputs are finished, and what made them is still what was looked at."""
        if self._making is None:
            return False
        if inputs_of(self._unit, self._catalog) != self._making.inputs:
            LOGGER.warning("%s: an input was altered meanwhile; it will run again", self._name)
        elif _is_edited(self._making.code):
            LOGGER.warning("%s: its code was edited meanwhile; it will run again", self._name)
        else:  # a training that max_minutes ended is not finished
            return all(getattr(each, "is_finished", True) for each in self._outputs.values())
        return False

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self._place.path, self._place.files is None)


def _hash_of(dataset: Any) -> str | None:
    place = loaded_place(dataset)
    return place and place.sha256()


def _is_edited(modules: Iterable[str]) -> bool:
    """Whether a module was saved after this process began, which may have the code of before. A
    time that is still to come is of another clock."""
    loaded = filter(None, map(sys.modules.get, modules))
    files = (each.__file__ for each in loaded if getattr(each, "__file__", None))
    times = (os.stat(file).st_mtime for file in files if os.path.exists(file))
    return any(_STARTED_AT < at <= time.time() for at in times)
